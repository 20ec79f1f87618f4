package gorgonia

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
)

// reference is the loss and its gradient written out by hand, in float64.
func reference(dims []int, params [][]float64, x, y, w []float64, loss Loss) (float64, [][]float64) {
	grads := like(params)
	total := 0.0
	for row := range y {
		acts := [][]float64{x[row*dims[0] : (row+1)*dims[0]]}
		for l := 1; l < len(dims); l++ {
			in := acts[l-1]
			out := make([]float64, dims[l])
			for j := range out {
				out[j] = params[2*l-1][j]
				for i, v := range in {
					out[j] += v * params[2*l-2][j*dims[l-1]+i]
				}
				if l < len(dims)-1 {
					out[j] = max(out[j], 0)
				}
			}
			acts = append(acts, out)
		}
		z := acts[len(acts)-1][0]
		var delta []float64
		switch loss {
		case Binary:
			total += w[row] * (max(z, 0) - z*y[row] + math.Log1p(math.Exp(-math.Abs(z))))
			delta = []float64{w[row] * (1/(1+math.Exp(-z)) - y[row])}
		case Squared:
			total += w[row] * (z - y[row]) * (z - y[row]) / 2
			delta = []float64{w[row] * (z - y[row])}
		}
		for l := len(dims) - 1; l > 0; l-- {
			in := acts[l-1]
			back := make([]float64, dims[l-1])
			for j, d := range delta {
				grads[2*l-1][j] += d
				for i, v := range in {
					grads[2*l-2][j*dims[l-1]+i] += d * v
					if v > 0 {
						back[i] += d * params[2*l-2][j*dims[l-1]+i]
					}
				}
			}
			delta = back
		}
	}
	return total, grads
}

type problem struct {
	dims    []int
	params  [][]float64
	x, y, w []float64
}

func newProblem(seed uint64, dims []int, rows int, loss Loss) problem {
	rng := rand.New(rand.NewPCG(seed, 99))
	p := problem{dims: dims, params: initial(dims, seed)}
	for i := 1; i < len(p.params); i += 2 {
		for j := range p.params[i] {
			p.params[i][j] = rng.NormFloat64() / 2
		}
	}
	for range rows {
		for range dims[0] {
			p.x = append(p.x, rng.NormFloat64())
		}
		if loss == Binary {
			p.y = append(p.y, float64(rng.IntN(2)))
		} else {
			p.y = append(p.y, rng.NormFloat64())
		}
		p.w = append(p.w, rng.Float64()+0.1)
	}
	return p
}

func fill[T float](g *graph[T], p problem) {
	for i := range p.y {
		for j, v := range p.x[i*p.dims[0] : (i+1)*p.dims[0]] {
			g.x[j*g.rows+i] = T(v)
		}
		g.y[i], g.w[i] = T(p.y[i]), T(p.w[i])
	}
	for i, q := range p.params {
		for j, v := range q {
			g.params[i][j] = T(v)
		}
	}
}

func near(a, b, tolerance float64) bool {
	return math.Abs(a-b) <= tolerance*(1+math.Max(math.Abs(a), math.Abs(b)))
}

var shapes = [][]int{{1, 1}, {5, 1}, {15, 1}, {1, 1, 1}, {3, 4, 1}, {16, 64, 32, 1}, {4, 8, 1, 5, 1}}

func TestGradientMatchesHandAndNumbers(t *testing.T) {
	for _, loss := range []Loss{Binary, Squared} {
		for _, dims := range shapes {
			for _, rows := range []int{1, 2, 33} {
				t.Run(fmt.Sprint(loss, dims, rows), func(t *testing.T) {
					checkGradient[float32](t, dims, rows, loss, 2e-5)
					checkGradient[float64](t, dims, rows, loss, 1e-12)
				})
			}
		}
	}
}

func checkGradient[T float](t *testing.T, dims []int, rows int, loss Loss, tolerance float64) {
	t.Helper()
	p := newProblem(7, dims, rows, loss)
	g, err := newGraph[T](dims, rows, loss)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	fill(g, p)
	want, wantGrads := reference(dims, p.params, p.x, p.y, p.w, loss)
	for run := range 2 { // the second run shows that nothing is left of the first
		grads := like(p.params)
		got, err := g.run(grads)
		if err != nil {
			t.Fatal(err)
		}
		if !near(got, want, tolerance) {
			t.Errorf("%T run %d: loss %v, want %v", T(0), run, got, want)
		}
		for i := range grads {
			for j := range grads[i] {
				if !near(grads[i][j], wantGrads[i][j], tolerance*float64(rows)) {
					t.Errorf("%T run %d: gradient [%d][%d] %v, want %v", T(0), run, i, j, grads[i][j], wantGrads[i][j])
				}
			}
		}
	}
	// The hand-written gradient is held against differences of the graph's own loss.
	if _, double := any(T(0)).(float64); !double {
		return
	}
	for i := range p.params {
		for j := 0; j < len(p.params[i]); j += max(1, len(p.params[i])/20) {
			const h = 1e-6
			var sides [2]float64
			for k, d := range []float64{h, -h} {
				g.params[i][j] = T(p.params[i][j] + d)
				v, err := g.run(like(p.params))
				if err != nil {
					t.Fatal(err)
				}
				sides[k] = v
			}
			g.params[i][j] = T(p.params[i][j])
			numeric := (sides[0] - sides[1]) / (2 * h)
			if !near(numeric, wantGrads[i][j], 1e-4) {
				t.Errorf("gradient [%d][%d]: differences give %v, graph %v", i, j, numeric, wantGrads[i][j])
			}
		}
	}
}

