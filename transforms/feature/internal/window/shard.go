package window

import (
	"math"
	"math/bits"
	"strings"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
)

// Values is an operand's column for the rows of a batch.
type Values struct {
	// Ints has the values of an Exact operand, Floats those of a Number.
	Ints   []int64
	Floats []float64
	// Col has those of a Hash or Text that are no floats.
	Col *event.Column
	// Hashes has those of a Hash operand where the values themselves are not known.
	Hashes []uint64
	// Miss has bit i%64 of word i/64 set where row i does not count; nil: every row counts.
	Miss []uint64
}

func (v *Values) miss(i int) bool { return v.Miss != nil && v.Miss[i>>6]&(1<<(i&63)) != 0 }

// Input is a batch of rows. Shard.Apply only reads it.
type Input struct {
	N        int
	Times    []int64
	IDs      *event.Column
	Entity   *event.Column
	Operands []Values
}

// Shard holds the rows of a set of entities. It is not safe for concurrent use.
type Shard struct {
	p        *Plan
	ints     map[int64]int32
	texts    map[string]int32
	entities []entity
	keys     []key   // of all entities
	edges    []int32 // of all entities, len(p.delays) each

	newest int64 // time of the newest row
	rows   int   // held, of all entities
	texted int   // bytes of the texts in them
	swept  int   // where the next sweep begins
	free   []int32
	frozen bool

	late    []int32 // edges of a row that is not the newest
	lo, hi  []int32
	times   []int64
	values  []float64
	hashes  []uint64
	strings []string
	scratch aggregate.Scratch
	buf     []byte
	keep    []int32
}

// key is what an entity is called: an integer, or a text with a byte in front.
type key struct {
	n    int64
	name string
}

// entity is the rows of an entity, by time, then id: p.stride words each, row 0 being the one before.
// One without rows is a free slot.
type entity struct {
	rows    []uint64
	names   []string   // of ids that are no integers, with a byte in front; nil while there are none
	texts   [][]string // of each Text operand
	dropped int64
}

// NewShard returns a shard without entities.
func NewShard(p *Plan) *Shard {
	return &Shard{
		p: p, ints: map[int64]int32{}, texts: map[string]int32{}, newest: math.MinInt64,
		late: make([]int32, len(p.delays)), lo: make([]int32, len(p.spans)), hi: make([]int32, len(p.spans)),
	}
}

// Entities is the number of entities held.
func (s *Shard) Entities() int { return len(s.ints) + len(s.texts) }

// Apply takes the rows in, one after the other, and returns a column for each output of the plan, and
// the rows whose (entity, time, id) was there before: their features are null, and they count once.
func (s *Shard) Apply(in *Input) (out []event.Column, duplicates []int32) {
	p := s.p
	out = make([]event.Column, len(p.columns))
	for k, o := range p.cfg.Outputs {
		switch {
		case o.Elem == 0:
			out[k].Floats = make([]float64, in.N)
		case o.Elem == event.Float:
			out[k] = event.Column{Ends: make([]uint32, 0, in.N), Elems: &event.Column{Floats: []float64{}}}
		default:
			out[k] = event.Column{Ends: make([]uint32, 0, in.N), Elems: &event.Column{}}
		}
	}
	stride := p.stride
	for i := range in.N {
		if in.Entity.Null(i) {
			s.null(out, i, in.N)
			continue
		}
		at := s.lookup(in.Entity, i, true)
		e := &s.entities[at]
		edges := s.edgesOf(at)
		t := in.Times[i]
		id, name := s.id(in.IDs, i)
		row, newest, found := e.place(p, t, id, name)
		if found {
			s.null(out, i, in.N)
			duplicates = append(duplicates, int32(i))
			continue
		}
		s.insert(e, row, newest, t, id, name, in, i)
		if newest {
			for k, d := range p.delays {
				c, bound := int(edges[k]), t-d
				for c < row-1 && int64(e.rows[(c+1)*stride]) <= bound {
					c++
				}
				edges[k] = int32(c)
			}
			s.eval(e, row, t, edges, out, i, in.N)
			if len(e.rows)+stride > cap(e.rows) {
				s.drop(e, edges, row)
			}
			continue
		}
		shift(edges, row)
		for k := range edges {
			s.late[k] = int32(e.upTo(p, t-p.delays[k], row))
		}
		s.eval(e, row, t, s.late, out, i, in.N)
	}
	for k, o := range p.cfg.Outputs {
		if o.Elem == event.ID {
			asInts(out[k].Elems)
		}
	}
	return out, duplicates
}

