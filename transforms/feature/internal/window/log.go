package window

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/millrace-ml/millrace/transforms/event"
)

// ErrCorrupt reports bytes that are no delta or copy of a shard of this plan.
var ErrCorrupt = errors.New("corrupt rows of windows")

// A block is rows in columns, in any order. Deltas and copies are blocks:
//
//	rows      number n; then, if there are any:
//	          times: unit (0 µs, 1 ms, 2 s), differences; keys of the entities; ids; each operand
//	operand   0, or 1 and a bitmap of the rows that don't count; then a value for each that does:
//	          Exact: zigzag; Number: 0 and 8 bytes each, or 1 and zigzag each; Hash: 8 bytes; Text: text
//	bases     number; then keys, and for each: rows dropped, time, id, name, and words of the totals
//	expired   number; then keys
//	keys, ids 0 integers: differences; 1 texts; +2: each with the number of times it comes
//
// Integers are LEB128 varints, differences and zigzag are zigzag ones, words of 8 bytes are
// little-endian, a text has its length in front. Totals and hashes of texts are not written: reading
// the rows makes them again.
const (
	texts = 1
	runs  = 2
)

// units of times, in microseconds.
var units = [...]int64{1, 1000, 1_000_000}

// AppendDelta appends what Replay needs to take in the rows of in, which Apply has just done, but for
// those it called duplicates; and the keys of the entities that Sweep has expired.
func (s *Shard) AppendDelta(dst []byte, in *Input, duplicates []int32, expired Keys) []byte {
	s.keep = s.keep[:0]
	for i := range int32(in.N) {
		if len(duplicates) > 0 && duplicates[0] == i {
			duplicates = duplicates[1:]
		} else if !in.Entity.Null(int(i)) {
			s.keep = append(s.keep, i)
		}
	}
	dst = s.p.appendRows(dst, in, s.keep)
	dst = append(dst, 0)
	return expired.append(dst)
}

func (p *Plan) appendRows(dst []byte, in *Input, keep []int32) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(keep)))
	if len(keep) == 0 {
		return dst
	}
	dst = appendTimes(dst, in.Times, keep)
	dst = appendIDs(dst, in.Entity, keep)
	dst = appendIDs(dst, in.IDs, keep)
	for k := range in.Operands {
		dst = in.Operands[k].append(dst, p.cfg.Operands[k].Kind, keep)
	}
	return dst
}

func appendTimes(dst []byte, times []int64, keep []int32) []byte {
	u := len(units) - 1
	for _, i := range keep {
		for times[i]%units[u] != 0 {
			u--
		}
	}
	dst = append(dst, byte(u))
	last := int64(0)
	for _, i := range keep {
		dst = binary.AppendVarint(dst, (times[i]-last)/units[u])
		last = times[i]
	}
	return dst
}

// appendIDs appends keys or ids.
func appendIDs(dst []byte, c *event.Column, keep []int32) []byte {
	same := func(i, j int32) bool {
		if c.Ints != nil {
			return c.Ints[i] == c.Ints[j]
		}
		return string(c.Raw(int(i))) == string(c.Raw(int(j)))
	}
	groups := 0
	for k, i := range keep {
		if k == 0 || !same(keep[k-1], i) {
			groups++
		}
	}
	mode, last := byte(0), int64(0)
	if c.Ints == nil {
		mode |= texts
	}
	if 2*groups <= len(keep) {
		mode |= runs
	}
	dst = append(dst, mode)
	for k := 0; k < len(keep); {
		if c.Ints != nil {
			dst = binary.AppendVarint(dst, c.Ints[keep[k]]-last)
			last = c.Ints[keep[k]]
		} else {
			dst = appendText(dst, c.Raw(int(keep[k])))
		}
		n := 1
		if mode&runs != 0 {
			for k+n < len(keep) && same(keep[k], keep[k+n]) {
				n++
			}
			dst = binary.AppendUvarint(dst, uint64(n))
		}
		k += n
	}
	return dst
}

func appendText[T ~string | ~[]byte](dst []byte, v T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(v))), v...)
}

