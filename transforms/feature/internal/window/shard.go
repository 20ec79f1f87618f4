package window

import (
	"bytes"
	"cmp"
	"math"
	"math/bits"

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
	p      *Plan
	table  table
	texts  textArena
	arenas [2]arena // rows, and rows with a word more for the texts of ids

	newest int64 // time of the newest row
	rows   int   // held, of all entities
	texted int   // bytes of the texts in them
	swept  int   // where the next sweep begins
	frozen bool

	edges   []int32 // of a row that is not the newest, or for as long as late rows may come
	lo, hi  []int32
	times   []int64
	values  []float64
	hashes  []uint64
	strings [][]byte
	scratch aggregate.Scratch
	keep    []int32
	copied  *Input
	buf     []byte
	sought  [group]sought
	touched uint64

	labels  *labels    // nil: no output uses one
	labeled *labelList // those of the entity at hand; nil: none
	sum     [2]uint64  // of what gatherLabels found
	last    int        // row that it found last
}

// sought is an entity that a row is about: its hash, then its slot.
type sought struct {
	hash uint64
	at   int32
}

// entity is a view of a slot. Its rows are ordered by time, then id; row 0 is the one before them.
type entity struct {
	*record
	rows   []uint64 // stride words each
	stride int
	edges  []int32
}

// NewShard returns a shard without entities.
func NewShard(p *Plan) *Shard {
	s := &Shard{
		p: p, newest: math.MinInt64, arenas: [2]arena{{stride: p.stride}, {stride: p.stride + 1}},
		edges: make([]int32, len(p.delays)), lo: make([]int32, len(p.spans)), hi: make([]int32, len(p.spans)),
	}
	s.table.width, s.table.texts = p.walked, &s.texts
	if len(p.cfg.Labels) > 0 {
		s.labels = newLabels(p.cfg.Label, p.cfg.Labels)
	}
	return s
}

// Entities is the number of entities held.
func (s *Shard) Entities() int { return s.table.held }

func (s *Shard) view(at int32) entity {
	r := s.table.record(at)
	a := &s.arenas[r.wide]
	return entity{record: r, rows: a.view(r.block, int(r.held), r.class), stride: a.stride, edges: s.table.edgesOf(at)}
}

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
	for i := range in.N {
		if i%group == 0 {
			s.seek(in, i, min(i+group, in.N), true)
		}
		if in.Entity.Null(i) {
			s.null(out, i, in.N)
			continue
		}
		e := s.view(s.sought[i%group].at)
		t, id := in.Times[i], keyOf(in.IDs, i)
		row, newest, found := s.place(&e, t, id)
		if found {
			s.null(out, i, in.N)
			duplicates = append(duplicates, int32(i))
			continue
		}
		if s.labels != nil {
			s.meet(keyOf(in.Entity, i), t, id)
		}
		if !newest {
			s.insert(&e, row, t, id, in, i)
			e.shift(row)
			s.walk(&e, t, row)
			s.eval(&e, row, t, s.edges, out, i, in.N)
			continue
		}
		for k := range e.edges {
			c, bound := int(e.edges[k]), t-p.delays[k]
			for c < row-1 && int64(e.rows[(c+1)*e.stride]) <= bound {
				c++
			}
			e.edges[k] = int32(c)
		}
		if e.full() {
			row -= s.drop(&e, t, row)
		}
		s.insert(&e, row, t, id, in, i)
		s.eval(&e, row, t, e.edges, out, i, in.N)
	}
	for k, o := range p.cfg.Outputs {
		if o.Elem == event.ID {
			asInts(out[k].Elems)
		}
	}
	return out, duplicates
}

// group is how many rows' entities are sought at once.
const group = 128

// seek finds the slots of the entities in rows from..to, -1 where there is none and none is to be made.
// It goes step by step over all of them, since memory then answers for many at a time: with millions of
// entities nothing of one is in a cache, and a row alone would wait for hash, record, and rows in turn.
func (s *Shard) seek(in *Input, from, to int, create bool) {
	sum := uint64(0)
	all := s.sought[:to-from]
	for i := range all {
		h := in.Entity.HashID(from + i)
		all[i] = sought{hash: h, at: -1}
		if x := &s.table.hashes[h>>56]; len(x.entries) > 0 {
			sum += x.entries[uint32(h)&uint32(len(x.entries)-1)]
		}
	}
	for i := range all { // few instructions a record: the more of them are under way
		if at := s.table.guess(all[i].hash); at >= 0 {
			all[i].at = at
			sum += s.table.record(at).name
		}
	}
	for i := range all {
		if in.Entity.Null(from + i) {
			all[i].at = -1
			continue
		}
		k := keyOf(in.Entity, from+i)
		if at := all[i].at; at >= 0 && s.table.is(at, k) {
			continue
		}
		if all[i].at = s.table.find(all[i].hash, k); all[i].at < 0 && create {
			all[i].at = s.add(all[i].hash, k)
		}
	}
	for i := range all {
		if all[i].at >= 0 {
			sum += s.read(all[i].at)
		}
	}
	s.touched += sum // else the compiler may leave the reads out
}

