package window

// arena keeps blocks of rows in chunks without pointers, so that the garbage collector has nothing to
// look at and growth moves one block, not all. A block of class c is 2^c rows. Blocks are split in
// halves down to the class that is asked for, and two halves that are both free are joined again: what
// entities leave behind as they grow makes room for larger blocks.
type arena struct {
	stride int // words of a row
	words  [][]uint64
	chunks []chunk  // what is free in words
	free   [32]link // first free block of each class
	gone   []uint32 // chunks without words
}

// chunk is one block of its class, or split.
type chunk struct {
	class uint8
	free  []uint8 // of each pair of rows: 1 + the class of a free block that begins there
}

const (
	leastClass = 1 // an entity with one row has two, row 0 among them
	firstClass = 6 // of the first chunk; each next one is twice as large, up to chunkClass
	chunkClass = 15
)

// block is the place of a block: chunk in the upper half, number of the first row there in the lower.
type block uint64

// link is a block plus 1; 0 is none. The first two words of a free block are the next and the one before.
type link uint64

// at is the words of a block from its first on, all of the chunk.
func (a *arena) at(b block) []uint64 {
	return a.words[b>>32][int(uint32(b))*a.stride:]
}

// view is the words of n rows of a block of a class, whose capacity is the block's.
func (a *arena) view(b block, n int, class uint8) []uint64 {
	at := int(uint32(b)) * a.stride
	return a.words[b>>32][at : at+n*a.stride : at+a.stride<<class]
}

// alloc is a block whose words may have any value.
func (a *arena) alloc(class uint8) block {
	c := class
	for int(c) < len(a.free) && a.free[c] == 0 {
		c++
	}
	var b block
	if int(c) < len(a.free) {
		b = block(a.free[c] - 1)
		a.unlink(b, c)
	} else {
		c = max(class, uint8(min(chunkClass, firstClass+len(a.words))))
		b = a.grow(c)
	}
	for c > class {
		c--
		a.link(b+1<<c, c)
	}
	return b
}

// grow adds a chunk, all of it one block.
func (a *arena) grow(class uint8) block {
	words, ch := make([]uint64, a.stride<<class), chunk{class: class, free: make([]uint8, 1<<class/2)}
	if n := len(a.gone); n > 0 {
		i := a.gone[n-1]
		a.gone = a.gone[:n-1]
		a.words[i], a.chunks[i] = words, ch
		return block(i) << 32
	}
	a.words, a.chunks = append(a.words, words), append(a.chunks, ch)
	return block(len(a.words)-1) << 32
}

// release gives a block back.
func (a *arena) release(b block, class uint8) {
	ch := &a.chunks[b>>32]
	for ; class < ch.class; class++ {
		twin := b ^ 1<<class
		if ch.free[uint32(twin)/2] != class+1 {
			break
		}
		a.unlink(twin, class)
		b &^= 1 << class
	}
	if class > chunkClass { // a chunk of its own, of one large entity
		i := uint32(b >> 32)
		a.words[i], a.chunks[i] = nil, chunk{}
		a.gone = append(a.gone, i)
		return
	}
	a.link(b, class)
}

func (a *arena) link(b block, class uint8) {
	w, next := a.at(b), a.free[class]
	w[0], w[1] = uint64(next), 0
	if next != 0 {
		a.at(block(next - 1))[1] = uint64(b) + 1
	}
	a.free[class] = link(b) + 1
	a.chunks[b>>32].free[uint32(b)/2] = class + 1
}

func (a *arena) unlink(b block, class uint8) {
	w := a.at(b)
	next, before := link(w[0]), link(w[1])
	if next != 0 {
		a.at(block(next - 1))[1] = uint64(before)
	}
	if before != 0 {
		a.at(block(before - 1))[0] = uint64(next)
	} else {
		a.free[class] = next
	}
	a.chunks[b>>32].free[uint32(b)/2] = 0
}
