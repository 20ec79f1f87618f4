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
		for at := range a.table.slots {
			dropped = dropped || a.table.record(int32(at)).dropped > 0
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

// TestLog: a shard made of deltas, and one made of a copy that was begun somewhere and of the deltas
// since, know what the first one knows: further rows get the same features from all three.
func TestLog(t *testing.T) {
	gone := Config{Operands: config(0).Operands, Lateness: 25}
	for _, o := range config(0).Outputs {
		if o.Reach.Last == 0 && !o.Reach.All {
			gone.Outputs = append(gone.Outputs, o)
		}
	}
	many := config(25) // more edges than a record has room for
	for d := range int64(9) {
		many.Outputs = append(many.Outputs, Output{Func: aggregate.Count, Operand: -1, Reach: Reach{Duration: 2*d + 1}})
	}
	all := []*Plan{NewPlan(config(25)), NewPlan(gone), NewPlan(many)}
	dropped, expired, inParts := false, false, false
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(all).Draw(t, "plan")
		live, whole, replayed := NewShard(p), NewShard(p), NewShard(p)
		var copied *Shard
		slot, row, done := int64(0), int64(0), false
		newest, next := int64(0), 0
		rename := func(in *Input, texts bool) {
			ints := in.Entity.Ints
			if p == all[1] { // entities come and go
				for i := range ints {
					ints[i] += newest / 40
				}
			}
			if texts {
				in.Entity = &event.Column{}
				for _, n := range ints {
					in.Entity.AppendRaw([]byte(fmt.Sprint(n, []string{"", "x"}[n%2])))
				}
			}
		}
		same := func(which string, got, want []event.Column, n int) {
			for k := range want {
				for i := range n {
					if got[k].Null(i) != want[k].Null(i) || math.Float64bits(got[k].Floats[i]) != math.Float64bits(want[k].Floats[i]) {
						t.Fatalf("%s, output %d of row %d: %v, want %v", which, k, i, got[k].Floats[i], want[k].Floats[i])
					}
				}
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			var times []int64
			for range rapid.IntRange(1, 20).Draw(t, "rows") {
				newest += rapid.Int64Range(0, 9).Draw(t, "gap")
				times = append(times, max(0, newest-rapid.Int64Range(0, 24).Draw(t, "late")))
			}
			in := input(times, next)
			rename(in, rapid.Bool().Draw(t, "texts"))
			next += len(times)
			out, twice := live.Apply(in)
			want, _ := whole.Apply(in)
			same("a shard that was swept", out, want, in.N)
			gone := live.Sweep(rapid.IntRange(0, 20).Draw(t, "sweep"))
			expired = expired || len(gone) > 0
			delta := live.AppendDelta(nil, in, twice, gone)
			if err := replayed.Replay(delta, true); err != nil {
				t.Fatal(err)
			}
			if copied == nil && rapid.IntRange(0, 9).Draw(t, "copy") == 0 {
				copied = NewShard(p)
				live.Freeze(true)
			}
			if copied == nil {
				continue
			}
			if err := copied.Replay(delta, done); err != nil {
				t.Fatal(err)
			}
			if !done {
				var b []byte
				b, slot, row, done = live.Copy(nil, slot, row, rapid.SampledFrom([]int{1, 100, 1000}).Draw(t, "budget"))
				inParts = inParts || row > 0
				if err := copied.Load(b); err != nil {
					t.Fatal(err)
				}
				if done {
					live.Freeze(false)
				}
			}
		}
		dropped = dropped || check(t, live)
		check(t, whole)
		check(t, replayed)
		if replayed.Entities() != live.Entities() {
			t.Fatalf("%d entities, %d after a replay", live.Entities(), replayed.Entities())
		}
		for _, texts := range []bool{false, true} {
			in := input([]int64{newest - 23, newest - 3, newest, newest, newest + 1}, next)
			next += in.N
			rename(in, texts)
			want, _ := live.Apply(in)
			got, _ := replayed.Apply(in)
			same("a shard made of deltas", got, want, in.N)
			if done {
				got, _ := copied.Apply(in)
				same("a shard made of a copy", got, want, in.N)
			}
		}
	})
	if !dropped || !expired || !inParts {
		t.Errorf("rows dropped: %v, entities expired: %v, copied in parts: %v", dropped, expired, inParts)
	}
}

// TestConflict: a copy of a row is told from a row that only has its id and time.
func TestConflict(t *testing.T) {
	s := NewShard(NewPlan(config(0)))
	first := input([]int64{5, 6}, 0)
	s.Apply(first)
	same, other := input([]int64{5, 6}, 0), input([]int64{5, 6}, 0)
	other.Operands[1].Floats[0]++
	other.Operands[2].Col = &event.Column{}
	other.Operands[2].Col.AppendRaw([]byte("1"))
	other.Operands[2].Col.AppendRaw([]byte("other"))
	for i := range 2 {
		if s.Conflict(same, i) || !s.Conflict(other, i) {
			t.Errorf("row %d: copy %v, other contents %v", i, s.Conflict(same, i), s.Conflict(other, i))
		}
	}
}

// TestNewestDropped: where totals are all that counts, rows are dropped as soon as another one needs
// their room. Where even the newest is, as in state of before, it is still told from its copy.
func TestNewestDropped(t *testing.T) {
	p := NewPlan(Config{Operands: config(0).Operands, Outputs: []Output{{Func: aggregate.Count, Operand: -1, Reach: Reach{All: true}}}})
	s, restored := NewShard(p), NewShard(p)
	first, again, other := input([]int64{5, 6, 7}, 1), input([]int64{7}, 3), input([]int64{7}, 5)
	for _, in := range []*Input{first, again, other} {
		in.Entity = &event.Column{Ints: make([]int64, in.N)}
	}
	s.Apply(first)
	e := s.view(0)
	if e.dropped != 2 || e.held != 2 || s.drop(&e, 8, int(e.held)) != 1 {
		t.Fatalf("%d rows dropped, %d held", e.dropped, e.held)
	}
	b, _, _, done := s.Copy(nil, 0, 0, 1)
	if err := restored.Load(b); err != nil || !done || restored.view(0).dropped != 3 {
		t.Fatal(err, done, restored.view(0).dropped)
	}
	for _, s := range []*Shard{s, restored} {
		_, duplicates := s.Apply(again)
		out, none := s.Apply(other)
		if len(duplicates) != 1 || len(none) > 0 || out[0].Floats[0] != 4 {
			t.Errorf("duplicates %v and %v, count %v", duplicates, none, out[0].Floats[0])
		}
	}
}
