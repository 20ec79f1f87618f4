package gbdt

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
)

// KindName is the name of the kind.
const KindName = "gbdt"

const (
	// Logistic is the loss for a label of 0 or 1; the score is a probability.
	Logistic = "logistic"
	// Squared is the loss for a number; the score is its estimate.
	Squared = "squared"
)

const (
	fileName = "gbdt.json"
	format   = 1
)

func init() { models.Register(Kind()) }

// Kind describes the kind and its parameters.
func Kind() models.Kind {
	return models.Kind{
		Name: KindName,
		Doc:  "Gradient boosted trees over histograms, as XGBoost's hist method grows them.",
		Params: []models.Param{
			{Name: "loss", Doc: "logistic for a label of 0 or 1, squared for a number.", Default: Logistic, Enum: []string{Logistic, Squared}},
			{Name: "trees", Doc: "Number of trees.", Default: 100, Min: 1, Max: 100_000},
			{Name: "depth", Doc: "Largest depth of a tree.", Default: 6, Min: 1, Max: 24},
			{Name: "rate", Doc: "Learning rate: what is left of each leaf's output.", Default: 0.3, Min: 1e-6, Max: 1},
			{Name: "lambda", Doc: "L2 penalty on a leaf's output.", Default: 1.0, Min: 0, Max: 1e9},
			{Name: "gamma", Doc: "Gain that a split must reach.", Default: 0.0, Min: 0, Max: 1e9},
			{Name: "min_child_weight", Doc: "Sum of second derivatives that each side of a split must have.", Default: 1.0, Min: 0, Max: 1e9},
			{Name: "subsample", Doc: "Share of the rows, drawn anew, that each tree learns from.", Default: 1.0, Min: 1e-3, Max: 1},
			{Name: "colsample", Doc: "Share of the features, drawn anew, that each tree may use.", Default: 1.0, Min: 1e-3, Max: 1},
			{Name: "class_weight", Doc: "Weight of a positive row; a negative row has 1. Logistic loss only.", Default: 1.0, Min: 1e-6, Max: 1e6},
			{Name: "base_score", Doc: "Probability that training starts from with the logistic loss; 0 for the share of the positives, from which the first trees overshoot where positives are rare. The squared loss starts from the mean.", Default: 0.5, Min: 0, Max: 1},
			{Name: "bins", Doc: "Most bins of a feature, the one of missing values included.", Default: tree.MaxBins, Min: 3, Max: tree.MaxBins},
			{Name: "early_stopping", Doc: "Stop after so many trees without a better loss on the validation rows, and keep the trees up to the best; 0 for never.", Default: 0, Min: 0, Max: 100_000},
		},
		Train: func(ctx context.Context, t models.Training) (models.Model, error) {
			m, err := Train(ctx, t)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
		Load: func(files models.Files) (models.Model, error) {
			m, err := Load(files)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
	}
}

// Model is a sum of trees.
type Model struct {
	inputs []models.Feature
	loss   string
	// base is where the sum starts: log odds for the logistic loss.
	base  float64
	trees tree.Trees
	// gains are the features' total gains in training; nil if unknown.
	gains []float64
}

// Inputs implements models.Scorer.
func (m *Model) Inputs() []models.Feature { return m.inputs }

// Outputs implements models.Scorer.
func (m *Model) Outputs() []string { return []string{"score"} }

// Kind implements models.Model.
func (m *Model) Kind() string { return KindName }

// Trees is the number of trees.
func (m *Model) Trees() int { return m.trees.Len() }

// Gains are the total gains of the splits on each input, in the order of Inputs: how much the trees
// rest on it. It is nil for a model whose file does not tell.
func (m *Model) Gains() []float64 { return m.gains }

// Score implements models.Scorer: the probability of a positive, or the estimate.
func (m *Model) Score(_ context.Context, x []float32, rows int, out []float32) error {
	if err := models.CheckShape(len(m.inputs), 1, x, rows, out); err != nil {
		return err
	}
	base := m.base
	if m.loss == Logistic {
		m.trees.Score(x, rows, len(m.inputs), out, func(sum float64) float32 { return float32(sigmoid(base + sum)) })
	} else {
		m.trees.Score(x, rows, len(m.inputs), out, func(sum float64) float32 { return float32(base + sum) })
	}
	return nil
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// stored is gbdt.json.
type stored struct {
	Format int              `json:"format"`
	Loss   string           `json:"loss"`
	Base   float64          `json:"base"`
	Inputs []models.Feature `json:"inputs"`
	Gains  []float64        `json:"gains,omitempty"`
	Trees  []tree.Stored    `json:"trees"`
}

// Files implements models.Model.
func (m *Model) Files() (models.Files, error) {
	b, err := json.Marshal(stored{format, m.loss, m.base, m.inputs, m.gains, m.trees.Store()})
	if err != nil {
		return nil, fmt.Errorf("storing boosted trees: %w", err)
	}
	return models.Files{fileName: append(b, '\n')}, nil
}

// Load reads what Files wrote. It returns models.ErrFiles for anything else.
func Load(files models.Files) (*Model, error) {
	var s stored
	if err := tree.Decode(files, fileName, &s); err != nil {
		return nil, fmt.Errorf("loading boosted trees: %w", err)
	}
	m, err := s.model()
	if err != nil {
		return nil, fmt.Errorf("loading boosted trees: %w", err)
	}
	return m, nil
}

func (s stored) model() (*Model, error) {
	switch {
	case s.Format != format:
		return nil, fmt.Errorf("format %d, this version reads %d: %w", s.Format, format, models.ErrFiles)
	case s.Loss != Logistic && s.Loss != Squared:
		return nil, fmt.Errorf("unknown loss %q: %w", s.Loss, models.ErrFiles)
	case s.Gains != nil && len(s.Gains) != len(s.Inputs):
		return nil, fmt.Errorf("%d gains for %d inputs: %w", len(s.Gains), len(s.Inputs), models.ErrFiles)
	}
	if err := tree.CheckInputs(s.Inputs); err != nil {
		return nil, err
	}
	trees, err := tree.Load(s.Trees, len(s.Inputs))
	if err != nil {
		return nil, err
	}
	return &Model{s.Inputs, s.Loss, s.Base, trees, s.Gains}, nil
}
