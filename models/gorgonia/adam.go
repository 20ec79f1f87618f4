package gorgonia

import "math"

// adam is the optimiser of Kingma and Ba, "Adam: a method for stochastic optimization" (2015),
// algorithm 1 in the form of their section 2, where the bias corrections are part of the step size.
type adam struct {
	rate float64
	m, v [][]float64
	t    float64
}

func newAdam(rate float64, params [][]float64) *adam {
	return &adam{rate: rate, m: like(params), v: like(params)}
}

func (a *adam) step(params, grads [][]float64) {
	const beta1, beta2, epsilon = 0.9, 0.999, 1e-8
	a.t++
	rate := a.rate * math.Sqrt(1-math.Pow(beta2, a.t)) / (1 - math.Pow(beta1, a.t))
	for i, p := range params {
		m, v := a.m[i], a.v[i]
		for j, g := range grads[i] {
			m[j] = beta1*m[j] + (1-beta1)*g
			v[j] = beta2*v[j] + (1-beta2)*g*g
			p[j] -= rate * m[j] / (math.Sqrt(v[j]) + epsilon)
		}
	}
}
