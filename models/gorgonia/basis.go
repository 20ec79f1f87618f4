package gorgonia

import "github.com/millrace-ml/millrace/models/internal/newton"

// basis holds coordinates u = Lᵀp of a linear model's parameters p, weights and then the bias, where
// L Lᵀ are the second moments of the inputs. In them the inputs are uncorrelated and of one scale,
// so L-BFGS needs half as many evaluations or fewer, and squared loss is round. Nil is p itself.
type basis [][]float64

// maxBasis is the width above which moments cost more than they save.
const maxBasis = 256

// newBasis sums the moments over all rows of a narrow sample, and over every few chunks of a wider
// one, which is near enough: any basis leads to the same optimum.
func newBasis(o *objective) basis {
	width := o.sample.width
	if width > maxBasis {
		return nil
	}
	b := make(basis, width+1)
	for i := range b {
		b[i] = make([]float64, width+1)
	}
	var total float64
	weighted, one := make([]float64, o.rows), make([]float32, o.rows)
	for i := range one {
		one[i] = 1
	}
	for from := 0; from < o.sample.rows; from += (1 + width/32) * o.rows {
		w := o.sample.w[from:min(from+o.rows, o.sample.rows)]
		column := func(i int) []float32 {
			if i == width {
				return one[:len(w)]
			}
			return o.x[from*width+i*o.rows:][:len(w)]
		}
		for i, row := range b {
			for r, v := range column(i) {
				weighted[r] = w[r] * float64(v)
			}
			for j := range row[:i+1] {
				row[j] += moment(weighted, column(j))
			}
		}
		total += sum(w)
	}
	if total == 0 {
		return nil
	}
	for i, row := range b {
		scale(1/total, row)
		if i < width {
			row[i] += o.config.L2 / o.sample.total
		}
		row[i] += 1e-6*row[i] + 1e-12 // inputs may depend on each other, or be 0
	}
	if !newton.Factor(b) {
		return nil
	}
	return b
}

func moment(weighted []float64, x []float32) float64 {
	var a, b, c, d float64 // four sums, since one waits for every addition
	for len(x) >= 4 && len(weighted) >= 4 {
		a += weighted[0] * float64(x[0])
		b += weighted[1] * float64(x[1])
		c += weighted[2] * float64(x[2])
		d += weighted[3] * float64(x[3])
		weighted, x = weighted[4:], x[4:]
	}
	for i, v := range x {
		a += weighted[i] * float64(v)
	}
	return a + b + c + d
}

func sum(v []float64) (s float64) {
	for _, e := range v {
		s += e
	}
	return s
}

// params writes the parameters at u.
func (b basis) params(u, p []float64) {
	copy(p, u)
	newton.Back(b, p)
}

// gradient turns a gradient by parameters into one by coordinates.
func (b basis) gradient(g []float64) { newton.Forward(b, g) }
