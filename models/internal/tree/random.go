package tree

import (
	"math/bits"
	"math/rand/v2"
)

// Random draws repeatable numbers: PCG's output is fixed by its definition, and the reductions to a
// range are our own, so that no release of Go can change a model.
type Random struct{ pcg *rand.PCG }

// NewRandom starts stream number stream of a seed.
func NewRandom(seed, stream uint64) Random { return Random{rand.NewPCG(seed, stream)} }

// Below returns a number from 0 to n-1.
func (r Random) Below(n int) int {
	// The bias of the plain product is n / 2^64.
	hi, _ := bits.Mul64(r.pcg.Uint64(), uint64(n))
	return int(hi)
}

// Float returns a number in [0, 1).
func (r Random) Float() float64 { return float64(r.pcg.Uint64()>>11) / (1 << 53) }

// Choose moves k numbers chosen at random to the front of s.
func (r Random) Choose(s []int, k int) {
	for i := range min(k, len(s)) {
		j := i + r.Below(len(s)-i)
		s[i], s[j] = s[j], s[i]
	}
}
