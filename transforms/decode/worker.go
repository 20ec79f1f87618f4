package decode

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

const (
	maxOriginal = 64 << 10 // bytes of a record that a letter keeps
	maxShown    = 64       // bytes of a value that a message shows
)

// worker decodes one record at a time into the row behind the good ones.
type worker struct {
	d    *Decoder
	cols []builder
	n    int // good rows, and the row being written

	gen  uint32   // the record; marks what has been seen of it
	have []uint32 // by field: gen if this record's value is good
	got  int      // how many are

	nodes   []nodeState
	times   []format.Times
	scratch []byte
	cell    []byte
	line    []byte // a record of a log with the newline that lines have
	change  change // the record, of a log of changes
	fault   fault
	lenient bool // unknown keys are fine: only id and time of a bad record are looked for
}

type fault struct {
	class   deadletter.Class
	message string
}

// nodeState is what a worker remembers of an object: which entry comes after which, and which have been
// seen in this record.
type nodeState struct {
	next []int32
	seen []uint32
}

// builder is a column in the making. Its slices are as long as the batch may become; the rows up to
// worker.n count. Elements of lists grow, and rows counts them.
type builder struct {
	ints   []int64
	floats []float64
	ends   []uint32
	bytes  []byte
	nulls  []uint64 // nil until there is one
	text   bool     // an id column that holds bytes
	elems  *builder
	rows   int
}

func newWorker(d *Decoder, nodes int) *worker {
	w := &worker{
		d: d, cols: make([]builder, len(d.schema.Fields)), have: make([]uint32, len(d.fields)),
		nodes: make([]nodeState, nodes), times: make([]format.Times, len(d.fields)),
	}
	for i := range d.fields {
		w.times[i].Location = d.fields[i].location
		if e := d.fields[i].elem; e != nil {
			w.times[i].Location = e.location
		}
	}
	var visit func(n *node)
	visit = func(n *node) {
		s := nodeState{next: make([]int32, len(n.entries)+1), seen: make([]uint32, len(n.entries))}
		for i := range n.entries {
			s.next[i] = int32(i)
		}
		w.nodes[n.at] = s
		for i := range n.entries {
			if c := n.entries[i].child; c != nil {
				visit(c)
			}
		}
	}
	visit(d.root)
	visit(d.vital)
	if d.changes != nil {
		visit(d.changes.root)
		visit(d.changes.vital)
	}
	return w
}

// begin starts a batch of up to rows rows. Its memory is new: a batch belongs to its receiver.
func (w *worker) begin(rows int) {
	w.n = 0
	for i, f := range w.d.schema.Fields {
		b := &w.cols[i]
		hint := len(b.bytes)
		*b = builder{}
		switch f.Kind {
		case event.Float:
			b.floats = make([]float64, rows)
		case event.Category, event.String:
			b.ends, b.bytes = make([]uint32, rows), make([]byte, 0, hint)
		case event.List:
			b.ends, b.elems = make([]uint32, rows), &builder{}
		default:
			b.ints = make([]int64, rows)
		}
	}
}

// finish returns the good rows.
func (w *worker) finish() event.Batch {
	out := event.Batch{Schema: w.d.schema, Cols: make([]event.Column, len(w.cols)), N: w.n}
	for i, f := range w.d.schema.Fields {
		out.Cols[i] = w.cols[i].column(f.Kind, f.Elem, w.n)
	}
	return out
}

func (b *builder) column(k, elem event.Kind, n int) event.Column {
	var c event.Column
	for _, word := range b.nulls { // a null may have gone with its row
		if word != 0 {
			c.Nulls = b.nulls[:(n+63)/64]
			break
		}
	}
	switch {
	case k == event.Float:
		c.Floats = b.floats[:n]
	case k == event.List:
		e := b.elems.column(elem, 0, b.elems.rows)
		c.Ends, c.Elems = b.ends[:n], &e
	case k == event.ID && b.text && b.integers(n):
		c.Ints = b.ints[:n] // the ids that were no integers came with bad rows
		for row := range n {
			raw := (&event.Column{Ends: b.ends, Bytes: b.bytes}).Raw(row)
			c.Ints[row], _ = event.CanonicalInt(raw)
		}
	case k == event.Category || k == event.String || b.text:
		c.Ends, c.Bytes = b.ends[:n], b.bytes
	default:
		c.Ints = b.ints[:n]
	}
	return c
}

