package event

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func init() {
	beam.RegisterCoder(reflect.TypeOf((*Batch)(nil)).Elem(), encode, decode)
}

func encode(b Batch) []byte          { return Append(nil, b) }
func decode(p []byte) (Batch, error) { return Decode(p) }

const version = 1

const (
	bodyInts = iota
	bodyFloats
	bodyWholeFloats
	bodyStrings
	bodyList
)

// Append appends the binary form of b to dst.
func Append(dst []byte, b Batch) []byte {
	if dst == nil {
		dst = make([]byte, 0, b.Size()/2+256)
	}
	dst = append(dst, 'M', 'B', version)
	dst = appendSchema(dst, b.Schema)
	dst = binary.AppendUvarint(dst, uint64(b.N))
	for i, f := range b.Schema.Fields {
		dst = appendColumn(dst, f.Kind, f.Elem, &b.Cols[i], b.N)
	}
	return dst
}

func appendSchema(dst []byte, s *Schema) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s.Fields)))
	dst = binary.AppendUvarint(dst, uint64(s.ID+1))
	dst = binary.AppendUvarint(dst, uint64(s.Time+1))
	for _, f := range s.Fields {
		dst = binary.AppendUvarint(dst, uint64(len(f.Name)))
		dst = append(dst, f.Name...)
		dst = append(dst, byte(f.Kind), f.Scale, byte(f.Elem))
	}
	return dst
}

func appendColumn(dst []byte, k, elem Kind, c *Column, n int) []byte {
	if c.Nulls == nil {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		for i := 0; i < (n+7)/8; i++ {
			dst = append(dst, byte(c.Nulls[i>>3]>>(8*(i&7))))
		}
	}
	switch {
	case k == Float:
		if dst, ok := appendWhole(dst, c.Floats); ok {
			return dst
		}
		dst = append(dst, bodyFloats)
		at := len(dst)
		dst = append(dst, make([]byte, 8*n)...)
		for i, v := range c.Floats {
			binary.LittleEndian.PutUint64(dst[at+8*i:], math.Float64bits(v))
		}
		return dst
	case k == List:
		dst = append(dst, bodyList)
		dst = appendLengths(dst, c.Ends)
		elems := 0
		if n > 0 {
			elems = int(c.Ends[n-1])
		}
		dst = binary.AppendUvarint(dst, uint64(elems))
		return appendColumn(dst, elem, 0, c.Elems, elems)
	case c.Ints != nil || n == 0:
		return appendInts(append(dst, bodyInts), c.Ints)
	default:
		dst = append(dst, bodyStrings)
		dst = binary.AppendUvarint(dst, uint64(len(c.Bytes)))
		dst = appendLengths(dst, c.Ends)
		return append(dst, c.Bytes...)
	}
}

// appendWhole writes floats that are all integers as integers: counts and flags are most of a batch's
// features, and take one or two bytes each so.
func appendWhole(dst []byte, v []float64) ([]byte, bool) {
	for _, f := range v {
		if f != float64(int32(f)) || f == 0 && math.Signbit(f) {
			return dst, false
		}
	}
	ints := make([]int64, len(v))
	for i, f := range v {
		ints[i] = int64(f)
	}
	return appendInts(append(dst, bodyWholeFloats), ints), true
}

func appendLengths(dst []byte, ends []uint32) []byte {
	lengths := make([]int64, len(ends))
	last := uint32(0)
	for i, e := range ends {
		lengths[i], last = int64(e-last), e
	}
	return appendInts(dst, lengths)
}

