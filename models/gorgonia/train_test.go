package gorgonia

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/millrace-ml/millrace/models"
)

// rings is a problem that no linear model solves: the label says whether a point is near the origin.
func rings(rows int) (x, y []float32) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range rows {
		a, b := rng.NormFloat64(), rng.NormFloat64()
		x = append(x, float32(a), float32(b))
		label := float32(0)
		if a*a+b*b < 1.4 {
			label = 1
		}
		y = append(y, label)
	}
	return x, y
}

func (n Network) output(x []float32) float64 {
	in := x
	for l, w := range n.Weights {
		out := slices.Clone(n.Biases[l])
		for j := range out {
			for i, v := range in {
				out[j] += v * w[i*len(out)+j]
			}
			if l < len(n.Weights)-1 {
				out[j] = max(out[j], 0)
			}
		}
		in = out
	}
	return float64(in[0])
}

func config() Config {
	return Config{Layers: []int{16, 8}, Epochs: 30, BatchSize: 64, Rate: 0.01, Seed: 1}
}

func train(t testing.TB, c Config, x, y, w []float32) Network {
	t.Helper()
	n, err := Train(t.Context(), c, x, y, w)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNetworkLearnsWhatNoLineCan(t *testing.T) {
	x, y := rings(1001)
	right := func(output func([]float32) float64) float64 {
		n := 0
		for i, label := range y {
			if output(x[2*i:2*i+2]) > 0 == (label == 1) {
				n++
			}
		}
		return float64(n) / float64(len(y))
	}
	n := train(t, config(), x, y, nil)
	if r := right(n.output); r < 0.95 {
		t.Errorf("%.3f of the rows are right", r)
	}
	w, b, err := FitLinear(t.Context(), LinearConfig{L2: 1}, x, y, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := right(func(x []float32) float64 { return w[0]*float64(x[0]) + w[1]*float64(x[1]) + b }); r > 0.7 {
		t.Errorf("a line gets %.3f right: the problem is too easy for this test", r)
	}
}

func TestNetworkFitsSquares(t *testing.T) {
	x, _ := rings(600)
	y := make([]float32, 600)
	for i := range y {
		y[i] = x[2*i] * x[2*i+1]
	}
	c := config()
	c.Loss, c.Epochs = Squared, 60
	n := train(t, c, x, y, nil)
	var miss, spread float64
	for i, v := range y {
		d := n.output(x[2*i:2*i+2]) - float64(v)
		miss += d * d
		spread += float64(v) * float64(v)
	}
	if miss > 0.05*spread {
		t.Errorf("%.3f of the variance is unexplained", miss/spread)
	}
}

func TestEveryParameterMovesInOneStep(t *testing.T) {
	x, y := rings(smallBatch)
	c := Config{Layers: []int{4, 3}, BatchSize: smallBatch, Rate: 0.01, Seed: 5} // no unit of this seed is dead
	s, err := newSample(x, y, nil, Binary, 1)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTrainer(c, s)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	rows := make([]int, len(y))
	for i := range rows {
		rows[i] = i
	}
	if err := tr.step(rows); err != nil {
		t.Fatal(err)
	}
	for i, p := range initial([]int{2, 4, 3, 1}, c.Seed) {
		for j, v := range p {
			// Adam's first step has the size of the rate, whatever the gradient.
			if d := math.Abs(tr.params[i][j] - v); !near(d, c.Rate, 1e-4) {
				t.Errorf("layer %d, parameter %d of slice %d moved by %v", i/2+1, j, i%2, d)
			}
		}
	}
}

// Full batches, one that fills the first lane only, and one that leaves both with padding that earlier
// batches wrote: a step's gradient is always that of its rows and no others.
func TestStepsFollowTheBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	x, y := rings(4 * smallBatch)
	w := make([]float32, len(y))
	total := 0.0
	for i := range w {
		w[i] = float32(rng.IntN(4))
		total += float64(w[i])
	}
	const class = 3
	for i, v := range y {
		if v == 1 {
			total += (class - 1) * float64(w[i])
		}
	}
	c := Config{Layers: []int{5, 4}, BatchSize: 2 * smallBatch, Rate: 0.01, L2: 0.5, ClassWeight: class, Seed: 2}
	s, err := newSample(x, y, w, Binary, class)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTrainer(c, s)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	if len(tr.lanes) != lanes {
		t.Fatalf("%d lanes", len(tr.lanes))
	}
	for _, n := range []int{2 * smallBatch, 5, smallBatch + 9, smallBatch} {
		rows := rng.Perm(len(y))[:n]
		p := problem{dims: []int{2, 5, 4, 1}, params: like(tr.params)}
		for i, q := range tr.params {
			copy(p.params[i], q)
		}
		for _, r := range rows {
			p.x = append(p.x, float64(x[2*r]), float64(x[2*r+1]))
			p.y = append(p.y, float64(y[r]))
			p.w = append(p.w, float64(w[r])*(1+(class-1)*float64(y[r]))*float64(len(y))/total)
		}
		_, want := reference(p.dims, p.params, p.x, p.y, p.w, Binary)
		if err := tr.step(rows); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			for j := range want[i] {
				g := want[i][j]
				if i%2 == 0 {
					g += c.L2 * p.params[i][j]
				}
				if g /= float64(n); !near(tr.grads[i][j], g, 1e-5) {
					t.Errorf("batch of %d: gradient [%d][%d] %v, want %v", n, i, j, tr.grads[i][j], g)
				}
			}
		}
	}
}