func (s *Shard) null(out []event.Column, i, n int) {
	for k := range out {
		if out[k].Elems != nil {
			out[k].Ends = append(out[k].Ends, end(&out[k]))
		}
		out[k].SetNull(i, n)
	}
}

func end(c *event.Column) uint32 {
	if n := len(c.Ends); n > 0 {
		return c.Ends[n-1]
	}
	return 0
}

// lookup is the slot of the entity in row i, made if it may be; else -1.
func (s *Shard) lookup(c *event.Column, i int, create bool) int32 {
	if c.Ints != nil {
		return s.ofInt(c.Ints[i], create)
	}
	raw := c.Raw(i)
	if n, isInt := event.CanonicalInt(raw); isInt { // as in a batch whose keys are all integers
		return s.ofInt(n, create)
	}
	at, ok := s.texts[string(raw)]
	switch {
	case ok:
	case create:
		at = s.add(key{0, "\x01" + string(raw)})
		s.texts[string(raw)] = at
	default:
		return -1
	}
	return at
}

func (s *Shard) ofInt(n int64, create bool) int32 {
	at, ok := s.ints[n]
	switch {
	case ok:
	case create:
		at = s.add(key{n, ""})
		s.ints[n] = at
	default:
		return -1
	}
	return at
}

// add takes a slot: while frozen a new one, behind every cursor.
func (s *Shard) add(k key) int32 {
	e := entity{rows: make([]uint64, s.p.stride, 4*s.p.stride)}
	for range s.p.texts {
		e.texts = append(e.texts, []string{""})
	}
	for k, op := range s.p.cfg.Operands {
		if op.Kind == Number {
			e.rows[s.p.at[k]] = missing
		}
	}
	if n := len(s.free); n > 0 && !s.frozen {
		at := s.free[n-1]
		s.free = s.free[:n-1]
		s.entities[at], s.keys[at] = e, k
		return at
	}
	s.entities, s.keys = append(s.entities, e), append(s.keys, k)
	for range s.p.delays {
		s.edges = append(s.edges, 0)
	}
	return int32(len(s.entities) - 1)
}

func (s *Shard) edgesOf(at int32) []int32 {
	n := len(s.p.delays)
	return s.edges[int(at)*n : (int(at)+1)*n]
}

// shift moves the edges behind a row that was put in the middle.
func shift(edges []int32, row int) {
	for k := range edges {
		if int(edges[k]) >= row {
			edges[k]++
		}
	}
}

// place is where a row of (t, id) belongs, whether that is behind all others, and whether it is there.
func (e *entity) place(p *Plan, t, id int64, name string) (row int, newest, found bool) {
	n := len(e.rows)/p.stride - 1 // the newest row
	if n > 0 || e.dropped > 0 {
		if c := e.compare(p, n, t, id, name); c == 0 {
			return n, false, true
		} else if c > 0 {
			row, found = e.search(p, t, id, name)
			return row, false, found
		}
	}
	return n + 1, true, false
}

// id takes an id apart: an integer, or a name with a byte in front, so that the empty text is one too.
func (s *Shard) id(c *event.Column, i int) (int64, string) {
	if c.Ints != nil {
		return c.Ints[i], ""
	}
	raw := c.Raw(i)
	if n, ok := event.CanonicalInt(raw); ok {
		return n, ""
	}
	return 0, "\x01" + string(raw)
}

// compare orders row r of the entity against (t, id).
func (e *entity) compare(p *Plan, r int, t, id int64, name string) int {
	at := r * p.stride
	if u := int64(e.rows[at]); u != t {
		if u < t {
			return -1
		}
		return 1
	}
	mine := ""
	if e.names != nil {
		mine = e.names[r]
	}
	n := int64(e.rows[at+1])
	if mine == "" && name == "" {
		switch {
		case n < id:
			return -1
		case n > id:
			return 1
		}
		return 0
	}
	switch { // integers stand before all others, as in event.CompareIDs
	case mine == "":
		return -1
	case name == "":
		return 1
	}
	return strings.Compare(mine, name)
}