func appendInts(dst []byte, v []int64) []byte {
	if len(v) == 0 {
		return append(binary.AppendVarint(dst, 0), 0)
	}
	lo, hi := v[0], v[0]
	for _, x := range v {
		lo, hi = min(lo, x), max(hi, x)
	}
	w := width(uint64(hi) - uint64(lo))
	dst = append(binary.AppendVarint(dst, lo), byte(w))
	at := len(dst)
	dst = append(dst, make([]byte, w*len(v))...)
	out := dst[at:]
	switch w {
	case 1:
		for i, x := range v {
			out[i] = byte(x - lo)
		}
	case 2:
		for i, x := range v {
			binary.LittleEndian.PutUint16(out[2*i:], uint16(x-lo))
		}
	case 4:
		for i, x := range v {
			binary.LittleEndian.PutUint32(out[4*i:], uint32(x-lo))
		}
	case 8:
		for i, x := range v {
			binary.LittleEndian.PutUint64(out[8*i:], uint64(x)-uint64(lo))
		}
	}
	return dst
}

func width(span uint64) int {
	switch n := bits.Len64(span); {
	case n == 0:
		return 0
	case n <= 8:
		return 1
	case n <= 16:
		return 2
	case n <= 32:
		return 4
	}
	return 8
}

// Decode reads the binary form. The batch shares no memory with p.
func Decode(p []byte) (Batch, error) {
	r := reader{p: p, budget: 64*len(p) + 1<<16}
	if len(p) < 3 || p[0] != 'M' || p[1] != 'B' {
		return Batch{}, fmt.Errorf("%w: no magic number", ErrCorrupt)
	}
	if p[2] > version || p[2] == 0 {
		return Batch{}, fmt.Errorf("%w: %d, this program reads up to %d", ErrVersion, p[2], version)
	}
	r.p = p[3:]
	s := r.schema()
	n := int(r.uvarint(math.MaxInt32))
	if r.err != nil {
		return Batch{}, r.err
	}
	b := Batch{Schema: s, Cols: make([]Column, len(s.Fields)), N: n}
	for i, f := range s.Fields {
		r.column(&b.Cols[i], f.Kind, f.Elem, n)
		if r.err != nil {
			return Batch{}, fmt.Errorf("reading column %q: %w", f.Name, r.err)
		}
	}
	if len(r.p) > 0 {
		return Batch{}, fmt.Errorf("%w: %d bytes behind the last column", ErrCorrupt, len(r.p))
	}
	return b, nil
}

// reader takes a batch apart. The first fault sticks in err, and later calls return zero values.
// budget is what may still be allocated: columns of width 0 cost no input bytes, so that without it
// a few bytes could ask for gigabytes.
type reader struct {
	p      []byte
	budget int
	err    error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
}

func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 || v > limit {
		r.fail("bad length")
		r.p = nil
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.p) {
		r.fail("%d bytes wanted, %d left", n, len(r.p))
		r.p = nil
		return nil
	}
	out := r.p[:n]
	r.p = r.p[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) alloc(n int) bool {
	if r.budget -= n; r.budget < 0 {
		r.fail("more rows than bytes can hold")
		return false
	}
	return r.err == nil
}

var schemas sync.Map // encoded schema -> *Schema; bounded by internLimit
var internCount = struct {
	sync.Mutex
	n int
}{}

const internLimit = 4096

func (r *reader) schema() *Schema {
	start := r.p
	count := int(r.uvarint(1 << 16))
	id, time := int(r.uvarint(1<<16))-1, int(r.uvarint(1<<16))-1
	first := r.p
	for i := 0; i < count && r.err == nil; i++ {
		r.take(int(r.uvarint(1 << 16)))
		r.take(3)
	}
	if r.err != nil {
		return nil
	}
	key := start[:len(start)-len(r.p)]
	if s, ok := schemas.Load(string(key)); ok {
		return s.(*Schema)
	}
	rest := r.p
	r.p = first
	fields := make([]Field, count)
	for i := range fields {
		name := string(r.take(int(r.uvarint(1 << 16))))
		k := r.take(3)
		fields[i] = Field{Name: name, Kind: Kind(k[0]), Scale: k[1], Elem: Kind(k[2])}
	}
	r.p = rest
	if id >= count || time >= count {
		r.fail("roles beyond the fields")
		return nil
	}
	s := &Schema{Fields: fields, ID: id, Time: time}
	checked, err := NewSchema(fields, s.roleName(id), s.roleName(time))
	if err != nil {
		r.fail("%v", err)
		return nil
	}
	internCount.Lock()
	defer internCount.Unlock()
	if internCount.n < internLimit { // hostile input must not fill the memory
		internCount.n++
		schemas.Store(string(key), checked)
	}
	return checked
}

