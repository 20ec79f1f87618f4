package newton

import "math"

// Factor replaces the lower half of a symmetric matrix by that of L, where L has no upper half and
// a = L Lᵀ. It reads nothing of the upper half. ok is false, and a of no use, unless a is positive
// definite.
func Factor(a [][]float64) (ok bool) {
	for j, row := range a {
		d := row[j]
		for _, v := range row[:j] {
			d -= v * v
		}
		if d = math.Sqrt(d); !(d > 0) || math.IsInf(d, 0) {
			return false
		}
		row[j] = d
		for _, below := range a[j+1:] {
			for k, v := range row[:j] {
				below[j] -= v * below[k]
			}
			below[j] /= d
		}
	}
	return true
}

// Forward solves L x = b, in place.
func Forward(l [][]float64, b []float64) {
	for i, row := range l {
		for k, v := range row[:i] {
			b[i] -= v * b[k]
		}
		b[i] /= row[i]
	}
}

// Back solves Lᵀ x = b, in place.
func Back(l [][]float64, b []float64) {
	for i := len(l) - 1; i >= 0; i-- {
		for k := i + 1; k < len(l); k++ {
			b[i] -= l[k][i] * b[k]
		}
		b[i] /= l[i][i]
	}
}
