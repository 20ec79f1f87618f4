package tree

import (
	"math"
	"slices"
)

// MaxBins bounds the bins of a feature, the one of missing values included.
const MaxBins = 256

// Block is how many columns lie side by side in a block of bins.
const Block = 4

// Bins is a matrix reduced to small numbers. Bin 0 holds the missing values, bins 1 to
// Count[feature] hold intervals of ascending values.
type Bins struct {
	Rows, Features int
	// Cuts bound the bins of a feature: x is in bin 1 + (number of cuts <= x), and "bin <= b" is
	// "x < Cuts[b-1]". After the cuts between bins there is one above all values, which a split
	// of missing against all others uses; it is left out where no number is larger.
	Cuts [][]float32
	// Count is the number of bins that hold values.
	Count []int
	// Columns are the bins in blocks of four features: byte j%4 of Columns[j/4][row] is the bin of
	// feature j. One load serves four histograms that fit the first-level cache together.
	Columns [][]uint32
}

// At is the bin of a feature in a row.
func (b *Bins) At(row, feature int) uint8 {
	return uint8(b.Columns[feature/Block][row] >> (8 * (feature % Block)))
}

// Quantize bins a row-major matrix into at most bins per feature (2 to MaxBins, the missing one
// included). A feature with few distinct values gets a bin for each; otherwise a value that fills a
// bin by itself keeps it and the other rows are spread evenly over the rest. Cuts lie half way
// between neighbouring values. The result does not depend on workers.
//
// Where positive is not nil, the rows with a 1 in it count for half of all rows if they are fewer:
// values that only rare positives have, such as the largest amounts, would otherwise share a bin.
func Quantize(x []float32, positive []float32, rows, features, bins, workers int) *Bins {
	repeat := 0
	if positives := count(positive); 2*positives < rows && positives > 0 {
		repeat = rows/positives - 2
	}
	b := &Bins{
		Rows: rows, Features: features,
		Cuts: make([][]float32, features), Count: make([]int, features),
		Columns: make([][]uint32, (features+Block-1)/Block),
	}
	Parallel(workers, len(b.Columns), func(block int) {
		column := make([]uint32, rows)
		values := make([]float32, 0, rows)
		var rare []float32
		var scratch sorter
		for j := block * Block; j < min(features, (block+1)*Block); j++ {
			values, rare = values[:0], rare[:0]
			for r := range rows {
				v := x[r*features+j]
				if v != v {
					continue
				}
				v = finite(v)
				values = append(values, v)
				if repeat > 0 && positive[r] == 1 {
					rare = append(rare, v)
				}
			}
			scratch.sort(values)
			slices.Sort(rare)
			b.Cuts[j], b.Count[j] = cuts(values, rare, repeat, bins-1)
			assign(column, x, j, features, b.Cuts[j], 8*(j%Block))
		}
		b.Columns[block] = column
	})
	return b
}

func count(positive []float32) (n int) {
	for _, y := range positive {
		if y == 1 {
			n++
		}
	}
	return n
}

// finite brings infinities into range and makes the negative zero positive.
func finite(v float32) float32 {
	return max(-math.MaxFloat32, min(math.MaxFloat32, v)) + 0
}

func assign(column []uint32, x []float32, feature, features int, cuts []float32, shift int) {
	// Padded to 256 the search takes eight steps without a guess.
	var table [256]float32
	for i := range table {
		table[i] = float32(math.Inf(1))
	}
	copy(table[:], cuts)
	for r := range column {
		v := x[r*features+feature]
		if v != v {
			continue
		}
		v = min(math.MaxFloat32, v)
		at := uint32(0)
		for bit := uint32(128); bit > 0; bit >>= 1 {
			at += bit & -notBelow(v, table[(at+bit-1)&255])
		}
		column[r] |= (at + 1) << shift
	}
}

// cuts chooses the bounds of at most n bins over ascending values, of which the ascending rare ones
// count so many times more.
func cuts(values, rare []float32, repeat, n int) ([]float32, int) {
	if len(values) == 0 {
		return nil, 0
	}
	distinct, counts := runs(values)
	bounds := make([]float32, 0, min(n, len(distinct)))
	if len(distinct) <= n {
		for i := 1; i < len(distinct); i++ {
			bounds = append(bounds, between(distinct[i-1], distinct[i]))
		}
	} else {
		at := 0
		for _, v := range rare {
			for distinct[at] < v {
				at++
			}
			counts[at] += repeat
		}
		bounds = spread(distinct, counts, len(values)+repeat*len(rare), n, bounds)
	}
	number := len(bounds) + 1
	if values[len(values)-1] < math.MaxFloat32 {
		bounds = append(bounds, math.MaxFloat32)
	}
	return bounds, number
}

func runs(values []float32) (distinct []float32, counts []int) {
	start := 0
	for i := 1; i <= len(values); i++ {
		if i == len(values) || values[i] != values[start] {
			distinct, counts = append(distinct, values[start]), append(counts, i-start)
			start = i
		}
	}
	return distinct, counts
}

// spread closes a bin when it holds its share of the rows. A value heavier than an even share stands
// alone, and the light values share out the bins that are left.
func spread(distinct []float32, counts []int, rows, n int, bounds []float32) []float32 {
	heavy := func(i int) bool { return counts[i]*n >= rows }
	rest, bins := rows, n
	for i := range counts {
		if heavy(i) {
			rest -= counts[i]
			bins--
		}
	}
	in := 0
	for i := 0; i < len(distinct)-1 && len(bounds) < n-1; i++ {
		in += counts[i]
		if !heavy(i) && !heavy(i+1) && in*max(1, bins) < rest {
			continue
		}
		if !heavy(i) {
			rest -= in
			bins--
		}
		bounds = append(bounds, between(distinct[i], distinct[i+1]))
		in = 0
	}
	return bounds
}

// between is the middle of a < b, or b where they are neighbours: always a < between <= b.
func between(a, b float32) float32 {
	if m := float32((float64(a) + float64(b)) / 2); m > a {
		return m
	}
	return b
}

// sorter sorts finite floats by radix, in three passes of 11 bits.
type sorter struct{ keys, other []uint32 }

func (s *sorter) sort(values []float32) {
	const digits, mask = 1 << 11, 1<<11 - 1
	if cap(s.keys) < len(values) {
		s.keys, s.other = make([]uint32, len(values)), make([]uint32, len(values))
	}
	from, to := s.keys[:len(values)], s.other[:len(values)]
	var counts [3][digits]uint32
	for i, v := range values {
		// Order as integers: negative floats with all bits turned, the others above them.
		k := math.Float32bits(v)
		k ^= uint32(int32(k)>>31) | 1<<31
		from[i] = k
		counts[0][k&mask]++
		counts[1][k>>11&mask]++
		counts[2][k>>22]++
	}
	for pass := range counts {
		at, shift := &counts[pass], 11*pass
		sum := uint32(0)
		for d, c := range at {
			at[d] = sum
			sum += c
		}
		for _, k := range from {
			d := k >> shift & mask
			to[at[d]] = k
			at[d]++
		}
		from, to = to, from
	}
	for i, k := range from {
		k ^= uint32(int32(^k)>>31) | 1<<31
		values[i] = math.Float32frombits(k)
	}
}
