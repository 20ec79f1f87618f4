package format

import (
	"math"
	"math/bits"
	"strconv"
)

// Fault says in what way a value is wrong.
type Fault uint8

const (
	// OK: no fault.
	OK Fault = iota
	// Syntax: not of the grammar.
	Syntax
	// Overflow: of the grammar, and outside what the type holds.
	Overflow
	// Inexact: digits that the type can't keep.
	Inexact
	// Fraction: a fraction or an exponent where an integer is asked.
	Fraction
)

// Number is a scanned number: ±Mant x 10^Exp if Whole digits were kept.
type Number struct {
	Mant uint64
	Exp  int32
	Neg  bool
	// Int is false if the text has a point or an exponent.
	Int bool
	// Long is true if the digits are too many for Mant; then only the text has them all.
	Long bool
	// Padded is true if the text begins with zeros that JSON doesn't allow.
	Padded bool
}

// maxExp bounds exponents; what lies beyond is zero or infinite in every type.
const maxExp = 100000

// ScanNumber reads the number that begins at b[i], and returns the index behind it, or -1 if there is
// none. b must hold a byte that is no part of a number behind it.
func ScanNumber(b []byte, i int) (n Number, end int) {
	n.Int = true
	if b[i] == '-' {
		n.Neg = true
		i++
	}
	first := i
	var m uint64
	for {
		d := b[i] - '0'
		if d > 9 {
			break
		}
		m = m*10 + uint64(d)
		i++
	}
	digits := i - first
	if digits == 0 {
		return n, -1
	}
	if b[first] == '0' && digits > 1 {
		n.Padded = true
	}
	if c := b[i]; c == '.' {
		n.Int = false
		i++
		point := i
		for {
			d := b[i] - '0'
			if d > 9 {
				break
			}
			m = m*10 + uint64(d)
			i++
		}
		if i == point {
			return n, -1
		}
		n.Exp = int32(point - i)
		digits += i - point
	}
	n.Mant = m
	if digits > 18 {
		n.long(b, first, i)
	}
	if b[i]|0x20 != 'e' {
		return n, i
	}
	return n.exponent(b, i)
}

// long counts again with care: 19 digits and more may not fit.
func (n *Number) long(b []byte, first, end int) {
	n.Mant = 0
	for ; first < end; first++ {
		if b[first] == '.' {
			continue
		}
		hi, lo := bits.Mul64(n.Mant, 10)
		sum, carry := bits.Add64(lo, uint64(b[first]-'0'), 0)
		if hi != 0 || carry != 0 {
			n.Long = true
			return
		}
		n.Mant = sum
	}
}

func (n Number) exponent(b []byte, i int) (Number, int) {
	n.Int = false
	i++
	neg := b[i] == '-'
	if neg || b[i] == '+' {
		i++
	}
	first := i
	e := int32(0)
	for ; b[i]-'0' <= 9; i++ {
		e = min(e*10+int32(b[i]-'0'), maxExp)
	}
	if i == first {
		return n, -1
	}
	if neg {
		e = -e
	}
	n.Exp += e
	return n, i
}

// pow10 are the powers of ten that a uint64 holds.
var pow10 = [20]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// Int64 is the number as an integer.
func (n Number) Int64() (int64, Fault) {
	if !n.Int {
		return 0, Fraction
	}
	return n.signed()
}

func (n Number) signed() (int64, Fault) {
	switch {
	case n.Long || n.Mant > 1<<63 || n.Mant == 1<<63 && !n.Neg:
		return 0, Overflow
	case n.Neg:
		return -int64(n.Mant), OK
	}
	return int64(n.Mant), OK
}