func (v *Values) append(dst []byte, kind Kind, keep []int32) []byte {
	at := len(dst)
	dst = append(dst, 0)
	if v.Miss != nil {
		missing := false
		dst = append(dst, make([]byte, (len(keep)+7)/8)...)
		for k, i := range keep {
			if v.miss(int(i)) {
				dst[at+1+k/8] |= 1 << (k & 7)
				missing = true
			}
		}
		if missing {
			dst[at] = 1
		} else {
			dst = dst[:at+1]
		}
	}
	whole := false
	if kind == Number {
		whole = true
		for _, i := range keep {
			whole = whole && (v.miss(int(i)) || isWhole(v.Floats[i]))
		}
		dst = append(dst, 0)
		if whole {
			dst[len(dst)-1] = 1
		}
	}
	for _, i := range keep {
		switch {
		case v.miss(int(i)) || kind == Counter:
		case kind == Exact:
			dst = binary.AppendVarint(dst, v.Ints[i])
		case kind == Number && whole:
			dst = binary.AppendVarint(dst, int64(v.Floats[i]))
		case kind == Number:
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v.Floats[i]))
		case kind == Hash:
			dst = binary.LittleEndian.AppendUint64(dst, v.hash(int(i)))
		default:
			var b [20]byte
			dst = appendText(dst, v.Col.AppendID(b[:0], int(i)))
		}
	}
	return dst
}

// isWhole: an integer that a varint keeps; -0 is none.
func isWhole(x float64) bool {
	return math.Abs(x) < 1<<48 && x == math.Trunc(x) && (x != 0 || !math.Signbit(x))
}

// Keys names entities.
type Keys []key

func (ks Keys) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ks)))
	if len(ks) == 0 {
		return dst
	}
	var c event.Column
	keep := make([]int32, len(ks))
	for i, k := range ks {
		k.to(&c, i)
		keep[i] = int32(i)
	}
	return appendIDs(dst, &c, keep)
}

// to appends the key to a column of i keys, which becomes one of texts with the first of them.
func (k key) to(c *event.Column, i int) {
	if k.text == nil && (c.Ints != nil || i == 0) {
		c.Ints = append(c.Ints, k.n)
		return
	}
	if c.Ints != nil || i == 0 {
		ints := c.Ints
		*c = event.Column{Ends: []uint32{}}
		for _, n := range ints {
			c.AppendRaw(strconv.AppendInt(nil, n, 10))
		}
	}
	if k.text != nil {
		c.AppendRaw(k.text)
	} else {
		c.AppendRaw(strconv.AppendInt(nil, k.n, 10))
	}
}

// Replay takes the rows of a delta in and computes nothing. With create false rows of entities that
// the shard doesn't hold are left out.
func (s *Shard) Replay(delta []byte, create bool) error { return s.take(delta, create, create) }

// Load adds what one call of Copy appended. Rows that are there already stay.
func (s *Shard) Load(copied []byte) error { return s.take(copied, true, false) }

// take may drop rows where all entities are whole: of one that is still copied, rows to come may be older.
func (s *Shard) take(block []byte, create, drop bool) error {
	r := reader{b: block}
	in := r.rows(s.p)
	bases := r.count()
	var c event.Column
	if bases > 0 {
		c = r.ids(bases)
	}
	for i := range bases {
		s.base(&r, &c, i)
	}
	expired := r.count()
	if expired > 0 {
		c = r.ids(expired)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return r.err
	}
	s.put(&in, create, drop)
	for i := range expired {
		k := keyOf(&c, i)
		if at := s.table.find(k.hash(), k); at >= 0 {
			s.expire(at)
		}
	}
	return nil
}

// Insert takes rows in as Apply does, but for those that are there, and computes nothing. With create
// false rows of entities that the shard doesn't hold are left out.
func (s *Shard) Insert(in *Input, create bool) { s.put(in, create, create) }

func (s *Shard) put(in *Input, create, drop bool) {
	for i := range in.N {
		if i%group == 0 {
			s.seek(in, i, min(i+group, in.N), create)
		}
		if in.Entity.Null(i) || s.sought[i%group].at < 0 {
			continue
		}
		e := s.view(s.sought[i%group].at)
		id := keyOf(in.IDs, i)
		row, newest, found := s.place(&e, in.Times[i], id)
		if found {
			continue
		}
		if s.labels != nil {
			s.meet(keyOf(in.Entity, i), in.Times[i], id)
		}
		if newest && drop && e.full() {
			row -= s.drop(&e, in.Times[i], row)
		}
		s.insert(&e, row, in.Times[i], id, in, i)
		if !newest {
			e.shift(row)
		}
	}
}