// search is the place of (t, id) among the rows, and whether it is taken.
func (e *entity) search(p *Plan, t, id int64, name string) (int, bool) {
	lo, hi := 1, len(e.rows)/p.stride
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if e.compare(p, m, t, id, name) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, lo < len(e.rows)/p.stride && e.compare(p, lo, t, id, name) == 0
}

// upTo is the last row before row limit with a time of at most t, 0 if there is none.
func (e *entity) upTo(p *Plan, t int64, limit int) int {
	lo, hi := 1, limit
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if int64(e.rows[m*p.stride]) <= t {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

// missing marks a Number that doesn't count; no event has a NaN.
var missing = math.Float64bits(math.NaN())

// insert puts row i of in at its place and carries the totals on.
func (s *Shard) insert(e *entity, row int, newest bool, t, id int64, name string, in *Input, i int) {
	p, stride := s.p, s.p.stride
	at := row * stride
	if newest && len(e.rows)+stride <= cap(e.rows) {
		e.rows = e.rows[:at+stride]
	} else {
		e.rows = append(e.rows, make([]uint64, stride)...)
		copy(e.rows[at+stride:], e.rows[at:])
	}
	e.rows[at], e.rows[at+1] = uint64(t), uint64(id)
	s.newest = max(s.newest, t)
	s.rows++
	s.texted += len(name)
	if e.names != nil || name != "" {
		if e.names == nil {
			e.names = make([]string, len(e.rows)/stride-1)
		}
		e.names = append(e.names, "")
		copy(e.names[row+1:], e.names[row:])
		e.names[row] = name
	}
	behind := e.rows[at+stride:]
	for k := range p.cfg.Operands {
		v, a := &in.Operands[k], at+p.at[k]
		miss := v.miss(i)
		switch p.cfg.Operands[k].Kind {
		case Counter:
			e.rows[a] = e.rows[a-stride]
			if !miss {
				e.rows[a]++
				for b := p.at[k]; b < len(behind); b += stride {
					behind[b]++
				}
			}
		case Exact:
			lo, hi := e.rows[a-stride], e.rows[a-stride+1]
			if !miss {
				lo, hi = accumulate(lo, hi, v.Ints[i])
				for b := p.at[k]; b < len(behind); b += stride {
					behind[b], behind[b+1] = accumulate(behind[b], behind[b+1], v.Ints[i])
				}
			}
			e.rows[a], e.rows[a+1] = lo, hi
		case Number:
			e.rows[a] = missing
			if !miss {
				e.rows[a] = math.Float64bits(v.Floats[i])
			}
		default:
			h, txt := uint64(0), ""
			if !miss {
				h = v.hash(i)
			}
			e.rows[a] = h
			if p.cfg.Operands[k].Kind == Text {
				if !miss {
					s.buf = v.Col.AppendID(s.buf[:0], i)
					txt = string(s.buf)
					s.texted += len(txt)
				}
				list := &e.texts[p.text[k]]
				*list = append(*list, "")
				copy((*list)[row+1:], (*list)[row:])
				(*list)[row] = txt
			}
		}
	}
}

// accumulate adds v to a total: the first word and the upper half of the second are a sum of 96 bits,
// which 2^32 values can't overflow; the lower half of the second is their number.
func accumulate(lo, hi uint64, v int64) (uint64, uint64) {
	lo, carry := bits.Add64(lo, uint64(v), 0)
	top := uint32(hi>>32) + uint32(v>>63) + uint32(carry)
	return lo, uint64(top)<<32 | uint64(uint32(hi)+1)
}

// difference is the sum, as two's complement of 128 bits, and the number of values between two totals.
func difference(lo0, hi0, lo1, hi1 uint64) (lo uint64, hi int64, n uint32) {
	lo, borrow := bits.Sub64(lo1, lo0, 0)
	top := int32(uint32(hi1>>32) - uint32(hi0>>32) - uint32(borrow))
	return lo, int64(top), uint32(hi1) - uint32(hi0)
}

// hash is never 0, which marks a value that doesn't count.
func (v *Values) hash(i int) uint64 {
	var h uint64
	switch {
	case v.Hashes != nil:
		h = v.Hashes[i]
	case v.Floats != nil:
		c := event.Column{Ints: []int64{int64(math.Float64bits(v.Floats[i] + 0))}} // +0: -0 is 0
		h = c.HashID(0)
	case v.Ints != nil:
		c := event.Column{Ints: v.Ints}
		h = c.HashID(i)
	default:
		h = v.Col.HashID(i)
	}
	if h == 0 {
		return 1
	}
	return h
}

// drop moves row 0 forward to the last row behind every window, once that frees half of the memory.
// While frozen it leaves all: a copy in the making counts rows.
func (s *Shard) drop(e *entity, edges []int32, newest int) {
	p := s.p
	if s.frozen {
		return
	}
	limit := newest
	first := 0
	if p.cfg.Lateness > 0 {
		first = p.shown
		s.cut(e, int64(e.rows[newest*p.stride]), newest, edges, first, len(p.spans))
	}
	for k := first; k < len(p.spans); k++ {
		lo := int(s.lo[k])
		if sp := &p.spans[k]; sp.reach.All && !sp.rows {
			lo = int(s.hi[k]) // totals reach back to the beginning by themselves
		}
		limit = min(limit, lo)
	}
	if limit < (newest+1)/2 {
		return
	}
	s.rows -= limit
	s.texted -= e.textBytes(limit)
	e.rows = e.rows[:copy(e.rows, e.rows[limit*p.stride:])]
	if e.names != nil {
		e.names = e.names[:copy(e.names, e.names[limit:])]
	}
	for k, list := range e.texts {
		n := copy(list, list[limit:])
		clear(list[n:])
		e.texts[k] = list[:n]
	}
	for k := range edges {
		edges[k] = max(0, edges[k]-int32(limit))
	}
	e.dropped += int64(limit)
}

// textBytes is how much text the first n rows hold, row 0 among them.
func (e *entity) textBytes(n int) int {
	sum := 0
	for _, name := range e.names[:min(n, len(e.names))] {
		sum += len(name)
	}
	for _, list := range e.texts {
		for _, txt := range list[:n] {
			sum += len(txt)
		}
	}
	return sum
}

// cut finds the edges of spans from..to for a row.
func (s *Shard) cut(e *entity, t int64, row int, edges []int32, from, to int) {
	p := s.p
	for k := from; k < to; k++ {
		sp := &p.spans[k]
		self := row
		if sp.exclude {
			self--
		}
		head := self
		if sp.head != current {
			head = int(edges[sp.head])
		}
		lo := 0
		switch {
		case sp.reach.Duration > 0:
			lo = int(edges[sp.tail])
		case sp.reach.Last > 0:
			lo = max(0, head-sp.reach.Last)
		case sp.reach.Session > 0:
			next := t - sp.delay
			for lo = head; lo > 0; lo-- {
				u := int64(e.rows[lo*p.stride])
				if next-u > sp.reach.Session {
					break
				}
				next = u
			}
		}
		hi := self
		if sp.newer != current {
			hi = int(edges[sp.newer])
		}
		s.lo[k], s.hi[k] = int32(lo), int32(max(lo, hi))
	}
}

// eval writes the features of a row.
func (s *Shard) eval(e *entity, row int, t int64, edges []int32, out []event.Column, i, n int) {
	p, stride, rows := s.p, s.p.stride, e.rows
	s.cut(e, t, row, edges, 0, p.shown)
	span, operand := -1, -1
	for k := range p.columns {
		c := &p.columns[k]
		lo, hi := int(s.lo[c.span]), int(s.hi[c.span])
		o := &out[c.out]
		all := p.spans[c.span].reach.All
		switch {
		case c.Func == aggregate.Count && c.Operand < 0:
			v := hi - lo
			if all {
				v += int(e.dropped)
			}
			o.Floats[i] = float64(v)
		case c.Func == aggregate.Count && c.kind == Counter:
			v := rows[hi*stride+c.at]
			if !all {
				v -= rows[lo*stride+c.at]
			}
			o.Floats[i] = float64(v)
		case c.kind == Exact && (c.Func == aggregate.Sum || c.Func == aggregate.Mean) && c.Operand >= 0:
			a, b := lo*stride+c.at, hi*stride+c.at
			var l uint64
			var h int64
			var count uint32
			if all {
				l, h, count = difference(0, 0, rows[b], rows[b+1])
			} else {
				l, h, count = difference(rows[a], rows[a+1], rows[b], rows[b+1])
			}
			if count == 0 {
				c.empty(o, i, n)
				continue
			}
			div := c.scale
			if c.Func == aggregate.Mean {
				div *= float64(count)
			}
			o.Floats[i] = toFloat(l, h) / div
		case c.Func == aggregate.TimeSinceLast:
			j := min(hi, row-1)
			for ; j > lo && c.Operand >= 0 && rows[j*stride+c.at] == rows[(j-1)*stride+c.at]; j-- {
			}
			if j <= lo {
				c.empty(o, i, n)
				continue
			}
			o.Floats[i] = float64(t-int64(rows[j*stride])) / 1e6
		default:
			if c.span != span || c.Operand != operand {
				s.gather(e, c, lo, hi)
				span, operand = c.span, c.Operand
			}
			s.overRows(c, o, i, n)
		}
	}
}

func (c *column) empty(o *event.Column, i, n int) {
	if c.Empty != nil {
		o.Floats[i] = *c.Empty
		return
	}
	o.SetNull(i, n)
}

// gather copies what counts of the rows behind lo up to hi into the shard's scratch.
func (s *Shard) gather(e *entity, c *column, lo, hi int) {
	s.times, s.values, s.hashes, s.strings = s.times[:0], s.values[:0], s.hashes[:0], s.strings[:0]
	stride := s.p.stride
	for r := lo + 1; r <= hi; r++ {
		a := r*stride + c.at
		switch c.kind {
		case Exact:
			l, _, count := difference(e.rows[a-stride], e.rows[a-stride+1], e.rows[a], e.rows[a+1])
			if count == 0 {
				continue
			}
			s.values = append(s.values, float64(int64(l))/c.scale)
		case Number:
			v := math.Float64frombits(e.rows[a])
			if v != v {
				continue
			}
			s.values = append(s.values, v)
		case Hash, Text:
			if e.rows[a] == 0 {
				continue
			}
			s.hashes = append(s.hashes, e.rows[a])
			if c.kind == Text {
				s.strings = append(s.strings, e.texts[c.text][r])
			}
		}
		s.times = append(s.times, int64(e.rows[r*stride]))
	}
}

func (s *Shard) overRows(c *column, o *event.Column, i, n int) {
	if c.Elem != 0 {
		if len(s.times) == 0 {
			o.SetNull(i, n)
		}
		switch {
		case len(s.times) == 0:
		case c.Func == aggregate.Sequence:
			for j := max(0, len(s.times)-int(c.Args[0])); j < len(s.times); j++ {
				s.appendElem(c, o, j)
			}
		case c.Func == aggregate.TopK:
			hashes := s.hashes
			if c.Elem == event.Float {
				hashes = make([]uint64, len(s.values))
				for j, v := range s.values {
					hashes[j] = math.Float64bits(v + 0)
				}
			}
			for _, j := range s.scratch.TopK(hashes, int(c.Args[0])) {
				s.appendElem(c, o, j)
			}
		}
		elems := len(o.Elems.Ends)
		if c.Elem == event.Float {
			elems = len(o.Elems.Floats)
		}
		o.Ends = append(o.Ends, uint32(elems))
		return
	}
	if len(s.times) == 0 {
		c.empty(o, i, n)
		return
	}
	if c.Func == aggregate.Distinct {
		o.Floats[i] = s.scratch.Distinct(s.hashes)
		return
	}
	v, ok := s.scratch.Of(c.Func, s.times, s.values, c.Args)
	if !ok || math.IsInf(v, 0) || v != v {
		o.SetNull(i, n)
		return
	}
	o.Floats[i] = v
}

func (s *Shard) appendElem(c *column, o *event.Column, j int) {
	if c.Elem == event.Float {
		o.Elems.Floats = append(o.Elems.Floats, s.values[j])
		return
	}
	o.Elems.Bytes = append(o.Elems.Bytes, s.strings[j]...)
	o.Elems.Ends = append(o.Elems.Ends, uint32(len(o.Elems.Bytes)))
}

// asInts keeps a column of ids as integers if they all are, as every other column of ids.
func asInts(c *event.Column) {
	ints := make([]int64, len(c.Ends))
	for i := range ints {
		n, ok := event.CanonicalInt(c.Raw(i))
		if !ok {
			return
		}
		ints[i] = n
	}
	*c = event.Column{Ints: ints}
}
