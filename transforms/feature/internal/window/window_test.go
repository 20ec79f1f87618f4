package window

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
)

func config(lateness int64) Config {
	reaches := []Reach{{Duration: 40}, {Last: 3}, {Session: 6}}
	cfg := Config{Operands: []Operand{{Kind: Exact, Scale: 1}, {Kind: Number}, {Kind: Text}}, Lateness: lateness}
	for _, r := range reaches {
		for _, delay := range []int64{0, 15} {
			cfg.Outputs = append(cfg.Outputs,
				Output{Func: aggregate.Count, Operand: -1, Reach: r, Delay: delay},
				Output{Func: aggregate.Sum, Operand: 0, Reach: r, Delay: delay},
				Output{Func: aggregate.Mean, Operand: 1, Reach: r, Delay: delay, Known: 20},
				Output{Func: aggregate.Distinct, Operand: 2, Reach: r, Delay: delay, ExcludeCurrent: true})
		}
	}
	cfg.Outputs = append(cfg.Outputs, Output{Func: aggregate.Sum, Operand: 0, Reach: Reach{All: true}})
	return cfg
}

// input is a row a time; ids are texts where they are odd.
func input(times []int64, from int) *Input {
	in := &Input{N: len(times), Times: times, IDs: &event.Column{}, Entity: &event.Column{}, Operands: make([]Values, 3)}
	word := &event.Column{}
	for i, t := range times {
		id := fmt.Sprint(from + i)
		if (from+i)%2 == 1 {
			id = "x" + id
		}
		in.IDs.AppendRaw([]byte(id))
		in.Entity.Ints = append(in.Entity.Ints, int64((from+i)%5/3))
		in.Operands[0].Ints = append(in.Operands[0].Ints, t*t)
		in.Operands[1].Floats = append(in.Operands[1].Floats, 1/float64(t+1))
		word.AppendRaw([]byte(fmt.Sprint(t % 4)))
	}
	in.Operands[2].Col = word
	return in
}

// TestLateness: a shard that drops rows gives rows up to lateness old the same features as one that
// keeps all.
func TestLateness(t *testing.T) {
	dropping := NewPlan(config(25))
	cfg := config(25)
	cfg.Outputs = append(cfg.Outputs, Output{Func: aggregate.Sum, Operand: 1, Reach: Reach{All: true}}) // needs every row
	keeping := NewPlan(cfg)
	dropped := false
	rapid.Check(t, func(t *rapid.T) {
		a, b := NewShard(dropping), NewShard(keeping)
		newest, next := int64(0), 0
		for range 12 {
			var times []int64
			for range rapid.IntRange(1, 20).Draw(t, "rows") {
				newest += rapid.Int64Range(0, 9).Draw(t, "gap")
				times = append(times, max(0, newest-rapid.Int64Range(0, 24).Draw(t, "late")))
			}
			x, _ := a.Apply(input(times, next))
			y, _ := b.Apply(input(times, next))
			for k := range x {
				for i := range times {
					if x[k].Null(i) != y[k].Null(i) || math.Float64bits(x[k].Floats[i]) != math.Float64bits(y[k].Floats[i]) {
						t.Fatalf("output %d of row %d at %d: %v, want %v", k, next+i, times[i], x[k].Floats[i], y[k].Floats[i])
					}
				}
			}
			if rapid.Bool().Draw(t, "restart") {
				a = again(t, dropping, a)
			}
			next += len(times)
		}
		for i := range a.entities {
			dropped = dropped || a.entities[i].dropped > 0
		}
	})
	if !dropped {
		t.Error("no row was ever dropped")
	}
}

// again is a shard made of a copy of s.
func again(t *rapid.T, p *Plan, s *Shard) *Shard {
	out := NewShard(p)
	budget := rapid.SampledFrom([]int{1, 50, 1 << 20}).Draw(t, "budget")
	for slot, row, done := int64(0), int64(0), false; !done; {
		var b []byte
		b, slot, row, done = s.Copy(nil, slot, row, budget)
		if err := out.Load(b); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestLoadRefuses(t *testing.T) {
	p := NewPlan(config(0))
	s := NewShard(p)
	s.Apply(input([]int64{1, 2, 3, 50, 90}, 0))
	good, _, _, _ := s.Copy(nil, 0, 0, 1<<20)
	for n := range good {
		if err := NewShard(p).Load(good[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for i := range good {
		bad := slices.Clone(good)
		for bit := range 8 {
			bad[i] ^= 1 << bit
			_ = NewShard(p).Load(bad) // anything but a panic
		}
	}
}

func TestTotals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var lo, hi uint64
		rows := [][2]uint64{{}}
		vs := rapid.SliceOfN(rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MaxInt64, math.MinInt64})), 1, 30).Draw(t, "values")
		for _, v := range vs {
			lo, hi = accumulate(lo, hi, v)
			rows = append(rows, [2]uint64{lo, hi})
		}
		from := rapid.IntRange(0, len(vs)-1).Draw(t, "from")
		want := new(big.Int)
		for _, v := range vs[from:] {
			want.Add(want, big.NewInt(v))
		}
		l, h, n := difference(rows[from][0], rows[from][1], lo, hi)
		w, _ := new(big.Float).SetInt(want).Float64()
		if is := toFloat(l, h); is != w || int(n) != len(vs)-from {
			t.Fatalf("%v of %d values, want %v", is, n, w)
		}
	})
}
