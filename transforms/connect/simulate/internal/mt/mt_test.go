package mt

import (
	"math"
	"slices"
	"testing"
)

// The first output for the array of the authors' mt19937ar.out, and the 10,000th for the seed 5489,
// which the C++ standard (26.6.6) names.
func TestReferenceOutputs(t *testing.T) {
	t.Parallel()
	var m MT
	m.SeedArray(0x123, 0x234, 0x345, 0x456)
	got := []uint32{m.Uint32(), m.Uint32(), m.Uint32(), m.Uint32(), m.Uint32()}
	if want := []uint32{1067595299, 955945823, 477289528, 4107218783, 4228976476}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	m.Seed(5489)
	var v uint32
	for range 10000 {
		v = m.Uint32()
	}
	if v != 4123659995 {
		t.Errorf("number 10000 is %d, want 4123659995", v)
	}
}

// Figures that NumPy's documentation and countless notebooks show for np.random.seed(0).
func TestNumPy(t *testing.T) {
	t.Parallel()
	var r NumPy
	r.Seed(0)
	for _, want := range []float64{0.5488135039273248, 0.7151893663724195, 0.6027633760716439} {
		if got := r.Uniform(0, 1); got != want {
			t.Errorf("uniform %v, want %v", got, want)
		}
	}
	r.Seed(0)
	for _, want := range []float64{1.764052345967664, 0.4001572083672233, 0.9787379841057392, 2.240893199201458} {
		if got := r.Normal(0, 1); math.Abs(got-want) > 1e-15*want {
			t.Errorf("normal %v, want %v", got, want)
		}
	}
	r.Seed(0)
	if got, want := r.Permutation(10), []int32{2, 8, 4, 9, 1, 6, 7, 3, 0, 5}; !slices.Equal(got, want) {
		t.Errorf("permutation %v, want %v", got, want)
	}
}

func TestPoissonMean(t *testing.T) {
	t.Parallel()
	var r NumPy
	r.Seed(1)
	const n, lambda = 100_000, 2.5
	sum := 0
	for range n {
		sum += r.Poisson(lambda)
	}
	if sd := math.Sqrt(lambda / n); math.Abs(float64(sum)/n-lambda) > 5*sd {
		t.Errorf("mean %v, want %v", float64(sum)/n, lambda)
	}
	if r.Poisson(0) != 0 {
		t.Error("a Poisson number of mean 0 isn't 0")
	}
}

// From CPython 3: random.seed(0), then random.random(), and random.sample over ranges that take the
// pool and the set.
func TestPython(t *testing.T) {
	t.Parallel()
	var r Python
	r.Seed(0)
	if got := r.Float64(); got != 0.8444218515250481 {
		t.Errorf("random %v", got)
	}
	for _, tt := range pythonSamples {
		r.Seed(0)
		if got := r.Sample(tt.n, len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("sample of %d: %v, want %v", tt.n, got, tt.want)
		}
	}
}

var pythonSamples = []struct {
	n    int
	want []int
}{
	{100, []int{49, 97, 53, 5, 33, 65, 62, 51, 38, 61}},
	{10, []int{6, 9, 0, 2, 4}},
	{20, []int{12, 13, 1, 8, 15, 6}},
	{86, []int{49, 53, 5, 33, 65, 62}},
	{1000, []int{864, 394, 776, 911}},
	{22, []int{12, 13, 1, 8, 16}},
	{21, []int{12, 13, 1, 8, 16}},
	{1000, []int{864, 394, 776, 911, 430, 41, 265, 988, 523, 497, 414, 940, 802, 849, 310, 991, 488, 366, 597, 913, 929, 223}},
}