// Copy appends the entities from a cursor on, about budget bytes of them, and returns the next one.
// The cursor is an entity's slot, and a number of its rows from the first one ever on.
func (s *Shard) Copy(dst []byte, slot, row int64, budget int) (out []byte, nextSlot, nextRow int64, done bool) {
	in := s.columns()
	var bases []int32
	size, budget := 0, max(budget, 1)
	for first := slot; slot < int64(s.table.slots) && size < budget; slot, row = slot+1, 0 {
		if (slot-first)%group == 0 {
			s.touch(int32(slot), int32(min(slot+group, int64(s.table.slots))))
		}
		if s.table.record(int32(slot)).held == 0 {
			continue
		}
		e := s.view(int32(slot))
		if s.p.totals && row == 0 && e.dropped > 0 {
			bases = append(bases, int32(slot))
			size += 8 * s.p.stride
		}
		r, n := int(max(1, row-e.dropped)), int(e.held)-1
		for ; r <= n && size < budget; r++ {
			size += s.copyRow(in, &e, s.table.key(int32(slot)), r)
		}
		if size += perEntity; r <= n {
			row = e.dropped + int64(r)
			break
		}
	}
	s.keep = s.keep[:0]
	for i := range int32(in.N) {
		s.keep = append(s.keep, i)
	}
	dst = s.p.appendRows(dst, in, s.keep)
	var keys Keys
	for _, at := range bases {
		keys = append(keys, s.table.key(at))
	}
	dst = keys.append(dst)
	for _, at := range bases {
		e := s.view(at)
		dst = s.appendBase(dst, &e)
	}
	if done = slot == int64(s.table.slots); done {
		s.copied = nil
	}
	return append(dst, 0), slot, row, done
}

// columns are for the rows of a copy. They stay from one part of it to the next.
func (s *Shard) columns() *Input {
	empty := func(c *event.Column) {
		if c.Ends != nil {
			*c = event.Column{}
		}
		c.Ints = c.Ints[:0]
	}
	in := s.copied
	if in == nil {
		in = &Input{IDs: &event.Column{}, Entity: &event.Column{}, Operands: make([]Values, len(s.p.cfg.Operands))}
		s.copied = in
	}
	in.N, in.Times = 0, in.Times[:0]
	empty(in.IDs)
	empty(in.Entity)
	for k := range in.Operands {
		v := &in.Operands[k]
		*v = Values{Ints: v.Ints[:0], Floats: v.Floats[:0], Hashes: v.Hashes[:0], Miss: v.Miss[:0]}
	}
	return in
}

// touch reads of the rows of entities, for memory to answer for many at a time; see seek.
func (s *Shard) touch(from, to int32) {
	for at := from; at < to; at++ {
		if r := s.table.record(at); r.held > 0 {
			a := &s.arenas[r.wide]
			words := a.at(r.block)
			s.touched += words[0] + words[int(r.held)*a.stride-1]
		}
	}
}

// copyRow appends a row to in and tells about how many bytes it will take.
func (s *Shard) copyRow(in *Input, e *entity, k key, r int) int {
	i := in.N
	in.N++
	in.Times = append(in.Times, int64(e.rows[r*e.stride]))
	k.to(in.Entity, i)
	id := s.idOf(e, r)
	id.to(in.IDs, i)
	size := s.p.perRow + len(id.text)
	for k, op := range s.p.cfg.Operands {
		v, a := &in.Operands[k], r*e.stride+s.p.at[k]
		counts := true
		switch op.Kind {
		case Counter:
			counts = e.rows[a] != e.rows[a-e.stride]
		case Exact:
			lo, _, n := difference(e.rows[a-e.stride], e.rows[a-e.stride+1], e.rows[a], e.rows[a+1])
			counts = n > 0
			v.Ints = append(v.Ints, int64(lo))
		case Number:
			x := math.Float64frombits(e.rows[a])
			counts = x == x
			v.Floats = append(v.Floats, x)
		case Hash:
			counts = e.rows[a] != 0
			v.Hashes = append(v.Hashes, e.rows[a])
		case Text:
			counts = e.rows[a] != 0
			if v.Col == nil {
				v.Col = &event.Column{}
			}
			txt := s.texts.get(text(e.rows[a+1]))
			v.Col.AppendRaw(txt)
			size += len(txt)
		}
		if i&63 == 0 {
			v.Miss = append(v.Miss, 0)
		}
		if !counts {
			v.Miss[i>>6] |= 1 << (i & 63)
		}
	}
	return size
}

