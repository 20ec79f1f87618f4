package feature

import (
	crypto "crypto/rand"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

// growth is a stream of payments through both stages of the handbook, scored on arrival, without a
// runner: bags are slices. Customers are half as many as terminals; each payment draws both at random,
// one by itself.
type growth struct {
	terminals int
	p         Params
	schema    *event.Schema
	random    *rand.Rand
	stages    []growthStage
	events    int64
	longest   int64 // call, in nanoseconds of CPU
}

type growthStage struct {
	*stage
	cells  []memory
	store  *shardstate.Store
	router *router
}

const (
	growthShards = 8
	growthBatch  = 16384 // events, as many as a bundle of a splitter gathers at full speed
	growthRows   = 2     // of a terminal within its windows, on average
	growthFrom   = 2_000_000
	growthTo     = 28_000_000
)

func newGrowth(t *testing.B, terminals int) *growth {
	p := handbook()
	p.Shards, p.Stream = growthShards, &Stream{Order: Arrival, Lateness: 5 * time.Minute}
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	g := &growth{terminals: terminals, p: p, random: rand.New(rand.NewPCG(1, 2))}
	if g.schema, err = event.NewSchema(p.Fields, p.ID, p.Time); err != nil {
		t.Fatal(err)
	}
	for i, st := range c.stages {
		r, err := newRouter(p, i)
		if err != nil {
			t.Fatal(err)
		}
		g.stages = append(g.stages, growthStage{stage: st, cells: make([]memory, growthShards), router: r})
	}
	g.open(t)
	return g
}

// open gives the stages stores that know nothing yet of what is in the cells.
func (g *growth) open(t *testing.B) {
	for i := range g.stages {
		s := &g.stages[i]
		var err error
		s.store, err = shardstate.Open(shardstate.Config{
			Run: crypto.Text(), Stage: s.name, Shards: growthShards, New: func() shardstate.Machine { return newMachine(g.p, s.stage, i) },
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (g *growth) close() {
	for i := range g.stages {
		g.stages[i].store.Close()
		g.stages[i].store = nil
	}
	runtime.GC()
}

func (g *growth) batch() event.Batch {
	b := event.New(g.schema, growthBatch)
	gap := float64((37 * day).Microseconds()) / growthRows / float64(g.terminals)
	for range growthBatch {
		g.events++
		for k, v := range []int64{
			g.events, 1_500_000_000e6 + int64(float64(g.events)*gap), g.random.Int64N(int64(g.terminals) / 2), g.random.Int64N(int64(g.terminals)),
			g.random.Int64N(50_000), g.random.Int64N(64) / 63,
		} {
			b.Cols[k].Ints = append(b.Cols[k].Ints, v)
		}
	}
	b.N = growthBatch
	return b
}

// take lets a batch through, and tells the nanoseconds of CPU that it took.
func (g *growth) take(t *testing.B, b event.Batch) int64 {
	start := cpuTime(t)
	for i := range g.stages {
		s := &g.stages[i]
		s.router.start(growthShards)
		var parts []event.Batch
		flush := func(shard int) error {
			batches, _ := s.router.take(shard)
			if len(batches) == 0 {
				return nil
			}
			b, err := event.Concat(batches)
			if err != nil {
				return err
			}
			begun := cpuTime(t)
			err = s.store.Do(shard, &s.cells[shard], func(m shardstate.Machine) ([][]byte, error) {
				a, deltas, err := m.(*machine).arrive(b, i == 0)
				parts = append(parts, a.out)
				return deltas, err
			})
			g.longest = max(g.longest, cpuTime(t)-begun)
			return err
		}
		if err := s.router.add(b, flush); err != nil {
			t.Fatal(err)
		}
		for shard := range growthShards {
			if err := flush(shard); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if b, err = event.Concat(parts); err != nil {
			t.Fatal(err)
		}
	}
	if b.N != growthBatch {
		t.Fatalf("%d events of %d came through", b.N, growthBatch)
	}
	return cpuTime(t) - start
}

// written is the bytes of state so far, and the compactions of the stage that has fewer.
func (g *growth) written() (bytes, compactions int64) {
	compactions = 1 << 62
	for i := range g.stages {
		s := g.stages[i].store.Stats()
		bytes += s.DeltaBytes + s.TwiceBytes + s.CopyBytes + s.HeaderBytes
		compactions = min(compactions, s.Compactions)
	}
	return bytes, compactions
}

// rebuild makes all machines again from the cells, and tells the nanoseconds of CPU of all and of one.
func (g *growth) rebuild(t *testing.B) (all, longest int64) {
	for i := range g.stages {
		s := &g.stages[i]
		for shard := range growthShards {
			start := cpuTime(t)
			if err := s.store.Do(shard, &s.cells[shard], func(shardstate.Machine) ([][]byte, error) { return nil, nil }); err != nil {
				t.Fatal(err)
			}
			took := cpuTime(t) - start
			all, longest = all+took, max(longest, took)
		}
	}
	return all, longest
}

// bags is how many bytes the cells hold.
func (g *growth) bags() (bytes int) {
	for i := range g.stages {
		for _, cells := range g.stages[i].cells {
			for _, log := range cells.logs {
				for _, r := range log {
					bytes += cap(r)
				}
			}
		}
	}
	return bytes
}

// resident is the memory of the process in bytes, 0 where the kernel doesn't tell.
func resident() float64 {
	text, _ := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize())
}

// BenchmarkGrowth measures a stream whose windows are full, compactions included, with more and more
// entities. Each size is meant to have a process of its own and -benchtime 1x,
// which ends when every shard has been compacted, or after growthTo events.
func BenchmarkGrowth(b *testing.B) {
	for _, terminals := range []int{10_000, 100_000, 1_000_000, 10_000_000} {
		b.Run(strconv.Itoa(terminals), func(b *testing.B) {
			var mem runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&mem)
			empty := mem.HeapAlloc
			g := newGrowth(b, terminals)
			for g.events < int64(terminals)*growthRows*5/4 {
				g.take(b, g.batch())
			}
			runtime.GC()
			runtime.ReadMemStats(&mem)
			bags, entities := g.bags(), float64(terminals)*3/2
			heap := float64(mem.HeapAlloc-empty) - float64(bags)
			g.longest = 0
			took, from := int64(0), g.events
			bytes, compactions := g.written()
			for b.Loop() {
				for n, done := g.events, false; !done; {
					took += g.take(b, g.batch())
					_, all := g.written()
					done = g.events-n >= growthFrom && all-compactions >= growthShards || g.events-n >= growthTo
				}
			}
			rss := resident()
			bytesNow, compactionsNow := g.written()
			events := float64(g.events - from)
			g.close()
			g.open(b)
			all, one := g.rebuild(b)
			g.close()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took)/events, "cpu-ns/event")
			b.ReportMetric(float64(bytesNow-bytes)/events, "state-B/event")
			b.ReportMetric(float64(compactionsNow-compactions), "compactions")
			b.ReportMetric(float64(g.longest)/1e6, "call-ms")
			b.ReportMetric(heap/entities, "B/entity")
			b.ReportMetric(float64(bags)/entities, "bag-B/entity")
			b.ReportMetric(rss/(1<<20), "rss-MiB")
			b.ReportMetric(float64(all)/1e9, "rebuild-s")
			b.ReportMetric(float64(one)/1e6, "rebuild-shard-ms")
		})
	}
}
