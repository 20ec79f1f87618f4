package label

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

var errDelta = errors.New("corrupt delta of joined labels")

// Deltas and the blocks of copies begin with one of these. A block then has its length and the newest time of
// its piece, as varints: rows of the piece may have gone, and it is let go when it would have been.
const (
	eventsMark = 'e' // a batch of events' keys
	labelsMark = 'l' // a batch of labels that wait
	boundMark  = 'b' // a varint of microseconds: what is before has been let go
)

// machine is a shard: events by id, and the labels that came before theirs.
type machine struct {
	p      *plan
	pieces []piece // by number
	next   int64
	// events has the place of an event by the hash of its id, waiting the places of labels.
	events  map[uint64]place
	waiting map[uint64][]place
	bytes   int64
}

// piece is a batch as it came.
type piece struct {
	number int64
	labels bool
	batch  event.Batch
	newest int64
	bytes  int64
	gone   []bool // labels that have met their events; nil: none
}

// place is a piece's number above, a row of it below.
type place uint64

func newMachine(p *plan) *machine {
	return &machine{p: p, events: map[uint64]place{}, waiting: map[uint64][]place{}}
}

const never = -1 << 63

func (m *machine) at(at place) (*piece, int) {
	i, ok := slices.BinarySearchFunc(m.pieces, int64(at>>32), func(p piece, n int64) int { return cmp.Compare(p.number, n) })
	if !ok {
		return nil, 0
	}
	return &m.pieces[i], int(uint32(at))
}

// hash is that of an id, the next one where another id has it already.
func (m *machine) find(ids *event.Column, i int) (h uint64, at place, found bool) {
	for h = ids.HashID(i); ; h++ {
		at, ok := m.events[h]
		if !ok {
			return h, 0, false
		}
		if p, row := m.at(at); p != nil && event.CompareIDs(p.batch.IDs(), row, ids, i) == 0 {
			return h, at, true
		}
	}
}

// add keeps a batch whose rows are all new. It tells the bucket of time that it is let go with, and whether that
// has none so far.
func (m *machine) add(b event.Batch, labels bool, newest int64, bytes int) (bucket int64, first bool) {
	p := piece{number: m.next, labels: labels, batch: b, newest: max(newest, slices.Max(b.Times())), bytes: int64(bytes)}
	m.next++
	m.bytes += p.bytes
	bucket = m.p.bucket(p.newest)
	first = true
	for i := len(m.pieces) - 1; i >= 0 && first; i-- { // there may be a million, and most likely it is one of the last
		first = m.p.bucket(m.pieces[i].newest) != bucket
	}
	for i := range b.N {
		at := place(p.number)<<32 | place(i)
		if labels {
			h := b.IDs().HashID(i)
			m.waiting[h] = append(m.waiting[h], at)
		} else if h, _, found := m.find(b.IDs(), i); !found {
			m.events[h] = at
		}
	}
	m.pieces = append(m.pieces, p)
	return bucket, first
}

// pair is a label with its event: rows of two batches.
type pair struct {
	label, event *event.Batch
	l, e         int
}

// change is what a call did: the labels that have met their events, how many wait from now on, the deltas, and
// the bucket of time that needs a timer; nil: none.
type change struct {
	met     []pair
	waiting int
	deltas  [][]byte
	bucket  *int64
}

func (m *machine) keep(c *change, mark byte, b event.Batch) {
	delta := event.Append([]byte{mark}, b)
	c.deltas = [][]byte{delta}
	if bucket, first := m.add(b, mark == labelsMark, never, len(delta)); first {
		c.bucket = &bucket
	}
}

// arrive takes events in.
func (m *machine) arrive(b event.Batch) (c change) {
	var fresh []int32
	seen := map[uint64][]int{} // of this batch
	for i := range b.N {
		if _, _, found := m.find(b.IDs(), i); found {
			continue
		}
		h := b.IDs().HashID(i)
		if slices.ContainsFunc(seen[h], func(j int) bool { return event.CompareIDs(b.IDs(), i, b.IDs(), j) == 0 }) {
			continue
		}
		seen[h] = append(seen[h], i)
		fresh = append(fresh, int32(i))
	}
	if len(fresh) > 0 {
		b = b.Gather(fresh)
		c.met = m.meet(&b)
		m.keep(&c, eventsMark, b)
	}
	return c
}

// meet takes out the labels that waited for events.
func (m *machine) meet(b *event.Batch) (met []pair) {
	for i := range b.N {
		h := b.IDs().HashID(i)
		var left []place
		for _, at := range m.waiting[h] {
			p, row := m.at(at)
			if p == nil {
				continue
			}
			if event.CompareIDs(p.batch.IDs(), row, b.IDs(), i) != 0 {
				left = append(left, at)
				continue
			}
			if p.gone == nil {
				p.gone = make([]bool, p.batch.N)
			}
			p.gone[row] = true
			met = append(met, pair{&p.batch, b, row, i})
		}
		if len(left) > 0 {
			m.waiting[h] = left
		} else {
			delete(m.waiting, h)
		}
	}
	return met
}

