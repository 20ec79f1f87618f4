package window

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
)

// LabelInput is a batch of labels. Shard.Learn only reads it.
type LabelInput struct {
	N int
	// Times, IDs and Entity are those of the rows that the labels are of.
	Times       []int64
	IDs, Entity *event.Column
	// Known is when each became known, Own is its own id, by which those that became known at the same time
	// are ordered; nil: they have none.
	Known []int64
	Own   *event.Column
	// Value is the label itself, of kind Config.Label.
	Value *event.Column
	// Operands are made of it: a column for each of Config.Labels.
	Operands []Values
	// Met tells which have met their rows before; nil: none is said to have.
	Met []bool
}

// Bits of a label's flags; from missBit on there is one for each operand that doesn't count.
const (
	metBit  = 1 << 0
	nullBit = 1 << 1 // of the value
	missBit = 2
	// MaxLabels is how many operands may be made of a label.
	MaxLabels = 64 - missBit
)

// Words of a label; behind them stand its operands. Texts are those of row id, own id and value, then of
// each operand of kind Text.
const (
	labelTime = iota
	labelID
	labelKnown
	labelOwn
	labelFlags
	labelValue
	labelOperands

	idText    = 0
	ownText   = 1
	valueText = 2
	moreTexts = 3
)

// labels are those of a shard's rows, by entity. They stand beside the rows, in the same order, and are
// looked up as a window is read: whether a row or its label comes first makes no difference.
type labels struct {
	kind     event.Kind
	operands []Operand
	stride   int
	texts    int // of each label
	index    map[ref]int32
	lists    []labelList
	free     []int32
	frozen   bool
	swept    int
	count    int // held
	texted   int // bytes of their texts
	row      labelRow
}

// ref is an id or a key: an integer, or a text with a byte in front.
type ref struct {
	n    int64
	text string
}

// labelList is the labels of an entity, by (row's time, row's id, known, own id, contents).
type labelList struct {
	who   ref
	words []uint64
	names []string // nil while no text is among them
}

// labelRow is one label.
type labelRow struct {
	words []uint64
	names []string
}

func newLabels(kind event.Kind, operands []Operand) *labels {
	l := &labels{kind: kind, operands: operands, stride: labelOperands + len(operands), texts: moreTexts, index: map[ref]int32{}}
	for _, op := range operands {
		if op.Kind == Text {
			l.texts++
		}
	}
	l.row = labelRow{make([]uint64, l.stride), make([]string, l.texts)}
	return l
}

func (k key) ref() ref {
	if k.text == nil {
		return ref{k.n, ""}
	}
	return ref{0, "\x01" + string(k.text)}
}

func (r ref) key() key {
	if r.text == "" {
		return key{n: r.n}
	}
	return key{text: []byte(r.text[1:])}
}

func refOf(c *event.Column, i int) ref { return keyOf(c, i).ref() }

// against orders a row's id against another: integers stand before all others, as in event.CompareIDs.
func (r ref) against(k key) int {
	switch {
	case r.text == "" && k.text == nil:
		return cmp.Compare(r.n, k.n)
	case r.text == "":
		return -1
	case k.text == nil || r.text[1:] > string(k.text):
		return 1
	case r.text[1:] < string(k.text):
		return -1
	}
	return 0
}

// read makes label i of in the scratch row.
func (l *labels) read(in *LabelInput, i int) *labelRow {
	r := &l.row
	clear(r.words)
	clear(r.names)
	put := func(word, text int, v ref) { r.words[word], r.names[text] = uint64(v.n), v.text }
	r.words[labelTime], r.words[labelKnown] = uint64(in.Times[i]), uint64(in.Known[i])
	put(labelID, idText, refOf(in.IDs, i))
	if in.Own != nil && !in.Own.Null(i) {
		put(labelOwn, ownText, refOf(in.Own, i))
	}
	switch {
	case in.Value.Null(i):
		r.words[labelFlags] |= nullBit
	case in.Value.Floats != nil:
		r.words[labelValue] = math.Float64bits(in.Value.Floats[i])
	case in.Value.Ints != nil:
		r.words[labelValue] = uint64(in.Value.Ints[i])
	default:
		r.names[valueText] = "\x01" + string(in.Value.Raw(i))
	}
	if in.Met != nil && in.Met[i] {
		r.words[labelFlags] |= metBit
	}
	text := moreTexts
	for k, op := range l.operands {
		v, at := &in.Operands[k], labelOperands+k
		if v.miss(i) {
			r.words[labelFlags] |= 1 << (missBit + k)
		}
		switch {
		case v.miss(i) || op.Kind == Counter:
		case op.Kind == Exact:
			r.words[at] = uint64(v.Ints[i])
		case op.Kind == Number:
			r.words[at] = math.Float64bits(v.Floats[i])
		default:
			r.words[at] = v.hash(i)
			if op.Kind == Text {
				r.names[text] = string(v.Col.AppendID(nil, i))
			}
		}
		if op.Kind == Text {
			text++
		}
	}
	return r
}

