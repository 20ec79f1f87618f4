package mt

import (
	"math"
	"math/bits"
)

const (
	size  = 624
	shift = 397
)

// MT is MT19937. Seed it before use.
type MT struct {
	key [size]uint32
	pos int
}

// Seed initialises as NumPy's RandomState(s) does.
func (m *MT) Seed(s uint32) {
	for i := range m.key {
		m.key[i] = s
		s = 1812433253*(s^s>>30) + uint32(i) + 1
	}
	m.pos = size
}

// SeedArray initialises by an array, as Python's random.seed does with the 32-bit digits of an integer.
func (m *MT) SeedArray(digits ...uint32) {
	m.Seed(19650218)
	k, i, j := &m.key, 1, 0
	for range max(size, len(digits)) {
		k[i] = (k[i] ^ (k[i-1]^k[i-1]>>30)*1664525) + digits[j] + uint32(j)
		if i++; i == size {
			k[0], i = k[size-1], 1
		}
		j = (j + 1) % len(digits)
	}
	for range size - 1 {
		k[i] = (k[i] ^ (k[i-1]^k[i-1]>>30)*1566083941) - uint32(i)
		if i++; i == size {
			k[0], i = k[size-1], 1
		}
	}
	k[0] = 1 << 31
}

// Uint32 is the next 32-bit word.
func (m *MT) Uint32() uint32 {
	if m.pos == size {
		m.twist()
	}
	y := m.key[m.pos]
	m.pos++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (m *MT) twist() {
	k := &m.key
	mix := func(a, b, c uint32) uint32 {
		y := a&(1<<31) | b&(1<<31-1)
		return c ^ y>>1 ^ -(y&1)&0x9908b0df
	}
	for i := range size - shift {
		k[i] = mix(k[i], k[i+1], k[i+shift])
	}
	for i := size - shift; i < size-1; i++ {
		k[i] = mix(k[i], k[i+1], k[i+shift-size])
	}
	k[size-1] = mix(k[size-1], k[0], k[shift-1])
	m.pos = 0
}

// Float64 is uniform in [0, 1), with 53 bits.
func (m *MT) Float64() float64 {
	a, b := m.Uint32()>>5, m.Uint32()>>6
	return (float64(float64(a)*67108864) + float64(b)) / 9007199254740992
}

// NumPy draws as numpy.random.RandomState does.
type NumPy struct {
	MT
	spare    float64
	hasSpare bool
}

// Seed is RandomState(s); it forgets the spare normal.
func (r *NumPy) Seed(s uint32) {
	r.MT.Seed(s)
	r.hasSpare = false
}

// Uniform is in [lo, hi).
func (r *NumPy) Uniform(lo, hi float64) float64 { return lo + float64((hi-lo)*r.Float64()) }

// Normal has the given mean and standard deviation. Numbers come in pairs, by the polar method: the
// second of a pair waits for the next call, whatever else is drawn in between.
func (r *NumPy) Normal(mean, sd float64) float64 {
	if r.hasSpare {
		r.hasSpare = false
		return mean + float64(sd*r.spare)
	}
	for {
		x1, x2 := 2*r.Float64()-1, 2*r.Float64()-1
		r2 := float64(x1*x1) + float64(x2*x2)
		if r2 >= 1 || r2 == 0 {
			continue
		}
		f := math.Sqrt(-2 * math.Log(r2) / r2)
		r.spare, r.hasSpare = f*x1, true
		return mean + float64(sd*float64(f*x2))
	}
}

// Poisson has the mean lambda, which must be below 10 for the numbers to be NumPy's.
func (r *NumPy) Poisson(lambda float64) int {
	if lambda == 0 {
		return 0
	}
	limit, n := math.Exp(-lambda), 0
	for p := r.Float64(); p > limit; p *= r.Float64() {
		n++
	}
	return n
}

// Permutation is a random order of 0 to n-1.
func (r *NumPy) Permutation(n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(i)
	}
	for i := n - 1; i > 0; i-- {
		mask := uint32(1)<<bits.Len32(uint32(i)) - 1
		j := r.Uint32() & mask
		for j > uint32(i) {
			j = r.Uint32() & mask
		}
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// Python draws as Python's random module does, since version 3.2.
type Python struct{ MT }

// Seed is random.seed(s).
func (r *Python) Seed(s uint32) { r.SeedArray(s) }

// Below is uniform in 0 to n-1, for n from 1 to 2^31-1: the index that random.choice takes.
func (r *Python) Below(n int) int {
	drop := 32 - bits.Len32(uint32(n))
	for {
		if v := int(r.Uint32() >> drop); v < n {
			return v
		}
	}
}

// Sample is random.sample(range(n), k), for k up to n.
func (r *Python) Sample(n, k int) []int {
	out := make([]int, k)
	setSize := 21 // of a small set, in words, less what an empty list takes
	if k > 5 {
		power := 1
		for power < 3*k {
			power *= 4
		}
		setSize += power
	}
	if n <= setSize {
		pool := make([]int, n)
		for i := range pool {
			pool[i] = i
		}
		for i := range out {
			j := r.Below(n - i)
			out[i], pool[j] = pool[j], pool[n-i-1]
		}
		return out
	}
	seen := make(map[int]bool, k)
	for i := range out {
		j := r.Below(n)
		for seen[j] {
			j = r.Below(n)
		}
		seen[j] = true
		out[i] = j
	}
	return out
}
