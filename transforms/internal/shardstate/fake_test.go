package shardstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// op is a change: 'a' adds row arg to an entity, 'd' drops its arg oldest rows (and the entity with
// the last), 'f' moves the frontier, which belongs to no entity.
type op struct {
	kind   byte
	entity uint64
	arg    uint64
}

const opSize = 17

func encode(ops []op) []byte {
	var b []byte
	for _, o := range ops {
		b = append(b, o.kind)
		b = binary.LittleEndian.AppendUint64(b, o.entity)
		b = binary.LittleEndian.AppendUint64(b, o.arg)
	}
	return b
}

func decode(b []byte) (ops []op, err error) {
	if len(b)%opSize != 0 {
		return nil, errors.New("delta is cut off")
	}
	for ; len(b) > 0; b = b[opSize:] {
		ops = append(ops, op{b[0], binary.LittleEndian.Uint64(b[1:]), binary.LittleEndian.Uint64(b[9:])})
	}
	return ops, nil
}

// oracle is the same in the most naive way.
type oracle struct {
	Rows     map[uint64][]uint64
	Frontier uint64
}

func newOracle() oracle { return oracle{Rows: map[uint64][]uint64{}} }

func (o oracle) clone() oracle {
	c := oracle{maps.Clone(o.Rows), o.Frontier}
	for k, v := range c.Rows {
		c.Rows[k] = slices.Clone(v)
	}
	return c
}

func (o *oracle) apply(ops []op) {
	for _, p := range ops {
		switch p.kind {
		case 'a':
			o.Rows[p.entity] = append(o.Rows[p.entity], p.arg)
		case 'd':
			if rows := o.Rows[p.entity]; p.arg < uint64(len(rows)) {
				o.Rows[p.entity] = rows[p.arg:]
			} else {
				delete(o.Rows, p.entity)
			}
		case 'f':
			o.Frontier = p.arg
		}
	}
}

// arena is a machine as the real ones are built: slots that are used again, rows with numbers, hot
// entities copied in parts.
type arena struct {
	slots    []slot
	index    map[uint64]int
	free     []int
	limbo    []int // freed while frozen
	frozen   bool
	rows     int
	frontier uint64
}

type slot struct {
	used bool
	id   uint64
	base int64 // number of the first row
	rows []uint64
}

func newArena() Machine { return &arena{index: map[uint64]int{}} }

const (
	globalSize = 9
	partHead   = 1 + 8 + 8 + 8 + 4
)

func (m *arena) apply(ops []op, create bool) error {
	for _, p := range ops {
		i, ok := m.index[p.entity]
		switch p.kind {
		case 'a':
			if !ok && !create {
				continue
			}
			if !ok {
				i = m.slot(p.entity)
			}
			m.slots[i].rows = append(m.slots[i].rows, p.arg)
			m.rows++
		case 'd':
			if !ok {
				continue
			}
			s := &m.slots[i]
			n := min(p.arg, uint64(len(s.rows)))
			s.rows = s.rows[n:]
			s.base += int64(p.arg)
			m.rows -= int(n)
			if len(s.rows) == 0 {
				m.drop(i)
			}
		case 'f':
			m.frontier = p.arg
		default:
			return fmt.Errorf("unknown op %q", p.kind)
		}
	}
	return nil
}

func (m *arena) slot(id uint64) int {
	i := len(m.slots)
	if n := len(m.free); n > 0 {
		i, m.free = m.free[n-1], m.free[:n-1]
	} else {
		m.slots = append(m.slots, slot{})
	}
	m.slots[i] = slot{used: true, id: id}
	m.index[id] = i
	return i
}

func (m *arena) drop(i int) {
	delete(m.index, m.slots[i].id)
	m.slots[i] = slot{}
	if m.frozen {
		m.limbo = append(m.limbo, i)
	} else {
		m.free = append(m.free, i)
	}
}

func (m *arena) Freeze(on bool) {
	m.frozen = on
	if on {
		// Not even what was free before: a new entity stands behind every cursor.
		m.limbo, m.free = append(m.limbo, m.free...), nil
	} else {
		m.free, m.limbo = m.limbo, nil
	}
}

func (m *arena) Size() int64 {
	return int64(globalSize + partHead*len(m.index) + 8*m.rows)
}

func (m *arena) Replay(delta []byte, create bool) error {
	ops, err := decode(delta)
	if err != nil {
		return err
	}
	return m.apply(ops, create)
}

func (m *arena) Copy(dst []byte, from Cursor, budget int) ([]byte, Cursor, bool) {
	start := len(dst)
	if from == (Cursor{}) {
		dst = append(dst, 'f')
		dst = binary.LittleEndian.AppendUint64(dst, m.frontier)
	}
	for ; from.Entity < int64(len(m.slots)); from = (Cursor{Entity: from.Entity + 1}) {
		s := m.slots[from.Entity]
		if !s.used {
			continue
		}
		room := budget - (len(dst) - start)
		if room <= 0 {
			return dst, from, false
		}
		first := max(from.Row, s.base)
		rows := s.rows[min(first-s.base, int64(len(s.rows))):]
		n := min(len(rows), max(1, (room-partHead)/8))
		kind := byte('e')
		if from.Row > 0 {
			kind = 'p'
		}
		dst = append(dst, kind)
		dst = binary.LittleEndian.AppendUint64(dst, s.id)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(s.base))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(first))
		dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
		for _, r := range rows[:n] {
			dst = binary.LittleEndian.AppendUint64(dst, r)
		}
		if n < len(rows) {
			return dst, Cursor{from.Entity, first + int64(n)}, false
		}
	}
	return dst, from, true
}

