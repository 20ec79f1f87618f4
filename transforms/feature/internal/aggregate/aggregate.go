package aggregate

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/axiomhq/hyperloglog"
)

// Func is an aggregate function.
type Func uint8

const (
	Count Func = iota + 1
	Sum
	Mean
	Min
	Max
	Var
	Std
	First
	Last
	Range
	Distinct
	Quantile
	TopK
	TimeSinceLast
	Slope
	EWMA
	Sequence
)

// Spec says how a function is called.
type Spec struct {
	Func Func
	Name string
	// NoArg: the argument may be left out. AnyKind: it may be text; else it is a number.
	NoArg, AnyKind bool
	// List: the result is a list; else a number.
	List bool
	// Args is how many constants may follow the argument, Required how many must.
	Args, Required int
}

// Funcs lists all functions.
var Funcs = []Spec{
	{Func: Count, Name: "count", NoArg: true, AnyKind: true},
	{Func: Sum, Name: "sum"},
	{Func: Mean, Name: "mean"},
	{Func: Min, Name: "min"},
	{Func: Max, Name: "max"},
	{Func: Var, Name: "var"},
	{Func: Std, Name: "std"},
	{Func: First, Name: "first"},
	{Func: Last, Name: "last"},
	{Func: Range, Name: "range"},
	{Func: Distinct, Name: "distinct", AnyKind: true},
	{Func: Quantile, Name: "quantile", Args: 1, Required: 1},
	{Func: TopK, Name: "top_k", AnyKind: true, List: true, Args: 1},
	{Func: TimeSinceLast, Name: "time_since_last", NoArg: true, AnyKind: true},
	{Func: Slope, Name: "slope"},
	{Func: EWMA, Name: "ewma", Args: 1, Required: 1},
	{Func: Sequence, Name: "sequence", AnyKind: true, List: true, Args: 1},
}

// Lookup finds a function by name.
func Lookup(name string) (Spec, bool) {
	for _, s := range Funcs {
		if s.Name == name {
			return s, true
		}
	}
	return Spec{}, false
}

// ExactRows is the number of rows up to which distinct and quantile are exact.
const ExactRows = 4096

// Scratch is memory that calls reuse. It is not safe for concurrent use.
type Scratch struct {
	floats []float64
	hashes []uint64
	order  []int
}

// Of computes a function of numbers. times (microseconds) and x are the counted rows, in order, at
// least one. ok is false where the result is null.
func (s *Scratch) Of(f Func, times []int64, x []float64, args []float64) (v float64, ok bool) {
	switch f {
	case Sum:
		return sum(x), true
	case Mean:
		return sum(x) / float64(len(x)), true
	case Min:
		return slices.Min(x), true
	case Max:
		return slices.Max(x), true
	case Range:
		return slices.Max(x) - slices.Min(x), true
	case First:
		return x[0], true
	case Last:
		return x[len(x)-1], true
	case Var:
		return variance(x)
	case Std:
		v, ok = variance(x)
		return math.Sqrt(v), ok
	case Slope:
		return slope(times, x)
	case EWMA:
		return ewma(times, x, args[0]), true
	case Quantile:
		return s.quantile(x, args[0]), true
	}
	return 0, false
}

func sum(x []float64) float64 {
	total := 0.0
	for _, v := range x {
		total += v
	}
	return total
}

// variance is that of a sample: squared distances from the mean over n-1.
func variance(x []float64) (float64, bool) {
	if len(x) < 2 {
		return 0, false
	}
	m, ss := sum(x)/float64(len(x)), 0.0
	for _, v := range x {
		ss += (v - m) * (v - m)
	}
	return ss / float64(len(x)-1), true
}

// slope is that of the least-squares line through (seconds, x). Times count from the first row, since
// a square of microseconds since 1970 has no digits left.
func slope(times []int64, x []float64) (float64, bool) {
	n := float64(len(x))
	mt := 0.0
	for _, t := range times {
		mt += float64(t-times[0]) / 1e6
	}
	mt /= n
	mx := sum(x) / n
	stx, stt := 0.0, 0.0
	for i, v := range x {
		d := float64(times[i]-times[0])/1e6 - mt
		stx += d * (v - mx)
		stt += d * d
	}
	if times[len(times)-1] == times[0] {
		return 0, false
	}
	return stx / stt, true
}

// ewma weighs each value by 2^(-age/halfLife), halfLife in seconds. The ratio is the same from
// whenever ages count; from the newest row no weight overflows.
func ewma(times []int64, x []float64, halfLife float64) float64 {
	num, den := 0.0, 0.0
	newest := times[len(times)-1]
	for i, v := range x {
		w := math.Exp2(-float64(newest-times[i]) / 1e6 / halfLife)
		num += w * v
		den += w
	}
	return num / den
}

// quantile is the value of rank floor(p (n-1)), which is also what DDSketch approximates (Masson,
// Rim, Lee 2019).
func (s *Scratch) quantile(x []float64, p float64) float64 {
	if len(x) <= ExactRows {
		s.floats = append(s.floats[:0], x...)
		slices.Sort(s.floats)
		return s.floats[int(p*float64(len(x)-1))]
	}
	sketch, err := ddsketch.NewDefaultDDSketch(0.01)
	if err != nil {
		return 0 // the accuracy is a constant
	}
	for _, v := range x {
		if err := sketch.Add(v); err != nil { // beyond what a sketch can index
			continue
		}
	}
	v, err := sketch.GetValueAtQuantile(p)
	if err != nil {
		return 0
	}
	return v
}

// Distinct is the number of different hashes.
func (s *Scratch) Distinct(hashes []uint64) float64 {
	if len(hashes) <= ExactRows {
		s.hashes = append(s.hashes[:0], hashes...)
		slices.Sort(s.hashes)
		return float64(len(slices.Compact(s.hashes)))
	}
	sketch := hyperloglog.New14()
	var b [8]byte
	for _, h := range hashes {
		binary.LittleEndian.PutUint64(b[:], h)
		sketch.Insert(b[:])
	}
	return float64(sketch.Estimate())
}

// TopK is the positions in hashes of the last occurrences of the k most frequent ones, most frequent
// first, the more recent first among equals.
func (s *Scratch) TopK(hashes []uint64, k int) []int {
	last, counts := make(map[uint64]int, len(hashes)), make(map[uint64]int, len(hashes))
	for i, h := range hashes {
		last[h] = i
		counts[h]++
	}
	s.order = s.order[:0]
	for i, h := range hashes {
		if last[h] == i {
			s.order = append(s.order, i)
		}
	}
	slices.SortFunc(s.order, func(a, b int) int {
		if c := counts[hashes[b]] - counts[hashes[a]]; c != 0 {
			return c
		}
		return b - a
	})
	return s.order[:min(k, len(s.order))]
}
