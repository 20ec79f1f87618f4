package event

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"strconv"
)

// Column holds the values of one field, by kind:
//
//   - Bool, Int, Decimal, Timestamp: Ints
//   - Float: Floats
//   - Category, String: Ends and Bytes; row i is Bytes[Ends[i-1]:Ends[i]], Ends[-1] being 0
//   - ID: Ints if all are integers, else Ends and Bytes
//   - List: Ends and Elems; row i has the rows Ends[i-1] to Ends[i] of Elems
//
// The value of a null row is the zero value of its kind and means nothing.
type Column struct {
	Ints   []int64
	Floats []float64
	Ends   []uint32
	Bytes  []byte
	Elems  *Column
	// Nulls has bit i%64 of word i/64 set where row i is null. Nil means that no row is; otherwise
	// it has a word for every 64 rows begun.
	Nulls []uint64
}

// Null reports whether row i is null.
func (c *Column) Null(i int) bool {
	return c.Nulls != nil && c.Nulls[i>>6]&(1<<(i&63)) != 0
}

// SetNull marks row i of a column of n rows as null.
func (c *Column) SetNull(i, n int) {
	if c.Nulls == nil {
		c.Nulls = make([]uint64, (n+63)/64)
	}
	c.Nulls[i>>6] |= 1 << (i & 63)
}

// Raw is row i of a column that keeps bytes; it shares the column's memory.
func (c *Column) Raw(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = c.Ends[i-1]
	}
	return c.Bytes[start:c.Ends[i]:c.Ends[i]]
}

// Span is the range of rows of Elems that row i of a list has.
func (c *Column) Span(i int) (from, to int) {
	if i > 0 {
		from = int(c.Ends[i-1])
	}
	return from, int(c.Ends[i])
}

// AppendRaw appends a row to a column that keeps bytes.
func (c *Column) AppendRaw(b []byte) {
	c.Bytes = append(c.Bytes, b...)
	c.Ends = append(c.Ends, uint32(len(c.Bytes)))
}

// AppendID appends the text of id i.
func (c *Column) AppendID(dst []byte, i int) []byte {
	if c.Ints != nil {
		return strconv.AppendInt(dst, c.Ints[i], 10)
	}
	return append(dst, c.Raw(i)...)
}

// CanonicalInt parses b if it is the one way to write its integer, and so may be kept as one.
func CanonicalInt(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	digits := b
	if b[0] == '-' {
		digits = b[1:]
	}
	if len(digits) == 0 || digits[0] == '0' && (len(digits) > 1 || b[0] == '-') {
		return 0, false
	}
	var v uint64
	for _, d := range digits {
		d -= '0'
		if d > 9 || v > (math.MaxUint64-9)/10 {
			return 0, false
		}
		v = v*10 + uint64(d)
	}
	switch {
	case b[0] == '-' && v <= 1<<63:
		return -int64(v), true
	case b[0] != '-' && v <= math.MaxInt64:
		return int64(v), true
	}
	return 0, false
}

// CompareIDs orders row i of a against row j of b: integers by value, before all other ids, and those
// bytewise.
func CompareIDs(a *Column, i int, b *Column, j int) int {
	if a.Ints != nil && b.Ints != nil {
		return cmp.Compare(a.Ints[i], b.Ints[j])
	}
	var bufA, bufB [20]byte
	ta, tb := a.AppendID(bufA[:0], i), b.AppendID(bufB[:0], j)
	na, intA := CanonicalInt(ta)
	nb, intB := CanonicalInt(tb)
	switch {
	case intA && intB:
		return cmp.Compare(na, nb)
	case intA: // bytewise here would make a ring: 9 < 10 < 1a < 9
		return -1
	case intB:
		return 1
	}
	return bytes.Compare(ta, tb)
}

