package gorgonia

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
)

// Network is a trained dense network. Weights[l] is inputs x outputs of layer l, row-major.
type Network struct {
	Weights, Biases [][]float32
}

// lanes is into how many parts a batch is cut, each on a machine of its own. A constant, since the
// sum of the parts' gradients depends on it and must not depend on the number of cores.
const lanes = 2

// smallBatch is the size below which a machine's fixed cost outweighs a second lane.
const smallBatch = 128

// Train fits a network to len(y) rows of x, row-major, which must be finite and should be
// standardised. w holds a weight a row; nil means 1 for all. Nothing is retained.
//
// Weights start from a normal distribution of variance 2/inputs before ReLU (He) and 2/(inputs +
// outputs) before the output (Glorot), biases at 0. Row weights are scaled to a mean of 1, and a
// batch's gradient is its weighted sum divided by its rows.
func Train(ctx context.Context, c Config, x, y, w []float32) (Network, error) {
	if err := c.Validate(); err != nil {
		return Network{}, fmt.Errorf("training network: %w", err)
	}
	s, err := newSample(x, y, w, c.Loss, c.ClassWeight)
	if err != nil {
		return Network{}, fmt.Errorf("training network: %w", err)
	}
	t, err := newTrainer(c, s)
	if err != nil {
		return Network{}, fmt.Errorf("training network: %w", err)
	}
	defer t.close()

	shuffle := rand.New(rand.NewPCG(c.Seed, 1))
	order := make([]int, s.rows)
	for i := range order {
		order[i] = i
	}
	for epoch := range c.Epochs {
		shuffle.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for from := 0; from < len(order); from += c.BatchSize {
			if err := ctx.Err(); err != nil {
				return Network{}, fmt.Errorf("training network: %w", err)
			}
			if err := t.step(order[from:min(from+c.BatchSize, len(order))]); err != nil {
				return Network{}, fmt.Errorf("training network, epoch %d: %w", epoch+1, err)
			}
		}
	}
	return t.network(), nil
}

type trainer struct {
	config Config
	sample sample
	scale  float64 // brings the mean row weight to 1
	params [][]float64
	adam   *adam
	lanes  []*lane
	grads  [][]float64
}

// lane is a machine with the gradient of its part of the batch.
type lane struct {
	graph *graph[float32]
	grads [][]float64
	err   error
}

func newTrainer(c Config, s sample) (*trainer, error) {
	dims := append(append([]int{s.width}, c.Layers...), 1)
	t := &trainer{
		config: c,
		sample: s,
		scale:  float64(s.rows) / s.total,
		params: initial(dims, c.Seed),
	}
	t.grads = like(t.params)
	t.adam = newAdam(c.Rate, t.params)
	n := lanes
	if c.BatchSize < smallBatch {
		n = 1
	}
	for range n {
		g, err := newGraph[float32](dims, (c.BatchSize+n-1)/n, c.Loss)
		if err != nil {
			t.close()
			return nil, err
		}
		t.lanes = append(t.lanes, &lane{graph: g, grads: like(t.params)})
	}
	return t, nil
}

func (t *trainer) close() {
	for _, l := range t.lanes {
		l.graph.close()
	}
}

// step moves the parameters by the gradient of the given rows.
func (t *trainer) step(rows []int) error {
	part := t.lanes[0].graph.rows
	used := (len(rows) + part - 1) / part
	if used > 1 && workers(t.config.Workers) > 1 {
		var wg sync.WaitGroup
		for i := 1; i < used; i++ {
			wg.Go(func() { t.evaluate(i, rows[i*part:min((i+1)*part, len(rows))]) })
		}
		t.evaluate(0, rows[:part])
		wg.Wait()
	} else {
		for i := range used {
			t.evaluate(i, rows[i*part:min((i+1)*part, len(rows))])
		}
	}

	clearAll(t.grads)
	for _, l := range t.lanes[:used] {
		if l.err != nil {
			return fmt.Errorf("%w: %w", ErrDiverged, l.err)
		}
		for i, g := range l.grads {
			for j, v := range g {
				t.grads[i][j] += v
			}
		}
	}
	n := float64(len(rows))
	for i, g := range t.grads {
		l2 := t.config.L2
		if i%2 == 1 { // a bias
			l2 = 0
		}
		for j := range g {
			g[j] = (g[j] + l2*t.params[i][j]) / n
		}
	}
	t.adam.step(t.params, t.grads)
	for i, p := range t.params {
		for j, v := range p {
			if !finite(float32(v)) {
				return fmt.Errorf("parameter %d of layer %d is %v: %w", j, i/2+1, v, ErrDiverged)
			}
		}
	}
	return nil
}

// evaluate runs lane i on rows; the rest of the lane's machine is padding of weight 0.
func (t *trainer) evaluate(i int, rows []int) {
	l := t.lanes[i]
	g, width := l.graph, t.sample.width
	for k, row := range rows {
		for j, v := range t.sample.x[row*width : (row+1)*width] {
			g.x[j*g.rows+k] = v
		}
		g.y[k] = t.sample.y[row]
		g.w[k] = float32(t.sample.w[row] * t.scale)
	}
	clear(g.w[len(rows):]) // padding keeps the inputs of an earlier batch
	for j, p := range t.params {
		for k, v := range p {
			g.params[j][k] = float32(v)
		}
	}
	clearAll(l.grads)
	_, l.err = g.run(l.grads)
}

func (t *trainer) network() Network {
	var n Network
	in := t.sample.width
	for i := 0; i < len(t.params); i += 2 {
		w, b := t.params[i], t.params[i+1]
		out := len(b)
		weights, biases := make([]float32, len(w)), make([]float32, out)
		for j, v := range b {
			biases[j] = float32(v)
			for k := range in {
				weights[k*out+j] = float32(w[j*in+k])
			}
		}
		n.Weights, n.Biases = append(n.Weights, weights), append(n.Biases, biases)
		in = out
	}
	return n
}

// initial draws parameters in the form of graph.params; Gorgonia's own initialisers are seeded from the clock.
func initial(dims []int, seed uint64) [][]float64 {
	rng := rand.New(rand.NewPCG(seed, 0))
	var params [][]float64
	for l := 1; l < len(dims); l++ {
		in, out := dims[l-1], dims[l]
		std := math.Sqrt(2 / float64(in))
		if l == len(dims)-1 {
			std = math.Sqrt(2 / float64(in+out))
		}
		w := make([]float64, in*out)
		for i := range w {
			w[i] = rng.NormFloat64() * std
		}
		params = append(params, w, make([]float64, out))
	}
	return params
}

func like(params [][]float64) [][]float64 {
	out := make([][]float64, len(params))
	for i, p := range params {
		out[i] = make([]float64, len(p))
	}
	return out
}

func clearAll(vs [][]float64) {
	for _, v := range vs {
		clear(v)
	}
}
