package gorgonia

import (
	"context"
	"fmt"
	"sync"
)

// Rows are evaluated in chunks, and chunk i adds to the sums of stripe i mod stripes, so the order
// of additions is the same for any number of workers.
const (
	chunk   = 2048
	stripes = 4
)

// FitLinear fits weights and a bias to len(y) rows of x, row-major, which must be finite and should
// be standardised. w holds a weight a row; nil means 1 for all. Nothing is retained. All arithmetic
// is float64. Fitting ends when no component of the mean loss's gradient, by coordinates in which the
// inputs are uncorrelated, exceeds 1e-7.
func FitLinear(ctx context.Context, c LinearConfig, x, y, w []float32) (weights []float64, bias float64, err error) {
	if err := c.Validate(); err != nil {
		return nil, 0, fmt.Errorf("fitting linear model: %w", err)
	}
	s, err := newSample(x, y, w, c.Loss, c.ClassWeight)
	if err != nil {
		return nil, 0, fmt.Errorf("fitting linear model: %w", err)
	}
	o, err := newObjective(c, s)
	if err != nil {
		return nil, 0, fmt.Errorf("fitting linear model: %w", err)
	}
	defer o.close()
	iterations := c.MaxIterations
	if iterations == 0 {
		iterations = 100
	}
	b := newBasis(o)
	u, params := make([]float64, s.width+1), make([]float64, s.width+1)
	err = lbfgs(u, func(u, grad []float64) (float64, error) {
		b.params(u, params)
		loss, err := o.evaluate(ctx, params, grad)
		b.gradient(grad)
		return loss, err
	}, 1e-7, iterations)
	if err != nil {
		return nil, 0, fmt.Errorf("fitting linear model: %w", err)
	}
	b.params(u, params)
	return params[:s.width], params[s.width], nil
}

// objective is the penalised mean loss over all rows.
type objective struct {
	config LinearConfig
	sample sample
	// x are the inputs, transposed chunk by chunk: they are read in every evaluation.
	x       []float32
	rows    int               // of a chunk
	graphs  []*graph[float64] // one a worker
	stripes []stripe
}

type stripe struct {
	loss  float64
	grads [][]float64
	err   error
}

func newObjective(c LinearConfig, s sample) (*objective, error) {
	o := &objective{config: c, sample: s, rows: min(chunk, s.rows), stripes: make([]stripe, stripes)}
	o.x = make([]float32, (s.rows+o.rows-1)/o.rows*o.rows*s.width)
	for i := range s.rows {
		to := o.x[i/o.rows*o.rows*s.width+i%o.rows:]
		for j, v := range s.x[i*s.width : (i+1)*s.width] {
			to[j*o.rows] = v
		}
	}
	for i := range o.stripes {
		o.stripes[i].grads = [][]float64{make([]float64, s.width), make([]float64, 1)}
	}
	for range min(workers(c.Workers), stripes, (s.rows+o.rows-1)/o.rows) {
		g, err := newGraph[float64]([]int{s.width, 1}, o.rows, c.Loss)
		if err != nil {
			o.close()
			return nil, err
		}
		o.graphs = append(o.graphs, g)
	}
	return o, nil
}

func (o *objective) close() {
	for _, g := range o.graphs {
		g.close()
	}
}

// evaluate returns the objective at params, weights and then the bias, and writes its gradient.
func (o *objective) evaluate(ctx context.Context, params, grad []float64) (float64, error) {
	var wg sync.WaitGroup
	for i, g := range o.graphs {
		wg.Go(func() {
			copy(g.params[0], params)
			copy(g.params[1], params[o.sample.width:])
			for s := i; s < stripes; s += len(o.graphs) {
				o.stripes[s].evaluate(ctx, g, o, s)
			}
		})
	}
	wg.Wait()

	loss := 0.0
	clear(grad)
	for _, s := range o.stripes {
		if s.err != nil {
			return 0, s.err
		}
		loss += s.loss
		axpy(1, s.grads[0], grad)
		grad[o.sample.width] += s.grads[1][0]
	}
	w := params[:o.sample.width]
	loss += o.config.L2 / 2 * dot(w, w)
	axpy(o.config.L2, w, grad)
	scale(1/o.sample.total, grad)
	return loss / o.sample.total, nil
}

// evaluate sums the chunks of stripe number n on a graph that holds the parameters.
func (s *stripe) evaluate(ctx context.Context, g *graph[float64], o *objective, n int) {
	s.loss, s.err = 0, nil
	clearAll(s.grads)
	for from := n * o.rows; from < o.sample.rows; from += stripes * o.rows {
		if s.err = ctx.Err(); s.err != nil {
			return
		}
		x := g.x
		for i, v := range o.x[from*o.sample.width:][:len(x)] {
			x[i] = float64(v)
		}
		to := min(from+o.rows, o.sample.rows)
		for i, v := range o.sample.y[from:to] {
			g.y[i] = float64(v)
		}
		copy(g.w, o.sample.w[from:to])
		clear(g.w[to-from:])
		loss, err := g.run(s.grads)
		if err != nil {
			s.err = fmt.Errorf("%w: %w", ErrDiverged, err)
			return
		}
		s.loss += loss
	}
}
