package inflight

import (
	"hash/fnv"
	"sync"
	"sync/atomic"

	"github.com/millrace-ml/millrace/transforms/event"
)

// Key is what an event, or a record that is none, is known by on its way: the hash of its id, or of its
// digest where it has none.
type Key uint64

// IDs appends the keys of a batch's rows.
func IDs(dst []Key, b *event.Batch) []Key {
	for i := range b.N {
		dst = append(dst, IDOf(b, i))
	}
	return dst
}

// IDOf is the key of a row. All rows without an id have the same.
func IDOf(b *event.Batch, row int) Key {
	if b.Schema.ID < 0 {
		return 0
	}
	return Key(b.IDs().HashID(row))
}

// LetterOf is the key of a dead letter by its id, or by its digest or record where it has none.
func LetterOf(id, digest string, record []byte) Key {
	if id != "" {
		c := event.Column{Ends: []uint32{uint32(len(id))}, Bytes: []byte(id)}
		return Key(c.HashID(0))
	}
	h := fnv.New64a()
	if digest != "" {
		_, _ = h.Write([]byte(digest))
	} else {
		_, _ = h.Write(record)
	}
	return Key(h.Sum64())
}

// Share is how much of an event's way an end ends.
type Share int

const (
	// Whole: all of it, as a duplicate, a late event, or a record that is no event.
	Whole Share = iota
	// ByModel: what one model would have scored.
	ByModel
	// BySink: what one sink has taken, refused, or left out.
	BySink
)

// End is an end that an event came to.
type End struct {
	Key   Key
	Share Share
}

// Ways says how many models score an event, and how many sinks take each score. Both are at least 1.
type Ways struct{ Models, Sinks int }

func (w Ways) of(s Share) int {
	switch s {
	case ByModel:
		return w.Sinks
	case BySink:
		return 1
	}
	return w.Models * w.Sinks
}

// unit is what is acknowledged as one.
type unit struct {
	open   int // keys that have not come to all their ends
	landed func()
}

// way is what is under way with one key.
type way struct {
	ways  Ways
	left  int // ends, each counted as that of a sink
	units []*unit
}

var (
	acksMu sync.Mutex
	paths  = map[Key]*way{}
	chunks = map[string][]End{} // staged, not published yet
	active atomic.Bool          // something is under way, so that others pay nothing
)

// Active tells whether any event under way is to be acknowledged.
func Active() bool { return active.Load() }

// Expect calls landed once, from the goroutine of the last end, when every event or record with one of the
// keys has come to all its ends. Call it before anything of them goes on; a key may occur several times.
// Copies of an event count as one: no unit that holds one lands before the last of them has ended.
func Expect(keys []Key, ways Ways, landed func()) {
	u := &unit{landed: landed}
	acksMu.Lock()
	active.Store(true)
	for _, k := range keys {
		p := paths[k]
		if p == nil {
			p = &way{ways: ways}
			paths[k] = p
		}
		p.left += ways.of(Whole)
		if n := len(p.units); n == 0 || p.units[n-1] != u {
			p.units = append(p.units, u)
			u.open++
		}
	}
	acksMu.Unlock()
	if len(keys) == 0 {
		landed()
	}
}

// Ended notes ends.
func Ended(ends ...End) {
	if len(ends) == 0 || !Active() {
		return
	}
	var landed []*unit
	acksMu.Lock()
	for _, e := range ends {
		p := paths[e.Key]
		if p == nil {
			continue // of a source that keeps its positions
		}
		if p.left -= p.ways.of(e.Share); p.left > 0 {
			continue
		}
		delete(paths, e.Key)
		for _, u := range p.units {
			if u.open--; u.open == 0 {
				landed = append(landed, u)
			}
		}
	}
	if len(paths) == 0 {
		active.Store(false)
	}
	acksMu.Unlock()
	for _, u := range landed {
		u.landed()
	}
}

// LeftOut notes that a sink takes only some rows of a batch: the others have come to their end there.
func LeftOut(all, taken *event.Batch) {
	if all.N == taken.N || !Active() {
		return
	}
	kept := map[Key]int{}
	for i := range taken.N {
		kept[IDOf(taken, i)]++
	}
	var ends []End
	for i := range all.N {
		k := IDOf(all, i)
		if kept[k]--; kept[k] < 0 {
			ends = append(ends, End{k, BySink})
		}
	}
	Ended(ends...)
}

// AtSink are the ends of a batch's rows at a sink; nil where nobody waits for any.
func AtSink(b *event.Batch) []End {
	if !Active() {
		return nil
	}
	ends := make([]End, b.N)
	for i := range ends {
		ends[i] = End{IDOf(b, i), BySink}
	}
	return ends
}

// Stage notes ends that events come to when a chunk is published.
func Stage(chunk string, ends []End) {
	if len(ends) == 0 {
		return
	}
	acksMu.Lock()
	chunks[chunk] = append(chunks[chunk], ends...)
	acksMu.Unlock()
}

// Published notes that a chunk can be read, and for good.
func Published(chunk string) {
	acksMu.Lock()
	ends := chunks[chunk]
	delete(chunks, chunk)
	acksMu.Unlock()
	Ended(ends...)
}

// Abandon forgets all that is to be acknowledged, when no job runs.
func Abandon() {
	acksMu.Lock()
	paths, chunks = map[Key]*way{}, map[string][]End{}
	active.Store(false)
	acksMu.Unlock()
}
