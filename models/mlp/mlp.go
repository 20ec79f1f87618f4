package mlp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/encode"
	"github.com/millrace-ml/millrace/models/gorgonia"
	"github.com/millrace-ml/millrace/models/internal/link"
	"github.com/millrace-ml/millrace/models/internal/safetensors"
)

// Kind is the kind's name.
const Kind = "mlp"

const (
	version = 1
	binary  = "binary"
	squared = "squared"
	// maxWidth bounds what a stored model can make scoring allocate.
	maxWidth = 1 << 14
	// block is the number of rows that go through the layers together: scratch stays in cache.
	block = 32
)

func init() {
	models.Register(models.Kind{
		Name: Kind,
		Doc:  "dense network with ReLU on encoded inputs, trained by Adam",
		Params: []models.Param{
			{Name: "layers", Doc: "widths of the hidden layers", Default: []int{64, 32}, Min: 1, Max: 4096},
			{Name: "loss", Doc: "binary for labels 0 and 1, squared for values", Default: binary, Enum: []string{binary, squared}},
			{Name: "epochs", Doc: "passes over the training rows", Default: 10, Min: 1, Max: 10000},
			{Name: "batch", Doc: "rows a step", Default: 256, Min: 1, Max: gorgonia.MaxBatch},
			{Name: "rate", Doc: "Adam's step size", Default: 0.001, Min: 1e-9, Max: 10},
			{Name: "l2", Doc: "penalty on weights, divided by the batch's rows", Default: 0.0001, Max: 1e6},
			{Name: "class_weight", Doc: "weight of a positive row against 1 for a negative one", Default: 1.0, Min: 1e-6, Max: 1e6},
		},
		Train: func(ctx context.Context, t models.Training) (models.Model, error) {
			m, err := train(ctx, t)
			if err != nil {
				return nil, fmt.Errorf("training %s model: %w", Kind, err)
			}
			return m, nil
		},
		Load: func(f models.Files) (models.Model, error) {
			m, err := load(f)
			if err != nil {
				return nil, fmt.Errorf("loading %s model: %w: %w", Kind, models.ErrFiles, err)
			}
			return m, nil
		},
	})
}

// Model is a trained network. It is immutable and safe for concurrent use.
type Model struct {
	encoder *encode.Encoder
	loss    string
	layers  []layer
	scratch sync.Pool // of *scratch
}

// scratch holds a block's rows before and after a layer; they change places from layer to layer.
type scratch struct{ a, b []float32 }

func train(ctx context.Context, t models.Training) (*Model, error) {
	e, err := encode.Fit(t.Train, encode.Options{})
	if err != nil {
		return nil, err
	}
	p, rows := t.Params, t.Train.Rows()
	x := make([]float32, rows*e.Width())
	e.Encode(t.Train.X, rows, x)
	c := gorgonia.Config{
		Layers:      p.Ints("layers"),
		Epochs:      p.Int("epochs"),
		BatchSize:   min(p.Int("batch"), max(rows, 1)),
		Rate:        p.Float("rate"),
		L2:          p.Float("l2"),
		ClassWeight: p.Float("class_weight"),
		Seed:        t.Seed,
		Workers:     t.Workers,
	}
	y, mean, std := t.Train.Y, 0.0, 1.0
	if p.String("loss") == squared {
		c.Loss = gorgonia.Squared
		y, mean, std = standardise(y)
	}
	n, err := gorgonia.Train(ctx, c, x, y, t.Train.W)
	if err != nil {
		return nil, err
	}
	// The output layer undoes the standardisation of the labels.
	last := len(n.Weights) - 1
	for i, w := range n.Weights[last] {
		n.Weights[last][i] = float32(float64(w) * std)
	}
	n.Biases[last][0] = float32(float64(n.Biases[last][0])*std + mean)

	m := &Model{encoder: e, loss: p.String("loss")}
	in := e.Width()
	for l, w := range n.Weights {
		out := len(n.Biases[l])
		m.layers = append(m.layers, pack(in, out, w, n.Biases[l]))
		in = out
	}
	return m.ready(), nil
}

// standardise returns the labels with mean 0 and deviation 1. Labels that aren't finite stay so, for
// training to refuse.
func standardise(y []float32) (z []float32, mean, std float64) {
	for _, v := range y {
		mean += float64(v) / float64(len(y))
	}
	for _, v := range y {
		std += (float64(v) - mean) * (float64(v) - mean) / float64(len(y))
	}
	if std = math.Sqrt(std); !(std > 0) {
		std = 1
	}
	z = make([]float32, len(y))
	for i, v := range y {
		z[i] = float32((float64(v) - mean) / std)
	}
	return z, mean, std
}

func (m *Model) ready() *Model {
	width := m.encoder.Width()
	for _, l := range m.layers {
		width = max(width, l.stride())
	}
	m.scratch.New = func() any {
		return &scratch{a: make([]float32, block*width), b: make([]float32, block*width)}
	}
	return m
}

