package newton

import (
	"errors"
	"math"
)

// Problem is a logistic regression with a ridge that draws the solution to Prior. It minimises
//
//	sum of Weight x (log(1 + e^z) - Label z) + Ridge/2 x |coefficients - Prior|^2
//
// over z = intercept + coefficients . row. Since Prior itself is a candidate, the solution's log
// loss is never above Prior's; and with Ridge > 0 it is finite even for data that a line separates.
type Problem struct {
	// X holds len(Label) x (len(Prior)-1) values, row-major.
	X     []float64
	Label []float32
	// Weight is nil for 1 each.
	Weight []float32
	// Prior begins with the intercept.
	Prior []float64
	Ridge float64
}

// ErrDiverged reports values that are not finite or a system that can't be solved.
var ErrDiverged = errors.New("logistic regression does not converge")

// steps bounds the Newton steps; a handful is usual.
const steps = 200

// Solve returns the intercept and the coefficients, by Newton's method with halved steps. Sums run
// in the order of the rows.
func (p Problem) Solve() ([]float64, error) {
	n := len(p.Prior)
	at, next := append([]float64(nil), p.Prior...), make([]float64, n)
	loss := p.Loss(at)
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return nil, ErrDiverged
	}
	for range steps {
		gradient, hessian := p.derive(at)
		if !Factor(hessian) {
			return nil, ErrDiverged
		}
		step := append([]float64(nil), gradient...)
		Forward(hessian, step)
		Back(hessian, step)
		slope := 0.0
		for i := range step {
			slope += step[i] * gradient[i]
		}
		if slope <= 1e-18*(1+math.Abs(loss)) {
			return at, nil
		}
		moved := false
		for scale := 1.0; scale > 1e-12; scale /= 2 {
			for i := range next {
				next[i] = at[i] - scale*step[i]
			}
			if l := p.Loss(next); l < loss {
				copy(at, next)
				loss, moved = l, true
				break
			}
		}
		if !moved {
			return at, nil // no lower value that float64 could tell apart
		}
	}
	return at, nil
}

func (p Problem) weight(i int) float64 {
	if p.Weight == nil {
		return 1
	}
	return float64(p.Weight[i])
}

func (p Problem) z(i int, at []float64) float64 {
	z, width := at[0], len(at)-1
	for j, v := range p.X[i*width : (i+1)*width] {
		z += at[j+1] * v
	}
	return z
}

// Loss is what Solve minimises.
func (p Problem) Loss(at []float64) float64 {
	sum := 0.0
	for i, y := range p.Label {
		z := p.z(i, at)
		sum += p.weight(i) * (max(z, 0) + math.Log1p(math.Exp(-math.Abs(z))) - float64(y)*z)
	}
	for j, v := range at {
		sum += p.Ridge / 2 * (v - p.Prior[j]) * (v - p.Prior[j])
	}
	return sum
}

func (p Problem) derive(at []float64) (gradient []float64, hessian [][]float64) {
	n := len(at)
	gradient, hessian = make([]float64, n), make([][]float64, n)
	for j := range hessian {
		hessian[j] = make([]float64, n)
		hessian[j][j] = p.Ridge
		gradient[j] = p.Ridge * (at[j] - p.Prior[j])
	}
	row := make([]float64, n)
	row[0] = 1
	for i, y := range p.Label {
		copy(row[1:], p.X[i*(n-1):(i+1)*(n-1)])
		q := 1 / (1 + math.Exp(-p.z(i, at)))
		d1, d2 := p.weight(i)*(q-float64(y)), p.weight(i)*q*(1-q)
		for j, v := range row {
			gradient[j] += d1 * v
			for k, w := range row[:j+1] {
				hessian[j][k] += d2 * v * w
			}
		}
	}
	return gradient, hessian
}

// LogOdds is log(p / (1-p)) of a score, which it keeps 1e-6 off 0 and 1.
func LogOdds(score float64) float64 {
	score = max(1e-6, min(1-1e-6, score))
	return math.Log(score / (1 - score))
}

// Sigmoid is the inverse of LogOdds.
func Sigmoid(z float64) float64 { return 1 / (1 + math.Exp(-z)) }