// integers reports whether all ids of a column of bytes could be integers.
func (b *builder) integers(n int) bool {
	c := event.Column{Ends: b.ends, Bytes: b.bytes, Nulls: b.nulls}
	for row := range n {
		if _, ok := event.CanonicalInt(c.Raw(row)); !ok && !c.Null(row) {
			return false
		}
	}
	return true
}

// record begins a record.
func (w *worker) record() {
	w.gen++
	w.got = 0
	if w.gen == 0 { // marks of 2^32 records ago
		clear(w.have)
		for i := range w.nodes {
			clear(w.nodes[i].seen)
		}
		w.gen = 1
	}
}

// complete closes a good record: what is missing is null, if it may be.
func (w *worker) complete() bool {
	if w.got < len(w.d.fields) {
		for i := range w.d.fields {
			if w.have[i] == w.gen {
				continue
			}
			f := &w.d.fields[i]
			if !f.Optional {
				w.fail(deadletter.Schema, "field %q is missing; it is required", f.Name)
				return false
			}
			w.setNull(&w.cols[i], w.n)
		}
	}
	if len(w.d.idParts) > 0 {
		w.compound()
	}
	w.n++
	return true
}

// compound joins the parts of the id.
func (w *worker) compound() {
	id := w.cell[:0]
	for k, at := range w.d.idParts {
		if k > 0 {
			id = append(id, '|')
		}
		f, c := &w.d.fields[at], &w.cols[at]
		switch {
		case c.ints == nil || c.text:
			for _, b := range c.raw(w.n) {
				if b == '|' || b == '\\' {
					id = append(id, '\\')
				}
				id = append(id, b)
			}
		case f.Kind == event.Timestamp:
			id = format.AppendTime(id, c.ints[w.n])
		case f.Kind == event.Decimal:
			id = format.AppendDecimal(id, c.ints[w.n], f.Scale)
		default:
			id = strconv.AppendInt(id, c.ints[w.n], 10)
		}
	}
	w.cell = id
	w.cols[len(w.cols)-1].putID(w.n, id)
}

// undo takes the row back that failed.
func (w *worker) undo() {
	for i := range w.cols {
		w.cols[i].undo(w.n)
	}
}

func (b *builder) undo(row int) {
	if b.ends == nil {
		if b.nulls != nil {
			b.nulls[row>>6] &^= 1 << (row & 63)
		}
		return
	}
	end := uint32(0)
	if row > 0 {
		end = b.ends[row-1]
	}
	if b.nulls != nil {
		b.nulls[row>>6] &^= 1 << (row & 63)
	}
	if e := b.elems; e != nil {
		e.rows = int(end)
		if e.ends != nil {
			last := uint32(0)
			if end > 0 {
				last = e.ends[end-1]
			}
			e.bytes = e.bytes[:last]
		}
		return
	}
	b.bytes = b.bytes[:end]
}

func (b *builder) raw(row int) []byte {
	from := uint32(0)
	if row > 0 {
		from = b.ends[row-1]
	}
	return b.bytes[from:b.ends[row]]
}

func (w *worker) setNull(b *builder, row int) {
	if b.nulls == nil {
		b.nulls = make([]uint64, (max(len(b.ints), len(b.floats), len(b.ends))+63)/64)
	}
	b.nulls[row>>6] |= 1 << (row & 63)
	switch {
	case b.elems != nil:
		b.ends[row] = uint32(b.elems.rows)
	case b.floats != nil:
		b.floats[row] = 0
	case b.ints != nil && !b.text:
		b.ints[row] = 0
	default:
		b.ends[row] = uint32(len(b.bytes))
	}
}

