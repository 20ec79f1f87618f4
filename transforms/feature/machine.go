package feature

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
	"github.com/millrace-ml/millrace/transforms/feature/internal/window"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

var errDelta = errors.New("corrupt delta of features")

// Deltas begin with one of these; copies are made of blocks, each a letter, a length, and that many
// bytes.
const (
	rowsMark     = 'w' // rows of the windows
	idsMark      = 'n' // rows of the ids
	pendingMark  = 'p' // a batch that waits
	frontierMark = 'f' // a varint of milliseconds: what is before has been drained
	labelsMark   = 'l' // a batch of labels
	forgetMark   = 'g' // labels that no window reaches
	endMark      = 'e' // of a section
)

// A machine is copied section by section: what waits comes first, so that a copy in the making can
// tell which rows a frontier takes to the entities that it already has.
const (
	pendingSection = iota
	idsSection
	rowsSection
	labelsSection      // of a stage that uses labels
	sectionShift  = 48 // in Cursor.Entity
)

// machine is the contents of a shard of a stream's stage: the rows of its windows, the ids of rows
// without an entity, and the rows that wait for the watermark.
type machine struct {
	st   *stage
	rows *window.Shard
	// ids are kept by the first stage of a stream that scores on arrival. Their entities are spans of
	// time, so that a late id is put among few and a span goes as a whole.
	ids  *window.Shard
	span int64 // microseconds

	waiting

	loaded  int       // sections that a copy in the making has whole
	buffers [2][]byte // for deltas
}

// newMachine returns an empty machine of a stage, the i-th.
func newMachine(p Params, st *stage, i int) *machine {
	m := &machine{st: st, rows: window.NewShard(st.plan), waiting: waiting{width: p.Stream.bucket()}}
	if i == 0 && p.Stream.Order != EventTime {
		m.span = max(p.kept()/16, 1_000_000)
		m.ids = window.NewShard(window.NewPlan(window.Config{
			Outputs: []window.Output{{Func: aggregate.Count, Operand: -1, Reach: window.Reach{Duration: 1}}}, Lateness: p.kept(),
		}))
	}
	return m
}

// applied is what became of a batch: its rows with features, without the duplicates, which are rows of
// in; of these the conflicts are no copies of the row that was first.
type applied struct {
	in, out    event.Batch
	duplicates []int32
	conflicts  int
	orphans    window.LabelInput // labels that were let go, and whose rows never came
}

// apply takes the rows of a batch in, in order. In the first stage rows that came before are duplicates;
// in a later one they only had another first entity.
func (m *machine) apply(b event.Batch, first bool) (applied, window.Input, []int32, error) {
	in, err := m.st.input(&b)
	if err != nil {
		return applied{}, in, nil, err
	}
	cols, again := m.rows.Apply(&in)
	out, err := m.st.then.apply(b.With(m.st.with, cols...))
	a := applied{in: b, out: out}
	if first {
		a.duplicates = again
		for _, r := range again {
			if m.rows.Conflict(&in, int(r)) {
				a.conflicts++
			}
		}
	}
	return a, in, again, err
}

// arrive scores a batch at once. The deltas lie in the machine's memory.
func (m *machine) arrive(b event.Batch, first bool) (applied, [][]byte, error) {
	a, in, again, err := m.apply(b, first)
	if err != nil {
		return a, nil, err
	}
	m.buffers[0] = m.rows.AppendDelta(append(m.buffers[0][:0], rowsMark), &in, again, m.rows.Sweep(16+b.N/8))
	deltas := m.buffers[:1]
	if m.ids != nil && in.Entity.Nulls != nil {
		refused, delta := m.meet(&b, in.Entity)
		a.duplicates = append(a.duplicates, refused...)
		slices.Sort(a.duplicates)
		m.buffers[1] = delta
		deltas = m.buffers[:2]
	}
	if len(a.duplicates) > 0 {
		a.out = a.out.Gather(others(b.N, a.duplicates))
	}
	a.orphans, deltas = m.forget(16+b.N/8, deltas)
	return a, deltas, nil
}

// learn takes labels in.
func (m *machine) learn(b event.Batch) (past int, delta []byte, err error) {
	in, err := m.st.labels.input(&b)
	if err != nil {
		return 0, nil, err
	}
	fresh, old := m.rows.Learn(&in)
	if len(fresh) > 0 {
		delta = event.Append([]byte{labelsMark}, b.Gather(fresh))
	}
	return len(old), delta, nil
}