// appendBase appends row 0: what the rows before the first one held add up to.
func (s *Shard) appendBase(dst []byte, e *entity) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.dropped))
	dst = binary.AppendVarint(dst, int64(e.rows[0]))
	id := s.idOf(e, 0)
	dst = binary.AppendVarint(dst, id.n)
	if id.text == nil {
		dst = append(dst, 0)
	} else { // a byte in front tells the empty text from none
		dst = append(binary.AppendUvarint(dst, uint64(len(id.text)+1)), 1)
		dst = append(dst, id.text...)
	}
	for k, op := range s.p.cfg.Operands {
		switch a := s.p.at[k]; op.Kind {
		case Counter:
			dst = binary.AppendUvarint(dst, e.rows[a])
		case Exact:
			dst = binary.LittleEndian.AppendUint64(binary.AppendVarint(dst, int64(e.rows[a])), e.rows[a+1])
		}
	}
	return dst
}

// base reads row 0 of entity i of c, of which there are no rows yet.
func (s *Shard) base(r *reader, c *event.Column, i int) {
	dropped := r.uvarint()
	var row [2]uint64
	row[0], row[1] = uint64(r.varint()), uint64(r.varint())
	name := r.text()
	words := make([]uint64, s.p.stride)
	for k, op := range s.p.cfg.Operands {
		switch a := s.p.at[k]; op.Kind {
		case Counter:
			words[a] = r.uvarint()
		case Exact:
			words[a], words[a+1] = uint64(r.varint()), r.word()
		}
	}
	if r.err != nil {
		return
	}
	who := keyOf(c, i)
	h := who.hash()
	at := s.table.find(h, who)
	if at < 0 {
		at = s.add(h, who)
	}
	e := s.view(at)
	if len(name) > 0 && e.wide == 0 {
		s.move(&e, 0, e.class, 1)
	}
	e.dropped = int64(dropped)
	copy(e.rows, row[:])
	for k, op := range s.p.cfg.Operands {
		if a := s.p.at[k]; op.Kind == Counter || op.Kind == Exact {
			e.rows[a] = words[a]
			if op.Kind == Exact {
				e.rows[a+1] = words[a+1]
			}
		}
	}
	if len(name) > 0 {
		at := e.stride - 1
		s.texted -= s.texts.release(text(e.rows[at]))
		e.rows[at] = uint64(s.texts.put(name[1:]))
		s.texted += len(name) - 1
	}
	s.newest = max(s.newest, int64(row[0]))
}

// perEntity is about what an entity adds to a copy, in bytes: its key, and times and ids that jump.
const perEntity = 8

// Size is about how many bytes a copy of all entities takes.
func (s *Shard) Size() int64 {
	return int64(s.rows*s.p.perRow+s.Entities()*perEntity+s.texted) + s.labels.size()
}

// Freeze keeps all rows and entities where they are, while true; new ones come behind every cursor.
func (s *Shard) Freeze(frozen bool) {
	s.frozen = frozen
	if s.labels != nil {
		s.labels.frozen = frozen
	}
}

// Sweep looks at the next n slots and lets entities go that no window of a row yet to come reaches,
// which may be as late as [Config.Lateness] allows. It returns their keys, for AppendDelta.
func (s *Shard) Sweep(n int) (expired Keys) {
	if s.p.horizon < 0 || s.frozen {
		return nil
	}
	for range min(n, s.table.slots) {
		if s.swept >= s.table.slots {
			s.swept = 0
		}
		at := int32(s.swept)
		if r := s.table.record(at); r.held > 0 {
			a := &s.arenas[r.wide]
			if last := a.at(r.block)[int(r.held-1)*a.stride]; int64(last) < s.newest-s.p.horizon {
				k := s.table.key(at)
				expired = append(expired, key{k.n, bytes.Clone(k.text)})
				s.expire(at)
			}
		}
		s.swept++
	}
	return expired
}

func (s *Shard) expire(at int32) {
	e := s.view(at)
	s.rows -= int(e.held) - 1
	s.forget(&e, int(e.held))
	s.arenas[e.wide].release(e.block, e.class)
	s.table.remove(s.table.key(at).hash(), at)
}

