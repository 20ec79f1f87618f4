package gorgonia

import (
	"math"
	"math/rand/v2"
	"testing"
)

// correlated is a problem whose inputs all but repeat each other, on scales of their own. One is 0
// throughout, and one is the sum of two others where dependent is set.
func correlated(rows, width int, dependent bool) (x, y []float32) {
	rng := rand.New(rand.NewPCG(11, 11))
	for range rows {
		common, z := rng.NormFloat64(), -1.0
		row := make([]float32, width)
		for i := range row {
			row[i] = float32((common + 0.2*rng.NormFloat64() + 0.5) * math.Pow(2, float64(i%5-2)))
			z += 0.3 * float64(row[i]) * float64(i%3-1)
		}
		if row[0] = 0; dependent {
			row[1] = row[2] + row[3]
		}
		x = append(x, row...)
		label := float32(0)
		if z+rng.NormFloat64() > 0 {
			label = 1
		}
		y = append(y, label)
	}
	return x, y
}

func fit(t *testing.T, o *objective, b basis) (params []float64, evaluations int) {
	t.Helper()
	u, params := make([]float64, o.sample.width+1), make([]float64, o.sample.width+1)
	err := lbfgs(u, func(u, grad []float64) (float64, error) {
		evaluations++
		b.params(u, params)
		loss, err := o.evaluate(t.Context(), params, grad)
		b.gradient(grad)
		return loss, err
	}, 1e-7, 1000)
	if err != nil {
		t.Fatal(err)
	}
	b.params(u, params)
	return params, evaluations
}

func TestBasisSavesEvaluations(t *testing.T) {
	x, y := correlated(3*chunk+5, 8, false)
	for _, loss := range []Loss{Binary, Squared} {
		s, err := newSample(x, y, nil, loss, 1)
		if err != nil {
			t.Fatal(err)
		}
		o, err := newObjective(LinearConfig{Loss: loss, L2: 1}, s)
		if err != nil {
			t.Fatal(err)
		}
		defer o.close()
		b := newBasis(o)
		if b == nil {
			t.Fatal("no basis")
		}
		got, n := fit(t, o, b)
		want, plain := fit(t, o, nil)
		if t.Logf("loss %d: %d evaluations, %d without", loss, n, plain); 2*n > plain {
			t.Errorf("loss %d: %d evaluations, %d without a basis", loss, n, plain)
		}
		for i := range got {
			if !near(got[i], want[i], 1e-4) {
				t.Errorf("loss %d: parameter %d is %v, %v without a basis", loss, i, got[i], want[i])
			}
		}
	}
}

// The gradient by parameters vanishes at the optimum, for inputs that leave the moments without an
// inverse, for a sample wide enough that only some rows make the basis, and for one too wide for any.
func TestFitIsStationary(t *testing.T) {
	for _, c := range []struct {
		name        string
		rows, width int
		l2          float64
		weigh       func(row int) float32
	}{
		{"dependent inputs", 500, 6, 0, nil},
		{"more inputs than rows", 20, 40, 1, nil},
		{"some rows", 3*chunk + 9, 70, 1, nil},
		{"stretches without weight", 3*chunk + 9, 70, 1, func(row int) float32 { return float32(min(row/chunk, 1)) }},
		{"too wide", 400, maxBasis + 1, 1, nil},
		{"strong penalty", 500, 6, 1e4, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, y := correlated(c.rows, c.width, true)
			var w []float32
			if c.weigh != nil {
				for i := range y {
					w = append(w, c.weigh(i))
				}
			}
			config := LinearConfig{L2: c.l2, MaxIterations: 2000}
			weights, bias, err := FitLinear(t.Context(), config, x, y, w)
			if err != nil {
				t.Fatal(err)
			}
			s, err := newSample(x, y, w, Binary, 1)
			if err != nil {
				t.Fatal(err)
			}
			o, err := newObjective(config, s)
			if err != nil {
				t.Fatal(err)
			}
			defer o.close()
			grad := make([]float64, c.width+1)
			if _, err := o.evaluate(t.Context(), append(weights, bias), grad); err != nil {
				t.Fatal(err)
			}
			for i, g := range grad {
				if math.Abs(g) > 1e-5 {
					t.Errorf("the gradient by parameter %d is %v", i, g)
				}
			}
		})
	}
}
