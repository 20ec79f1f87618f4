package evaluate

import "math"

// logLossClip keeps a certain and wrong score from an infinite loss.
const logLossClip = 1e-15

// LogLoss is the mean negative log likelihood, in nats, of the labels under scores that are
// probabilities; scores are clipped to 1e-15 from 0 and 1.
func LogLoss[S, L Float](scores []S, labels []L) float64 {
	return mean(losses(scores, labels, logLoss), nil)
}

// Brier is the mean squared difference of probability and label.
func Brier[S, L Float](scores []S, labels []L) float64 {
	return mean(losses(scores, labels, brier), nil)
}

// MAE is the mean absolute difference of prediction and value.
func MAE[S, L Float](scores []S, labels []L) float64 {
	return mean(losses(scores, labels, absolute), nil)
}

// RMSE is the root of the mean squared difference of prediction and value.
func RMSE[S, L Float](scores []S, labels []L) float64 {
	return math.Sqrt(mean(losses(scores, labels, squared), nil))
}

func logLoss(s, y float64) float64 {
	p := math.Min(math.Max(s, logLossClip), 1-logLossClip)
	if math.IsNaN(s) {
		return s
	}
	if y > 0.5 {
		return -math.Log(p)
	}
	return -math.Log1p(-p)
}

func brier(s, y float64) float64 {
	if y > 0.5 {
		return (s - 1) * (s - 1)
	}
	return s * s
}

func absolute(s, y float64) float64 { return math.Abs(s - y) }

func squared(s, y float64) float64 { return (s - y) * (s - y) }

func losses[S, L Float](scores []S, labels []L, loss func(s, y float64) float64) []float64 {
	check(len(scores), len(labels))
	out := make([]float64, len(scores))
	for i, s := range scores {
		out[i] = loss(float64(s), float64(labels[i]))
	}
	return out
}

// mean weighs values[i] by counts[i], or alike if counts is nil. The mean of nothing is NaN.
func mean(values []float64, counts []uint32) float64 {
	var sum, n float64
	for i, v := range values {
		w := 1.0
		if counts != nil {
			w = float64(counts[i])
		}
		sum += w * v
		n += w
	}
	return sum / n
}

// Bin is a bar of a reliability diagram.
type Bin struct {
	// Low and High bound the scores of the bin: [Low, High), the last one [Low, High].
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	Rows int     `json:"rows"`
	// Score is the mean score and Rate the share of positives; both are 0 in an empty bin.
	Score float64 `json:"score"`
	Rate  float64 `json:"rate"`
}

// Calibration sorts the rows into bins of equal width over [0, 1] by score; scores outside fall
// into the first or the last bin, and NaN into none. It panics if bins is not positive.
func Calibration[S, L Float](scores []S, labels []L, bins int) []Bin {
	check(len(scores), len(labels))
	out := make([]Bin, bins)
	for i := range out {
		out[i].Low, out[i].High = float64(i)/float64(bins), float64(i+1)/float64(bins)
	}
	for i, s := range scores {
		if s != s {
			continue
		}
		b := &out[int(math.Min(math.Max(float64(s)*float64(bins), 0), float64(bins-1)))]
		b.Rows++
		b.Score += float64(s)
		if labels[i] > 0.5 {
			b.Rate++
		}
	}
	for i := range out {
		if b := &out[i]; b.Rows > 0 {
			b.Score /= float64(b.Rows)
			b.Rate /= float64(b.Rows)
		}
	}
	return out
}

// CalibrationError is the expected calibration error (Naeini, Cooper, Hauskrecht 2015): the mean
// over rows of |share of positives - mean score| of the row's bin, with bins of equal width over
// [0, 1]. It depends on the number of bins: state it with the figure (10 is usual).
func CalibrationError[S, L Float](scores []S, labels []L, bins int) float64 {
	var sum float64
	n := 0
	for _, b := range Calibration(scores, labels, bins) {
		sum += float64(b.Rows) * math.Abs(b.Rate-b.Score)
		n += b.Rows
	}
	if n != len(scores) {
		return math.NaN()
	}
	return sum / float64(n)
}
