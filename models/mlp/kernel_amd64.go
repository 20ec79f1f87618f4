package mlp

import "golang.org/x/sys/cpu"

// vector says whether scoring uses the AVX2 kernels. Tests clear it to compare.
var vector = cpu.X86.HasAVX2

// forward4x16 and forward4x8 compute two tiles or one for four rows of x that are xstride values
// apart, into four rows of dst that are dstride values apart. The tiles' weights lie in w one after
// the other, in x tile values each, and their biases in b. in must be positive.
//
//go:noescape
func forward4x16(dst, x, w, b *float32, in, xstride, dstride int, relu bool)

//go:noescape
func forward4x8(dst, x, w, b *float32, in, xstride, dstride int, relu bool)

// forward is forwardPlain for whole groups of rows: dst and x must have room for rows rounded up to
// a group.
func (l *layer) forward(dst, x []float32, rows, xstride int, relu bool) {
	if !vector || l.in == 0 {
		l.forwardPlain(dst, x, rows, xstride, relu)
		return
	}
	whole := (rows + group - 1) / group * group
	// The kernels check nothing; these slices do.
	dst, x = dst[:whole*len(l.b)], x[:(whole-1)*xstride+l.in]
	_ = l.w[:len(l.b)/half*l.in]
	for j := 0; j < len(l.b); {
		wide := len(l.b)-j >= 2*tile
		for r := 0; r < whole; r += group {
			if wide {
				forward4x16(&dst[r*len(l.b)+j], &x[r*xstride], &l.w[j/half*l.in][0], &l.b[j], l.in, xstride, len(l.b), relu)
			} else {
				forward4x8(&dst[r*len(l.b)+j], &x[r*xstride], &l.w[j/half*l.in][0], &l.b[j], l.in, xstride, len(l.b), relu)
			}
		}
		if wide {
			j += 2 * tile
		} else {
			j += tile
		}
	}
}