// HashID hashes the id in row i; equal ids have equal hashes however they are kept.
func (c *Column) HashID(i int) uint64 {
	if c.Ints != nil {
		return mix(uint64(c.Ints[i]))
	}
	raw := c.Raw(i)
	if n, ok := CanonicalInt(raw); ok {
		return mix(uint64(n))
	}
	h := uint64(14695981039346656037) // FNV-1a, 64 bits
	for _, b := range raw {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return mix(h)
}

// mix is the finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Batch is a number of events in columns. Copying a Batch copies headers, not rows.
type Batch struct {
	Schema *Schema
	// Cols has one column a field of Schema.
	Cols []Column
	// N is the number of rows.
	N int
}

// New returns an empty batch with room for rows.
func New(s *Schema, rows int) Batch {
	b := Batch{Schema: s, Cols: make([]Column, len(s.Fields))}
	for i, f := range s.Fields {
		b.Cols[i] = newColumn(f.Kind, rows)
	}
	return b
}

func newColumn(k Kind, rows int) Column {
	switch k {
	case Float:
		return Column{Floats: make([]float64, 0, rows)}
	case Category, String:
		return Column{Ends: make([]uint32, 0, rows)}
	case List:
		return Column{Ends: make([]uint32, 0, rows), Elems: &Column{}}
	default:
		return Column{Ints: make([]int64, 0, rows)}
	}
}

// Times is the column of event times, in microseconds.
func (b *Batch) Times() []int64 { return b.Cols[b.Schema.Time].Ints }

// IDs is the column of event ids.
func (b *Batch) IDs() *Column { return &b.Cols[b.Schema.ID] }

// Col is the named column, or nil.
func (b *Batch) Col(name string) *Column {
	if i := b.Schema.Index(name); i >= 0 {
		return &b.Cols[i]
	}
	return nil
}

// MinTime is the earliest event time in milliseconds, floored: the batch's Beam timestamp. It is 0
// for a batch without rows or times.
func (b *Batch) MinTime() int64 {
	if b.N == 0 || b.Schema.Time < 0 {
		return 0
	}
	least := b.Times()[0]
	for _, t := range b.Times() {
		least = min(least, t)
	}
	ms := least / 1000
	if least%1000 < 0 {
		ms--
	}
	return ms
}

// Size is about the number of bytes that the rows occupy in memory.
func (b *Batch) Size() int {
	n := 0
	for i := range b.Cols {
		n += b.Cols[i].size()
	}
	return n
}

func (c *Column) size() int {
	n := 8*len(c.Ints) + 8*len(c.Floats) + 4*len(c.Ends) + len(c.Bytes) + 8*len(c.Nulls)
	if c.Elems != nil {
		n += c.Elems.size()
	}
	return n
}

// With returns a batch of the same rows, and more columns behind; s is its schema. The columns are
// shared with b, which keeps its own view.
func (b Batch) With(s *Schema, more ...Column) Batch {
	cols := append(append(make([]Column, 0, len(b.Cols)+len(more)), b.Cols...), more...)
	return Batch{Schema: s, Cols: cols, N: b.N}
}

// Only returns a batch of the same rows and some of the columns, those of s, shared with b.
func (b Batch) Only(s *Schema) (Batch, error) {
	cols := make([]Column, len(s.Fields))
	for i, f := range s.Fields {
		j := b.Schema.Index(f.Name)
		if j < 0 || b.Schema.Fields[j] != f {
			return Batch{}, fmt.Errorf("%w: no field %q of that kind", ErrSchema, f.Name)
		}
		cols[i] = b.Cols[j]
	}
	return Batch{Schema: s, Cols: cols, N: b.N}, nil
}

// Gather copies rows, in the order given, into a new batch.
func (b Batch) Gather(rows []int32) Batch {
	out := Batch{Schema: b.Schema, Cols: make([]Column, len(b.Cols)), N: len(rows)}
	for i := range b.Cols {
		out.Cols[i] = b.Cols[i].gather(rows)
	}
	return out
}

func (c *Column) gather(rows []int32) Column {
	var out Column
	switch {
	case c.Floats != nil:
		out.Floats = make([]float64, len(rows))
		for k, r := range rows {
			out.Floats[k] = c.Floats[r]
		}
	case c.Ints != nil:
		out.Ints = make([]int64, len(rows))
		for k, r := range rows {
			out.Ints[k] = c.Ints[r]
		}
	case c.Elems != nil:
		out.Ends = make([]uint32, 0, len(rows))
		var elems []int32
		for _, r := range rows {
			from, to := c.Span(int(r))
			for e := from; e < to; e++ {
				elems = append(elems, int32(e))
			}
			out.Ends = append(out.Ends, uint32(len(elems)))
		}
		e := c.Elems.gather(elems)
		out.Elems = &e
	default:
		total := 0
		for _, r := range rows {
			total += len(c.Raw(int(r)))
		}
		out.Ends, out.Bytes = make([]uint32, 0, len(rows)), make([]byte, 0, total)
		for _, r := range rows {
			out.AppendRaw(c.Raw(int(r)))
		}
	}
	if c.Nulls != nil {
		for k, r := range rows {
			if c.Null(int(r)) {
				out.SetNull(k, len(rows))
			}
		}
	}
	return out
}

// Concat copies the rows of all batches, in order, into one. All must have equal schemas.
func Concat(batches []Batch) (Batch, error) {
	if len(batches) == 1 {
		return batches[0], nil
	}
	if len(batches) == 0 {
		return Batch{}, fmt.Errorf("%w: no batches to join", ErrSchema)
	}
	rows := 0
	for i := range batches {
		if !batches[i].Schema.Equal(batches[0].Schema) {
			return Batch{}, fmt.Errorf("%w: joining %v and %v", ErrSchema, batches[0].Schema, batches[i].Schema)
		}
		rows += batches[i].N
	}
	out := Batch{Schema: batches[0].Schema, Cols: make([]Column, len(batches[0].Cols)), N: rows}
	parts := make([]*Column, len(batches))
	sizes := make([]int, len(batches))
	for i, f := range out.Schema.Fields {
		for k := range batches {
			parts[k], sizes[k] = &batches[k].Cols[i], batches[k].N
		}
		out.Cols[i] = concat(f.Kind, f.Elem, parts, sizes, rows)
	}
	return out, nil
}

func concat(k, elem Kind, parts []*Column, sizes []int, rows int) Column {
	out := newColumn(k, rows)
	if k == ID {
		for p, c := range parts {
			if c.Ints == nil && sizes[p] > 0 { // one id that is no integer makes them all bytes
				out = newColumn(String, rows)
				break
			}
		}
	}
	at, elems := 0, 0
	var sub []*Column
	var subSizes []int
	for p, c := range parts {
		switch {
		case k == Float:
			out.Floats = append(out.Floats, c.Floats...)
		case k == List:
			for _, e := range c.Ends {
				out.Ends = append(out.Ends, uint32(elems)+e)
			}
			if n := len(c.Ends); n > 0 {
				sub, subSizes = append(sub, c.Elems), append(subSizes, int(c.Ends[n-1]))
				elems += int(c.Ends[n-1])
			}
		case out.Ints != nil:
			out.Ints = append(out.Ints, c.Ints...)
		case c.Ints != nil:
			for _, v := range c.Ints {
				out.Bytes = strconv.AppendInt(out.Bytes, v, 10)
				out.Ends = append(out.Ends, uint32(len(out.Bytes)))
			}
		default:
			base := uint32(len(out.Bytes))
			for _, e := range c.Ends {
				out.Ends = append(out.Ends, base+e)
			}
			out.Bytes = append(out.Bytes, c.Bytes...)
		}
		for i := 0; c.Nulls != nil && i < sizes[p]; i++ {
			if c.Null(i) {
				out.SetNull(at+i, rows)
			}
		}
		at += sizes[p]
	}
	if k == List {
		e := concat(elem, 0, sub, subSizes, elems)
		out.Elems = &e
	}
	return out
}
