package gbdt

import (
	"math"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
)

// objective is a loss over rows with labels and weights.
type objective struct {
	logistic bool
	y        []float32
	w        []float64 // nil if all are 1
}

func newObjective(loss string, d models.Dataset, classWeight float64) *objective {
	o := &objective{logistic: loss == Logistic, y: d.Y}
	if d.W == nil && classWeight == 1 {
		return o
	}
	o.w = make([]float64, len(d.Y))
	for i, y := range d.Y {
		o.w[i] = 1
		if d.W != nil {
			o.w[i] = float64(d.W[i])
		}
		if y == 1 && o.logistic {
			o.w[i] *= classWeight
		}
	}
	return o
}

func (o *objective) weight(i int) float64 {
	if o.w == nil {
		return 1
	}
	return o.w[i]
}

// base is where the sums start: for the logistic loss the log odds of a given probability, or with
// 0 those of the positives' share, kept off infinity; for the squared loss the mean.
func (o *objective) base(probability float64) float64 {
	var sum, n float64
	for i, y := range o.y {
		w := o.weight(i)
		sum, n = sum+w*float64(y), n+w
	}
	mean := sum / max(n, math.SmallestNonzeroFloat64)
	if !o.logistic {
		return mean
	}
	if probability == 0 {
		probability = mean
	}
	probability = min(1-1e-6, max(1e-6, probability))
	return math.Log(probability / (1 - probability))
}

// loss is the weighted mean loss at the sums.
func (o *objective) loss(sums []float64) float64 {
	var total, n float64
	for i, s := range sums {
		w, y := o.weight(i), float64(o.y[i])
		if o.logistic {
			// log(1+e^s) - y s, without overflow.
			total += w * (max(s, 0) + math.Log1p(math.Exp(-math.Abs(s))) - y*s)
		} else {
			total += w * (s - y) * (s - y)
		}
		n += w
	}
	return total / max(n, math.SmallestNonzeroFloat64)
}

// deriveRows is how many rows one task derives. Each such block draws its sample from a stream of
// its own, so that the sample does not depend on the workers.
const deriveRows = 1 << 12

// derive fills the grower's gradients with the derivatives at the sums and returns their total.
// Rows outside the sample get none: they take no part in the tree but receive its output.
func (o *objective) derive(sums []float64, g *grower, sample float64, seed, round uint64) total {
	blocks := (len(sums) + deriveRows - 1) / deriveRows
	top := o.top(sums)
	g.gUnit, g.hUnit = unit(top.g), unit(top.h)
	gScale, hScale := 1/g.gUnit, 1/g.hUnit
	totals := make([]total, blocks)
	g.pool.Do(blocks, func(b int) {
		begin, end := b*deriveRows, min(len(sums), (b+1)*deriveRows)
		gradients, y := g.gradients[begin:end], o.y[begin:end]
		for i, s := range sums[begin:end] {
			d1, d2 := s-float64(y[i]), 1.0
			if o.logistic {
				p := 1 / (1 + exp(-s))
				d1, d2 = p-float64(y[i]), p*(1-p)
			}
			if o.w != nil {
				w := o.w[begin+i]
				d1, d2 = d1*w, d2*w
			}
			gradients[i] = gradient{round32(d1 * gScale), round32(d2 * hScale)}
		}
		if sample < 1 {
			random := tree.NewRandom(seed, 1+round<<32+uint64(b))
			for i := range gradients {
				if random.Float() >= sample {
					gradients[i] = gradient{}
				}
			}
		}
		for _, d := range gradients {
			totals[b].g += int64(d.g)
			totals[b].h += int64(d.h)
		}
	})
	var sum total
	for _, t := range totals {
		sum.g += t.g
		sum.h += t.h
	}
	return sum
}

// round32 rounds |v| < 2^31 to the nearest whole number, even ones first: adding 1.5 x 2^52 leaves
// it in the lowest bits.
func round32(v float64) int32 { return int32(math.Float64bits(v + roundMagic)) }

const roundMagic = 3 << 51

// exp is e^x to 1e-10 of itself for |x| <= 40, and e^40 or e^-40 beyond: as much as a gradient
// holds, at a third of the time of math.Exp. x = n ln 2 + r with |r| <= ln 2 / 2, and e^r is its
// Taylor series.
func exp(x float64) float64 {
	x = max(-40, min(40, x))
	n := x*math.Log2E + roundMagic
	r := x - (n-roundMagic)*math.Ln2
	r2 := r * r
	r4 := r2 * r2
	low := (1 + r) + r2*(1./2+r*(1./6))
	high := (1./24 + r*(1./120)) + r2*(1./720+r*(1./5040))
	e := low + r4*(high+r4*(1./40320+r*(1./362880)))
	return e * math.Float64frombits(uint64(int64(int32(math.Float64bits(n)))+1023)<<52)
}

type bounds struct{ g, h float64 }

// top bounds the derivatives from above.
func (o *objective) top(sums []float64) bounds {
	heaviest := 1.0
	if o.w != nil {
		heaviest = 0
		for _, w := range o.w {
			heaviest = max(heaviest, w)
		}
	}
	if o.logistic {
		return bounds{heaviest, heaviest / 4}
	}
	widest := 0.0
	for i, s := range sums {
		widest = max(widest, math.Abs(s-float64(o.y[i]))*o.weight(i))
	}
	return bounds{widest, heaviest}
}

// unit is the power of two that makes top at most 2^gradientBits units.
func unit(top float64) float64 {
	if top == 0 {
		return 1
	}
	_, exponent := math.Frexp(top)
	return math.Ldexp(1, exponent-gradientBits)
}
