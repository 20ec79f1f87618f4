package window

import (
	"encoding/hex"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
)

// terminals is the plan of the handbook's terminals: counts and shares of fraud, a week late.
func terminals(lateness int64) Config {
	const day = int64(86_400e6)
	cfg := Config{Operands: []Operand{{Kind: Exact, Scale: 1}}, Lateness: lateness}
	for _, d := range []int64{1, 7, 30} {
		cfg.Outputs = append(cfg.Outputs,
			Output{Func: aggregate.Count, Operand: -1, Reach: Reach{Duration: d * day}, Delay: 7 * day},
			Output{Func: aggregate.Mean, Operand: 0, Reach: Reach{Duration: d * day}, Delay: 7 * day})
	}
	return cfg
}

// traffic makes batches of rows of entities at random, so many of each within the windows.
type traffic struct {
	entities int
	each     float64
	texts    bool // keys and ids are UUIDs
	random   *rand.Rand
	rows     int64
}

func (f *traffic) next(n int) *Input {
	in := &Input{N: n, IDs: &event.Column{}, Entity: &event.Column{}, Operands: make([]Values, 1)}
	gap := 37 * 86_400e6 / (f.each * float64(f.entities))
	uuid := func(c *event.Column, x int64) {
		var b [16]byte
		rand.NewChaCha8([32]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24), byte(x >> 32)}).Read(b[:])
		h := hex.EncodeToString(b[:])
		c.AppendRaw([]byte(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]))
	}
	for range n {
		f.rows++
		who := f.random.Int64N(int64(f.entities))
		in.Times = append(in.Times, int64(float64(f.rows)*gap))
		if f.texts {
			uuid(in.Entity, who)
			uuid(in.IDs, 1<<39|f.rows)
		} else {
			in.Entity.Ints = append(in.Entity.Ints, who)
			in.IDs.Ints = append(in.IDs.Ints, f.rows)
		}
		in.Operands[0].Ints = append(in.Operands[0].Ints, f.rows%50/49)
	}
	return in
}

// cpu is the time that the process has had on a core: on a shared machine the clock says little.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkApply takes rows in where twice as many as the windows reach have been taken in before.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct {
		name     string
		entities int
		each     float64
		texts    bool
	}{
		{"1k", 1000, 300, false}, {"10k", 10_000, 4, false}, {"100k", 100_000, 4, false}, {"1M", 1_000_000, 4, false},
		{"uuid-100k", 100_000, 4, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := &traffic{entities: c.entities, each: c.each, texts: c.texts, random: rand.New(rand.NewPCG(1, 2))}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s := NewShard(NewPlan(terminals(300e6)))
			for f.rows < int64(2*c.each*float64(c.entities)) {
				s.Apply(f.next(2048))
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			ins := make([]*Input, 200)
			for i := range ins {
				ins[i] = f.next(2048)
			}
			b.ReportAllocs()
			i, took := 0, time.Duration(0)
			for b.Loop() {
				if i == len(ins) {
					b.StopTimer()
					for k := range ins {
						ins[k] = f.next(2048)
					}
					i = 0
					b.StartTimer()
				}
				start := cpu()
				s.Apply(ins[i])
				took += cpu() - start
				i++
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N*2048), "cpu-ns/row")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(s.Entities()), "B/entity")
			b.ReportMetric(float64(s.rows)/float64(s.Entities()), "rows/entity")
		})
	}
}