// read reads of an entity's block what a row behind all others needs.
func (s *Shard) read(at int32) (sum uint64) {
	r := s.table.record(at)
	a := &s.arenas[r.wide]
	words := a.at(r.block)
	next := int(r.held) * a.stride
	if last := min(next, a.stride<<r.class-1); last < 64 {
		for k := 0; k < last; k += 8 {
			sum += words[k]
		}
		sum += words[last]
	} else {
		sum += words[0] + words[next-1] + words[last]
		for _, row := range s.table.edgesOf(at) {
			sum += words[int(row)*a.stride]
		}
	}
	if int(r.held) == 1<<r.class { // the rows may move, and release asks for the twin
		if ch := &a.chunks[r.block>>32]; r.class < ch.class {
			sum += uint64(ch.free[uint32(r.block^1<<r.class)/2])
		}
	}
	return sum
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

// add makes an entity. While frozen its slot is a new one, behind every cursor.
func (s *Shard) add(h uint64, k key) int32 {
	at := s.table.add(h, k, !s.frozen)
	r := s.table.record(at)
	r.held, r.class = 1, leastClass
	r.block = s.arenas[0].alloc(leastClass)
	row := s.arenas[0].view(r.block, 1, leastClass)
	clear(row)
	for k, op := range s.p.cfg.Operands {
		if op.Kind == Number {
			row[s.p.at[k]] = missing
		}
	}
	return at
}

// full tells whether the block has no room for another row.
func (e *entity) full() bool { return len(e.rows) == cap(e.rows) }

// move puts rows from..held into a block of a class, with a word more each if wide is set.
func (s *Shard) move(e *entity, from int, class, wide uint8) {
	a := &s.arenas[wide]
	b := a.alloc(class)
	n := int(e.held) - from
	rows := a.view(b, n, class)
	if wide == e.wide {
		copy(rows, e.rows[from*e.stride:])
	} else {
		for r := range n {
			copy(rows[r*a.stride:], e.rows[(from+r)*e.stride:][:e.stride])
			rows[(r+1)*a.stride-1] = 0
		}
	}
	s.arenas[e.wide].release(e.block, e.class)
	e.block, e.class, e.wide, e.held = b, class, wide, int32(n)
	e.rows, e.stride = rows, a.stride
}

// shift moves the edges behind a row that was put in the middle.
func (e *entity) shift(row int) {
	for k := range e.edges {
		if int(e.edges[k]) >= row {
			e.edges[k]++
		}
	}
}

// walk finds the edges for a row at time t with rows before it.
func (s *Shard) walk(e *entity, t int64, row int) {
	for k, d := range s.p.delays {
		s.edges[k] = int32(e.upTo(t-d, row))
	}
}

// place is where a row of (t, id) belongs, whether that is behind all others, and whether it is there.
func (s *Shard) place(e *entity, t int64, id key) (row int, newest, found bool) {
	n := int(e.held) - 1 // the newest row
	if n > 0 || e.dropped > 0 {
		if c := s.compare(e, n, t, id); c == 0 {
			return n, false, true
		} else if c > 0 {
			row, found = s.search(e, t, id)
			return row, false, found
		}
	}
	return n + 1, true, false
}

// idOf is the id of row r.
func (s *Shard) idOf(e *entity, r int) key {
	k := key{n: int64(e.rows[r*e.stride+1])}
	if e.wide != 0 {
		k.text = s.texts.get(text(e.rows[(r+1)*e.stride-1]))
	}
	return k
}

// compare orders row r of the entity against (t, id).
func (s *Shard) compare(e *entity, r int, t int64, id key) int {
	if u := int64(e.rows[r*e.stride]); u != t {
		return cmp.Compare(u, t)
	}
	mine := s.idOf(e, r)
	switch { // integers stand before all others, as in event.CompareIDs
	case mine.text == nil && id.text == nil:
		return cmp.Compare(mine.n, id.n)
	case mine.text == nil:
		return -1
	case id.text == nil:
		return 1
	}
	return bytes.Compare(mine.text, id.text)
}

// search is the place of (t, id) among the rows, and whether it is taken.
func (s *Shard) search(e *entity, t int64, id key) (int, bool) {
	lo, hi := 1, int(e.held)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if s.compare(e, m, t, id) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, lo < int(e.held) && s.compare(e, lo, t, id) == 0
}

// upTo is the last row before row limit with a time of at most t, 0 if there is none.
func (e *entity) upTo(t int64, limit int) int {
	lo, hi := 1, limit
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if int64(e.rows[m*e.stride]) <= t {
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
func (s *Shard) insert(e *entity, row int, t int64, id key, in *Input, i int) {
	p := s.p
	wide := e.wide
	if id.text != nil {
		wide = 1
	}
	switch {
	case e.full():
		s.move(e, 0, e.class+1, wide)
	case wide != e.wide:
		s.move(e, 0, e.class, wide)
	}
	stride := e.stride
	at := row * stride
	e.held++
	e.rows = e.rows[:len(e.rows)+stride]
	copy(e.rows[at+stride:], e.rows[at:])
	e.rows[at], e.rows[at+1] = uint64(t), uint64(id.n)
	s.newest = max(s.newest, t)
	s.rows++
	if e.wide != 0 {
		e.rows[at+stride-1] = 0
		if id.text != nil {
			e.rows[at+stride-1] = uint64(s.texts.put(id.text))
			s.texted += len(id.text)
		}
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
			h := uint64(0)
			if !miss {
				h = v.hash(i)
			}
			e.rows[a] = h
			if p.cfg.Operands[k].Kind == Text {
				e.rows[a+1] = 0
				if !miss {
					s.buf = v.Col.AppendID(s.buf[:0], i)
					e.rows[a+1] = uint64(s.texts.put(s.buf))
					s.texted += len(s.buf)
				}
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

// drop makes room for a row at time t behind all others: it moves row 0 forward to the last row behind
// every window, if that frees a quarter of the block, and tells by how many rows. While frozen it leaves
// all: a copy in the making counts rows.
func (s *Shard) drop(e *entity, t int64, row int) int {
	p := s.p
	if s.frozen {
		return 0
	}
	limit := row - 1
	first := 0
	if p.cfg.Lateness > 0 {
		first = p.shown
	}
	s.walk(e, t, row)
	s.cut(e, t, row, s.edges, first, len(p.spans))
	for k := first; k < len(p.spans); k++ {
		lo := int(s.lo[k])
		if sp := &p.spans[k]; sp.reach.All && !sp.rows {
			lo = int(s.hi[k]) // totals reach back to the beginning by themselves
		}
		limit = min(limit, lo)
	}
	if limit < max(1, 1<<e.class/4) {
		return 0
	}
	s.forget(e, limit)
	s.rows -= limit
	class := uint8(bits.Len(uint(row - limit)))
	if class = max(class, leastClass); class+1 < e.class {
		s.move(e, limit, class+1, e.wide)
	} else {
		e.rows = e.rows[:copy(e.rows, e.rows[limit*e.stride:])]
		e.held -= int32(limit)
	}
	for k := range e.edges {
		e.edges[k] = max(0, e.edges[k]-int32(limit))
	}
	e.dropped += int64(limit)
	return limit
}

// forget lets go of the texts of the first n rows, row 0 among them.
func (s *Shard) forget(e *entity, n int) {
	if e.wide == 0 && len(s.p.texts) == 0 {
		return
	}
	for r := range n {
		row := e.rows[r*e.stride : (r+1)*e.stride]
		for _, a := range s.p.texts {
			s.texted -= s.texts.release(text(row[a]))
		}
		if e.wide != 0 {
			s.texted -= s.texts.release(text(row[e.stride-1]))
		}
	}
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
			for lo = min(head, row-1); lo > 0; lo-- { // the row itself is not there yet when others are dropped
				u := int64(e.rows[lo*e.stride])
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
	p, stride, rows := s.p, e.stride, e.rows
	s.cut(e, t, row, edges, 0, p.shown)
	span, operand, label := -1, -1, 0
	for k := range p.columns {
		c := &p.columns[k]
		lo, hi := int(s.lo[c.span]), int(s.hi[c.span])
		o := &out[c.out]
		all := p.spans[c.span].reach.All
		switch {
		case c.Label > 0:
			if c.span != span || c.Operand != operand || c.Label != label {
				s.gatherLabels(e, c, lo, hi, t)
				span, operand, label = c.span, c.Operand, c.Label
			}
			s.overLabels(c, o, i, n, row, t)
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
			if c.span != span || c.Operand != operand || label != 0 {
				s.gather(e, c, lo, hi)
				span, operand, label = c.span, c.Operand, 0
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
	stride := e.stride
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
				s.strings = append(s.strings, s.texts.get(text(e.rows[a+1])))
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
