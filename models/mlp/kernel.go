package mlp

// tile is the number of units side by side in the packed weights, group the rows of a kernel call.
const (
	tile  = 8
	group = 4
)

// layer is packed for the kernels: tile by tile of units, for each input the weights of the tile's
// units. Units that only fill the last tile have weights and bias 0.
type layer struct {
	in, out int
	w       []float32 // tiles x in x tile
	b       []float32 // tiles x tile
}

func pack(in, out int, w, b []float32) layer {
	tiles := (out + tile - 1) / tile
	l := layer{in: in, out: out, w: make([]float32, tiles*in*tile), b: make([]float32, tiles*tile)}
	copy(l.b, b)
	for j := range out {
		for i := range in {
			l.w[(j/tile*in+i)*tile+j%tile] = w[i*out+j]
		}
	}
	return l
}

// unpack returns weights inputs x outputs, row-major, and biases.
func (l layer) unpack() (w, b []float32) {
	w = make([]float32, l.in*l.out)
	for j := range l.out {
		for i := range l.in {
			w[i*l.out+j] = l.w[(j/tile*l.in+i)*tile+j%tile]
		}
	}
	return w, l.b[:l.out]
}

// stride is the width of a row that the layer writes.
func (l *layer) stride() int { return len(l.b) }

// forwardPlain writes rows x stride sums to dst from rows of x, which are xstride apart. With relu
// a sum that is not positive, NaN included, becomes 0.
func (l *layer) forwardPlain(dst, x []float32, rows, xstride int, relu bool) {
	for r := range rows {
		row := x[r*xstride:][:l.in]
		out := dst[r*len(l.b):][:len(l.b)]
		w := l.w
		for j := 0; j < l.out; j += tile {
			acc := (*[tile]float32)(l.b[j:])
			a0, a1, a2, a3, a4, a5, a6, a7 := acc[0], acc[1], acc[2], acc[3], acc[4], acc[5], acc[6], acc[7]
			if l.out-j == 1 { // the output layer: seven of the lanes are filling
				for i, v := range row {
					a0 += float32(w[i*tile] * v)
				}
			} else {
				for _, v := range row {
					// Conversions forbid the fused products that some architectures would use.
					k := (*[tile]float32)(w)
					a0 += float32(k[0] * v)
					a1 += float32(k[1] * v)
					a2 += float32(k[2] * v)
					a3 += float32(k[3] * v)
					a4 += float32(k[4] * v)
					a5 += float32(k[5] * v)
					a6 += float32(k[6] * v)
					a7 += float32(k[7] * v)
					w = w[tile:]
				}
			}
			o := (*[tile]float32)(out[j:])
			if relu {
				a0, a1, a2, a3 = positive(a0), positive(a1), positive(a2), positive(a3)
				a4, a5, a6, a7 = positive(a4), positive(a5), positive(a6), positive(a7)
			}
			o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7] = a0, a1, a2, a3, a4, a5, a6, a7
		}
	}
}

func positive(v float32) float32 {
	if v > 0 {
		return v
	}
	return 0
}