// Conflict tells whether row i of in, a duplicate of one that is held, has other operands.
func (s *Shard) Conflict(in *Input, i int) bool {
	who := keyOf(in.Entity, i)
	at := s.table.find(who.hash(), who)
	if at < 0 {
		return false
	}
	e := s.view(at)
	r, _, found := s.place(&e, in.Times[i], keyOf(in.IDs, i))
	if !found || r == 0 {
		return false
	}
	held := Input{IDs: &event.Column{}, Entity: &event.Column{}, Operands: make([]Values, len(s.p.cfg.Operands))}
	s.copyRow(&held, &e, who, r)
	for k, op := range s.p.cfg.Operands {
		mine, its := &in.Operands[k], &held.Operands[k]
		if mine.miss(i) != its.miss(0) {
			return true
		}
		if mine.miss(i) {
			continue
		}
		differs := false
		switch op.Kind {
		case Exact:
			differs = mine.Ints[i] != its.Ints[0]
		case Number:
			differs = math.Float64bits(mine.Floats[i]) != math.Float64bits(its.Floats[0])
		case Hash, Text:
			differs = mine.hash(i) != its.hash(0)
		}
		if differs {
			return true
		}
	}
	return false
}

// reader takes a block apart. After the first fault it gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: cut off, or of another plan", ErrCorrupt)
	}
	r.b = nil
}

func (r *reader) rows(p *Plan) Input {
	n := r.count()
	in := Input{N: n, IDs: &event.Column{}, Entity: &event.Column{}}
	if n == 0 {
		return in
	}
	unit := r.byte()
	if int(unit) >= len(units) {
		r.fail()
		return Input{}
	}
	t := int64(0)
	in.Times = make([]int64, n)
	for i := range in.Times {
		t += r.varint() * units[unit]
		in.Times[i] = t
	}
	*in.Entity, *in.IDs = r.ids(n), r.ids(n)
	for _, op := range p.cfg.Operands {
		in.Operands = append(in.Operands, r.operand(op.Kind, n))
	}
	if r.err != nil {
		return Input{}
	}
	return in
}

func (r *reader) ids(n int) (c event.Column) {
	mode := r.byte()
	if mode&texts == 0 {
		c.Ints = make([]int64, 0, n)
	} else {
		c.Ends = make([]uint32, 0, n)
	}
	last := int64(0)
	for left := n; left > 0 && r.err == nil; {
		var txt []byte
		if mode&texts == 0 {
			last += r.varint()
		} else {
			txt = r.text()
		}
		times := 1
		if mode&runs != 0 {
			v := r.uvarint()
			if v == 0 || v > uint64(left) {
				r.fail()
				break
			}
			times = int(v)
		}
		for range times {
			if mode&texts == 0 {
				c.Ints = append(c.Ints, last)
			} else {
				c.AppendRaw(txt)
			}
		}
		left -= times
	}
	return c
}

func (r *reader) operand(kind Kind, n int) (v Values) {
	switch r.byte() {
	case 0:
	case 1:
		v.Miss = make([]uint64, (n+63)/64)
		for i, b := range r.take(uint64(n+7) / 8) {
			v.Miss[i/8] |= uint64(b) << (i % 8 * 8)
		}
	default:
		r.fail()
	}
	whole := kind == Number && r.byte() == 1
	switch kind {
	case Exact:
		v.Ints = make([]int64, n)
	case Number:
		v.Floats = make([]float64, n)
	case Hash:
		v.Hashes = make([]uint64, n)
	case Text:
		v.Col = &event.Column{Ends: make([]uint32, 0, n)}
	}
	for i := 0; i < n && r.err == nil; i++ {
		miss := v.miss(i)
		switch {
		case miss && kind == Text:
			v.Col.AppendRaw(nil)
		case miss:
		case kind == Exact:
			v.Ints[i] = r.varint()
		case kind == Number && whole:
			v.Floats[i] = float64(r.varint())
		case kind == Number:
			v.Floats[i] = math.Float64frombits(r.word())
		case kind == Hash:
			v.Hashes[i] = r.word()
		case kind == Text:
			v.Col.AppendRaw(r.text())
		}
	}
	return v
}

// count is a number of things of at least a byte each, of which one is read once and more may share it.
func (r *reader) count() int {
	v := r.uvarint()
	if v > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(v)
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) word() uint64 {
	if b := r.take(8); len(b) == 8 {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text() []byte { return r.take(r.uvarint()) }

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// reaches is how far back, in microseconds, a window of an admissible row may reach from the newest
// row; negative: without end.
func (c *Config) reaches() int64 {
	far := int64(0)
	for _, o := range c.Outputs {
		if o.Reach.All || o.Reach.Last > 0 {
			return -1
		}
		far = max(far, add(add(o.Delay, c.Lateness), max(o.Reach.Duration, o.Reach.Session)))
	}
	return far
}

// keepsTotals tells whether a window reaches back to the beginning by its totals.
func (c *Config) keepsTotals() bool {
	return slices.ContainsFunc(c.Outputs, func(o Output) bool { return o.Reach.All })
}