func (r *reader) column(c *Column, k, elem Kind, n int) {
	switch r.byte() {
	case 0:
	case 1:
		raw := r.take((n + 7) / 8)
		if r.err != nil {
			return
		}
		c.Nulls = make([]uint64, (n+63)/64)
		for i, b := range raw {
			c.Nulls[i>>3] |= uint64(b) << (8 * (i & 7))
		}
	default:
		r.fail("bad null mark")
		return
	}
	body := r.byte()
	if r.err != nil {
		return
	}
	switch {
	case k == Float && body == bodyFloats:
		raw := r.take(8 * n)
		if r.err != nil {
			return
		}
		c.Floats = make([]float64, n)
		for i := range c.Floats {
			c.Floats[i] = math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:]))
		}
	case k == Float && body == bodyWholeFloats:
		ints := r.ints(n)
		if r.err != nil {
			return
		}
		c.Floats = make([]float64, n)
		for i, v := range ints {
			c.Floats[i] = float64(v)
		}
	case k == List && body == bodyList:
		c.Ends = r.ends(n)
		elems := int(r.uvarint(math.MaxInt32))
		if last := lastEnd(c.Ends); r.err == nil && elems != last {
			r.fail("%d elements, lengths say %d", elems, last)
		}
		if r.err != nil {
			return
		}
		c.Elems = &Column{}
		r.column(c.Elems, elem, 0, elems)
	case (k == String || k == Category || k == ID) && body == bodyStrings:
		total := int(r.uvarint(math.MaxInt32))
		c.Ends = r.ends(n)
		raw := r.take(total)
		if r.err != nil {
			return
		}
		if last := lastEnd(c.Ends); last != total {
			r.fail("%d bytes, lengths say %d", total, last)
			return
		}
		c.Bytes = append(make([]byte, 0, total), raw...)
	case (k <= Decimal || k == Timestamp || k == ID || n == 0) && body == bodyInts:
		ints := r.ints(n)
		if n == 0 {
			*c = newColumn(k, 0)
			return
		}
		c.Ints = ints
	default:
		r.fail("encoding %d for kind %v", body, k)
	}
}

func lastEnd(ends []uint32) int {
	if len(ends) == 0 {
		return 0
	}
	return int(ends[len(ends)-1])
}

func (r *reader) ends(n int) []uint32 {
	lengths := r.ints(n)
	if r.err != nil {
		return nil
	}
	ends := make([]uint32, n)
	at := int64(0)
	for i, l := range lengths {
		if l < 0 || l > math.MaxInt32 || at+l > math.MaxInt32 {
			r.fail("bad length")
			return nil
		}
		at += l
		ends[i] = uint32(at)
	}
	return ends
}

func (r *reader) ints(n int) []int64 {
	lo, k := binary.Varint(r.p)
	if k <= 0 {
		r.fail("bad base")
		return nil
	}
	r.p = r.p[k:]
	w := int(r.byte())
	if w != 0 && w != 1 && w != 2 && w != 4 && w != 8 {
		r.fail("width %d", w)
	}
	raw := r.take(w * n)
	if r.err != nil || !r.alloc(16*n) {
		return nil
	}
	out := make([]int64, n)
	switch w {
	case 0:
		for i := range out {
			out[i] = lo
		}
	case 1:
		for i := range out {
			out[i] = lo + int64(raw[i])
		}
	case 2:
		for i := range out {
			out[i] = lo + int64(binary.LittleEndian.Uint16(raw[2*i:]))
		}
	case 4:
		for i := range out {
			out[i] = lo + int64(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case 8:
		for i := range out {
			out[i] = lo + int64(binary.LittleEndian.Uint64(raw[8*i:]))
		}
	}
	return out
}
