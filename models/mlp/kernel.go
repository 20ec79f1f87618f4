package mlp

import "math"

// tile is the number of units side by side in the packed weights, group the rows of a kernel call.
const (
	tile  = 8
	half  = tile / 2
	group = 4
)

// layer is packed for the kernels: tile by tile of units, for each input the weights of the tile's
// units, in two halves. Units that only fill the last tile have weights and bias 0.
type layer struct {
	in, out int
	w       [][half]float32 // tiles x in x 2
	b       []float32       // tiles x tile
}

func pack(in, out int, w, b []float32) layer {
	tiles := (out + tile - 1) / tile
	l := layer{in: in, out: out, w: make([][half]float32, tiles*in*2), b: make([]float32, tiles*tile)}
	copy(l.b, b)
	for j := range out {
		for i := range in {
			*l.weight(i, j) = w[i*out+j]
		}
	}
	return l
}

// unpack returns weights inputs x outputs, row-major, and biases.
func (l *layer) unpack() (w, b []float32) {
	w = make([]float32, l.in*l.out)
	for j := range l.out {
		for i := range l.in {
			w[i*l.out+j] = *l.weight(i, j)
		}
	}
	return w, l.b[:l.out]
}

func (l *layer) weight(i, j int) *float32 {
	return &l.w[(j/tile*l.in+i)*2+j%tile/half][j%half]
}

// stride is the width of a row that the layer writes.
func (l *layer) stride() int { return len(l.b) }

// forwardPlain writes rows x stride sums to dst from rows of x, which are xstride apart; both must
// have room for rows rounded up to a group. With relu a negative sum becomes 0.
//
// Conversions forbid the fused products that some architectures would use.
func (l *layer) forwardPlain(dst, x []float32, rows, xstride int, relu bool) {
	if l.out == 1 && !relu {
		l.forwardOne(dst, x, rows, xstride)
		return
	}
	for r := range rows {
		row := x[r*xstride:][:l.in]
		out := dst[r*len(l.b):][:len(l.b)]
		for j := 0; j < l.out; j += tile {
			b := (*[tile]float32)(l.b[j:])
			a0, a1, a2, a3, a4, a5, a6, a7 := b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
			w := l.w[j/tile*l.in*2:]
			for i, v := range row {
				// The check of the index between the halves keeps the compiler from computing all
				// eight products first, for which it has too few registers.
				k := &w[2*i]
				a0 += float32(k[0] * v)
				a1 += float32(k[1] * v)
				a2 += float32(k[2] * v)
				a3 += float32(k[3] * v)
				k = &w[2*i+1]
				a4 += float32(k[0] * v)
				a5 += float32(k[1] * v)
				a6 += float32(k[2] * v)
				a7 += float32(k[3] * v)
			}
			if relu {
				a0, a1, a2, a3 = positive(a0), positive(a1), positive(a2), positive(a3)
				a4, a5, a6, a7 = positive(a4), positive(a5), positive(a6), positive(a7)
			}
			*(*[tile]float32)(out[j:]) = [tile]float32{a0, a1, a2, a3, a4, a5, a6, a7}
		}
	}
}

// forwardOne is forwardPlain for a single unit: a group of rows at once, since one row's sum would
// wait for itself.
func (l *layer) forwardOne(dst, x []float32, rows, xstride int) {
	for r := 0; r < rows; r += group {
		x0 := x[r*xstride:][:l.in]
		x1 := x[(r+1)*xstride:][:l.in]
		x2 := x[(r+2)*xstride:][:l.in]
		x3 := x[(r+3)*xstride:][:l.in]
		b := l.b[0]
		a0, a1, a2, a3 := b, b, b, b
		for i := range x0 {
			w := l.w[2*i][0]
			a0 += float32(w * x0[i])
			a1 += float32(w * x1[i])
			a2 += float32(w * x2[i])
			a3 += float32(w * x3[i])
		}
		out := dst[r*len(l.b):]
		out[0], out[tile], out[2*tile], out[3*tile] = a0, a1, a2, a3
	}
}

// positive is the larger of v and 0 without a branch, which the signs of a network's sums would
// mispredict every other time. NaN is kept or not by its sign, as in the vector kernels.
func positive(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits(b &^ uint32(int32(b)>>31))
}