// name is text k of label i.
func (e *labelList) name(l *labels, i, k int) string {
	if e.names == nil {
		return ""
	}
	return e.names[i*l.texts+k]
}

func (e *labelList) len(l *labels) int { return len(e.words) / l.stride }

func (e *labelList) at(l *labels, i int) []uint64 { return e.words[i*l.stride : (i+1)*l.stride] }

// against orders the row of label i against (t, id).
func (e *labelList) against(l *labels, i int, t int64, id key) int {
	w := e.at(l, i)
	if c := cmp.Compare(int64(w[labelTime]), t); c != 0 {
		return c
	}
	return ref{int64(w[labelID]), e.name(l, i, idText)}.against(id)
}

// search is the first label of (t, id) or behind it.
func (e *labelList) search(l *labels, t int64, id key) int {
	lo, hi := 0, e.len(l)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if e.against(l, m, t, id) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// compare orders label i, of the same row as r, against it.
func (e *labelList) compare(l *labels, i int, r *labelRow) int {
	w := e.at(l, i)
	if c := cmp.Or(
		cmp.Compare(int64(w[labelKnown]), int64(r.words[labelKnown])),
		ref{int64(w[labelOwn]), e.name(l, i, ownText)}.against(ref{int64(r.words[labelOwn]), r.names[ownText]}.key()),
		cmp.Compare(w[labelFlags]&^metBit, r.words[labelFlags]&^metBit),
		slices.Compare(w[labelValue:], r.words[labelValue:]),
	); c != 0 {
		return c
	}
	for k := valueText; k < l.texts; k++ {
		if c := strings.Compare(e.name(l, i, k), r.names[k]); c != 0 {
			return c
		}
	}
	return 0
}

// insert puts r in its place, unless an equal one is there. Of equal ones one that has met its row stays.
func (l *labels) insert(who ref, r *labelRow) (fresh bool) {
	at, ok := l.index[who]
	if !ok {
		at = l.slot(who)
	}
	e := &l.lists[at]
	t, id := int64(r.words[labelTime]), ref{int64(r.words[labelID]), r.names[idText]}.key()
	i := e.search(l, t, id)
	for ; i < e.len(l) && e.against(l, i, t, id) == 0; i++ {
		c := e.compare(l, i, r)
		if c == 0 {
			e.at(l, i)[labelFlags] |= r.words[labelFlags] & metBit
			return false
		}
		if c > 0 {
			break
		}
	}
	e.words = slices.Insert(e.words, i*l.stride, r.words...)
	n := 0
	for _, text := range r.names {
		n += len(text)
	}
	if e.names == nil && n > 0 {
		e.names = make([]string, len(e.words)/l.stride*l.texts-l.texts)
	}
	if e.names != nil {
		e.names = slices.Insert(e.names, i*l.texts, r.names...)
	}
	l.count++
	l.texted += n
	return true
}

// slot is a list for an entity: while frozen a new one, behind every cursor.
func (l *labels) slot(who ref) int32 {
	at := int32(len(l.lists))
	if n := len(l.free); n > 0 && !l.frozen {
		at, l.free = l.free[n-1], l.free[:n-1]
		l.lists[at] = labelList{who: who}
	} else {
		l.lists = append(l.lists, labelList{who: who})
	}
	l.index[who] = at
	return at
}

// meet notes that the row (t, id) of an entity is there.
func (l *labels) meet(who ref, t int64, id key) {
	at, ok := l.index[who]
	if !ok {
		return
	}
	e := &l.lists[at]
	n := e.len(l)
	if int64(e.at(l, n-1)[labelTime]) < t { // a label mostly is of a row that has passed
		return
	}
	for i := e.search(l, t, id); i < n && e.against(l, i, t, id) == 0; i++ {
		e.at(l, i)[labelFlags] |= metBit
	}
}

// of is the list of an entity; nil: it has no label.
func (l *labels) of(who ref) *labelList {
	if at, ok := l.index[who]; ok {
		return &l.lists[at]
	}
	return nil
}

// latest is the label that holds for the row (t, id) as of now, from label i on, and where to look for that
// of a later row; -1: none is known.
func (e *labelList) latest(l *labels, i int, t int64, id key, now int64) (label, next int) {
	n := e.len(l)
	for i < n && e.against(l, i, t, id) < 0 {
		i++
	}
	label = -1
	for ; i < n && e.against(l, i, t, id) == 0; i++ {
		if int64(e.at(l, i)[labelKnown]) <= now {
			label = i
		}
	}
	return label, i
}

// appendTo appends label i to columns of in.
func (e *labelList) appendTo(l *labels, in *LabelInput, i int) {
	w, n := e.at(l, i), in.N
	in.N++
	in.Times, in.Known = append(in.Times, int64(w[labelTime])), append(in.Known, int64(w[labelKnown]))
	e.who.key().to(in.Entity, n)
	ref{int64(w[labelID]), e.name(l, i, idText)}.key().to(in.IDs, n)
	ref{int64(w[labelOwn]), e.name(l, i, ownText)}.key().to(in.Own, n)
	in.Met = append(in.Met, w[labelFlags]&metBit != 0)
	switch l.kind {
	case event.Float:
		in.Value.Floats = append(in.Value.Floats, math.Float64frombits(w[labelValue]))
	case event.Category, event.String:
		text := e.name(l, i, valueText)
		in.Value.AppendRaw([]byte(text[min(1, len(text)):]))
	default:
		in.Value.Ints = append(in.Value.Ints, int64(w[labelValue]))
	}
	if n&63 == 0 {
		in.Value.Nulls = append(in.Value.Nulls, 0)
	}
	if w[labelFlags]&nullBit != 0 {
		in.Value.Nulls[n>>6] |= 1 << (n & 63)
	}
}

func newLabelInput() LabelInput {
	return LabelInput{IDs: &event.Column{}, Entity: &event.Column{}, Own: &event.Column{}, Value: &event.Column{}}
}

// copy gives the labels from a cursor on, about budget bytes of them, and the next cursor.
func (l *labels) copy(slot, row int64, budget int) (in LabelInput, nextSlot, nextRow int64, done bool) {
	in = newLabelInput()
	for ; slot < int64(len(l.lists)); slot, row = slot+1, 0 {
		e := &l.lists[slot]
		for n := int64(e.len(l)); row < n; row++ {
			if in.N*perLabel >= max(budget, 1) {
				return in, slot, row, false
			}
			e.appendTo(l, &in, int(row))
		}
	}
	return in, slot, 0, true
}

// perLabel is about what a label adds to a copy, in bytes.
const perLabel = 32

// Forgotten is how many of an entity's first labels were let go.
type Forgotten struct {
	who ref
	n   int
}

// forget looks at the next n entities and lets the labels of rows before a time go. It returns which, and
// of them those that have not met their rows.
func (l *labels) forget(n int, before func(who ref) int64) (gone []Forgotten, orphans LabelInput) {
	orphans = newLabelInput()
	if l.frozen {
		return nil, orphans
	}
	for range min(n, len(l.lists)) {
		if l.swept >= len(l.lists) {
			l.swept = 0
		}
		e := &l.lists[l.swept]
		if len(e.words) > 0 {
			k, bound := 0, before(e.who)
			for ; k < e.len(l) && int64(e.at(l, k)[labelTime]) < bound; k++ {
				if e.at(l, k)[labelFlags]&metBit == 0 {
					e.appendTo(l, &orphans, k)
				}
			}
			if k > 0 {
				gone = append(gone, Forgotten{e.who, k})
				l.drop(int32(l.swept), k)
			}
		}
		l.swept++
	}
	return gone, orphans
}

// drop takes the first n labels of a list away.
func (l *labels) drop(at int32, n int) {
	e := &l.lists[at]
	if n = min(n, e.len(l)); n <= 0 {
		return
	}
	l.count -= n
	if e.names != nil {
		for _, text := range e.names[:n*l.texts] {
			l.texted -= len(text)
		}
		e.names = slices.Delete(e.names, 0, n*l.texts)
	}
	if e.words = slices.Delete(e.words, 0, n*l.stride); len(e.words) == 0 {
		delete(l.index, e.who)
		*e = labelList{}
		l.free = append(l.free, at)
	}
}

// size is about how many bytes a copy of all labels takes.
func (l *labels) size() int64 {
	if l == nil {
		return 0
	}
	return int64(l.count*perLabel + l.texted)
}

// labelColumn is how a column that uses labels finds its values.
type labelColumn struct {
	kind  Kind
	scale float64
	own   bool // the value is the label's, else the row's
	at    int  // of the label's word
	text  int  // among its texts
	bit   uint64
}

func (c *Config) labelColumn(o Output) labelColumn {
	k := o.Label - 1
	lc := labelColumn{own: true, at: labelOperands + k, text: moreTexts, bit: 1 << (missBit + k), kind: c.Labels[k].Kind, scale: c.Labels[k].Scale}
	for _, op := range c.Labels[:k] {
		if op.Kind == Text {
			lc.text++
		}
	}
	if o.Operand >= 0 && c.Operands[o.Operand].Kind != Counter {
		op := c.Operands[o.Operand]
		lc.own, lc.kind, lc.scale = false, op.Kind, op.Scale
	}
	return lc
}

// Learn takes labels in, whether their rows are there or not. It returns the numbers of those that the shard
// now holds, which are neither copies of others nor of rows that no window reaches any more; the latter are
// past. It needs a plan with Config.Labels.
func (s *Shard) Learn(in *LabelInput) (fresh, past []int32) {
	for i := range in.N {
		switch {
		case in.Entity.Null(i):
		case in.Times[i] < s.reached(refOf(in.Entity, i)):
			past = append(past, int32(i))
		case s.learn(in, i):
			fresh = append(fresh, int32(i))
		}
	}
	return fresh, past
}

// Relearn takes labels in that Learn held or CopyLabels gave. With create false those of entities without a
// label are left out.
func (s *Shard) Relearn(in *LabelInput, create bool) {
	for i := range in.N {
		if create || s.labels.of(refOf(in.Entity, i)) != nil {
			s.learn(in, i)
		}
	}
}

func (s *Shard) learn(in *LabelInput, i int) (fresh bool) {
	r := s.labels.read(in, i)
	if s.has(in, i) {
		r.words[labelFlags] |= metBit
	}
	return s.labels.insert(refOf(in.Entity, i), r)
}

// reached is the time before which no window reaches the rows of an entity.
func (s *Shard) reached(who ref) int64 {
	if s.p.horizon >= 0 && s.newest >= math.MinInt64+s.p.horizon {
		return s.newest - s.p.horizon
	}
	k := who.key()
	if at := s.table.find(k.hash(), k); at >= 0 && s.table.record(at).dropped > 0 {
		return int64(s.view(at).rows[0])
	}
	return math.MinInt64
}

// CopyLabels gives the labels from a cursor on, about budget bytes of them, for Relearn, and the next
// cursor. Operands are not among it.
func (s *Shard) CopyLabels(slot, row int64, budget int) (in LabelInput, nextSlot, nextRow int64, done bool) {
	return s.labels.copy(slot, row, budget)
}

// ForgetLabels looks at the next n entities and lets the labels go whose rows no window reaches any more. It
// returns them, for AppendForgotten, and as orphans those of them whose rows never came.
func (s *Shard) ForgetLabels(n int) (gone []Forgotten, orphans LabelInput) {
	return s.labels.forget(n, s.reached)
}

// Orphans are the labels held whose rows have not come.
func (s *Shard) Orphans() LabelInput {
	in := newLabelInput()
	for k := range s.labels.lists {
		e := &s.labels.lists[k]
		for i := range e.len(s.labels) {
			if e.at(s.labels, i)[labelFlags]&metBit == 0 {
				e.appendTo(s.labels, &in, i)
			}
		}
	}
	return in
}

// AppendForgotten appends what ReplayForgotten needs: a number, then of each entity an integer behind 0, or a
// text behind 1, and how many of its first labels went.
func AppendForgotten(dst []byte, gone []Forgotten) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(gone)))
	for _, f := range gone {
		if f.who.text == "" {
			dst = binary.AppendVarint(append(dst, 0), f.who.n)
		} else {
			dst = appendText(append(dst, 1), f.who.text[1:])
		}
		dst = binary.AppendUvarint(dst, uint64(f.n))
	}
	return dst
}

