package tree

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace-ml/millrace/models"
)

// Stored is a tree as JSON: a column for each part of its nodes.
type Stored struct {
	// Feature is the column that a node compares, or -1 in a leaf.
	Feature []int32 `json:"feature"`
	// Left is the left child, for x < value; the right child is the node after it. 0 in a leaf.
	Left []int32 `json:"left"`
	// Value is the threshold of a split and the output of a leaf.
	Value []float32 `json:"value"`
	// MissingLeft lists, ascending, the splits that send a missing value left.
	MissingLeft []int32 `json:"missing_left,omitempty"`
}

// Store returns all trees in their stored form.
func (t *Trees) Store() []Stored {
	stored := make([]Stored, t.Len())
	for i := range stored {
		for j, n := range t.Nodes(i) {
			s := &stored[i]
			s.Feature, s.Left, s.Value = append(s.Feature, n.Feature), append(s.Left, n.Left), append(s.Value, n.Value)
			if n.MissingLeft {
				s.MissingLeft = append(s.MissingLeft, int32(j))
			}
		}
	}
	return stored
}

// Load checks stored trees over so many features. It returns ErrFiles for what is not a tree.
func Load(stored []Stored, features int) (Trees, error) {
	var t Trees
	for i, s := range stored {
		nodes, err := s.nodes()
		if err == nil {
			err = t.Append(nodes, features)
		}
		if err != nil {
			return Trees{}, fmt.Errorf("tree %d: %w", i, err)
		}
	}
	return t, nil
}

func (s Stored) nodes() ([]Node, error) {
	if len(s.Left) != len(s.Feature) || len(s.Value) != len(s.Feature) {
		return nil, fmt.Errorf("columns of unequal length: %w", models.ErrFiles)
	}
	nodes := make([]Node, len(s.Feature))
	for i := range nodes {
		nodes[i] = Node{Feature: s.Feature[i], Left: s.Left[i], Value: s.Value[i]}
	}
	for _, i := range s.MissingLeft {
		if i < 0 || int(i) >= len(nodes) || nodes[i].Feature == Leaf || nodes[i].MissingLeft {
			return nil, fmt.Errorf("no split %d to send missing values left: %w", i, models.ErrFiles)
		}
		nodes[i].MissingLeft = true
	}
	return nodes, nil
}

// Decode reads a JSON file of a model strictly and wraps every fault in ErrFiles.
func Decode(files models.Files, name string, v any) error {
	b, ok := files[name]
	if !ok {
		return fmt.Errorf("no %s: %w", name, models.ErrFiles)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", name, errors.Join(err, models.ErrFiles))
	}
	return nil
}

// CheckInputs returns ErrFiles unless the columns have names, known types, and dictionaries only
// where they are categories.
func CheckInputs(inputs []models.Feature) error {
	seen := map[string]bool{}
	for i, f := range inputs {
		switch {
		case f.Name == "" || seen[f.Name]:
			return fmt.Errorf("input %d: name %q is empty or taken: %w", i, f.Name, models.ErrFiles)
		case f.Type != models.Number && f.Type != models.Category:
			return fmt.Errorf("input %s: unknown type %q: %w", f.Name, f.Type, models.ErrFiles)
		case f.Type == models.Number && len(f.Categories) > 0:
			return fmt.Errorf("input %s: a number with categories: %w", f.Name, models.ErrFiles)
		}
		seen[f.Name] = true
	}
	return nil
}
