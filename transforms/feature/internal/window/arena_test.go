package window

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
)

// check counts again what a shard holds: its rows and texts, each block and place of a text once, and
// nothing in the arenas besides. It tells whether rows were dropped.
func check(t *rapid.T, s *Shard) (dropped bool) {
	rows, texted, entities := 0, 0, 0
	blocks, places := [2]map[block]uint8{{}, {}}, map[text]bool{}
	keep := func(at text) int {
		if at != 0 && places[at] {
			t.Fatalf("two share the text at %x", at)
		}
		if at != 0 {
			places[at] = true
		}
		return len(s.texts.get(at))
	}
	for at := range int32(s.table.slots) {
		if s.table.record(at).held == 0 {
			continue
		}
		e := s.view(at)
		dropped = dropped || e.dropped > 0
		entities++
		rows += int(e.held) - 1
		blocks[e.wide][e.block] = e.class
		if e.named {
			keep(text(e.name))
		}
		for r := range int(e.held) {
			for _, a := range s.p.texts {
				texted += keep(text(e.rows[r*e.stride+a]))
			}
			if e.wide != 0 {
				texted += keep(text(e.rows[(r+1)*e.stride-1]))
			}
		}
		if k := s.table.key(at); s.table.find(k.hash(), k) != at {
			t.Fatalf("key %v is not found", k)
		}
	}
	if rows != s.rows || texted != s.texted || entities != s.Entities() {
		t.Fatalf("%d rows, counted as %d; %d bytes of text, counted as %d; %d entities, counted as %d", rows, s.rows, texted, s.texted, entities, s.Entities())
	}
	for i := range s.arenas {
		checkArena(t, &s.arenas[i], blocks[i])
	}
	free := 0
	for class, at := range s.texts.free {
		for ; at != 0; at = text(leUint64(s.texts.bytes(at))) {
			if places[at] {
				t.Fatalf("the text at %x of class %d is in use and free", at, class)
			}
			places[at] = true
			free++
		}
	}
	return dropped
}

func leUint64(b []byte) (v uint64) {
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

// checkArena holds that blocks in use and free ones are all of the arena, once, and that no two free
// halves were left apart.
func checkArena(t *rapid.T, a *arena, used map[block]uint8) {
	all := map[block]uint8{}
	for b, class := range used {
		all[b] = class
	}
	for class := range a.free {
		for l := a.free[class]; l != 0; l = link(a.at(block(l - 1))[0]) {
			b := block(l - 1)
			if _, twice := all[b]; twice {
				t.Fatalf("block %x is in use or free twice", b)
			}
			if twin := b ^ 1<<class; uint8(class) < a.chunks[b>>32].class && a.chunks[b>>32].free[uint32(twin)/2] == uint8(class)+1 {
				t.Fatalf("blocks %x and %x of class %d are both free", b, twin, class)
			}
			all[b] = uint8(class)
		}
	}
	for i, ch := range a.chunks {
		end := len(a.words[i]) / a.stride
		for row := 0; row < end; {
			class, ok := all[block(i)<<32|block(row)]
			if !ok {
				t.Fatalf("nothing begins at row %d of chunk %d, of class %d", row, i, ch.class)
			}
			row += 1 << class
		}
	}
}

func TestArena(t *testing.T) {
	large := false
	rapid.Check(t, func(t *rapid.T) {
		a := arena{stride: 2 + rapid.IntRange(0, 3).Draw(t, "stride")}
		used := map[block]uint8{}
		var order []block
		for n := range rapid.IntRange(1, 200).Draw(t, "steps") {
			if len(order) > 0 && rapid.Bool().Draw(t, "release") {
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				b := order[i]
				w := a.view(b, 1<<used[b], used[b])
				if w[0] != uint64(b) || w[len(w)-1] != uint64(b) {
					t.Fatalf("block %x was written to by another", b)
				}
				a.release(b, used[b])
				delete(used, b)
				order = append(order[:i], order[i+1:]...)
			} else {
				class := uint8(rapid.IntRange(leastClass, 7).Draw(t, "class"))
				if n == 50 {
					class, large = chunkClass+1, true
				}
				b := a.alloc(class)
				w := a.view(b, 1<<class, class)
				w[0], w[len(w)-1] = uint64(b), uint64(b)
				used[b] = class
				order = append(order, b)
			}
			checkArena(t, &a, used)
		}
	})
	if !large {
		t.Error("no block had a chunk of its own")
	}
}

func TestTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a textArena
		held := map[text][]byte{}
		var order []text
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if len(order) > 0 && rapid.Bool().Draw(t, "release") {
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				if n := a.release(order[i]); n != len(held[order[i]]) {
					t.Fatalf("released %d bytes of %d", n, len(held[order[i]]))
				}
				delete(held, order[i])
				order = append(order[:i], order[i+1:]...)
			} else {
				n := rapid.SampledFrom([]int{0, 1, 4, 5, 36, 252, 253, 300, 5000, 32000, 32766, 70000}).Draw(t, "length")
				raw := bytes.Repeat([]byte{byte(len(order))}, n)
				at := a.put(raw)
				held[at] = raw
				order = append(order, at)
			}
			for at, want := range held {
				if got := a.get(at); got == nil || !bytes.Equal(got, want) {
					t.Fatalf("at %x stand %d bytes, not the %d that were put there", at, len(got), len(want))
				}
			}
		}
		chunks := len(a.chunks)
		for _, at := range order {
			a.release(at)
		}
		for _, raw := range held {
			a.put(raw)
		}
		if len(a.chunks) != chunks {
			t.Fatalf("%d chunks for what had room in %d", len(a.chunks), chunks)
		}
	})
}

// TestTable adds and removes keys that often share a hash.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewShard(NewPlan(config(0)))
		held := map[string]int32{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"1", "2", "3", "x", "y", "", "z1", "z2", "z3", "z4", "z5"}).Draw(t, "key")
			c := &event.Column{}
			c.AppendRaw([]byte(name))
			k := keyOf(c, 0)
			h := uint64(3)<<56 | uint64(len(name)*6)
			at := s.table.find(h, k)
			want, ok := held[name]
			switch {
			case ok && at != want || !ok && at >= 0:
				t.Fatalf("key %q is at %d, want %d", name, at, want)
			case ok && rapid.Bool().Draw(t, "remove"):
				s.table.remove(h, at)
				delete(held, name)
			case !ok:
				held[name] = s.table.add(h, k, true)
			}
		}
		if s.Entities() != len(held) {
			t.Fatalf("%d entities, want %d", s.Entities(), len(held))
		}
	})
}