func (b *builder) putBytes(row int, text []byte) {
	b.bytes = append(b.bytes, text...)
	b.ends[row] = uint32(len(b.bytes))
}

func (b *builder) putID(row int, text []byte) {
	v, ok := event.CanonicalInt(text)
	switch {
	case !b.text && ok:
		b.ints[row] = v
		return
	case !b.text:
		b.toText(row)
	}
	b.putBytes(row, text)
}

func (b *builder) putIntID(row int, v int64) {
	if !b.text {
		b.ints[row] = v
		return
	}
	b.bytes = strconv.AppendInt(b.bytes, v, 10)
	b.ends[row] = uint32(len(b.bytes))
}

// toText turns the integers of the rows before into bytes: an id that is none has come.
func (b *builder) toText(row int) {
	b.text = true
	b.ends = make([]uint32, len(b.ints), cap(b.ints))
	b.bytes = b.bytes[:0]
	for k := range row {
		if b.nulls == nil || b.nulls[k>>6]&(1<<(k&63)) == 0 {
			b.bytes = strconv.AppendInt(b.bytes, b.ints[k], 10)
		}
		b.ends[k] = uint32(len(b.bytes))
	}
}

// room makes room for one more element of kind k.
func (b *builder) room(k event.Kind) {
	grow := b.rows + 1
	switch k {
	case event.Float:
		b.floats = extend(b.floats, grow)
	case event.Category, event.String:
		b.ends = extend(b.ends, grow)
	default:
		b.ints = extend(b.ints, grow)
		if b.text {
			b.ends = extend(b.ends, grow)
		}
	}
}

func extend[T any](s []T, n int) []T {
	for len(s) < n {
		var zero T
		s = append(s, zero)
		s = s[:cap(s)]
	}
	return s
}

func (w *worker) fail(class deadletter.Class, msg string, args ...any) {
	w.fault = fault{class, fmt.Sprintf(msg, args...)}
}

// wrong reports a value of a field.
func (w *worker) wrong(class deadletter.Class, f *field, text []byte, want string) bool {
	w.fail(class, "field %q is %s; want %s", f.Name, shown(text), want)
	return false
}

// shown quotes a value, shortened, with what can't be printed escaped.
func shown(text []byte) string {
	if len(text) > maxShown {
		return fmt.Sprintf("%q and %d bytes more", text[:maxShown], len(text)-maxShown)
	}
	return strconv.Quote(string(text))
}

// quick reads and stores the numbers that nearly all are: some digits, perhaps a point and decimal places,
// nothing to check but bounds. It returns the index behind, or -1 for whatever needs more care.
func (w *worker) quick(f *field, c *builder, row int, b []byte, i int) int {
	first := i
	m := int64(0)
	for {
		d := b[i] - '0'
		if d > 9 {
			break
		}
		m = m*10 + int64(d)
		i++
	}
	n := i - first
	if n == 0 || n > 15 || n > 1 && b[first] == '0' {
		return -1
	}
	next := b[i]
	switch f.quick {
	case event.ID, event.Int, event.Bool:
		if next == '.' || next|0x20 == 'e' || m < f.lo || m > f.hi || c.text {
			return -1
		}
		c.ints[row] = m
		return i
	case event.Decimal:
		scale := int(f.Scale)
		if next == '.' {
			i++
			for {
				d := b[i] - '0'
				if d > 9 || scale == 0 {
					break
				}
				m = m*10 + int64(d)
				scale--
				i++
			}
			if next = b[i]; next-'0' <= 9 || b[i-1] == '.' {
				return -1
			}
		}
		if n+int(f.Scale) > 18 || next|0x20 == 'e' {
			return -1
		}
		for ; scale > 0; scale-- {
			m *= 10
		}
		if m < f.lo || m > f.hi {
			return -1
		}
		c.ints[row] = m
		return i
	}
	return -1
}