// At |z| of 200 the naive cross-entropy is infinite in float32.
func TestBinaryLossIsFiniteFarOut(t *testing.T) {
	for _, z := range []float64{-200, -20, 20, 200} {
		for _, y := range []float64{0, 1} {
			g, err := newGraph[float32]([]int{1, 1}, 1, Binary)
			if err != nil {
				t.Fatal(err)
			}
			p := problem{dims: []int{1, 1}, params: [][]float64{{z}, {0}}, x: []float64{1}, y: []float64{y}, w: []float64{1}}
			fill(g, p)
			grads := like(p.params)
			loss, err := g.run(grads)
			if err != nil {
				t.Fatal(err)
			}
			want, wantGrads := reference([]int{1, 1}, p.params, p.x, p.y, p.w, Binary)
			if !near(loss, want, 1e-5) || !near(grads[0][0], wantGrads[0][0], 1e-5) {
				t.Errorf("z %v, y %v: loss %v gradient %v, want %v and %v", z, y, loss, grads[0][0], want, wantGrads[0][0])
			}
			g.close()
		}
	}
}

func TestPaddingChangesNothing(t *testing.T) {
	dims := []int{6, 9, 1}
	p := newProblem(3, dims, 20, Binary)
	exact, err := newGraph[float32](dims, 20, Binary)
	if err != nil {
		t.Fatal(err)
	}
	padded, err := newGraph[float32](dims, 32, Binary)
	if err != nil {
		t.Fatal(err)
	}
	fill(exact, p)
	fill(padded, p)
	for i := range padded.x {
		if i%32 >= 20 {
			padded.x[i] = 3 // a weight of 0 must hide whatever is there
		}
	}
	a, b := like(p.params), like(p.params)
	la, err := exact.run(a)
	if err != nil {
		t.Fatal(err)
	}
	lb, err := padded.run(b)
	if err != nil {
		t.Fatal(err)
	}
	if !near(la, lb, 1e-6) {
		t.Errorf("loss %v exact, %v padded", la, lb)
	}
	for i := range a {
		for j := range a[i] {
			if !near(a[i][j], b[i][j], 1e-6) {
				t.Errorf("gradient [%d][%d] %v exact, %v padded", i, j, a[i][j], b[i][j])
			}
		}
	}
}

func TestNaNEndsTheRun(t *testing.T) {
	g, err := newGraph[float32]([]int{2, 3, 1}, 4, Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	fill(g, newProblem(1, []int{2, 3, 1}, 4, Binary))
	g.params[0][0] = float32(math.NaN())
	if _, err := g.run(like([][]float64{make([]float64, 6), make([]float64, 3), make([]float64, 3), make([]float64, 1)})); err == nil {
		t.Error("a NaN weight gave no error")
	}
}

func TestConstructionPanicsBecomeErrors(t *testing.T) {
	if _, err := newGraph[float32]([]int{3, -1, 1}, 4, Binary); err == nil {
		t.Error("a negative width gave no error")
	}
	if _, err := newGraph[float32]([]int{3, 1}, 4, Loss(9)); err == nil {
		t.Error("an unknown loss gave no error")
	}
}

func TestHeapIsFlat(t *testing.T) {
	dims := []int{8, 16, 1}
	g, err := newGraph[float32](dims, 32, Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	p := newProblem(5, dims, 32, Binary)
	fill(g, p)
	grads := like(p.params)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	run := func(n int) {
		for range n {
			if _, err := g.run(grads); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(50)
	before, goroutines := heap(), runtime.NumGoroutine()
	run(1000)
	if after := heap(); after > before+256<<10 {
		t.Errorf("heap grew from %d to %d bytes over 1,000 batches", before, after)
	}
	if n := runtime.NumGoroutine(); n > goroutines+1 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

// The derivative by the inputs is as large as they are, and nobody reads it.
func TestRunDerivesByParametersOnly(t *testing.T) {
	const width, rows = 40, 512
	g, err := newGraph[float64]([]int{width, 1}, rows, Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	p := newProblem(5, []int{width, 1}, rows, Binary)
	fill(g, p)
	grads := like(p.params)
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	const runs = 50
	before := allocated()
	for range runs {
		if _, err := g.run(grads); err != nil {
			t.Fatal(err)
		}
	}
	if each := (allocated() - before) / runs; each > 8*width*rows {
		t.Errorf("a run allocates %d bytes, more than the inputs' %d", each, 8*width*rows)
	}
}
