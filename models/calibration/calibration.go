package calibration

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/newton"
)

// The methods.
const (
	Platt    = "platt"
	Isotonic = "isotonic"
)

// ErrNoSignal reports scores that do not rise with the labels, so that no rising function of them
// would tell anything.
var ErrNoSignal = errors.New("higher scores do not go with more positives")

// leastSlope is the least slope of a sigmoid that still tells neighbouring scores apart in float64;
// with labels of one class the fitted slope is rounding noise below it.
const leastSlope = 1e-9

// Calibration is a rising function from scores to probabilities. Its fields are its stored form.
type Calibration struct {
	Method string `json:"method"`
	// Platt: the probability is sigmoid(Slope x score + Intercept), with the score's log odds for
	// the score if LogOdds is set.
	Slope     float64 `json:"slope,omitempty"`
	Intercept float64 `json:"intercept,omitempty"`
	LogOdds   bool    `json:"log_odds,omitempty"`
	// Isotonic: points of the line, both ascending.
	Scores        []float64 `json:"scores,omitempty"`
	Probabilities []float64 `json:"probabilities,omitempty"`
}

// Apply is the probability for a score. NaN stays NaN.
func (c *Calibration) Apply(score float64) float64 {
	if c.Method == Isotonic {
		return c.line(score)
	}
	if c.LogOdds {
		score = newton.LogOdds(score)
	}
	return newton.Sigmoid(c.Slope*score + c.Intercept)
}

func (c *Calibration) line(score float64) float64 {
	if score != score {
		return score
	}
	i, found := slices.BinarySearch(c.Scores, score)
	switch {
	case found:
		return c.Probabilities[i]
	case i == 0:
		return c.Probabilities[0]
	case i == len(c.Scores):
		return c.Probabilities[i-1]
	}
	x0, x1, y0, y1 := c.Scores[i-1], c.Scores[i], c.Probabilities[i-1], c.Probabilities[i]
	// Kept within its ends, which rounding could overstep.
	return min(y1, y0+(y1-y0)*((score-x0)/(x1-x0)))
}

// Validate reports whether the function is complete, finite and rising.
func (c *Calibration) Validate() error {
	switch c.Method {
	case Platt:
		if !(c.Slope > 0) || math.IsInf(c.Slope, 0) || math.IsNaN(c.Intercept) || math.IsInf(c.Intercept, 0) {
			return fmt.Errorf("slope %v and intercept %v: expected a slope above 0", c.Slope, c.Intercept)
		}
	case Isotonic:
		if len(c.Scores) == 0 || len(c.Scores) != len(c.Probabilities) {
			return fmt.Errorf("%d scores and %d probabilities: expected the same number, at least 1", len(c.Scores), len(c.Probabilities))
		}
		for i, p := range c.Probabilities {
			s := c.Scores[i]
			if !(p >= 0 && p <= 1) || math.IsNaN(s) || math.IsInf(s, 0) || i > 0 && (s <= c.Scores[i-1] || p < c.Probabilities[i-1]) {
				return fmt.Errorf("point %d does not rise or is no probability", i)
			}
		}
	default:
		return fmt.Errorf("method %.40q is neither %s nor %s", c.Method, Platt, Isotonic)
	}
	return nil
}

// Fit fits a calibration to scores and their labels (0 or 1). weights is nil for 1 each.
func Fit(method string, scores, labels, weights []float32) (*Calibration, error) {
	c, err := fit(method, scores, labels, weights)
	if err != nil {
		return nil, fmt.Errorf("fitting calibration: %w", err)
	}
	return c, nil
}

func fit(method string, scores, labels, weights []float32) (*Calibration, error) {
	if len(scores) == 0 || len(labels) != len(scores) || weights != nil && len(weights) != len(scores) {
		return nil, fmt.Errorf("%d scores, %d labels, %d weights: %w", len(scores), len(labels), len(weights), models.ErrShape)
	}
	for i, s := range scores {
		if v := float64(s); math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("score %v of row %d is not finite", s, i)
		}
		if y := labels[i]; y != 0 && y != 1 {
			return nil, fmt.Errorf("label %v of row %d is neither 0 nor 1", y, i)
		}
		if weights != nil && !(weights[i] >= 0 && weights[i] <= math.MaxFloat32) {
			return nil, fmt.Errorf("weight %v of row %d is not a number from 0 up", weights[i], i)
		}
	}
	switch method {
	case Platt:
		return fitPlatt(scores, labels, weights)
	case Isotonic:
		return fitIsotonic(scores, labels, weights)
	}
	return nil, fmt.Errorf("method %q is neither %s nor %s", method, Platt, Isotonic)
}