// number stores a number. text is its text.
func (w *worker) number(f *field, c *builder, row int, n format.Number, text []byte) bool {
	switch f.Kind {
	case event.ID:
		if !n.Int {
			return w.wrong(deadletter.Schema, f, text, f.wants())
		}
		if v, fault := n.Int64(); fault == format.OK {
			c.putIntID(row, v)
		} else {
			c.putID(row, text)
		}
		if f.enum != nil || f.pattern != nil {
			return w.checkText(f, text)
		}
		return true
	case event.Int:
		v, fault := n.Int64()
		if fault == format.Fraction {
			return w.wrong(deadletter.Schema, f, text, f.wants())
		}
		if fault != format.OK || v < f.lo || v > f.hi {
			return w.outside(f, text)
		}
		if f.enum != nil && !w.checkText(f, strconv.AppendInt(nil, v, 10)) {
			return false
		}
		c.ints[row] = v
		return true
	case event.Decimal:
		v, fault := n.Decimal(f.Scale, text)
		if fault == format.Inexact {
			return w.wrong(deadletter.Range, f, text, f.wants())
		}
		if fault != format.OK || v < f.lo || v > f.hi {
			return w.outside(f, text)
		}
		c.ints[row] = v
		return true
	case event.Float:
		v, fault := n.Float(text)
		if fault != format.OK || v < f.flo || v > f.fhi {
			return w.outside(f, text)
		}
		c.floats[row] = v
		return true
	case event.Bool:
		if !n.Int || n.Neg || n.Mant > 1 || n.Long {
			return w.wrong(deadletter.Schema, f, text, f.wants())
		}
		c.ints[row] = int64(n.Mant)
		return true
	case event.Timestamp:
		if !f.numeric || f.whole && !n.Int {
			return w.wrong(deadletter.Schema, f, text, f.wants())
		}
		v, fault := f.micros(n, text)
		if fault == format.Overflow || v < format.MinTime || v > format.MaxTime {
			return w.wrong(deadletter.Range, f, text, "a time in the years 0 to 9999")
		}
		c.ints[row] = v
		return true
	}
	return w.wrong(deadletter.Schema, f, text, f.wants())
}

// micros is a time that is a number, in microseconds, floored.
func (f *field) micros(n format.Number, text []byte) (int64, format.Fault) {
	switch f.TimeFormat {
	case "unix_ns":
		n.Exp -= 3
	case "unix_days":
		if n.Long || n.Mant > 1e7 { // the year 9999 is day 2932896
			return 0, format.Overflow
		}
		n.Mant *= 86400
	}
	v, fault := n.Decimal(f.unit, text)
	if fault == format.Inexact && n.Neg {
		v--
	}
	return v, fault
}

// outside reports a number beyond the bounds of the field or of its kind.
func (w *worker) outside(f *field, text []byte) bool {
	want := f.wants()
	switch {
	case f.Min != nil && f.Max != nil:
		want += fmt.Sprintf(" from %v to %v", *f.Min, *f.Max)
	case f.Min != nil:
		want += fmt.Sprintf(" of at least %v", *f.Min)
	case f.Max != nil:
		want += fmt.Sprintf(" of at most %v", *f.Max)
	case f.Kind == event.Int:
		want += " within 2^53 of zero"
	case f.Kind == event.Float:
		want += " that a float64 holds"
	default:
		want += " that 64 bits hold"
	}
	return w.wrong(deadletter.Range, f, text, want)
}

