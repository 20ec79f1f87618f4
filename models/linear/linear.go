package linear

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/encode"
	"github.com/millrace-ml/millrace/models/gorgonia"
	"github.com/millrace-ml/millrace/models/internal/link"
	"github.com/millrace-ml/millrace/models/internal/safetensors"
)

// The kinds' names.
const (
	Logistic = "logistic"
	Linear   = "linear"
)

const version = 1

func init() {
	c := models.Param{Name: "c", Doc: "inverse of the penalty's strength", Default: 1.0, Min: 1e-9, Max: 1e9}
	iterations := models.Param{Name: "max_iter", Doc: "most iterations of L-BFGS", Default: 200, Min: 1, Max: 1e6}
	models.Register(models.Kind{
		Name: Logistic,
		Doc:  "logistic regression on encoded inputs, for labels 0 and 1",
		Params: []models.Param{
			c,
			{Name: "class_weight", Doc: "weight of a positive row against 1 for a negative one", Default: 1.0, Min: 1e-6, Max: 1e6},
			iterations,
		},
		Train: func(ctx context.Context, t models.Training) (models.Model, error) {
			return train(ctx, t, Logistic, gorgonia.Binary, t.Params.Float("class_weight"))
		},
		Load: func(f models.Files) (models.Model, error) { return load(f, Logistic) },
	})
	models.Register(models.Kind{
		Name:   Linear,
		Doc:    "ridge regression on encoded inputs, for values",
		Params: []models.Param{c, iterations},
		Train: func(ctx context.Context, t models.Training) (models.Model, error) {
			return train(ctx, t, Linear, gorgonia.Squared, 1)
		},
		Load: func(f models.Files) (models.Model, error) { return load(f, Linear) },
	})
}

// Model is a fitted linear model. It is immutable and safe for concurrent use.
type Model struct {
	kind    string
	encoder *encode.Encoder
	weights []float64
	bias    float64
	scratch sync.Pool // of *[]float32, block encoded rows
}

// block is the number of rows encoded at a time: few enough to stay in the first-level cache.
const block = 32

func train(ctx context.Context, t models.Training, kind string, loss gorgonia.Loss, class float64) (*Model, error) {
	e, err := encode.Fit(t.Train, encode.Options{})
	if err != nil {
		return nil, fmt.Errorf("training %s model: %w", kind, err)
	}
	rows := t.Train.Rows()
	x := make([]float32, rows*e.Width())
	e.Encode(t.Train.X, rows, x)
	weights, bias, err := gorgonia.FitLinear(ctx, gorgonia.LinearConfig{
		Loss:          loss,
		L2:            1 / t.Params.Float("c"),
		ClassWeight:   class,
		MaxIterations: t.Params.Int("max_iter"),
		Workers:       t.Workers,
	}, x, t.Train.Y, t.Train.W)
	if err != nil {
		return nil, fmt.Errorf("training %s model: %w", kind, err)
	}
	return newModel(kind, e, weights, bias), nil
}

func newModel(kind string, e *encode.Encoder, weights []float64, bias float64) *Model {
	m := &Model{kind: kind, encoder: e, weights: weights, bias: bias}
	m.scratch.New = func() any {
		s := make([]float32, block*e.Width())
		return &s
	}
	return m
}

// Kind is Logistic or Linear.
func (m *Model) Kind() string { return m.kind }

// Inputs implements models.Scorer.
func (m *Model) Inputs() []models.Feature { return m.encoder.Features() }

// Outputs implements models.Scorer.
func (m *Model) Outputs() []string { return []string{"score"} }

// Weights are the weights of the encoded columns and the bias. The caller must not alter the slice.
func (m *Model) Weights() (weights []float64, bias float64) { return m.weights, m.bias }

// Score implements models.Scorer. It allocates nothing once warm.
func (m *Model) Score(_ context.Context, x []float32, rows int, out []float32) error {
	in := len(m.encoder.Features())
	if err := models.CheckShape(in, 1, x, rows, out); err != nil {
		return err
	}
	scratch := m.scratch.Get().(*[]float32)
	defer m.scratch.Put(scratch)
	width := len(m.weights)
	for from := 0; from < rows; from += block {
		n := min(block, rows-from)
		m.encoder.Encode(x[from*in:], n, *scratch)
		for r := range n {
			z := m.bias
			for i, v := range (*scratch)[r*width : (r+1)*width] {
				z += float64(m.weights[i] * float64(v)) // the conversion forbids a fused product
			}
			if m.kind == Logistic {
				out[from+r] = link.Probability(z)
			} else {
				out[from+r] = link.Value(z)
			}
		}
	}
	return nil
}

type document struct {
	Version int    `json:"version"`
	Kind    string `json:"kind"`
}

// Files implements models.Model.
func (m *Model) Files() (models.Files, error) {
	doc, err := json.Marshal(document{Version: version, Kind: m.kind})
	if err != nil {
		return nil, fmt.Errorf("storing %s model: %w", m.kind, err)
	}
	enc, err := json.Marshal(m.encoder)
	if err != nil {
		return nil, fmt.Errorf("storing %s model: %w", m.kind, err)
	}
	return models.Files{
		"model.json":   doc,
		"encoder.json": enc,
		"weights.safetensors": safetensors.Write(map[string]safetensors.Tensor{
			"weight": {Shape: []int{len(m.weights)}, F64: m.weights},
			"bias":   {Shape: []int{1}, F64: []float64{m.bias}},
		}),
	}, nil
}

func load(f models.Files, kind string) (*Model, error) {
	fail := func(format string, args ...any) (*Model, error) {
		return nil, fmt.Errorf("loading %s model: %w: %w", kind, models.ErrFiles, fmt.Errorf(format, args...))
	}
	if len(f) != 3 {
		return fail("%d files instead of 3", len(f))
	}
	var doc document
	d := json.NewDecoder(bytes.NewReader(f["model.json"]))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return fail("reading model.json: %w", err)
	}
	if _, err := d.Token(); err != io.EOF || doc != (document{Version: version, Kind: kind}) {
		return fail("model.json says version %d of kind %q", doc.Version, doc.Kind)
	}
	e := new(encode.Encoder)
	if err := e.UnmarshalJSON(f["encoder.json"]); err != nil {
		return fail("reading encoder.json: %w", err)
	}
	tensors, err := safetensors.Read(f["weights.safetensors"])
	if err != nil {
		return fail("reading weights.safetensors: %w", err)
	}
	w, b := tensors["weight"], tensors["bias"]
	if len(tensors) != 2 || len(w.Shape) != 1 || len(b.Shape) != 1 || len(w.F64) != e.Width() || len(b.F64) != 1 {
		return fail("weights don't fit the encoder's %d columns", e.Width())
	}
	for _, v := range append(w.F64[:len(w.F64):len(w.F64)], b.F64[0]) {
		if v-v != 0 {
			return fail("a weight is %v", v)
		}
	}
	return newModel(kind, e, w.F64, b.F64[0]), nil
}