// ridge draws the fit to no change (log odds) or to nothing known (plain scores) as a hundredth of
// a row would; it decides only where the rows leave the answer open.
const ridge = 0.01

func fitPlatt(scores, labels, weights []float32) (*Calibration, error) {
	plain, plainLoss, err := fitPlain(scores, labels, weights)
	if err != nil {
		return nil, err
	}
	best := plain
	if low, high := slices.Min(scores), slices.Max(scores); low >= 0 && high <= 1 {
		p := newton.Problem{Label: labels, Weight: weights, Prior: []float64{0, 1}, Ridge: ridge}
		for _, s := range scores {
			p.X = append(p.X, newton.LogOdds(float64(s)))
		}
		at, err := p.Solve()
		if err != nil {
			return nil, err
		}
		odds := &Calibration{Method: Platt, Slope: at[1], Intercept: at[0], LogOdds: true}
		p.Ridge = 0
		if !(plain.Slope > 0) || odds.Slope > 0 && p.Loss(at) <= plainLoss {
			best = odds
		}
	}
	if !(best.Slope > leastSlope) {
		return nil, ErrNoSignal
	}
	return best, nil
}

// fitPlain fits a sigmoid to the scores, brought to mean 0 and deviation 1 for the ridge's sake.
func fitPlain(scores, labels, weights []float32) (*Calibration, float64, error) {
	var mean, deviation float64
	for _, s := range scores {
		mean += float64(s) / float64(len(scores))
	}
	for _, s := range scores {
		deviation += (float64(s) - mean) * (float64(s) - mean) / float64(len(scores))
	}
	deviation = math.Sqrt(deviation)
	if deviation == 0 {
		deviation = 1
	}
	p := newton.Problem{Label: labels, Weight: weights, Prior: []float64{0, 0}, Ridge: ridge}
	for _, s := range scores {
		p.X = append(p.X, (float64(s)-mean)/deviation)
	}
	at, err := p.Solve()
	if err != nil {
		return nil, 0, err
	}
	p.Ridge = 0
	slope := at[1] / deviation
	return &Calibration{Method: Platt, Slope: slope, Intercept: at[0] - slope*mean}, p.Loss(at), nil
}

// block is a run of rows with one probability.
type block struct {
	low, high         float64 // scores
	weight, positives float64
}

func (b block) mean() float64 { return b.positives / b.weight }

func fitIsotonic(scores, labels, weights []float32) (*Calibration, error) {
	order := make([]int, 0, len(scores))
	for i := range scores {
		if weights == nil || weights[i] > 0 {
			order = append(order, i)
		}
	}
	if len(order) == 0 {
		return nil, fmt.Errorf("all weights are 0: %w", models.ErrShape)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[a], scores[b]) })
	var blocks []block
	total := 0.0
	for _, i := range order {
		s, w := float64(scores[i]), 1.0
		if weights != nil {
			w = float64(weights[i])
		}
		total += w
		b := block{s, s, w, w * float64(labels[i])}
		// Equal scores can't have different probabilities: they are one block before any pooling.
		if n := len(blocks); n > 0 && blocks[n-1].low == s {
			blocks[n-1].weight += b.weight
			blocks[n-1].positives += b.positives
			continue
		}
		blocks = append(blocks, b)
	}
	blocks = pool(blocks)
	c := &Calibration{Method: Isotonic}
	least, most := 1/(total+2), (total+1)/(total+2)
	for _, b := range blocks {
		p := max(least, min(most, b.mean()))
		c.Scores, c.Probabilities = append(c.Scores, b.low), append(c.Probabilities, p)
		if b.high > b.low {
			c.Scores, c.Probabilities = append(c.Scores, b.high), append(c.Probabilities, p)
		}
	}
	return c, nil
}

// pool merges neighbours until their means rise: pool adjacent violators.
func pool(blocks []block) []block {
	done := blocks[:0]
	for _, b := range blocks {
		for len(done) > 0 && done[len(done)-1].mean() >= b.mean() {
			last := done[len(done)-1]
			b = block{last.low, b.high, last.weight + b.weight, last.positives + b.positives}
			done = done[:len(done)-1]
		}
		done = append(done, b)
	}
	return done
}
