package window

import (
	"math/big"
)

// toFloat is the float64 nearest to the two's complement integer hi:lo, to even in the middle.
func toFloat(lo uint64, hi int64) float64 {
	if hi == int64(lo)>>63 {
		return float64(int64(lo))
	}
	n := new(big.Int).Lsh(big.NewInt(hi), 64)
	f, _ := new(big.Float).SetInt(n.Add(n, new(big.Int).SetUint64(lo))).Float64()
	return f
}