// ReplayForgotten lets the labels go that ForgetLabels did.
func (s *Shard) ReplayForgotten(b []byte) error {
	r := reader{b: b}
	for n := r.count(); n > 0; n-- {
		var who ref
		if r.byte() == 0 {
			who.n = r.varint()
		} else {
			who.text = "\x01" + string(r.text())
		}
		k := r.uvarint()
		if r.err != nil {
			return r.err
		}
		if at, ok := s.labels.index[who]; ok {
			s.labels.drop(at, int(min(k, math.MaxInt32)))
		}
	}
	return r.err
}

// has tells whether the row of label i is there, or was.
func (s *Shard) has(in *LabelInput, i int) bool {
	k := keyOf(in.Entity, i)
	at := s.table.find(k.hash(), k)
	if at < 0 {
		return false
	}
	e, id := s.view(at), keyOf(in.IDs, i)
	if e.dropped > 0 && s.compare(&e, 0, in.Times[i], id) >= 0 { // whether it was there nobody knows any more
		return true
	}
	_, _, found := s.place(&e, in.Times[i], id)
	return found
}

// meet notes that a row has come.
func (s *Shard) meet(who key, t int64, id key) {
	s.labels.meet(who.ref(), t, id)
	s.labeled = s.labels.of(who.ref())
}