func (m *arena) Load(b []byte) error {
	for len(b) > 0 {
		if b[0] == 'f' && len(b) >= globalSize {
			m.frontier = binary.LittleEndian.Uint64(b[1:])
			b = b[globalSize:]
			continue
		}
		if len(b) < partHead || b[0] != 'e' && b[0] != 'p' {
			return errors.New("entity is cut off")
		}
		kind, id := b[0], binary.LittleEndian.Uint64(b[1:])
		base, first := int64(binary.LittleEndian.Uint64(b[9:])), int64(binary.LittleEndian.Uint64(b[17:]))
		n := int(binary.LittleEndian.Uint32(b[25:]))
		if b = b[partHead:]; n > len(b)/8 {
			return errors.New("rows are cut off")
		}
		i, held := m.index[id]
		if held && kind == 'e' {
			return fmt.Errorf("entity %d was copied twice", id)
		}
		if !held {
			// Of a hot entity the copied rows may all be gone: it begins again here.
			i = m.slot(id)
			m.slots[i].base = base
		}
		s := &m.slots[i]
		keep := first - s.base
		if s.base != base || keep < 0 || keep > int64(len(s.rows)) {
			return fmt.Errorf("entity %d: a part at row %d does not follow %d rows from %d, base %d", id, first, len(s.rows), s.base, base)
		}
		m.rows += int(keep) - len(s.rows) + n
		s.rows = s.rows[:keep:keep]
		for range n {
			s.rows = append(s.rows, binary.LittleEndian.Uint64(b))
			b = b[8:]
		}
	}
	return nil
}

func (m *arena) dump() oracle {
	o := newOracle()
	o.Frontier = m.frontier
	rows := 0
	for id, i := range m.index {
		o.Rows[id] = slices.Clone(m.slots[i].rows)
		rows += len(m.slots[i].rows)
	}
	if rows != m.rows {
		panic(fmt.Sprintf("counted %d rows, hold %d", m.rows, rows))
	}
	return o
}

// state is what a runner keeps for a shard. Records are never changed, so a clone is cheap.
type state struct {
	head  int64
	known bool
	logs  [2][][]byte
}

func (s *state) clone() *state {
	c := *s
	for i := range c.logs {
		c.logs[i] = slices.Clip(slices.Clone(c.logs[i]))
	}
	return &c
}

func (s *state) bytes(log int) (n int64) {
	for _, r := range s.logs[log] {
		n += int64(len(r))
	}
	return n
}

var errFault = errors.New("the runner has a fault")

// fakeCells are the cells of one call. They hold added records until SetHead, as cells may, and hand
// out read records in one buffer, as cells may.
type fakeCells struct {
	*state
	fail  int  // operation to fail at; 0 none
	after bool // the operation was done nevertheless
	ops   int
	heads int
	sets  int
	held  [][2]any // log, record
	adds  [2]int
}

func (f *fakeCells) op(do func()) error {
	if f.sets > 0 {
		return errors.New("an operation after SetHead")
	}
	f.ops++
	if f.ops == f.fail {
		if f.after {
			do()
		}
		return errFault
	}
	do()
	return nil
}

func (f *fakeCells) Head() (head int64, ok bool, err error) {
	err = f.op(func() { f.heads++ })
	return f.head, f.known, err
}

func (f *fakeCells) SetHead(h int64) error {
	return f.op(func() {
		f.sets++
		f.head, f.known = h, true
		for _, r := range f.held {
			log := r[0].(int)
			f.logs[log] = append(f.logs[log], slices.Clone(r[1].([]byte)))
		}
		f.held = nil
	})
}

func (f *fakeCells) Read(log int, each func([]byte) error) error {
	var err error
	if fault := f.op(func() {
		var buf []byte
		for _, r := range f.logs[log] {
			buf = append(buf[:0], r...)
			err = each(buf)
			for i := range buf {
				buf[i] = 0xee
			}
			if err != nil {
				err = fmt.Errorf("stopped: %w", err)
				return
			}
		}
	}); fault != nil {
		return fault
	}
	return err
}

func (f *fakeCells) Add(log int, record []byte) error {
	return f.op(func() {
		f.adds[log]++
		f.held = append(f.held, [2]any{log, record})
	})
}

func (f *fakeCells) Clear(log int) error {
	return f.op(func() {
		f.logs[log] = nil
		f.held = slices.DeleteFunc(f.held, func(r [2]any) bool { return r[0] == log })
	})
}