// learn takes labels in, and keeps those that don't meet an event.
func (m *machine) learn(b event.Batch) (c change) {
	var wait []int32
	for i := range b.N {
		if _, at, found := m.find(b.IDs(), i); found {
			p, row := m.at(at)
			c.met = append(c.met, pair{&b, &p.batch, i, row})
		} else {
			wait = append(wait, int32(i))
		}
	}
	if c.waiting = len(wait); len(wait) > 0 {
		m.keep(&c, labelsMark, b.Gather(wait))
	}
	return c
}

// pass lets a bucket and those before it go, now that nothing comes any more that its rows could meet, and tells
// which labels never met their events.
func (m *machine) pass(bucket int64) (orphans []event.Batch, deltas [][]byte) {
	bound := m.p.end(bucket)
	orphans, any := m.drop(bound)
	if any {
		deltas = [][]byte{binary.AppendVarint([]byte{boundMark}, bound)}
	}
	return orphans, deltas
}

// drop lets the pieces go of which all is before a time.
func (m *machine) drop(bound int64) (orphans []event.Batch, any bool) {
	kept := m.pieces[:0]
	for _, p := range m.pieces {
		if p.newest >= bound {
			kept = append(kept, p)
			continue
		}
		any = true
		m.bytes -= p.bytes
		var left []int32
		for i := range p.batch.N {
			at := place(p.number)<<32 | place(i)
			h := p.batch.IDs().HashID(i)
			switch {
			case !p.labels:
				for ; m.events[h] != at; h++ {
					if _, ok := m.events[h]; !ok {
						break
					}
				}
				if m.events[h] == at {
					delete(m.events, h)
				}
			case p.gone == nil || !p.gone[i]:
				left = append(left, int32(i))
				if rest := slices.DeleteFunc(m.waiting[h], func(o place) bool { return o == at }); len(rest) > 0 {
					m.waiting[h] = rest
				} else {
					delete(m.waiting, h)
				}
			}
		}
		if len(left) > 0 {
			orphans = append(orphans, p.batch.Gather(left))
		}
	}
	clear(m.pieces[len(kept):])
	m.pieces = kept
	return orphans, any
}

func (m *machine) Replay(delta []byte, create bool) error {
	if len(delta) == 0 {
		return errDelta
	}
	if delta[0] == boundMark {
		bound, n := binary.Varint(delta[1:])
		if n <= 0 {
			return errDelta
		}
		m.drop(bound)
		return nil
	}
	return m.take(delta[0], delta[1:], create, never)
}

// take keeps a batch of a log. A copy in the making leaves it out, since the copy brings it, but labels that it
// has may meet their events in it.
func (m *machine) take(mark byte, raw []byte, create bool, newest int64) error {
	b, err := event.Decode(raw)
	if err != nil {
		return err
	}
	want := m.p.events
	if mark == labelsMark {
		want = m.p.labels
	}
	if mark != eventsMark && mark != labelsMark || !b.Schema.Equal(want) || b.N == 0 {
		return fmt.Errorf("%w: mark %q, columns %v", errDelta, mark, b.Schema)
	}
	if mark == eventsMark {
		m.meet(&b)
	}
	if create {
		m.add(b, mark == labelsMark, newest, len(raw)+1)
	}
	return nil
}

// Copy appends pieces from a number on; those that come meanwhile have larger ones.
func (m *machine) Copy(dst []byte, from shardstate.Cursor, budget int) ([]byte, shardstate.Cursor, bool) {
	limit := len(dst) + max(budget, 1)
	first, _ := slices.BinarySearchFunc(m.pieces, from.Row, func(p piece, n int64) int { return cmp.Compare(p.number, n) })
	for _, p := range m.pieces[first:] {
		if len(dst) >= limit {
			return dst, shardstate.Cursor{Row: p.number}, false
		}
		mark, b := byte(eventsMark), p.batch
		if p.labels {
			mark = labelsMark
		}
		if p.gone != nil {
			var left []int32
			for i, gone := range p.gone {
				if !gone {
					left = append(left, int32(i))
				}
			}
			if len(left) == 0 {
				continue
			}
			b = b.Gather(left)
		}
		raw := event.Append(binary.AppendVarint(nil, p.newest), b)
		dst = binary.AppendUvarint(append(dst, mark), uint64(len(raw)))
		dst = append(dst, raw...)
	}
	return dst, shardstate.Cursor{Entity: 1}, true
}

func (m *machine) Load(copied []byte) error {
	for len(copied) > 0 {
		n, k := binary.Uvarint(copied[1:])
		if k <= 0 || n > uint64(len(copied)-1-k) {
			return errDelta
		}
		body := copied[1+k : 1+k+int(n)]
		newest, l := binary.Varint(body)
		if l <= 0 {
			return errDelta
		}
		if err := m.take(copied[0], body[l:], true, newest); err != nil {
			return err
		}
		copied = copied[1+k+int(n):]
	}
	return nil
}

func (m *machine) Size() int64 { return m.bytes }

// Freeze has nothing to do: no number is used twice.
func (m *machine) Freeze(bool) {}