// gatherLabels copies what counts of the rows behind lo up to hi, as of now, into the shard's scratch.
func (s *Shard) gatherLabels(e *entity, c *column, lo, hi int, now int64) {
	s.times, s.values, s.hashes, s.strings = s.times[:0], s.values[:0], s.hashes[:0], s.strings[:0]
	s.sum, s.last = [2]uint64{}, 0
	if s.labeled == nil || hi <= lo {
		return
	}
	l, stride := s.labels, e.stride
	next := -1
	for r := lo + 1; r <= hi; r++ {
		t, id := int64(e.rows[r*stride]), s.idOf(e, r)
		if next < 0 {
			next = s.labeled.search(l, t, id)
		}
		var at int
		if at, next = s.labeled.latest(l, next, t, id, now); at < 0 {
			continue
		}
		w := s.labeled.at(l, at)
		if w[labelFlags]&c.label.bit != 0 {
			continue
		}
		word := w[c.label.at]
		if c.Operand >= 0 {
			a := r*stride + c.at
			v, counts := rowValue(c.kind, e.rows[a-stride:], stride)
			if !counts {
				continue
			}
			if !c.label.own {
				word = v
			}
		}
		switch c.label.kind {
		case Exact:
			s.sum[0], s.sum[1] = accumulate(s.sum[0], s.sum[1], int64(word))
			s.values = append(s.values, float64(int64(word))/c.label.scale)
		case Number:
			s.values = append(s.values, math.Float64frombits(word))
		case Hash, Text:
			s.hashes = append(s.hashes, word)
			if c.label.kind == Text {
				if c.label.own {
					s.strings = append(s.strings, []byte(s.labeled.name(l, at, c.label.text)))
				} else {
					s.strings = append(s.strings, s.texts.get(text(e.rows[r*stride+c.at+1])))
				}
			}
		}
		s.times, s.last = append(s.times, t), r
	}
}

