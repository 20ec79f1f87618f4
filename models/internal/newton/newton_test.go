package newton

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func problem(r *rapid.T) Problem {
	width := rapid.IntRange(0, 4).Draw(r, "width")
	rows := rapid.IntRange(1, 40).Draw(r, "rows")
	p := Problem{Ridge: rapid.SampledFrom([]float64{0.01, 1}).Draw(r, "ridge"), Prior: make([]float64, width+1)}
	for i := range p.Prior {
		p.Prior[i] = rapid.Float64Range(-2, 2).Draw(r, "prior")
	}
	for range rows {
		for range width {
			p.X = append(p.X, rapid.Float64Range(-14, 14).Draw(r, "x"))
		}
		p.Label = append(p.Label, float32(rapid.IntRange(0, 1).Draw(r, "y")))
		p.Weight = append(p.Weight, rapid.Float32Range(0, 5).Draw(r, "w"))
	}
	return p
}

// TestSolveIsStationary checks the solution by numeric derivatives of the loss. The loss is convex,
// so a flat spot is its minimum.
func TestSolveIsStationary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		p := problem(r)
		at, err := p.Solve()
		if err != nil {
			r.Fatal(err)
		}
		if p.Loss(at) > p.Loss(p.Prior) {
			r.Fatal("the solution is worse than the prior")
		}
		const h = 1e-5
		for j := range at {
			up, down := append([]float64(nil), at...), append([]float64(nil), at...)
			up[j], down[j] = up[j]+h, down[j]-h
			if d := (p.Loss(up) - p.Loss(down)) / (2 * h); math.Abs(d) > 1e-3*(1+p.Loss(at)) {
				r.Fatalf("derivative %v by number %d at %v", d, j, at)
			}
		}
	})
}

func TestSolveKnown(t *testing.T) {
	t.Parallel()
	// Three of four positive, no other input: log odds of 3/4.
	p := Problem{Label: []float32{1, 1, 1, 0}, Prior: []float64{0}}
	at, err := p.Solve()
	if err != nil || math.Abs(at[0]-math.Log(3)) > 1e-9 {
		t.Errorf("got %v, %v, expected log 3", at, err)
	}
	p.X, p.Prior = []float64{math.NaN(), 0, 0, 0}, []float64{0, 0}
	if _, err := p.Solve(); err == nil {
		t.Error("no error for NaN")
	}
}

func TestFactor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(r, "n")
		a, l := make([][]float64, n), make([][]float64, n)
		root := make([][]float64, n) // a is root rootᵀ + 1
		for i := range a {
			a[i], l[i] = make([]float64, n), make([]float64, n)
			root[i] = rapid.SliceOfN(rapid.Float64Range(-3, 3), n, n).Draw(r, "row")
		}
		for i := range a {
			a[i][i] = 1
			for j := range a {
				for k := range a {
					a[i][j] += root[i][k] * root[j][k]
				}
			}
			copy(l[i], a[i][:i+1])
		}
		if !Factor(l) {
			r.Fatal("refused")
		}
		want := rapid.SliceOfN(rapid.Float64Range(-9, 9), n, n).Draw(r, "x")
		got := make([]float64, n)
		for i := range got {
			for j, v := range want {
				got[i] += a[i][j] * v
			}
		}
		Forward(l, got)
		Back(l, got)
		for i := range got {
			if math.Abs(got[i]-want[i]) > 1e-9 {
				r.Fatalf("a x = b has the solution %v, expected %v", got, want)
			}
		}
	})
	for _, a := range [][][]float64{{{0}}, {{-1}}, {{math.NaN()}}, {{math.Inf(1)}}, {{1, 0}, {1, 1}}} {
		if Factor(a) {
			t.Errorf("%v passed as positive definite", a)
		}
	}
}

func TestLogOdds(t *testing.T) {
	t.Parallel()
	for _, p := range []float64{0.001, 0.5, 0.999} {
		if got := Sigmoid(LogOdds(p)); math.Abs(got-p) > 1e-12 {
			t.Errorf("%v comes back as %v", p, got)
		}
	}
	if LogOdds(0) != LogOdds(1e-9) || math.Abs(LogOdds(1)+LogOdds(0)) > 1e-9 {
		t.Errorf("ends: %v and %v", LogOdds(0), LogOdds(1))
	}
}
