package calibration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/nested"
)

// KindName is the name of the kind.
const KindName = "calibrated"

const (
	fileName = "calibration.json"
	within   = "model"
	format   = 1
)

func init() {
	models.Register(models.Kind{
		Name: KindName,
		Doc:  "A model whose scores are calibrated to probabilities.",
		Load: func(files models.Files) (models.Model, error) {
			m, err := load(files)
			if err != nil {
				return nil, fmt.Errorf("loading calibrated model: %w", err)
			}
			return m, nil
		},
	})
}

// Model is a model with a calibration on top.
type Model struct {
	inner models.Model
	cal   *Calibration
}

// Wrap puts a calibration on a model with a single output. The model is shared, not copied.
func Wrap(m models.Model, c *Calibration) (*Model, error) {
	if n := len(m.Outputs()); n != 1 {
		return nil, fmt.Errorf("calibrating a model: it has %d outputs, expected 1: %w", n, models.ErrShape)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("calibrating a model: %w", err)
	}
	return &Model{m, c}, nil
}

// Inner is the model within.
func (m *Model) Inner() models.Model { return m.inner }

// Calibration is the calibration on top.
func (m *Model) Calibration() *Calibration { return m.cal }

// Inputs implements models.Scorer.
func (m *Model) Inputs() []models.Feature { return m.inner.Inputs() }

// Outputs implements models.Scorer.
func (m *Model) Outputs() []string { return m.inner.Outputs() }

// Kind implements models.Model.
func (m *Model) Kind() string { return KindName }

// Score implements models.Scorer.
func (m *Model) Score(ctx context.Context, x []float32, rows int, out []float32) error {
	if err := m.inner.Score(ctx, x, rows, out); err != nil {
		return err
	}
	for i, s := range out {
		out[i] = float32(m.cal.Apply(float64(s)))
	}
	return nil
}

// stored is calibration.json; the model's own files are in folder model.
type stored struct {
	Format int    `json:"format"`
	Kind   string `json:"kind"`
	Calibration
}

// Files implements models.Model.
func (m *Model) Files() (models.Files, error) {
	b, err := json.Marshal(stored{format, m.inner.Kind(), *m.cal})
	if err != nil {
		return nil, fmt.Errorf("storing calibration: %w", err)
	}
	files := models.Files{fileName: append(b, '\n')}
	return files, nested.Store(files, within, m.inner)
}

func load(files models.Files) (*Model, error) {
	b, ok := files[fileName]
	if !ok {
		return nil, fmt.Errorf("no %s: %w", fileName, models.ErrFiles)
	}
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, errors.Join(err, models.ErrFiles)
	}
	if s.Format != format {
		return nil, fmt.Errorf("format %d, this version reads %d: %w", s.Format, format, models.ErrFiles)
	}
	if err := s.Validate(); err != nil {
		return nil, errors.Join(err, models.ErrFiles)
	}
	inner, err := nested.Load(files, within, s.Kind)
	if err != nil {
		return nil, err
	}
	if len(inner.Outputs()) != 1 {
		return nil, fmt.Errorf("the model within has %d outputs: %w", len(inner.Outputs()), models.ErrFiles)
	}
	return &Model{inner, &s.Calibration}, nil
}
