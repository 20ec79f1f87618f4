package mlp

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/encode"
)

// network is a model of the given widths with random weights, for tests of scoring alone.
func network(t testing.TB, seed uint64, loss string, dims ...int) *Model {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	d := models.Dataset{Y: make([]float32, 50)}
	for i := range dims[0] {
		d.Features = append(d.Features, models.Feature{Name: fmt.Sprint("f", i), Type: models.Number})
	}
	for range 50 * dims[0] {
		d.X = append(d.X, float32(rng.NormFloat64()*10+3))
	}
	e, err := encode.Fit(d, encode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &Model{encoder: e, loss: loss}
	for l := 1; l < len(dims); l++ {
		w, b := make([]float32, dims[l-1]*dims[l]), make([]float32, dims[l])
		for i := range w {
			w[i] = float32(rng.NormFloat64() / math.Sqrt(float64(dims[l-1])))
		}
		for i := range b {
			b[i] = float32(rng.NormFloat64())
		}
		m.layers = append(m.layers, pack(dims[l-1], dims[l], w, b))
	}
	return m.ready()
}

func inputs(seed uint64, n int) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64()*10 + 3)
	}
	return x
}

// plainly runs f with the vector kernels off.
func plainly(f func()) {
	defer func(v bool) { vector = v }(vector)
	vector = false
	f()
}

func score(t testing.TB, m models.Scorer, x []float32) []float32 {
	t.Helper()
	rows := len(x) / max(len(m.Inputs()), 1)
	out := make([]float32, rows)
	if err := m.Score(t.Context(), x, rows, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func same(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

var shapes = [][]int{{16, 64, 32, 1}, {15, 64, 32, 1}, {1, 1}, {7, 1}, {5, 3, 1}, {3, 8, 16, 24, 1}, {9, 17, 33, 7, 1}, {40, 100, 1}}

// Every batch length and every place in a batch gives the bits of the row on its own, on either path.
func TestScoresDependOnTheRowAlone(t *testing.T) {
	if !vector {
		t.Log("no AVX2 here: the plain path is compared with itself")
	}
	for _, dims := range shapes {
		m := network(t, 5, squared, dims...)
		x := inputs(6, 67*dims[0])
		x[0] = float32(math.NaN())
		x[len(x)-1] = math.MaxFloat32
		want := make([]float32, 67)
		plainly(func() {
			for r := range want {
				want[r] = score(t, m, x[r*dims[0]:(r+1)*dims[0]])[0]
			}
		})
		check := func(path string, from int, got []float32) {
			for r, v := range got {
				if !same(v, want[from+r]) {
					t.Fatalf("%v, %s: batch of %d, row %d is %v, alone %v", dims, path, len(got), r, v, want[from+r])
				}
			}
		}
		for n := 1; n <= 67; n++ {
			for _, from := range []int{0, (67 - n) / 2, 67 - n} {
				part := x[from*dims[0] : (from+n)*dims[0]]
				check("vector", from, score(t, m, part))
				plainly(func() { check("plain", from, score(t, m, part)) })
			}
		}
	}
}

// The stated order, written down a second time: bias, then inputs in order, all in float32.
func TestSumsKeepTheStatedOrder(t *testing.T) {
	for _, dims := range shapes {
		m := network(t, 8, binary, dims...)
		x := inputs(9, 5*dims[0])
		got := score(t, m, x)
		enc := make([]float32, 5*m.encoder.Width())
		m.encoder.Encode(x, 5, enc)
		for r := range got {
			in := enc[r*m.encoder.Width() : (r+1)*m.encoder.Width()]
			for l := range m.layers {
				w, b := m.layers[l].unpack()
				out := make([]float32, len(b))
				for j := range out {
					sum := b[j]
					for i, v := range in {
						product := v * w[i*len(out)+j]
						sum += float32(product)
					}
					if l < len(m.layers)-1 && !(sum > 0) {
						sum = 0
					}
					out[j] = sum
				}
				in = out
			}
			if want := float32(1 / (1 + math.Exp(-float64(in[0])))); !same(got[r], want) {
				t.Errorf("%v, row %d: %v, want %v", dims, r, got[r], want)
			}
		}
	}
}

// Weights that overflow make infinities and NaN inside; both paths must still agree.
func TestOverflowAgrees(t *testing.T) {
	m := network(t, 5, squared, 6, 20, 9, 1)
	for l := range m.layers {
		for i := range m.layers[l].w {
			for j := range m.layers[l].w[i] {
				m.layers[l].w[i][j] *= 1e30
			}
		}
	}
	x := inputs(6, 20*6)
	got := score(t, m, x)
	plainly(func() {
		for i, want := range score(t, m, x) {
			if !same(got[i], want) {
				t.Errorf("row %d: %v with vectors, %v without", i, got[i], want)
			}
		}
	})
}

func TestScoringAtOnce(t *testing.T) {
	m := network(t, 2, binary, 5, 20, 1)
	x := inputs(3, 100*5)
	want := score(t, m, x)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			out := make([]float32, 100)
			for range 50 {
				if err := m.Score(context.Background(), x, 100, out); err != nil || !slices.EqualFunc(out, want, same) {
					t.Errorf("scoring beside others gave other scores, error %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestScoreAllocatesNothing(t *testing.T) {
	m := network(t, 1, binary, 16, 64, 32, 1)
	x, out := inputs(1, 100*16), make([]float32, 100)
	if n := testing.AllocsPerRun(100, func() {
		if err := m.Score(t.Context(), x, 100, out); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkScore(b *testing.B) {
	m := network(b, 1, binary, 16, 64, 32, 1)
	pool := inputs(1, 1024*16*8)
	run := func(b *testing.B, rows int) {
		out := make([]float32, rows)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			from := i * rows % 4096 * 16 // inputs change, or the branch predictor learns them
			i++
			if err := m.Score(b.Context(), pool[from:from+rows*16], rows, out); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows), "ns/row")
	}
	for _, rows := range []int{1, 32, 256, 1024} {
		b.Run(fmt.Sprintf("vector/%d", rows), func(b *testing.B) { run(b, rows) })
		b.Run(fmt.Sprintf("plain/%d", rows), func(b *testing.B) { plainly(func() { run(b, rows) }) })
	}
}
