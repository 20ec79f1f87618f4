package window

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// ErrSnapshot reports bytes that are no snapshot of a shard of this plan.
var ErrSnapshot = errors.New("unusable snapshot")

const snapshotVersion = 1

// Snapshot appends the shard's entities to dst, in the order of their keys:
//
//	magic "MW", version byte 1, words a row (varint), text operands (varint)
//	integer keys: number, then each: key (zigzag varint), entity
//	text keys: number, then each: length, key, entity
//	entity: dropped rows, rows (with row 0), words of 8 bytes (little-endian);
//	        1 if names follow, names of all rows; texts of all rows, operand by operand; each: length, bytes
func (s *Shard) Snapshot(dst []byte) []byte {
	dst = append(dst, 'M', 'W', snapshotVersion)
	dst = binary.AppendUvarint(dst, uint64(s.p.stride))
	dst = binary.AppendUvarint(dst, uint64(s.p.texts))
	dst = binary.AppendUvarint(dst, uint64(len(s.ints)))
	for _, k := range sorted(s.ints) {
		dst = binary.AppendVarint(dst, k)
		dst = s.appendEntity(dst, &s.entities[s.ints[k]])
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.texts)))
	for _, k := range sorted(s.texts) {
		dst = appendText(dst, k)
		dst = s.appendEntity(dst, &s.entities[s.texts[k]])
	}
	return dst
}

func sorted[K cmp.Ordered](m map[K]int32) []K { return slices.Sorted(maps.Keys(m)) }

func appendText(dst []byte, v string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(v))), v...)
}

func (s *Shard) appendEntity(dst []byte, e *entity) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.dropped))
	dst = binary.AppendUvarint(dst, uint64(len(e.rows)/s.p.stride))
	for _, w := range e.rows {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	if e.names == nil {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		for _, v := range e.names {
			dst = appendText(dst, v)
		}
	}
	for _, list := range e.texts {
		for _, v := range list {
			dst = appendText(dst, v)
		}
	}
	return dst
}

// Restore returns the shard of a snapshot that a shard of the same plan made.
func Restore(p *Plan, b []byte) (*Shard, error) {
	if len(b) < 3 || b[0] != 'M' || b[1] != 'W' {
		return nil, fmt.Errorf("%w: no magic number", ErrSnapshot)
	}
	if b[2] != snapshotVersion {
		return nil, fmt.Errorf("%w: version %d, this program reads %d", ErrSnapshot, b[2], snapshotVersion)
	}
	r := reader{b: b[3:]}
	if words, texts := r.uvarint(), r.uvarint(); r.err == nil && (words != uint64(p.stride) || texts != uint64(p.texts)) {
		return nil, fmt.Errorf("%w: rows of %d words and %d texts, this plan has %d and %d", ErrSnapshot, words, texts, p.stride, p.texts)
	}
	s := NewShard(p)
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		k := r.varint()
		s.ints[k] = s.read(&r)
	}
	for n := r.uvarint(); n > 0 && r.err == nil; n-- {
		k := r.text()
		s.texts[k] = s.read(&r)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, r.err
	}
	return s, nil
}

func (s *Shard) read(r *reader) int32 {
	at := s.add()
	e := &s.entities[at]
	e.dropped = int64(r.uvarint())
	n := r.uvarint()
	raw := r.take(n, uint64(s.p.stride)*8)
	if n == 0 || r.err != nil {
		r.fail()
		return at
	}
	e.rows = make([]uint64, len(raw)/8)
	for i := range e.rows {
		e.rows[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	if named := r.take(1, 1); len(named) == 1 && named[0] == 1 {
		for range n {
			e.names = append(e.names, r.text())
		}
	}
	for k := range e.texts {
		e.texts[k] = e.texts[k][:0]
		for i := uint64(0); i < n && r.err == nil; i++ {
			e.texts[k] = append(e.texts[k], r.text())
		}
	}
	return at
}

type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: cut off or corrupt", ErrSnapshot)
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n, size uint64) []byte {
	if n > math.MaxInt32 || n*size > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	out := r.b[:n*size]
	r.b = r.b[n*size:]
	return out
}

func (r *reader) text() string { return string(r.take(r.uvarint(), 1)) }
