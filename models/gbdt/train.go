package gbdt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
)

// Train fits boosted trees. t.Params must be complete, as Kind.Complete returns them.
func Train(ctx context.Context, t models.Training) (*Model, error) {
	m, err := train(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("training boosted trees: %w", err)
	}
	return m, nil
}

func train(ctx context.Context, t models.Training) (*Model, error) {
	p := t.Params
	loss, classWeight, patience := p.String("loss"), p.Float("class_weight"), p.Int("early_stopping")
	if loss == Squared && classWeight != 1 {
		return nil, errors.New("class_weight needs the logistic loss: leave it at 1")
	}
	fit, valid := t.Train, t.Valid
	if patience > 0 && valid.Rows() == 0 {
		fit, valid = lastTenth(fit)
	}
	for _, d := range []models.Dataset{fit, valid} {
		if err := check(d, loss); err != nil {
			return nil, err
		}
	}
	if fit.Rows() == 0 {
		return nil, fmt.Errorf("no rows to train on: %w", models.ErrShape)
	}
	features := len(fit.Features)
	if valid.Rows() > 0 && len(valid.Features) != features {
		return nil, fmt.Errorf("%d features to train on, %d to validate: %w", features, len(valid.Features), models.ErrShape)
	}
	workers := tree.Workers(t.Workers)
	var positive []float32
	if loss == Logistic {
		positive = fit.Y
	}
	bins := tree.Quantize(fit.X, positive, fit.Rows(), features, p.Int("bins"), workers)
	pool := tree.NewPool(workers)
	defer pool.Close()
	g := newGrower(growth{
		depth: p.Int("depth"), rate: p.Float("rate"), lambda: p.Float("lambda"), gamma: p.Float("gamma"),
		minChildWeight: p.Float("min_child_weight"),
	}, bins, pool)
	o := newObjective(loss, fit, classWeight)
	m := &Model{inputs: slices.Clone(fit.Features), loss: loss, base: o.base(p.Float("base_score")), gains: g.gains}
	sums := constant(fit.Rows(), m.base)
	stop := stopping{patience: patience, o: newObjective(loss, valid, classWeight), sums: constant(valid.Rows(), m.base), x: valid.X}
	random := tree.NewRandom(t.Seed, 0)
	for i := range p.Int("trees") {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		root := o.derive(sums, g, p.Float("subsample"), t.Seed, uint64(i))
		choose(random, g.use, p.Float("colsample"))
		if err := m.trees.Append(g.grow(root, sums), features); err != nil {
			return nil, err
		}
		if patience > 0 && stop.after(i, &m.trees, features) {
			break
		}
	}
	if patience > 0 {
		m.trees.Truncate(stop.best + 1)
	}
	return m, nil
}

func constant(n int, v float64) []float64 {
	s := make([]float64, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// lastTenth holds out the last tenth of the rows.
func lastTenth(d models.Dataset) (fit, valid models.Dataset) {
	n := d.Rows() - d.Rows()/10
	fit, valid = d, d
	fit.X, valid.X = d.X[:n*len(d.Features)], d.X[n*len(d.Features):]
	fit.Y, valid.Y = d.Y[:n], d.Y[n:]
	if d.W != nil {
		fit.W, valid.W = d.W[:n], d.W[n:]
	}
	return fit, valid
}

func check(d models.Dataset, loss string) error {
	if err := d.Validate(); err != nil {
		return err
	}
	for i, y := range d.Y {
		if v := float64(y); math.IsNaN(v) || math.IsInf(v, 0) || loss == Logistic && y != 0 && y != 1 {
			return fmt.Errorf("label %v of row %d: the %s loss can't learn from it", y, i, loss)
		}
	}
	for i, w := range d.W {
		if v := float64(w); !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("weight %v of row %d is not a number from 0 up", w, i)
		}
	}
	return nil
}

// choose marks a random share of the features, at least one, for use.
func choose(random tree.Random, use []bool, share float64) {
	if share == 1 {
		for i := range use {
			use[i] = true
		}
		return
	}
	order := make([]int, len(use))
	for i := range order {
		order[i] = i
	}
	clear(use)
	k := max(1, int(share*float64(len(use))))
	random.Choose(order, k)
	for _, f := range order[:min(k, len(order))] {
		use[f] = true
	}
}

// stopping watches the loss on validation rows.
type stopping struct {
	patience int
	o        *objective
	sums     []float64
	x        []float32
	best     int
	lowest   float64
}

// after adds tree i and reports whether to stop.
func (s *stopping) after(i int, trees *tree.Trees, features int) bool {
	trees.Add(i, s.x, features, s.sums)
	if loss := s.o.loss(s.sums); i == 0 || loss < s.lowest {
		s.best, s.lowest = i, loss
	}
	return i-s.best >= s.patience
}