// forget lets some of the labels go that no window reaches, and adds the delta.
func (m *machine) forget(n int, deltas [][]byte) (window.LabelInput, [][]byte) {
	if m.st.labels == nil {
		return window.LabelInput{}, deltas
	}
	gone, orphans := m.rows.ForgetLabels(n)
	if len(gone) > 0 {
		deltas = append(slices.Clip(deltas), window.AppendForgotten([]byte{forgetMark}, gone))
	}
	return orphans, deltas
}

// others are the rows of n that are not in out, which is in order.
func others(n int, out []int32) (rows []int32) {
	for i := range int32(n) {
		if len(out) > 0 && out[0] == i {
			out = out[1:]
		} else {
			rows = append(rows, i)
		}
	}
	return rows
}

// meet takes in the ids of rows without an entity, and tells which rows' were there.
func (m *machine) meet(b *event.Batch, entity *event.Column) (refused []int32, delta []byte) {
	var rows []int32
	for i := range int32(b.N) {
		if entity.Null(int(i)) {
			rows = append(rows, i)
		}
	}
	sub := b.Gather(rows)
	in := window.Input{N: sub.N, Times: sub.Times(), IDs: sub.IDs(), Entity: &event.Column{}}
	for _, t := range in.Times {
		in.Entity.Ints = append(in.Entity.Ints, floor(t, m.span))
	}
	_, again := m.ids.Apply(&in)
	for _, r := range again {
		refused = append(refused, rows[r])
	}
	return refused, m.ids.AppendDelta(append(m.buffers[1][:0], idsMark), &in, again, m.ids.Sweep(16+b.N/8))
}

// pass drains the rows that waited for fire, in order, and takes them in.
func (m *machine) pass(fire int64, first bool) (done []applied, deltas [][]byte, err error) {
	moves := fire > m.frontier
	all, err := m.drain(fire)
	if err != nil || all.N == 0 && !moves {
		return nil, nil, err
	}
	m.buffers[0] = binary.AppendVarint(append(m.buffers[0][:0], frontierMark), fire)
	if all.N == 0 {
		return nil, m.buffers[:1], nil
	}
	rows := order(&all)
	if first {
		var twins []twin
		rows, twins = once(&all, rows, m.st.entity)
		a := applied{in: all}
		for _, t := range twins {
			a.duplicates = append(a.duplicates, t.row)
			if !bytes.Equal(event.Append(nil, all.Gather([]int32{t.row})), event.Append(nil, all.Gather([]int32{t.of}))) {
				a.conflicts++
			}
		}
		done = append(done, a)
	}
	for from := 0; from < len(rows); from += batchRows {
		a, _, _, err := m.apply(all.Gather(rows[from:min(from+batchRows, len(rows))]), first)
		if err != nil {
			return nil, nil, err
		}
		if len(a.duplicates) > 0 { // of rows that were drained before: they came behind the frontier
			a.out = a.out.Gather(others(a.in.N, a.duplicates))
		}
		done = append(done, a)
	}
	m.buffers[1] = m.rows.AppendDelta(append(m.buffers[1][:0], rowsMark), &window.Input{Entity: &event.Column{}}, nil, m.rows.Sweep(16+all.N/8))
	orphans, deltas := m.forget(16+all.N/8, m.buffers[:2])
	done[len(done)-1].orphans = orphans
	return done, deltas, nil
}

func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (m *machine) Replay(delta []byte, create bool) error {
	if len(delta) == 0 {
		return errDelta
	}
	mark, rest := delta[0], delta[1:]
	switch {
	case mark == rowsMark:
		return m.rows.Replay(rest, create || m.loaded > rowsSection)
	case mark == idsMark && m.ids != nil:
		return m.ids.Replay(rest, create || m.loaded > idsSection)
	case mark == pendingMark:
		if !create && m.loaded <= pendingSection {
			return nil // the copy brings it
		}
		return m.hold(rest)
	case mark == frontierMark:
		fire, n := binary.Varint(rest)
		if n <= 0 {
			return errDelta
		}
		b, err := m.drain(fire)
		if err != nil || b.N == 0 {
			return err
		}
		b = b.Gather(order(&b))
		in, err := m.st.input(&b)
		if err != nil {
			return err
		}
		m.rows.Insert(&in, create || m.loaded > rowsSection)
		return nil
	case mark == labelsMark && m.st.labels != nil:
		return m.relearn(rest, create || m.loaded > labelsSection)
	case mark == forgetMark && m.st.labels != nil:
		return m.rows.ReplayForgotten(rest)
	}
	return fmt.Errorf("%w: mark %q", errDelta, mark)
}