// str stores a string, which is valid UTF-8.
func (w *worker) str(f *field, c *builder, row int, text []byte) bool {
	if f.strings != wireJSON {
		if done, good := w.wired(f, c, row, text); done {
			return good
		}
	}
	switch f.Kind {
	case event.ID:
		if len(text) == 0 {
			return w.wrong(deadletter.Range, f, text, "an id that isn't empty")
		}
		if f.enum != nil || f.pattern != nil {
			if !w.checkText(f, text) {
				return false
			}
		}
		c.putID(row, text)
		return true
	case event.Category, event.String:
		if f.enum != nil || f.pattern != nil {
			if !w.checkText(f, text) {
				return false
			}
		}
		c.putBytes(row, text)
		return true
	case event.Timestamp:
		var v int64
		var fault format.Fault
		switch {
		case f.rfc3339:
			v, fault = w.times[f.at].Parse(text)
		case f.numeric:
			fault = format.Syntax
		default:
			t, err := time.ParseInLocation(f.TimeFormat, string(text), f.location)
			if err != nil {
				fault = format.Syntax
			} else if v = t.UnixMicro(); t.Year() < 0 || t.Year() > 9999 || v < format.MinTime || v > format.MaxTime {
				fault = format.Overflow
			}
		}
		switch fault {
		case format.Syntax:
			return w.wrong(deadletter.Schema, f, text, f.wants())
		case format.Overflow:
			return w.wrong(deadletter.Range, f, text, "a date and time of day that exist")
		}
		c.ints[row] = v
		return true
	}
	return w.wrong(deadletter.Schema, f, text, f.wants())
}

func (w *worker) checkText(f *field, text []byte) bool {
	if f.enum != nil && !f.enum[string(text)] {
		return w.wrong(deadletter.Range, f, text, "one of "+listed(f.Enum))
	}
	if f.pattern != nil && !f.pattern.Match(text) {
		return w.wrong(deadletter.Range, f, text, "a match of "+strconv.Quote(f.Pattern))
	}
	return true
}

func listed(names []string) string {
	const most = 8
	var b bytes.Buffer
	for i, name := range names {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(names)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(name))
	}
	return b.String()
}

// plain reads a value from bare text, as CSV has it: b[from:to], where b[to] is no part of a number.
func (w *worker) plain(f *field, c *builder, row int, b []byte, from, to int) bool {
	text := b[from:to]
	switch f.Kind {
	case event.Int, event.Decimal, event.Float:
		n, end := format.ScanNumber(b, from)
		if end != to {
			return w.noNumber(f, text)
		}
		return w.number(f, c, row, n, text)
	case event.Timestamp:
		if f.numeric {
			n, end := format.ScanNumber(b, from)
			if end != to {
				return w.noNumber(f, text)
			}
			return w.number(f, c, row, n, text)
		}
	case event.Bool:
		switch string(text) {
		case "1", "true", "True", "TRUE":
			c.ints[row] = 1
		case "0", "false", "False", "FALSE":
			c.ints[row] = 0
		default:
			return w.wrong(deadletter.Schema, f, text, f.wants())
		}
		return true
	}
	if !utf8.Valid(text) {
		return w.wrong(deadletter.Decode, f, text, "UTF-8")
	}
	return w.str(f, c, row, text)
}

func (w *worker) noNumber(f *field, text []byte) bool {
	if v, err := strconv.ParseFloat(string(text), 64); err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
		return w.wrong(deadletter.Range, f, text, f.wants())
	}
	return w.wrong(deadletter.Schema, f, text, f.wants())
}

// letter makes a dead letter of a record that failed. ID and time are those in the row, if they are
// good.
func (w *worker) letter(record []byte, at deadletter.Place) deadletter.Letter {
	l := w.d.letter(w.fault, at)
	sum := sha256.Sum256(record)
	l.Digest = hex.EncodeToString(sum[:])
	l.Original = bytes.Clone(record[:min(len(record), maxOriginal)])
	if i := w.d.schema.ID; i >= 0 && i < len(w.have) && w.have[i] == w.gen {
		c := &w.cols[i]
		if c.text {
			l.ID = string(c.raw(w.n))
		} else {
			l.ID = strconv.FormatInt(c.ints[w.n], 10)
		}
	}
	if i := w.d.schema.Time; i >= 0 && w.have[i] == w.gen {
		l.EventTime = string(format.AppendTime(nil, w.cols[i].ints[w.n]))
	}
	return l
}

func (d *Decoder) letter(f fault, at deadletter.Place) deadletter.Letter {
	return deadletter.Letter{
		Stage: "decode", Class: f.class, Message: f.message, Place: at,
		UseCase: d.p.UseCase, Fingerprint: d.p.Fingerprint, Attempts: 1,
	}
}