// Decimal is the number x 10^scale, exactly. Inexact comes with the value cut towards zero. text is
// the number's text, asked only if there are very many digits.
func (n Number) Decimal(scale uint8, text []byte) (int64, Fault) {
	shift := int(n.Exp) + int(scale)
	if shift >= 0 && shift <= 2 && n.Mant < 1e16 && !n.Long {
		m := int64(n.Mant * pow10[shift])
		if n.Neg {
			m = -m
		}
		return m, OK
	}
	if n.Long {
		return longDecimal(n, shift, text)
	}
	if n.Mant == 0 {
		return 0, OK
	}
	if shift < 0 {
		if shift < -19 {
			return 0, Inexact
		}
		rest := n.Mant % pow10[-shift]
		n.Mant /= pow10[-shift]
		v, fault := n.signed()
		if fault == OK && rest != 0 {
			fault = Inexact
		}
		return v, fault
	}
	if shift > 19 {
		return 0, Overflow
	}
	hi, lo := bits.Mul64(n.Mant, pow10[shift])
	if hi != 0 {
		return 0, Overflow
	}
	n.Mant = lo
	return n.signed()
}

// longDecimal reads digits one by one, up to the place of the last one that counts: 1.000…0 with a
// hundred zeros is 1.
func longDecimal(n Number, shift int, text []byte) (int64, Fault) {
	total := 0 // digits before the exponent
	for _, c := range text {
		if c|0x20 == 'e' {
			break
		}
		if c-'0' <= 9 {
			total++
		}
	}
	keep := total + shift // digits that make the value
	n.Mant = 0
	inexact := false
	for k, at := 0, 0; k < max(total, keep); k++ {
		d := byte('0')
		if k < total {
			for text[at]-'0' > 9 {
				at++
			}
			d = text[at]
			at++
		} else if n.Mant == 0 {
			break
		}
		if k >= keep {
			if d != '0' {
				inexact = true
				break
			}
			continue
		}
		hi, lo := bits.Mul64(n.Mant, 10)
		sum, carry := bits.Add64(lo, uint64(d-'0'), 0)
		if hi != 0 || carry != 0 {
			return 0, Overflow
		}
		n.Mant = sum
	}
	n.Long = false
	v, fault := n.signed()
	if fault == OK && inexact {
		fault = Inexact
	}
	return v, fault
}

var floatPow10 = [23]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// Float is the float64 nearest to the number; text is its text. Beyond the largest float it is
// Overflow.
//
// Up to 2^53 and 10^22 both operands are exact, so that one rounding is all (Clinger 1990).
func (n Number) Float(text []byte) (float64, Fault) {
	if n.Mant <= 1<<53 && !n.Long && n.Exp >= -22 && n.Exp <= 22 {
		f := float64(n.Mant)
		if n.Exp < 0 {
			f /= floatPow10[-n.Exp]
		} else {
			f *= floatPow10[n.Exp]
		}
		if n.Neg {
			f = -f
		}
		return f, OK
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, Overflow
	}
	return f, OK
}

// AppendDecimal appends v / 10^scale with all its places.
func AppendDecimal(dst []byte, v int64, scale uint8) []byte {
	u := uint64(v)
	if v < 0 {
		dst = append(dst, '-')
		u = -u
	}
	if scale == 0 || int(scale) >= len(pow10) {
		return strconv.AppendUint(dst, u, 10)
	}
	whole, rest := u/pow10[scale], u%pow10[scale]
	dst = append(strconv.AppendUint(dst, whole, 10), '.')
	at := len(dst)
	for range scale {
		dst = append(dst, '0')
	}
	for k := int(scale) - 1; rest > 0; k-- {
		dst[at+k] = '0' + byte(rest%10)
		rest /= 10
	}
	return dst
}

// AppendFloat appends the shortest digits that read back as v, which must be finite.
func AppendFloat(dst []byte, v float64) []byte {
	// Most features are counts and flags. Below a million the general form is the integer's too.
	if i := int64(v); float64(i) == v && i > -1e6 && i < 1e6 && (i != 0 || !math.Signbit(v)) {
		return strconv.AppendInt(dst, i, 10)
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}
