package aggregate

import (
	"math"
	"slices"
	"testing"
)

// TestSketches: beyond ExactRows distinct and quantile keep their stated errors.
func TestSketches(t *testing.T) {
	const n = 20_000
	var s Scratch
	var x []float64
	var hashes []uint64
	h := uint64(1)
	for i := range n {
		h = h*6364136223846793005 + 1442695040888963407
		x = append(x, math.Exp(float64(i*7919%n)/2000))
		hashes = append(hashes, h^h>>29, h^h>>29)
	}
	if d := s.Distinct(hashes); math.Abs(d-n) > 4*0.0081*n {
		t.Errorf("%v distinct, want about %d", d, n)
	}
	sorted := slices.Sorted(slices.Values(x))
	for _, p := range []float64{0, 0.01, 0.5, 0.99, 1} {
		want := sorted[int(p*(n-1))]
		if got, ok := s.Of(Quantile, nil, x, []float64{p}); !ok || math.Abs(got-want) > 0.0101*want {
			t.Errorf("quantile %v: %v, want %v", p, got, want)
		}
	}
}
