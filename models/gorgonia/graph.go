package gorgonia

import (
	"fmt"
	"sync"

	// The pin that lets Gorgonia's tensors start on this Go release.
	_ "go4.org/unsafe/assume-no-moving-gc"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// building serialises graph construction: Gorgonia counts groups in an unsynchronised package
// variable, so two goroutines that build at once race.
var building sync.Mutex

type float interface{ float32 | float64 }

// graph is one Gorgonia graph with its machine: the loss of a batch of fixed size and its gradient
// by every parameter. It is not safe for concurrent use.
//
// Inputs and parameters are bound once, to slices that the caller writes between runs. The machine
// reads its inputs in place and never writes them.
type graph[T float] struct {
	rows int
	// x, y and w are a batch: inputs, labels and weights. A row of weight 0 is padding. x is
	// transposed, width x rows: a product then runs along the rows, not along a layer that may be
	// one unit wide, which is several times faster.
	x, y, w []T
	// params are weights and biases in turn, layer by layer; weights are outputs x inputs, row-major.
	params [][]T

	vm    gorgonia.VM
	loss  gorgonia.Value
	grads []gorgonia.Value
}

// newGraph builds a graph for layers of the widths dims: inputs, hidden layers with ReLU, and one
// output. Gorgonia panics on what it can't build; construction is on our goroutine, so that becomes
// an error here and nowhere else.
func newGraph[T float](dims []int, rows int, loss Loss) (g *graph[T], err error) {
	building.Lock()
	defer building.Unlock()
	defer func() {
		if r := recover(); r != nil {
			g, err = nil, fmt.Errorf("building graph of widths %v for %d rows: %v", dims, rows, r)
		}
	}()

	e := gorgonia.NewGraph()
	g = &graph[T]{rows: rows}
	x, xs := matrix[T](e, "x", dims[0], rows)
	y, ys := matrix[T](e, "y", 1, rows)
	w, ws := matrix[T](e, "w", 1, rows)
	ones, one := matrix[T](e, "ones", 1, rows)
	for i := range one {
		one[i] = 1
	}
	g.x, g.y, g.w = xs, ys, ws

	var nodes gorgonia.Nodes
	h := x
	for l := 1; l < len(dims); l++ {
		weight, weights := matrix[T](e, fmt.Sprintf("weight%d", l), dims[l], dims[l-1])
		bias, biases := matrix[T](e, fmt.Sprintf("bias%d", l), dims[l], 1)
		nodes = append(nodes, weight, bias)
		g.params = append(g.params, weights, biases)
		// The bias times a row of ones, not a broadcast: its gradient is a matrix product too,
		// and a 1x1 bias stays a matrix.
		h = gorgonia.Must(gorgonia.Add(
			gorgonia.Must(gorgonia.Mul(weight, h)),
			gorgonia.Must(gorgonia.Mul(bias, ones))))
		if l < len(dims)-1 {
			h = gorgonia.Must(gorgonia.Rectify(h))
		}
	}

	// Both losses act on the last layer's sums. softplus(z) - z*y is the cross-entropy of
	// sigmoid(z) without its overflow: Gorgonia's softplus switches to z above 14, and its
	// derivative is sigmoid(z) - y.
	var each *gorgonia.Node
	switch loss {
	case Binary:
		each = gorgonia.Must(gorgonia.Sub(
			gorgonia.Must(gorgonia.Softplus(h)),
			gorgonia.Must(gorgonia.HadamardProd(h, y))))
	case Squared:
		d := gorgonia.Must(gorgonia.Sub(h, y))
		each = gorgonia.Must(gorgonia.HadamardProd(
			gorgonia.Must(gorgonia.HadamardProd(d, d)), gorgonia.NewConstant(T(0.5))))
	default:
		return nil, fmt.Errorf("building graph: unknown loss %d", loss)
	}
	cost := gorgonia.Must(gorgonia.Sum(gorgonia.Must(gorgonia.HadamardProd(each, w))))

	grads, err := gorgonia.Grad(cost, nodes...)
	if err != nil {
		return nil, fmt.Errorf("differentiating graph of widths %v: %w", dims, err)
	}
	// Registers are reused, so a node's own Value may hold another node's result: read through Read.
	reads := gorgonia.Nodes{gorgonia.Read(cost, &g.loss)}
	g.grads = make([]gorgonia.Value, len(grads))
	for i, n := range grads {
		reads = append(reads, gorgonia.Read(n, &g.grads[i]))
	}
	// Grad also derives by x, y and w, which costs as much as all the rest: the machine gets only
	// what the loss and the gradients come from.
	g.vm = gorgonia.NewTapeMachine(e.ExactSubgraphRoots(reads...))
	return g, nil
}

func matrix[T float](e *gorgonia.ExprGraph, name string, rows, cols int) (*gorgonia.Node, []T) {
	backing := make([]T, rows*cols)
	t := tensor.New(tensor.WithShape(rows, cols), tensor.WithBacking(backing))
	return gorgonia.NewMatrix(e, t.Dtype(), gorgonia.WithShape(rows, cols), gorgonia.WithName(name), gorgonia.WithValue(t)), backing
}

// run evaluates the batch in x, y and w under params. It returns the weighted sum of the rows'
// losses and adds its gradient to into, which has the form of params.
func (g *graph[T]) run(into [][]float64) (float64, error) {
	defer g.vm.Reset()
	if err := g.vm.RunAll(); err != nil {
		return 0, fmt.Errorf("running graph: %w", err)
	}
	for i, v := range g.grads {
		d, ok := v.Data().([]T)
		if !ok || len(d) != len(into[i]) {
			return 0, fmt.Errorf("running graph: gradient %d is a %T of shape %v", i, v.Data(), v.Shape())
		}
		for j, x := range d {
			if x != x {
				return 0, fmt.Errorf("running graph: gradient %d is NaN", i)
			}
			into[i][j] += float64(x)
		}
	}
	loss, ok := g.loss.Data().(T)
	if !ok || loss != loss {
		return 0, fmt.Errorf("running graph: loss is %v", g.loss.Data())
	}
	return float64(loss), nil
}

func (g *graph[T]) close() error { return g.vm.Close() }
