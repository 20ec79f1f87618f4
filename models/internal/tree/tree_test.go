package tree

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/models"
)

// TestQuantize checks what a split rests on: "bin <= b" and "x < Cuts[b-1]" say the same of every
// value, bin 0 is for missing values, and few distinct values have a bin each.
func TestQuantize(t *testing.T) {
	t.Parallel()
	inf := float32(math.Inf(1))
	rapid.Check(t, func(r *rapid.T) {
		rows, features := rapid.IntRange(1, 400).Draw(r, "rows"), rapid.IntRange(1, 6).Draw(r, "features")
		bins := rapid.SampledFrom([]int{3, 5, 17, 256}).Draw(r, "bins")
		wild := rapid.SampledFrom([]float32{float32(math.NaN()), inf, -inf, 0, float32(math.Copysign(0, -1)), math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, 1, 1})
		smooth := rapid.Float32Range(-3, 3)
		x, y := make([]float32, 0, rows*features), make([]float32, rows)
		for i := range rows * features {
			if i%features%2 == 0 {
				x = append(x, wild.Draw(r, "x"))
			} else {
				x = append(x, smooth.Draw(r, "x"))
			}
		}
		for i := range y {
			y[i] = float32(rapid.IntRange(0, 9).Draw(r, "y") / 9)
		}
		b := Quantize(x, y, rows, features, bins, 2)
		for f := range features {
			cuts := b.Cuts[f]
			if b.Count[f] > bins-1 || len(cuts) > b.Count[f] || len(cuts) < b.Count[f]-1 {
				r.Fatalf("feature %d: %d cuts, %d bins", f, len(cuts), b.Count[f])
			}
			distinct := map[float32]uint8{}
			for row := range rows {
				v, bin := x[row*features+f], b.At(row, f)
				if (v != v) != (bin == 0) || int(bin) > b.Count[f] {
					r.Fatalf("value %v is in bin %d of %d", v, bin, b.Count[f])
				}
				for i, c := range cuts {
					if v == v && (int(bin) <= i+1) != (v < c) {
						r.Fatalf("value %v is in bin %d, cut %d is %v", v, bin, i, c)
					}
				}
				if v == v {
					distinct[finite(v)] = bin
				}
			}
			if len(distinct) < bins && len(distinct) != b.Count[f] {
				r.Fatalf("%d distinct values in %d bins", len(distinct), b.Count[f])
			}
		}
	})
}

// TestQuantizeRare: rare positives get half of the bins, and a heavy value one by itself.
func TestQuantizeRare(t *testing.T) {
	t.Parallel()
	const rows = 100_000
	x, y := make([]float32, rows), make([]float32, rows)
	for i := range x {
		switch {
		case i < rows/2:
			x[i] = 0.5 // heavy
		case i%1000 == 0:
			x[i], y[i] = 1+float32(i)/rows, 1
		default:
			x[i] = float32(i) / rows
		}
	}
	above := func(b *Bins) (n int) {
		for _, c := range b.Cuts[0] {
			if c > 1.4 && c < math.MaxFloat32 {
				n++
			}
		}
		return n
	}
	if plain, balanced := above(Quantize(x, nil, rows, 1, 101, 1)), above(Quantize(x, y, rows, 1, 101, 1)); plain > 2 || balanced < 30 {
		t.Errorf("%d cuts among the 50 positives without their labels, %d with them", plain, balanced)
	}
	b := Quantize(x, nil, rows, 1, 101, 1)
	counts := map[uint8]int{}
	for r := range rows {
		counts[b.At(r, 0)]++
	}
	// One light value is equal to the heavy one.
	if heavy := counts[b.At(0, 0)]; heavy > rows/2+1 || len(counts) != 100 {
		t.Errorf("%d rows in the heavy bin, %d bins", heavy, len(counts))
	}
}

func TestSort(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		values := rapid.SliceOf(rapid.Float32()).Draw(r, "values")
		want := slices.Clone(values)
		slices.Sort(want)
		var s sorter
		s.sort(values)
		if !slices.Equal(values, want) {
			r.Fatalf("got %v, expected %v", values, want)
		}
	})
}

