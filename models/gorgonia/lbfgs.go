package gorgonia

import "math"

// lbfgs minimises a smooth function from x on, in place (Nocedal and Wright, "Numerical
// Optimization", algorithm 7.5). f returns the value at x and writes the gradient to grad. It ends
// when no component of the gradient exceeds tolerance, when no step descends any further, which is
// the limit of arithmetic, or after iterations.
func lbfgs(x []float64, f func(x, grad []float64) (float64, error), tolerance float64, iterations int) error {
	const memory = 10
	type pair struct {
		s, y []float64
		rho  float64
	}
	var (
		n       = len(x)
		pairs   []pair
		grad    = make([]float64, n)
		next    = make([]float64, n)
		ngrad   = make([]float64, n)
		d       = make([]float64, n)
		alpha   [memory]float64
		value   float64
		err     error
		largest = func(v []float64) float64 {
			m := 0.0
			for _, e := range v {
				m = max(m, math.Abs(e))
			}
			return m
		}
	)
	if value, err = f(x, grad); err != nil {
		return err
	}
	for range iterations {
		if largest(grad) <= tolerance {
			return nil
		}
		// Two loops turn the gradient into a direction of descent.
		for i, g := range grad {
			d[i] = -g
		}
		for i := len(pairs) - 1; i >= 0; i-- {
			alpha[i] = pairs[i].rho * dot(pairs[i].s, d)
			axpy(-alpha[i], pairs[i].y, d)
		}
		if k := len(pairs); k > 0 {
			last := pairs[k-1]
			scale(1/(last.rho*dot(last.y, last.y)), d)
		} else {
			scale(1/math.Sqrt(dot(grad, grad)), d)
		}
		for i, p := range pairs {
			axpy(alpha[i]-p.rho*dot(p.y, d), p.s, d)
		}
		slope := dot(grad, d)
		if !(slope < 0) {
			return nil
		}

		step, nvalue, ok := 1.0, 0.0, false
		for range 30 {
			for i := range next {
				next[i] = x[i] + step*d[i]
			}
			if nvalue, err = f(next, ngrad); err != nil {
				return err
			}
			if nvalue <= value+1e-4*step*slope {
				ok = true
				break
			}
			// The minimum of the parabola through both values and the slope, kept within bounds.
			t := -slope * step / (2 * ((nvalue-value)/step - slope))
			if !(t >= 0.1*step) {
				t = 0.1 * step
			}
			step = min(t, 0.5*step)
		}
		if !ok {
			return nil
		}
		p := pair{s: make([]float64, n), y: make([]float64, n)}
		for i := range x {
			p.s[i], p.y[i] = next[i]-x[i], ngrad[i]-grad[i]
		}
		// The first step has no curvature to go by and may be far too short; the pair is of use
		// whenever curvature is positive, which a convex loss ensures up to rounding.
		if sy := dot(p.s, p.y); sy > 1e-10*dot(p.y, p.y) {
			p.rho = 1 / sy
			if len(pairs) == memory {
				pairs = pairs[1:]
			}
			pairs = append(pairs, p)
		}
		copy(x, next)
		copy(grad, ngrad)
		value = nvalue
	}
	return nil
}

// dot has four sums, since one waits for every addition.
func dot(a, b []float64) float64 {
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += v * b[i]
	}
	return s0 + s1 + s2 + s3
}

func axpy(alpha float64, x, y []float64) {
	for i, v := range x {
		y[i] += alpha * v
	}
}

func scale(alpha float64, x []float64) {
	for i := range x {
		x[i] *= alpha
	}
}
