package evaluate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Float is the type of a score or a label.
type Float interface{ ~float32 | ~float64 }

// AUC is the area under the ROC curve: the probability that a random positive scores above a
// random negative, ties counting one half.
func AUC[S, L Float](scores []S, labels []L) float64 {
	return rank(scores, labels).auc(nil)
}

// AveragePrecision is the sum over distinct thresholds, from the highest, of the gain in recall
// times the precision.
func AveragePrecision[S, L Float](scores []S, labels []L) float64 {
	return rank(scores, labels).averagePrecision(nil)
}

// ROCPoint is what alerting on scores >= Threshold would give.
type ROCPoint struct {
	Threshold float64 `json:"threshold"`
	FPR       float64 `json:"fpr"`
	TPR       float64 `json:"tpr"`
}

// ROC returns a point for each distinct score, from the highest, after a first point (0, 0) at
// threshold +Inf. It is nil if the rows hold one class only.
func ROC[S, L Float](scores []S, labels []L) []ROCPoint {
	r := rank(scores, labels)
	p, n := r.totals(nil)
	if p == 0 || n == 0 {
		return nil
	}
	out := []ROCPoint{{Threshold: math.Inf(1)}}
	r.groups(nil, func(row int32, tp, fp float64) {
		out = append(out, ROCPoint{Threshold: float64(scores[row]), FPR: fp / n, TPR: tp / p})
	})
	return out
}

// PRPoint is what alerting on scores >= Threshold would give.
type PRPoint struct {
	Threshold float64 `json:"threshold"`
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
}

// PrecisionRecall returns a point for each distinct score, from the highest (recall grows). It is
// nil if there are no positives.
func PrecisionRecall[S, L Float](scores []S, labels []L) []PRPoint {
	r := rank(scores, labels)
	p, _ := r.totals(nil)
	if p == 0 {
		return nil
	}
	var out []PRPoint
	r.groups(nil, func(row int32, tp, fp float64) {
		out = append(out, PRPoint{Threshold: float64(scores[row]), Precision: tp / (tp + fp), Recall: tp / p})
	})
	return out
}

// ThresholdRow is a line of a threshold table.
type ThresholdRow struct {
	Threshold float64 `json:"threshold"`
	// Alerts are the rows with a score at or above Threshold.
	Alerts       int     `json:"alerts"`
	AlertsPerDay float64 `json:"alerts_per_day"`
	// Precision is 0 where there are no alerts.
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	FPR       float64 `json:"fpr"`
}

// Thresholds tabulates what alerting at each of the thresholds would have given; days is the length
// of the period that the rows cover, and AlertsPerDay is 0 if it is not positive. Recall and FPR
// are 0 where the class they divide by is absent.
func Thresholds[S, L Float](scores []S, labels []L, thresholds []float64, days float64) []ThresholdRow {
	check(len(scores), len(labels))
	out := make([]ThresholdRow, len(thresholds))
	for i, t := range thresholds {
		var tp, fp, p, n int
		for j, s := range scores {
			positive := labels[j] > 0.5
			if positive {
				p++
			} else {
				n++
			}
			if float64(s) >= t {
				if positive {
					tp++
				} else {
					fp++
				}
			}
		}
		row := ThresholdRow{Threshold: t, Alerts: tp + fp}
		row.Precision = share(tp, tp+fp)
		row.Recall = share(tp, p)
		row.FPR = share(fp, n)
		if days > 0 {
			row.AlertsPerDay = float64(row.Alerts) / days
		}
		out[i] = row
	}
	return out
}

// BestF returns the score at which alerting gives the largest F-beta, and that F. Beta 1 weighs
// precision and recall alike, beta 2 recall more. Of equal ones the highest threshold wins; both
// are NaN without positives.
func BestF[S, L Float](scores []S, labels []L, beta float64) (threshold, f float64) {
	threshold, f = math.NaN(), math.NaN()
	b := beta * beta
	for _, p := range PrecisionRecall(scores, labels) {
		if p.Precision+p.Recall == 0 {
			continue
		}
		if v := (1 + b) * p.Precision * p.Recall / (b*p.Precision + p.Recall); !(v <= f) {
			threshold, f = p.Threshold, v
		}
	}
	return threshold, f
}