func TestBetween(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		a, b := rapid.Float32().Draw(r, "a"), rapid.Float32().Draw(r, "b")
		if a, b = min(a, b), max(a, b); a < b {
			if m := between(a, b); !(a < m && m <= b) {
				r.Fatalf("between %v and %v: %v", a, b, m)
			}
		}
	})
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	good := func() Stored {
		return Stored{Feature: []int32{0, 1, -1, -1, -1}, Left: []int32{1, 3, 0, 0, 0}, Value: []float32{1, 2, 3, 4, 5}, MissingLeft: []int32{1}}
	}
	trees, err := Load([]Stored{good(), good()}, 2)
	if err != nil || trees.Len() != 2 {
		t.Fatal(err)
	}
	if back := trees.Store(); !slices.Equal(back[1].Left, good().Left) || !slices.Equal(back[1].MissingLeft, good().MissingLeft) {
		t.Errorf("stored %+v", back[1])
	}
	for name, change := range map[string]func(s *Stored){
		"empty":             func(s *Stored) { *s = Stored{} },
		"short column":      func(s *Stored) { s.Left = s.Left[1:] },
		"cycle":             func(s *Stored) { s.Left[1] = 0 },
		"self":              func(s *Stored) { s.Left[1] = 1 },
		"shared":            func(s *Stored) { s.Left[1] = 2 },
		"outside":           func(s *Stored) { s.Left[1] = 4 },
		"far outside":       func(s *Stored) { s.Left[1] = math.MaxInt32 },
		"negative":          func(s *Stored) { s.Left[1] = -3 },
		"orphan":            func(s *Stored) { s.Feature[1] = -1; s.MissingLeft = nil },
		"feature":           func(s *Stored) { s.Feature[0] = 2 },
		"negative feature":  func(s *Stored) { s.Feature[0] = -2 },
		"infinite":          func(s *Stored) { s.Value[0] = float32(math.Inf(1)) },
		"NaN leaf":          func(s *Stored) { s.Value[4] = float32(math.NaN()) },
		"missing in a leaf": func(s *Stored) { s.MissingLeft[0] = 4 },
		"missing outside":   func(s *Stored) { s.MissingLeft[0] = 5 },
		"missing twice":     func(s *Stored) { s.MissingLeft = []int32{1, 1} },
	} {
		s := good()
		change(&s)
		if _, err := Load([]Stored{s}, 2); !errors.Is(err, models.ErrFiles) {
			t.Errorf("%s: %v, expected ErrFiles", name, err)
		}
	}
	// A chain as deep as allowed, and one deeper.
	for _, depth := range []int{MaxDepth, MaxDepth + 1} {
		var s Stored
		for i := range depth {
			s.Feature, s.Left, s.Value = append(s.Feature, 0, -1), append(s.Left, int32(2*i+1), 0), append(s.Value, 0, 1)
		}
		s.Feature, s.Left, s.Value = append(s.Feature, -1), append(s.Left, 0), append(s.Value, 2)
		// Node 2i+1 is left of node 2i only if pairs are (leaf, split): swap them.
		for i := 1; i+1 < len(s.Feature); i += 2 {
			s.Feature[i], s.Left[i] = -1, 0
			if i+2 < len(s.Feature) {
				s.Feature[i+1], s.Left[i+1] = 0, int32(i+2)
			}
		}
		if _, err := Load([]Stored{s}, 1); (err == nil) != (depth <= MaxDepth) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestPoolAndParallel(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2, 5} {
		p := NewPool(workers)
		for n := range 200 {
			calls := make([]atomic.Int32, n)
			p.Do(n, func(i int) { calls[i].Add(1) })
			Parallel(workers, n, func(i int) { calls[i].Add(1) })
			for i := range calls {
				if c := calls[i].Load(); c != 2 {
					t.Fatalf("call %d ran %d times", i, c)
				}
			}
		}
		p.Close()
	}
}

// TestRandom pins the generator to the outputs that Go's own tests list for PCG(1, 2): a model must
// not change with a release of Go.
func TestRandom(t *testing.T) {
	t.Parallel()
	r := NewRandom(1, 2)
	for _, want := range []uint64{0xc4f5a58656eef510, 0x9dcec3ad077dec6c} {
		if got := r.pcg.Uint64(); got != want {
			t.Errorf("got %#x, expected %#x", got, want)
		}
	}
	var mean, share float64
	for range 100_000 {
		if n := r.Below(10); n < 0 || n > 9 {
			t.Fatal(n)
		} else {
			mean += float64(n) / 100_000
		}
		if f := r.Float(); f < 0 || f >= 1 {
			t.Fatal(f)
		} else if f < 0.25 {
			share += 1. / 100_000
		}
	}
	if math.Abs(mean-4.5) > 0.05 || math.Abs(share-0.25) > 0.01 {
		t.Errorf("mean %v of 0 to 9, share %v below a quarter", mean, share)
	}
	s := []int{0, 1, 2, 3, 4, 5}
	r.Choose(s, 3)
	slices.Sort(s)
	if !slices.Equal(s, []int{0, 1, 2, 3, 4, 5}) {
		t.Errorf("choosing lost something: %v", s)
	}
}
