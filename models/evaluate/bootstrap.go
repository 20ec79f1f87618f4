package evaluate

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Statistic is a metric over fixed rows as a function of how often each unit (a row, or an entity)
// is drawn. Build one with AUCStatistic and its like.
type Statistic struct {
	units int
	// evaluator returns a function with scratch of its own, for one goroutine.
	evaluator func() func(counts []uint32) float64
}

// Units is the number of units that a resample draws.
func (s Statistic) Units() int { return s.units }

// Value is the metric itself, every unit counted once.
func (s Statistic) Value() float64 {
	counts := make([]uint32, s.units)
	for i := range counts {
		counts[i] = 1
	}
	return s.evaluator()(counts)
}

func statistic(units int, f func(counts []uint32) float64) Statistic {
	return Statistic{units, func() func([]uint32) float64 { return f }}
}

// AUCStatistic is AUC over rows.
func AUCStatistic[S, L Float](scores []S, labels []L) Statistic {
	return statistic(len(scores), rank(scores, labels).orNaN((*ranking).auc))
}

// AveragePrecisionStatistic is AveragePrecision over rows.
func AveragePrecisionStatistic[S, L Float](scores []S, labels []L) Statistic {
	return statistic(len(scores), rank(scores, labels).orNaN((*ranking).averagePrecision))
}

func (r *ranking) orNaN(metric func(*ranking, []uint32) float64) func([]uint32) float64 {
	return func(counts []uint32) float64 { return metric(r, counts) }
}

// LogLossStatistic is LogLoss over rows.
func LogLossStatistic[S, L Float](scores []S, labels []L) Statistic {
	return meanStatistic(losses(scores, labels, logLoss))
}

// BrierStatistic is Brier over rows.
func BrierStatistic[S, L Float](scores []S, labels []L) Statistic {
	return meanStatistic(losses(scores, labels, brier))
}

// MAEStatistic is MAE over rows.
func MAEStatistic[S, L Float](scores []S, labels []L) Statistic {
	return meanStatistic(losses(scores, labels, absolute))
}

// RMSEStatistic is RMSE over rows.
func RMSEStatistic[S, L Float](scores []S, labels []L) Statistic {
	values := losses(scores, labels, squared)
	return statistic(len(values), func(counts []uint32) float64 { return math.Sqrt(mean(values, counts)) })
}

func meanStatistic(values []float64) Statistic {
	return statistic(len(values), func(counts []uint32) float64 { return mean(values, counts) })
}

// CardPrecisionStatistic is CardPrecision's mean; its units are the entities, since rows of a card
// stand or fall together. An entity drawn twice is two cards that behave alike.
func CardPrecisionStatistic[E cmp.Ordered, F Float](rows CardRows[E, F], k int, per int64) Statistic {
	c := newCards(rows, k, per)
	return Statistic{c.entities, func() func([]uint32) float64 {
		unknown := make([]uint32, c.entities)
		return func(counts []uint32) float64 { return c.resultIn(unknown, counts).Mean }
	}}
}

// Clustered makes the entities of s's rows its units: a resample draws entities with all their
// rows. Events of one entity are alike, and resampling them one by one gives intervals that are
// too narrow. Units are numbered in the entities' own order, so statistics over the same entities
// can be compared, CardPrecisionStatistic among them. It panics if s has not len(entity) units.
func Clustered[E cmp.Ordered](s Statistic, entity []E) Statistic {
	if s.units != len(entity) {
		panic(fmt.Sprintf("evaluate: %d entities for %d rows", len(entity), s.units))
	}
	distinct := slices.Clone(entity)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	number := make(map[E]int32, len(distinct))
	for i, e := range distinct {
		number[e] = int32(i)
	}
	of := make([]int32, len(entity))
	for i, e := range entity {
		of[i] = number[e]
	}
	return Statistic{len(distinct), func() func([]uint32) float64 {
		f := s.evaluator()
		rows := make([]uint32, len(of))
		return func(counts []uint32) float64 {
			for i, u := range of {
				rows[i] = counts[u]
			}
			return f(rows)
		}
	}}
}

