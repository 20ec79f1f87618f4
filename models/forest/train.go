package forest

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
)

// Train fits a forest. t.Params must be complete, as Kind.Complete returns them. t.Valid is not
// used.
func Train(ctx context.Context, t models.Training) (*Model, error) {
	m, err := train(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("training forest: %w", err)
	}
	return m, nil
}

func train(ctx context.Context, t models.Training) (*Model, error) {
	p, d := t.Params, t.Train
	if err := check(d); err != nil {
		return nil, err
	}
	workers, features := tree.Workers(t.Workers), len(d.Features)
	s := &shared{
		bins:     tree.Quantize(d.X, d.Y, d.Rows(), features, p.Int("bins"), workers),
		y:        d.Y,
		sampling: newSampling(d, p.Float("positive_share")),
		depth:    p.Int("depth"), minLeaf: uint64(p.Int("min_leaf")), try: try(p.String("features"), features),
		positive: p.Float("class_weight"),
	}
	if s.depth == 0 {
		s.depth = tree.MaxDepth
	}
	m := &Model{inputs: slices.Clone(d.Features)}
	grown := make([][]tree.Node, p.Int("trees"))
	free := make(chan *grower, workers)
	for range workers {
		free <- nil
	}
	tree.Parallel(workers, len(grown), func(i int) {
		if ctx.Err() != nil {
			return
		}
		g := <-free
		if g == nil {
			g = newGrower(s)
		}
		grown[i] = g.grow(tree.NewRandom(t.Seed, uint64(i)))
		free <- g
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, nodes := range grown {
		if err := m.trees.Append(nodes, features); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func check(d models.Dataset) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if d.Rows() == 0 {
		return fmt.Errorf("no rows to train on: %w", models.ErrShape)
	}
	for i, y := range d.Y {
		if y != 0 && y != 1 {
			return fmt.Errorf("label %v of row %d is neither 0 nor 1", y, i)
		}
	}
	sum := 0.0
	for i, w := range d.W {
		if v := float64(w); !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("weight %v of row %d is not a number from 0 up", w, i)
		}
		sum += float64(w)
	}
	if d.W != nil && sum == 0 {
		return fmt.Errorf("all weights are 0: %w", models.ErrShape)
	}
	return nil
}

// try is how many features a node looks at.
func try(choice string, features int) int {
	switch choice {
	case Sqrt:
		return max(1, int(math.Sqrt(float64(features))))
	case Log2:
		return max(1, int(math.Log2(float64(max(1, features)))))
	}
	return features
}

// sampling draws a tree's rows.
type sampling struct {
	classes []class
}

// class are rows to draw from, and how many draws to make.
type class struct {
	rows  []uint32
	upTo  []float64 // running sum of the rows' weights; nil if all are 1
	draws int
}

// newSampling draws as many rows as there are, each with its weight. For a share of positives it
// draws from positives and negatives apart: as many of both as there are, less whatever the class
// with too many has too many.
func newSampling(d models.Dataset, share float64) sampling {
	var all, negative, positive []uint32
	for i, y := range d.Y {
		all = append(all, uint32(i))
		if y == 1 {
			positive = append(positive, uint32(i))
		} else {
			negative = append(negative, uint32(i))
		}
	}
	n, p := float64(len(negative)), float64(len(positive))
	if share == 0 || n == 0 || p == 0 {
		return sampling{[]class{newClass(all, d.W, len(all))}}
	}
	if p < share*(n+p) {
		n = math.Round(p * (1 - share) / share)
	} else {
		p = math.Round(n * share / (1 - share))
	}
	return sampling{[]class{newClass(negative, d.W, max(1, int(n))), newClass(positive, d.W, max(1, int(p)))}}
}

func newClass(rows []uint32, weights []float32, draws int) class {
	c := class{rows: rows, draws: draws}
	if weights == nil {
		return c
	}
	sum := 0.0
	for _, r := range rows {
		sum += float64(weights[r])
		c.upTo = append(c.upTo, sum)
	}
	if sum == 0 {
		c.upTo = nil // a class without weight under a fixed share: draw it evenly
	}
	return c
}

// draw counts into times how often each row is drawn, with replacement.
func (s sampling) draw(random tree.Random, times []uint32) {
	for _, c := range s.classes {
		for range c.draws {
			at := 0
			if c.upTo == nil {
				at = random.Below(len(c.rows))
			} else {
				v := random.Float() * c.upTo[len(c.upTo)-1]
				// The first row whose running sum is above v, so that a weight of 0 is never drawn.
				at, _ = slices.BinarySearchFunc(c.upTo, v, func(sum, v float64) int {
					if sum > v {
						return 1
					}
					return -1
				})
			}
			times[c.rows[min(at, len(c.rows)-1)]]++
		}
	}
}