// TopThreshold returns the score of the n-th highest row: alerting at or above it gives n alerts,
// or more where rows tie with it. It is NaN if n is not between 1 and the number of rows.
func TopThreshold[S Float](scores []S, n int) float64 {
	if n < 1 || n > len(scores) {
		return math.NaN()
	}
	sorted := slices.Clone(scores)
	slices.Sort(sorted)
	return float64(sorted[len(sorted)-n])
}

// ranking is the rows by falling score. Equal scores form one group, so a metric that reads whole
// groups does not depend on the order inside.
type ranking struct {
	order    []int32
	positive []bool // by place in order
	last     []bool // by place in order: the last row of its group
}

// rank sorts the rows. With a NaN among the scores there is no ranking, and it is empty: every
// metric is then NaN.
func rank[S, L Float](scores []S, labels []L) *ranking {
	check(len(scores), len(labels))
	if slices.ContainsFunc(scores, func(s S) bool { return s != s }) {
		return &ranking{}
	}
	type row struct {
		score S
		at    int32
	}
	rows := make([]row, len(scores))
	for i, s := range scores {
		rows[i] = row{s, int32(i)}
	}
	slices.SortFunc(rows, func(a, b row) int {
		if c := cmp.Compare(b.score, a.score); c != 0 {
			return c
		}
		return cmp.Compare(a.at, b.at)
	})
	r := &ranking{
		order:    make([]int32, len(rows)),
		positive: make([]bool, len(rows)),
		last:     make([]bool, len(rows)),
	}
	for i, row := range rows {
		r.order[i] = row.at
		r.positive[i] = labels[row.at] > 0.5
		r.last[i] = i == len(rows)-1 || rows[i+1].score != row.score
	}
	return r
}

// groups calls f after each group with a row of it and the positives and negatives so far. A row
// counts counts[row] times, or once if counts is nil; groups that count nothing are left out. The
// sums are whole numbers, so they are exact in float64.
func (r *ranking) groups(counts []uint32, f func(row int32, tp, fp float64)) {
	var tp, fp, before float64
	for i, row := range r.order {
		w := 1.0
		if counts != nil {
			w = float64(counts[row])
		}
		if r.positive[i] {
			tp += w
		} else {
			fp += w
		}
		if r.last[i] {
			if tp+fp > before {
				f(row, tp, fp)
			}
			before = tp + fp
		}
	}
}

func (r *ranking) totals(counts []uint32) (p, n float64) {
	for i, row := range r.order {
		w := 1.0
		if counts != nil {
			w = float64(counts[row])
		}
		if r.positive[i] {
			p += w
		} else {
			n += w
		}
	}
	return p, n
}

func (r *ranking) auc(counts []uint32) float64 {
	var area, tp0, fp0 float64
	r.groups(counts, func(_ int32, tp, fp float64) {
		// Each negative of the group is below the positives of earlier groups and ties with those
		// of its own.
		area += (fp - fp0) * (tp0 + tp) / 2
		tp0, fp0 = tp, fp
	})
	if tp0 == 0 || fp0 == 0 {
		return math.NaN()
	}
	return area / tp0 / fp0
}

func (r *ranking) averagePrecision(counts []uint32) float64 {
	var sum, tp0 float64
	r.groups(counts, func(_ int32, tp, fp float64) {
		sum += (tp - tp0) * tp / (tp + fp)
		tp0 = tp
	})
	if tp0 == 0 {
		return math.NaN()
	}
	return sum / tp0
}

func share(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

func check(scores, labels int) {
	if scores != labels {
		panic(fmt.Sprintf("evaluate: %d scores for %d labels", scores, labels))
	}
}