// rowValue is an operand's value of a row, and whether it counts; words are the operand's of the row before,
// and stride words behind them the row's.
func rowValue(kind Kind, words []uint64, stride int) (word uint64, counts bool) {
	switch kind {
	case Counter:
		return 0, words[0] != words[stride]
	case Exact:
		lo, _, n := difference(words[0], words[1], words[stride], words[stride+1])
		return lo, n > 0
	case Number:
		v := math.Float64frombits(words[stride])
		return words[stride], v == v
	}
	return words[stride], words[stride] != 0
}

// overLabels writes the feature of what gatherLabels found.
func (s *Shard) overLabels(c *column, o *event.Column, i, n, row int, now int64) {
	switch {
	case c.Func == aggregate.Count:
		o.Floats[i] = float64(len(s.times))
	case c.Func == aggregate.TimeSinceLast:
		k := len(s.times) - 1
		if k >= 0 && s.last == row { // the row itself
			k--
		}
		if k < 0 {
			c.empty(o, i, n)
			return
		}
		o.Floats[i] = float64(now-s.times[k]) / 1e6
	case c.label.kind == Exact && (c.Func == aggregate.Sum || c.Func == aggregate.Mean) && len(s.times) > 0:
		lo, top, count := difference(0, 0, s.sum[0], s.sum[1])
		div := c.label.scale
		if c.Func == aggregate.Mean {
			div *= float64(count)
		}
		o.Floats[i] = toFloat(lo, top) / div
	default:
		s.overRows(c, o, i, n)
	}
}
