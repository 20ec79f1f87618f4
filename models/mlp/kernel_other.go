//go:build !amd64

package mlp

var vector = false

func (l *layer) forward(dst, x []float32, rows, xstride int, relu bool) {
	l.forwardPlain(dst, x, rows, xstride, relu)
}