// Kind implements models.Model.
func (m *Model) Kind() string { return Kind }

// Inputs implements models.Scorer.
func (m *Model) Inputs() []models.Feature { return m.encoder.Features() }

// Outputs implements models.Scorer.
func (m *Model) Outputs() []string { return []string{"score"} }

// Score implements models.Scorer. It allocates nothing once warm.
func (m *Model) Score(_ context.Context, x []float32, rows int, out []float32) error {
	in := len(m.encoder.Features())
	if err := models.CheckShape(in, 1, x, rows, out); err != nil {
		return err
	}
	s := m.scratch.Get().(*scratch)
	for from := 0; from < rows; from += block {
		n := min(block, rows-from)
		a, b := s.a, s.b
		m.encoder.Encode(x[from*in:], n, a)
		stride := m.encoder.Width()
		for l := range m.layers {
			layer := &m.layers[l]
			layer.forward(b, a, n, stride, l < len(m.layers)-1)
			a, b, stride = b, a, layer.stride()
		}
		if m.loss == binary {
			for r := range n {
				out[from+r] = link.Probability(float64(a[r*stride]))
			}
		} else {
			for r := range n {
				out[from+r] = link.Value(float64(a[r*stride]))
			}
		}
	}
	m.scratch.Put(s)
	return nil
}

type document struct {
	Version int    `json:"version"`
	Kind    string `json:"kind"`
	Loss    string `json:"loss"`
}

// Files implements models.Model.
func (m *Model) Files() (models.Files, error) {
	doc, err := json.Marshal(document{Version: version, Kind: Kind, Loss: m.loss})
	if err != nil {
		return nil, fmt.Errorf("storing %s model: %w", Kind, err)
	}
	enc, err := json.Marshal(m.encoder)
	if err != nil {
		return nil, fmt.Errorf("storing %s model: %w", Kind, err)
	}
	tensors := map[string]safetensors.Tensor{}
	for i, l := range m.layers {
		w, b := l.unpack()
		tensors[fmt.Sprintf("layer%d.weight", i)] = safetensors.Tensor{Shape: []int{l.in, l.out}, F32: w}
		tensors[fmt.Sprintf("layer%d.bias", i)] = safetensors.Tensor{Shape: []int{l.out}, F32: b}
	}
	return models.Files{
		"model.json":          doc,
		"encoder.json":        enc,
		"weights.safetensors": safetensors.Write(tensors),
	}, nil
}

func load(f models.Files) (*Model, error) {
	if len(f) != 3 {
		return nil, fmt.Errorf("%d files instead of 3", len(f))
	}
	var doc document
	d := json.NewDecoder(bytes.NewReader(f["model.json"]))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading model.json: %w", err)
	}
	if _, err := d.Token(); err != io.EOF || doc.Version != version || doc.Kind != Kind || doc.Loss != binary && doc.Loss != squared {
		return nil, fmt.Errorf("model.json says version %d of kind %q with loss %q", doc.Version, doc.Kind, doc.Loss)
	}
	e := new(encode.Encoder)
	if err := e.UnmarshalJSON(f["encoder.json"]); err != nil {
		return nil, fmt.Errorf("reading encoder.json: %w", err)
	}
	tensors, err := safetensors.Read(f["weights.safetensors"])
	if err != nil {
		return nil, fmt.Errorf("reading weights.safetensors: %w", err)
	}
	m := &Model{encoder: e, loss: doc.Loss}
	in := e.Width()
	for i := range len(tensors) / 2 {
		w, b := tensors[fmt.Sprintf("layer%d.weight", i)], tensors[fmt.Sprintf("layer%d.bias", i)]
		out := len(b.F32)
		if len(w.Shape) != 2 || len(b.Shape) != 1 || w.Shape[0] != in || w.Shape[1] != out || len(w.F32) != in*out {
			return nil, fmt.Errorf("layer %d has weights of shape %v and biases of shape %v for %d inputs", i, w.Shape, b.Shape, in)
		}
		if out < 1 || in > maxWidth || out > maxWidth {
			return nil, fmt.Errorf("layer %d has %d inputs and %d outputs: at most %d are read", i, in, out, maxWidth)
		}
		for _, v := range [][]float32{w.F32, b.F32} {
			for _, v := range v {
				if v-v != 0 {
					return nil, fmt.Errorf("layer %d has the weight %v", i, v)
				}
			}
		}
		m.layers = append(m.layers, pack(in, out, w.F32, b.F32))
		in = out
	}
	if len(m.layers) == 0 || len(tensors) != 2*len(m.layers) || in != 1 {
		return nil, fmt.Errorf("%d tensors are not layers that end in one output", len(tensors))
	}
	return m.ready(), nil
}
