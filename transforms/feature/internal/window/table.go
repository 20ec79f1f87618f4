package window

import (
	"github.com/millrace-ml/millrace/transforms/event"
)

// key is what an entity or a row is called: an integer, or a text, which is not nil then.
type key struct {
	n    int64
	text []byte
}

// keyOf is the key in row i, whose text is the column's.
func keyOf(c *event.Column, i int) key {
	if c.Ints != nil {
		return key{n: c.Ints[i]}
	}
	raw := c.Raw(i)
	if n, ok := event.CanonicalInt(raw); ok { // as in a batch whose keys are all integers
		return key{n: n}
	}
	if raw == nil {
		raw = []byte{}
	}
	return key{text: raw}
}

// hash is that of an event's column.
func (k key) hash() uint64 {
	if k.text == nil {
		c := event.Column{Ints: []int64{k.n}}
		return c.HashID(0)
	}
	c := event.Column{Ends: []uint32{uint32(len(k.text))}, Bytes: k.text}
	return c.HashID(0)
}

// record is what is known of an entity besides its rows: a cache line, without a pointer.
type record struct {
	name    uint64 // the key: an integer, or the place of a text
	block   block
	dropped int64 // rows that left, in all
	held    int32 // rows in the block, row 0 among them; 0: a free slot
	class   uint8 // of the block
	wide    uint8 // 1: rows have a word more, the last, for the texts of ids
	named   bool  // the key is a text
	edges   [8]int32
}

// table finds entities by their keys and holds their records, in slots that keep their numbers. The
// records lie in chunks, and the hashes in many small tables: nothing ever grows in one go.
type table struct {
	hashes  [256]hashes
	records [][]record
	edges   [][]int32 // width for each record, if they have no room for so many
	width   int
	slots   int
	held    int     // slots that are taken
	free    []int32 // the others
	texts   *textArena
}

// hashes is an open-addressing table, at most three quarters full. An entry has the lower half of a
// hash above, which is all that growing needs, and 1 + a slot below.
type hashes struct {
	entries []uint64
	n       int
}

const (
	recordBits = 12 // of the slot's number within its chunk
	recordMask = 1<<recordBits - 1
)

func (t *table) record(at int32) *record { return &t.records[at>>recordBits][at&recordMask] }

func (t *table) edgesOf(at int32) []int32 {
	if r := t.record(at); t.width <= len(r.edges) {
		return r.edges[:t.width]
	}
	i := int(at&recordMask) * t.width
	return t.edges[at>>recordBits][i : i+t.width : i+t.width]
}

// find is the slot of a key with its hash, -1 if there is none.
func (t *table) find(h uint64, k key) int32 {
	entries := t.hashes[h>>56].entries
	if len(entries) == 0 {
		return -1
	}
	mask := uint32(len(entries) - 1)
	for i := uint32(h) & mask; ; i = (i + 1) & mask {
		e := entries[i]
		if e == 0 {
			return -1
		}
		if uint32(e>>32) == uint32(h) && t.is(int32(uint32(e)-1), k) {
			return int32(uint32(e) - 1)
		}
	}
}

// guess is find by the hash alone, without a look at the record.
func (t *table) guess(h uint64) int32 {
	entries := t.hashes[h>>56].entries
	if len(entries) == 0 {
		return -1
	}
	mask := uint32(len(entries) - 1)
	for i := uint32(h) & mask; entries[i] != 0; i = (i + 1) & mask {
		if e := entries[i]; uint32(e>>32) == uint32(h) {
			return int32(uint32(e) - 1)
		}
	}
	return -1
}

func (t *table) is(at int32, k key) bool {
	r := t.record(at)
	if !r.named || k.text == nil {
		return !r.named && k.text == nil && r.name == uint64(k.n)
	}
	return string(t.texts.get(text(r.name))) == string(k.text)
}

// key is that of a slot. A text lies in the table.
func (t *table) key(at int32) key {
	r := t.record(at)
	if r.named {
		return key{text: t.texts.get(text(r.name))}
	}
	return key{n: int64(r.name)}
}

// add takes a slot for a key that has none: one that is free if it may, else a new one behind all.
func (t *table) add(h uint64, k key, reuse bool) int32 {
	at := int32(t.slots)
	if n := len(t.free); n > 0 && reuse {
		at, t.free = t.free[n-1], t.free[:n-1]
	} else {
		c := int(at >> recordBits)
		if c == len(t.records) {
			t.records = append(t.records, nil)
			if c > 0 { // a first one grows as it must
				t.records[c] = make([]record, 0, 1<<recordBits)
			}
			if t.width > len(record{}.edges) {
				t.edges = append(t.edges, make([]int32, t.width<<recordBits))
			}
		}
		t.records[c] = append(t.records[c], record{})
		t.slots++
	}
	r := t.record(at)
	*r = record{name: uint64(k.n)}
	if k.text != nil {
		r.name, r.named = uint64(t.texts.put(k.text)), true
	}
	t.held++
	t.hashes[h>>56].add(uint32(h), uint32(at)+1)
	return at
}

func (x *hashes) add(h, slot uint32) {
	if 4*(x.n+1) > 3*len(x.entries) {
		old := x.entries
		x.entries = make([]uint64, max(4, 2*len(old)))
		for _, e := range old {
			if e != 0 {
				x.put(e)
			}
		}
	}
	x.put(uint64(h)<<32 | uint64(slot))
	x.n++
}

func (x *hashes) put(e uint64) {
	mask := uint32(len(x.entries) - 1)
	i := uint32(e>>32) & mask
	for x.entries[i] != 0 {
		i = (i + 1) & mask
	}
	x.entries[i] = e
}

// remove frees the slot of a key with this hash. Entries behind the gap that belong at or before it move up, so that a search
// never ends at a hole.
func (t *table) remove(h uint64, at int32) {
	x := &t.hashes[h>>56]
	mask := uint32(len(x.entries) - 1)
	gap := uint32(h) & mask
	for uint32(x.entries[gap]) != uint32(at)+1 {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; x.entries[i] != 0; i = (i + 1) & mask {
		if home := uint32(x.entries[i]>>32) & mask; (i-home)&mask >= (i-gap)&mask {
			x.entries[gap], gap = x.entries[i], i
		}
	}
	x.entries[gap] = 0
	x.n--
	r := t.record(at)
	if r.named {
		t.texts.release(text(r.name))
	}
	clear(t.edgesOf(at))
	*r = record{}
	t.free = append(t.free, at)
	t.held--
}
