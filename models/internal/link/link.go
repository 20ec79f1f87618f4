package link

import "math"

// Probability is 1 / (1 + exp(-z)). Every NaN gives the same bits.
func Probability(z float64) float32 {
	if z != z {
		return float32(math.NaN())
	}
	return float32(1 / (1 + math.Exp(-z)))
}

// Value is z as it is. Every NaN gives the same bits.
func Value(z float64) float32 {
	if z != z {
		return float32(math.NaN())
	}
	return float32(z)
}
