package forest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
)

// KindName is the name of the kind.
const KindName = "forest"

// The choices of features: how many a node looks at.
const (
	Sqrt = "sqrt"
	Log2 = "log2"
	All  = "all"
)

const (
	fileName = "forest.json"
	format   = 1
)

func init() { models.Register(Kind()) }

// Kind describes the kind and its parameters.
func Kind() models.Kind {
	return models.Kind{
		Name: KindName,
		Doc:  "Random forest of bootstrapped trees for a label of 0 or 1.",
		Params: []models.Param{
			{Name: "trees", Doc: "Number of trees.", Default: 100, Min: 1, Max: 10_000},
			{Name: "depth", Doc: "Largest depth of a tree; 0 for no bound of its own.", Default: 20, Min: 0, Max: tree.MaxDepth},
			{Name: "min_leaf", Doc: "Drawn rows that each side of a split must have.", Default: 1, Min: 1, Max: 1_000_000},
			{Name: "features", Doc: "Features that a node looks at: the square root of their number, its logarithm to base 2, or all.", Default: Sqrt, Enum: []string{Sqrt, Log2, All}},
			{Name: "class_weight", Doc: "Weight of a positive row; a negative row has 1.", Default: 1.0, Min: 1e-6, Max: 1e6},
			{Name: "positive_share", Doc: "Share of positives in each tree's sample: the class that has too many rows is drawn less, down to this share; 0 for the data's own.", Default: 0.0, Min: 0, Max: 0.99},
			{Name: "bins", Doc: "Most bins of a feature, the one of missing values included.", Default: tree.MaxBins, Min: 3, Max: tree.MaxBins},
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

// Model is a forest.
type Model struct {
	inputs []models.Feature
	trees  tree.Trees
}

// Inputs implements models.Scorer.
func (m *Model) Inputs() []models.Feature { return m.inputs }

// Outputs implements models.Scorer.
func (m *Model) Outputs() []string { return []string{"score"} }

// Kind implements models.Model.
func (m *Model) Kind() string { return KindName }

// Trees is the number of trees.
func (m *Model) Trees() int { return m.trees.Len() }

// Score implements models.Scorer: the mean share of positives in the row's leaves.
func (m *Model) Score(_ context.Context, x []float32, rows int, out []float32) error {
	if err := models.CheckShape(len(m.inputs), 1, x, rows, out); err != nil {
		return err
	}
	trees := float64(m.trees.Len())
	m.trees.Score(x, rows, len(m.inputs), out, func(sum float64) float32 { return float32(sum / trees) })
	return nil
}

// stored is forest.json.
type stored struct {
	Format int              `json:"format"`
	Inputs []models.Feature `json:"inputs"`
	Trees  []tree.Stored    `json:"trees"`
}

// Files implements models.Model.
func (m *Model) Files() (models.Files, error) {
	b, err := json.Marshal(stored{format, m.inputs, m.trees.Store()})
	if err != nil {
		return nil, fmt.Errorf("storing forest: %w", err)
	}
	return models.Files{fileName: append(b, '\n')}, nil
}

// Load reads what Files wrote. It returns models.ErrFiles for anything else.
func Load(files models.Files) (*Model, error) {
	m, err := load(files)
	if err != nil {
		return nil, fmt.Errorf("loading forest: %w", err)
	}
	return m, nil
}

func load(files models.Files) (*Model, error) {
	var s stored
	if err := tree.Decode(files, fileName, &s); err != nil {
		return nil, err
	}
	if s.Format != format {
		return nil, fmt.Errorf("format %d, this version reads %d: %w", s.Format, format, models.ErrFiles)
	}
	if len(s.Trees) == 0 {
		return nil, fmt.Errorf("no trees: %w", models.ErrFiles)
	}
	if err := tree.CheckInputs(s.Inputs); err != nil {
		return nil, err
	}
	trees, err := tree.Load(s.Trees, len(s.Inputs))
	if err != nil {
		return nil, err
	}
	return &Model{s.Inputs, trees}, nil
}