// relearn takes in labels of a log.
func (m *machine) relearn(raw []byte, create bool) error {
	b, err := event.Decode(raw)
	if err != nil {
		return err
	}
	if !b.Schema.Equal(m.st.labels.schema) && !b.Schema.Equal(m.st.labels.copied) {
		return fmt.Errorf("%w: labels of the columns %v", errDelta, b.Schema)
	}
	in, err := m.st.labels.input(&b)
	if err != nil {
		return err
	}
	m.rows.Relearn(&in, create)
	return nil
}

// hold takes in a batch that waits.
func (m *machine) hold(raw []byte) error {
	b, err := event.Decode(raw)
	if err != nil {
		return err
	}
	m.add(b, len(raw))
	return nil
}

func (m *machine) Copy(dst []byte, from shardstate.Cursor, budget int) ([]byte, shardstate.Cursor, bool) {
	limit := len(dst) + budget
	section, slot, row := int(from.Entity>>sectionShift), from.Entity&(1<<sectionShift-1), from.Row
	if section == pendingSection {
		at := len(dst)
		dst = binary.AppendVarint(append(dst, frontierMark, 0), m.frontier)
		dst[at+1] = byte(len(dst) - at - 2)
		for _, p := range m.pieces {
			if p.number < row {
				continue
			}
			if dst = block(dst, pendingMark, func(dst []byte) []byte { return event.Append(dst, p.batch) }); len(dst) >= limit {
				return dst, shardstate.Cursor{Row: p.number + 1}, false
			}
		}
	}
	for s := section; s <= rowsSection; s, slot, row = s+1, 0, 0 {
		mark, sh := byte(idsMark), m.ids
		if s == rowsSection {
			mark, sh = rowsMark, m.rows
		}
		if s > pendingSection && sh != nil {
			if len(dst) >= limit && s > section {
				return dst, shardstate.Cursor{Entity: int64(s) << sectionShift}, false
			}
			done := false
			dst = block(dst, mark, func(dst []byte) []byte {
				dst, slot, row, done = sh.Copy(dst, slot, row, limit-len(dst))
				return dst
			})
			if !done {
				return dst, shardstate.Cursor{Entity: int64(s)<<sectionShift | slot, Row: row}, false
			}
		}
		dst = append(dst, endMark, 0)
	}
	if m.st.labels == nil {
		return dst, shardstate.Cursor{Entity: int64(rowsSection+1) << sectionShift}, true
	}
	if section < labelsSection {
		slot, row = 0, 0
		if len(dst) >= limit {
			return dst, shardstate.Cursor{Entity: int64(labelsSection) << sectionShift}, false
		}
	}
	in, slot, row, done := m.rows.CopyLabels(slot, row, limit-len(dst))
	if in.N > 0 {
		dst = block(dst, labelsMark, func(dst []byte) []byte { return event.Append(dst, m.st.labels.batch(&in)) })
	}
	if done {
		dst = append(dst, endMark, 0)
	}
	return dst, shardstate.Cursor{Entity: int64(labelsSection)<<sectionShift | slot, Row: row}, done
}

// block appends one. Four bytes are kept for its length, a padded varint.
func block(dst []byte, mark byte, body func([]byte) []byte) []byte {
	at := len(dst)
	dst = body(append(dst, mark, 0, 0, 0, 0))
	n := len(dst) - at - 5
	for k := range 3 {
		dst[at+1+k] = byte(n>>(7*k)) | 0x80
	}
	dst[at+4] = byte(n >> 21)
	return dst
}

func (m *machine) Load(copied []byte) error {
	for len(copied) > 0 {
		n, k := binary.Uvarint(copied[1:])
		if k <= 0 || n > uint64(len(copied)-1-k) {
			return errDelta
		}
		mark, body := copied[0], copied[1+k:1+k+int(n)]
		copied = copied[1+k+int(n):]
		var err error
		switch {
		case mark == rowsMark:
			err = m.rows.Load(body)
		case mark == idsMark && m.ids != nil:
			err = m.ids.Load(body)
		case mark == pendingMark:
			err = m.hold(body)
		case mark == labelsMark && m.st.labels != nil:
			err = m.relearn(body, true)
		case mark == frontierMark:
			var k int
			if m.frontier, k = binary.Varint(body); k <= 0 {
				err = errDelta
			}
		case mark == endMark:
			m.loaded++
		default:
			err = fmt.Errorf("%w: mark %q", errDelta, mark)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) Size() int64 {
	size := m.rows.Size() + m.bytes
	if m.ids != nil {
		size += m.ids.Size()
	}
	return size
}

func (m *machine) Freeze(frozen bool) {
	m.rows.Freeze(frozen)
	if m.ids != nil {
		m.ids.Freeze(frozen)
	}
}
