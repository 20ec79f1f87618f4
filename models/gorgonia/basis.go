package gorgonia

import "github.com/millrace-ml/millrace/models/internal/newton"

// basis holds coordinates u = Lᵀp of a linear model's parameters p, weights and then the bias, where
// L Lᵀ are the second moments of the inputs. In them the inputs are uncorrelated and of one scale,
// so L-BFGS needs half as many evaluations or fewer, and squared loss is round. Nil is p itself.
type basis [][]float64

// maxBasis is the width above which moments cost more than they save.
const maxBasis = 256

// newBasis sums the moments over all rows of a narrow sample and over every few rows of a wider one,
// which is near enough: any basis leads to the same optimum.
func newBasis(o *objective) basis {
	width, rows := o.sample.width, o.sample.rows
	if width > maxBasis {
		return nil
	}
	step := max(1, min(1+width/32, rows/(8*width)))
	b, columns := make(basis, width+1), make([][]float64, width+1)
	for i := range b {
		b[i], columns[i] = make([]float64, width+1), make([]float64, (o.rows+step-1)/step)
	}
	total, weighted := 0.0, make([]float64, (o.rows+step-1)/step)
	for from := 0; from < rows; from += o.rows {
		w := o.sample.w[from:min(from+o.rows, rows)]
		n := (len(w) + step - 1) / step
		for i := range width {
			x := o.x[from*width+i*o.rows:]
			for r := range n {
				columns[i][r] = float64(x[r*step])
			}
		}
		for r := range n {
			columns[width][r] = 1
			total += w[r*step]
		}
		for i, row := range b {
			for r, v := range columns[i][:n] {
				weighted[r] = w[r*step] * v
			}
			for j := range row[:i+1] {
				row[j] += dot(weighted[:n], columns[j][:n])
			}
		}
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

// params writes the parameters at u.
func (b basis) params(u, p []float64) {
	copy(p, u)
	newton.Back(b, p)
}

// gradient turns a gradient by parameters into one by coordinates.
func (b basis) gradient(g []float64) { newton.Forward(b, g) }
