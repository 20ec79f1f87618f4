package gorgonia

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/millrace-ml/millrace/models"
)

// MaxBatch is the largest batch: a float32 sum over more rows loses digits.
const MaxBatch = 4096

const maxWidth = 1 << 14

var (
	// ErrData reports a value that is not finite, a label outside the loss's range, or weights that
	// leave nothing to learn from.
	ErrData = errors.New("data can't be trained on")
	// ErrDiverged reports weights that stopped being finite. A lower rate helps.
	ErrDiverged = errors.New("training diverged")
)

// Loss is what training minimises.
type Loss int

const (
	// Binary is the cross-entropy of sigmoid(output) with labels in [0, 1].
	Binary Loss = iota
	// Squared is half the squared difference of output and label.
	Squared
)

// Config says how to train a network.
type Config struct {
	// Layers are the widths of the hidden layers, each with ReLU; none makes a linear model.
	Layers []int
	Loss   Loss
	// Epochs is how often every row is seen; BatchSize is the rows a step, at most MaxBatch.
	Epochs, BatchSize int
	// Rate is Adam's step size; its other constants are the published 0.9, 0.999 and 1e-8.
	Rate float64
	// L2 is the penalty on weights, not on biases: half of L2 times their squared sum, divided by
	// the batch's rows, as scikit-learn's alpha.
	L2 float64
	// ClassWeight multiplies the weight of rows in proportion to their label, so it is the weight of
	// positives against 1 for negatives; 0 means 1. Squared ignores it.
	ClassWeight float64
	// Seed decides initial weights and the order of rows.
	Seed uint64
	// Workers bounds the goroutines; 0 means GOMAXPROCS. It never changes the result.
	Workers int
}

// Validate joins all faults.
func (c Config) Validate() error {
	var errs []error
	for i, n := range c.Layers {
		if n < 1 || n > maxWidth {
			errs = append(errs, fmt.Errorf("layers[%d]: %d is outside 1 to %d", i, n, maxWidth))
		}
	}
	if c.Loss != Binary && c.Loss != Squared {
		errs = append(errs, fmt.Errorf("loss: %d is unknown", c.Loss))
	}
	if c.Epochs < 1 {
		errs = append(errs, fmt.Errorf("epochs: %d is not positive", c.Epochs))
	}
	if c.BatchSize < 1 || c.BatchSize > MaxBatch {
		errs = append(errs, fmt.Errorf("batch: %d is outside 1 to %d", c.BatchSize, MaxBatch))
	}
	if !(c.Rate > 0) || math.IsInf(c.Rate, 0) {
		errs = append(errs, fmt.Errorf("rate: %v is not positive", c.Rate))
	}
	errs = append(errs, penalty(c.L2), classWeight(c.ClassWeight))
	return errors.Join(errs...)
}

// LinearConfig says how to fit a linear model.
type LinearConfig struct {
	Loss Loss
	// L2 is the penalty on weights, not on the bias: the sum of the rows' losses plus half of L2
	// times the squared sum of weights is minimised. scikit-learn's C is 1/L2.
	L2 float64
	// ClassWeight is as in Config.
	ClassWeight float64
	// MaxIterations bounds L-BFGS; 0 means 100. Reaching it is not an error.
	MaxIterations int
	// Workers is as in Config.
	Workers int
}

// Validate joins all faults.
func (c LinearConfig) Validate() error {
	var errs []error
	if c.Loss != Binary && c.Loss != Squared {
		errs = append(errs, fmt.Errorf("loss: %d is unknown", c.Loss))
	}
	if c.MaxIterations < 0 {
		errs = append(errs, fmt.Errorf("iterations: %d is negative", c.MaxIterations))
	}
	errs = append(errs, penalty(c.L2), classWeight(c.ClassWeight))
	return errors.Join(errs...)
}

func penalty(l2 float64) error {
	if !(l2 >= 0) || math.IsInf(l2, 0) {
		return fmt.Errorf("l2: %v is not a penalty of 0 or more", l2)
	}
	return nil
}

func classWeight(w float64) error {
	if !(w >= 0) || math.IsInf(w, 0) {
		return fmt.Errorf("class weight: %v is not 0 or more", w)
	}
	return nil
}

func workers(n int) int {
	if n <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return n
}

// sample is checked data: finite, of one length, with the class weight folded into the weights.
type sample struct {
	x, y  []float32
	w     []float64
	rows  int
	width int
	total float64 // of w
}

func newSample(x, y, w []float32, loss Loss, class float64) (sample, error) {
	s := sample{x: x, y: y, rows: len(y), w: make([]float64, len(y))}
	if s.rows == 0 || len(x) == 0 || len(x)%s.rows != 0 || w != nil && len(w) != s.rows {
		return s, fmt.Errorf("%d values and %d weights for %d rows: %w", len(x), len(w), len(y), models.ErrShape)
	}
	s.width = len(x) / s.rows
	if s.width > maxWidth {
		return s, fmt.Errorf("%d inputs, more than %d: %w", s.width, maxWidth, models.ErrShape)
	}
	for i, v := range x {
		if !finite(v) {
			return s, fmt.Errorf("row %d, input %d is %v: %w", i/s.width, i%s.width, v, ErrData)
		}
	}
	if class == 0 {
		class = 1
	}
	for i, v := range y {
		if !finite(v) || loss == Binary && (v < 0 || v > 1) {
			return s, fmt.Errorf("row %d has the label %v: %w", i, v, ErrData)
		}
		s.w[i] = 1
		if w != nil {
			if !finite(w[i]) || w[i] < 0 {
				return s, fmt.Errorf("row %d has the weight %v: %w", i, w[i], ErrData)
			}
			s.w[i] = float64(w[i])
		}
		if loss == Binary {
			s.w[i] *= 1 + (class-1)*float64(v)
		}
		s.total += s.w[i]
	}
	if !(s.total > 0) || math.IsInf(s.total, 0) {
		return s, fmt.Errorf("weights sum to %v: %w", s.total, ErrData)
	}
	return s, nil
}

func finite[T float](v T) bool { return v-v == 0 }