// Interval is an estimate with its uncertainty.
type Interval struct {
	// Value is the metric over the rows as they are.
	Value float64 `json:"value"`
	// Low and High are percentiles of the replicates: of the true values consistent with these
	// rows, a share of Confidence lies between them.
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	Confidence float64 `json:"confidence"`
	// Replicates are the metric over each resample, ascending, without those it is not defined on.
	Replicates []float64 `json:"-"`
}

// Above is the share of replicates larger than x; NaN if there are none.
func (i Interval) Above(x float64) float64 {
	at, _ := slices.BinarySearchFunc(i.Replicates, x, func(e, x float64) int {
		if e <= x {
			return -1
		}
		return 1
	})
	return float64(len(i.Replicates)-at) / float64(len(i.Replicates))
}

// Bootstrap draws replicates: as many units as there are, with replacement.
type Bootstrap struct {
	// Replicates is the number of resamples; the default 0 means 1,000.
	Replicates int
	// Confidence is the two-sided level; the default 0 means 0.95.
	Confidence float64
	// Seed makes the interval repeatable.
	Seed uint64
	// Workers bounds the goroutines; the default 0 means GOMAXPROCS. It never changes the result.
	Workers int
}

// Interval is the percentile bootstrap interval of s.
func (b Bootstrap) Interval(s Statistic) Interval {
	return b.interval(s.Value(), s.units, func() func([]uint32) float64 { return s.evaluator() })
}

// Difference is the interval of x - y, both computed on each resample. It panics if they have not
// the same number of units; the caller sees to it that the units are the same ones.
func (b Bootstrap) Difference(x, y Statistic) Interval {
	if x.units != y.units {
		panic(fmt.Sprintf("evaluate: comparing statistics of %d and %d units", x.units, y.units))
	}
	return b.interval(x.Value()-y.Value(), x.units, func() func([]uint32) float64 {
		fx, fy := x.evaluator(), y.evaluator()
		return func(counts []uint32) float64 { return fx(counts) - fy(counts) }
	})
}

func (b Bootstrap) interval(value float64, units int, evaluator func() func([]uint32) float64) Interval {
	out := Interval{Value: value, Low: math.NaN(), High: math.NaN(), Confidence: cmp.Or(b.Confidence, 0.95)}
	if units == 0 {
		return out
	}
	replicates := make([]float64, cmp.Or(b.Replicates, 1000))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(cmp.Or(b.Workers, runtime.GOMAXPROCS(0)), len(replicates)) {
		wg.Go(func() {
			f := evaluator()
			counts := make([]uint32, units)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(replicates) {
					return
				}
				// A generator per replicate, not per worker, so that the workers' share of the work
				// does not show.
				r := rand.NewPCG(b.Seed, uint64(i))
				clear(counts)
				draw(r, counts)
				replicates[i] = f(counts)
			}
		})
	}
	wg.Wait()
	out.Replicates = slices.DeleteFunc(replicates, math.IsNaN)
	slices.Sort(out.Replicates)
	out.Low = quantile(out.Replicates, (1-out.Confidence)/2)
	out.High = quantile(out.Replicates, (1+out.Confidence)/2)
	return out
}

// draw adds len(counts) draws with replacement. One 64-bit word gives two draws by multiply and
// shift; the bias is below units / 2^32.
func draw(r *rand.PCG, counts []uint32) {
	n := uint64(len(counts))
	for i := 0; i < len(counts); i += 2 {
		w := r.Uint64()
		counts[((w>>32)*n)>>32]++
		if i+1 < len(counts) {
			counts[((w&0xffffffff)*n)>>32]++
		}
	}
}

// quantile interpolates linearly between order statistics (Hyndman and Fan's type 7, numpy's
// default); sorted is ascending.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}