func TestSeedAndWorkers(t *testing.T) {
	x, y := rings(2*smallBatch + 5)
	c := config()
	c.Epochs, c.BatchSize = 3, 2*smallBatch // a second lane, and a last batch that fills one only
	c.Workers = 1
	a := train(t, c, x, y, nil)
	c.Workers = 4
	b := train(t, c, x, y, nil)
	if !equal(a, b) {
		t.Error("the same seed gave other weights with four workers")
	}
	c.Seed++
	if equal(a, train(t, c, x, y, nil)) {
		t.Error("another seed gave the same weights")
	}

	l := LinearConfig{L2: 1, Workers: 1}
	x, y = rings(3*chunk + 5)
	w1, b1, err := FitLinear(t.Context(), l, x, y, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Workers = 3
	w3, b3, err := FitLinear(t.Context(), l, x, y, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w1, w3) || b1 != b3 {
		t.Errorf("one worker gives %v %v, three %v %v", w1, b1, w3, b3)
	}
}

func equal(a, b Network) bool {
	return slices.EqualFunc(a.Weights, b.Weights, slices.Equal[[]float32]) &&
		slices.EqualFunc(a.Biases, b.Biases, slices.Equal[[]float32])
}

// Run with -race: construction is the part that Gorgonia leaves unguarded.
func TestTrainingsAtOnce(t *testing.T) {
	x, y := rings(200)
	c := config()
	c.Epochs, c.BatchSize = 2, smallBatch
	want := train(t, c, x, y, nil)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			n, err := Train(context.Background(), c, x, y, nil)
			if err != nil || !equal(n, want) {
				t.Errorf("training beside others gave other weights, error %v", err)
			}
			if _, _, err := FitLinear(context.Background(), LinearConfig{L2: 1}, x, y, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// optimum solves the same problem by another method, for which d is small enough.
func optimum(x, y []float32, w []float64, l2 float64) []float64 {
	rows := len(y)
	width := len(x) / rows
	d := width + 1
	p := make([]float64, d)
	for range 50 {
		grad := make([]float64, d)
		hess := make([][]float64, d)
		for i := range hess {
			hess[i] = make([]float64, d)
		}
		for r := range rows {
			row := make([]float64, d)
			z := p[width]
			for i := range width {
				row[i] = float64(x[r*width+i])
				z += row[i] * p[i]
			}
			row[width] = 1
			q := 1 / (1 + math.Exp(-z))
			for i := range d {
				grad[i] += w[r] * (q - float64(y[r])) * row[i]
				for j := range d {
					hess[i][j] += w[r] * q * (1 - q) * row[i] * row[j]
				}
			}
		}
		for i := range width {
			grad[i] += l2 * p[i]
			hess[i][i] += l2
		}
		// Gauss-Jordan without pivoting: the matrix is positive definite.
		for i := range d {
			f := hess[i][i]
			for j := i; j < d; j++ {
				hess[i][j] /= f
			}
			grad[i] /= f
			for k := range d {
				if k != i {
					f := hess[k][i]
					for j := i; j < d; j++ {
						hess[k][j] -= f * hess[i][j]
					}
					grad[k] -= f * grad[i]
				}
			}
		}
		for i := range d {
			p[i] -= grad[i]
		}
	}
	return p
}

func TestLogisticReachesTheOptimum(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	const rows, width = 5000, 4
	var x, y, w []float32
	for range rows {
		z := -2.0
		for i := range width {
			v := rng.NormFloat64()
			if i == 1 { // correlated with the input before
				v = 0.9*float64(x[len(x)-1]) + 0.3*v
			}
			x = append(x, float32(v))
			z += v * float64(i-1)
		}
		y = append(y, float32(math.Round(1/(1+math.Exp(-z-rng.NormFloat64())))))
		w = append(w, float32(rng.IntN(3)))
	}
	for _, l2 := range []float64{0.01, 1, 100} {
		for _, class := range []float64{0, 1, 7} {
			got, bias, err := FitLinear(t.Context(), LinearConfig{L2: l2, ClassWeight: class}, x, y, w)
			if err != nil {
				t.Fatal(err)
			}
			weights := make([]float64, rows)
			for i, v := range w {
				weights[i] = float64(v)
				if class != 0 && y[i] == 1 {
					weights[i] *= class
				}
			}
			want := optimum(x, y, weights, l2)
			for i, v := range append(got, bias) {
				if !near(v, want[i], 1e-5) {
					t.Errorf("l2 %v, class weight %v: parameter %d is %v, want %v", l2, class, i, v, want[i])
				}
			}
		}
	}
}

func TestLeastSquaresReachesTheOptimum(t *testing.T) {
	x := []float32{1, 2, 3, 4}
	y := []float32{3, 5, 7, 9}
	// Centred: Sxx is 5 and Sxy 10, so the slope is 10/(5+l2).
	for _, l2 := range []float64{0, 5} {
		w, b, err := FitLinear(t.Context(), LinearConfig{Loss: Squared, L2: l2}, x, y, nil)
		if err != nil {
			t.Fatal(err)
		}
		slope := 10 / (5 + l2)
		if !near(w[0], slope, 1e-6) || !near(b, 6-2.5*slope, 1e-6) {
			t.Errorf("l2 %v: %v and %v, want %v and %v", l2, w[0], b, slope, 6-2.5*slope)
		}
	}
}

// A weight of 2 is the row twice. The order of rows differs, so only the linear fit can be compared.
func TestWeightIsRepetition(t *testing.T) {
	x, y := rings(50)
	w := make([]float32, 50)
	var xs, ys []float32
	for i := range w {
		w[i] = float32(i % 3)
		for range i % 3 {
			xs = append(xs, x[2*i:2*i+2]...)
			ys = append(ys, y[i])
		}
	}
	a, ab, err := FitLinear(t.Context(), LinearConfig{L2: 1}, x, y, w)
	if err != nil {
		t.Fatal(err)
	}
	b, bb, err := FitLinear(t.Context(), LinearConfig{L2: 1}, xs, ys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !near(a[0], b[0], 1e-6) || !near(a[1], b[1], 1e-6) || !near(ab, bb, 1e-6) {
		t.Errorf("weighted %v %v, repeated %v %v", a, ab, b, bb)
	}
}

func TestAdamAgainstKnownSteps(t *testing.T) {
	// f(x) = x^2 from 1 at a rate of 0.1; the steps are computed in the published form, with m and v
	// corrected one by one.
	a := newAdam(0.1, [][]float64{{1}})
	p := [][]float64{{1}}
	x, m, v := 1.0, 0.0, 0.0
	for i := 1; i <= 20; i++ {
		a.step(p, [][]float64{{2 * p[0][0]}})
		g := 2 * x
		m, v = 0.9*m+0.1*g, 0.999*v+0.001*g*g
		x -= 0.1 * (m / (1 - math.Pow(0.9, float64(i)))) / math.Sqrt(v/(1-math.Pow(0.999, float64(i))))
		if !near(p[0][0], x, 1e-6) {
			t.Fatalf("step %d: %v, want %v", i, p[0][0], x)
		}
	}
}

func TestRefusals(t *testing.T) {
	x, y := rings(10)
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	with := func(s []float32, v float32) []float32 {
		s = slices.Clone(s)
		s[3] = v
		return s
	}
	ones := make([]float32, 10)
	for i := range ones {
		ones[i] = 1
	}
	for _, c := range []struct {
		name    string
		x, y, w []float32
		want    error
	}{
		{"no rows", nil, nil, nil, models.ErrShape},
		{"no inputs", nil, y, nil, models.ErrShape},
		{"torn rows", x[:19], y, nil, models.ErrShape},
		{"short weights", x, y, ones[:9], models.ErrShape},
		{"NaN input", with(x, nan), y, nil, ErrData},
		{"infinite input", with(x, inf), y, nil, ErrData},
		{"NaN label", x, with(y, nan), nil, ErrData},
		{"label of 2", x, with(y, 2), nil, ErrData},
		{"NaN weight", x, y, with(ones, nan), ErrData},
		{"negative weight", x, y, with(ones, -1), ErrData},
		{"no weight at all", x, y, make([]float32, 10), ErrData},
	} {
		if _, err := Train(t.Context(), config(), c.x, c.y, c.w); !errors.Is(err, c.want) {
			t.Errorf("%s: Train returned %v", c.name, err)
		}
		if _, _, err := FitLinear(t.Context(), LinearConfig{}, c.x, c.y, c.w); !errors.Is(err, c.want) {
			t.Errorf("%s: FitLinear returned %v", c.name, err)
		}
	}
	err := Config{Layers: []int{0}, Epochs: -1, BatchSize: MaxBatch + 1, Rate: math.NaN(), L2: -1, ClassWeight: -1, Loss: 7}.Validate()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 7 {
		t.Errorf("seven faults gave %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Train(ctx, config(), x, y, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Train returned %v", err)
	}
	if _, _, err := FitLinear(ctx, LinearConfig{}, x, y, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled FitLinear returned %v", err)
	}
}

func TestDivergenceIsAnError(t *testing.T) {
	x, _ := rings(100)
	y := slices.Repeat([]float32{1e30}, 100)
	c := config()
	c.Loss, c.Rate = Squared, 1e38
	if _, err := Train(t.Context(), c, x, y, nil); !errors.Is(err, ErrDiverged) {
		t.Errorf("Train returned %v", err)
	}
}

func ExampleFitLinear() {
	x := []float32{-2, -1, 1, 2}
	y := []float32{0, 0, 1, 1}
	w, bias, err := FitLinear(context.Background(), LinearConfig{L2: 1}, x, y, nil)
	// The weight solves w = 2(2/(1+exp(2w)) + 1/(1+exp(w))).
	fmt.Printf("%.3f %.3f %v\n", w[0], math.Abs(bias), err)
	// Output: 1.007 0.000 <nil>
}
