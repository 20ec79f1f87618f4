package window

import "encoding/binary"

// textArena keeps byte strings in chunks without pointers: keys and ids that are no integers, and the
// values of operands of kind Text. It takes no room until there is one.
type textArena struct {
	chunks [][]byte
	filled int               // 1 + the chunk that places are cut from; 0: none yet
	used   int               // bytes of it
	free   [textClasses]text // first free place of each class, whose first 8 bytes are the next
	gone   []int             // chunks without bytes
}

// text is the place of a text: 1 + the chunk in the upper half, the offset there in the lower; 0 is none.
type text uint64

const (
	textChunk   = 64 << 10
	textHead    = 4  // bytes, the length
	textClasses = 39 // places of 8, 16, ... 256 bytes, and from there on of twice as much each, to half a chunk
)

// place is the class of a text of n bytes, and how many bytes its place has.
func textPlace(n int) (class, size int) {
	n += textHead
	if n <= 256 {
		class = (n+7)/8 - 1
		return class, 8 * (class + 1)
	}
	for class, size = 32, 512; size < n; class++ {
		size *= 2
	}
	return class, size
}

// put keeps a copy of raw.
func (t *textArena) put(raw []byte) text {
	class, size := textPlace(len(raw))
	var at text
	switch {
	case size > textChunk/2: // a chunk of its own
		at = t.chunk(size)
	case t.free[class] != 0:
		at = t.free[class]
		t.free[class] = text(binary.LittleEndian.Uint64(t.bytes(at)))
	default:
		if t.filled == 0 || t.used+size > textChunk {
			t.filled, t.used = int(t.chunk(textChunk)>>32), 0
		}
		at = text(t.filled)<<32 | text(t.used)
		t.used += size
	}
	b := t.bytes(at)
	binary.LittleEndian.PutUint32(b, uint32(len(raw)))
	copy(b[textHead:], raw)
	return at
}

func (t *textArena) chunk(size int) text {
	b := make([]byte, size)
	if n := len(t.gone); n > 0 {
		i := t.gone[n-1]
		t.gone = t.gone[:n-1]
		t.chunks[i] = b
		return text(i+1) << 32
	}
	t.chunks = append(t.chunks, b)
	return text(len(t.chunks)) << 32
}

func (t *textArena) bytes(at text) []byte { return t.chunks[at>>32-1][uint32(at):] }

// get is the text at a place, until it is released; nil for none.
func (t *textArena) get(at text) []byte {
	if at == 0 {
		return nil
	}
	b := t.bytes(at)
	n := textHead + int(binary.LittleEndian.Uint32(b))
	return b[textHead:n:n]
}

// release gives a place back and tells how long the text was.
func (t *textArena) release(at text) int {
	if at == 0 {
		return 0
	}
	n := len(t.get(at))
	class, size := textPlace(n)
	if size > textChunk/2 {
		i := int(at>>32) - 1
		t.chunks[i] = nil
		t.gone = append(t.gone, i)
		return n
	}
	binary.LittleEndian.PutUint64(t.bytes(at), uint64(t.free[class]))
	t.free[class] = at
	return n
}
