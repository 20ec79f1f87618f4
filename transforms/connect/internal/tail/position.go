package tail

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// remembered is how many files a position knows.
const remembered = 1000

const (
	never = math.MinInt64
	whole = -1 // how far a file was read that was read to its end, for good
)

// state is a position.
type state struct {
	mark  string
	since int64 // milliseconds
	files []*known
	byID  map[uint64]*known
}

// known is a file of which more is known than its name.
type known struct {
	id       uint64
	modified int64 // milliseconds
	at       int64
	begin    beginning

	// What a position doesn't hold.
	name    string
	size    int64 // at the last look
	tried   int64 // the size at which there was nothing to be read
	settled bool  // size and time were the same in two looks
}

// beginning is a number of a file's first bytes.
type beginning struct {
	length uint8
	hash   uint32
}

type position struct {
	V    int    `json:"v"`
	Mark string `json:"mark"`
	// Bytes is the mark where that is no UTF-8, which JSON doesn't keep.
	Bytes []byte `json:"bytes,omitempty"`
	Since int64  `json:"since"`
	Files string `json:"files"`
}

func (s *state) encode() string {
	var b []byte
	for _, k := range s.files {
		b = binary.BigEndian.AppendUint64(b, k.id)
		b = binary.AppendVarint(b, k.modified)
		b = binary.AppendVarint(b, k.at)
		if b = append(b, k.begin.length); k.begin.length > 0 {
			b = binary.BigEndian.AppendUint32(b, k.begin.hash)
		}
	}
	p := position{V: 1, Mark: s.mark, Since: s.since, Files: base64.RawStdEncoding.EncodeToString(b)}
	if !utf8.ValidString(s.mark) {
		p.Bytes = []byte(s.mark)
	}
	text, _ := json.Marshal(p)
	return string(text)
}

// decode reads a position; "" is the beginning.
func decode(text string) (*state, error) {
	s := &state{since: never, byID: map[uint64]*known{}}
	if text == "" {
		return s, nil
	}
	var p position
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("reading the position: %w", err)
	}
	if p.V != 1 {
		return nil, fmt.Errorf("reading the position: it is of version %d, known is 1: go on with the program that wrote it, or begin without positions", p.V)
	}
	b, err := base64.RawStdEncoding.DecodeString(p.Files)
	if err != nil {
		return nil, fmt.Errorf("reading the position: %w", err)
	}
	s.mark, s.since = p.Mark, p.Since
	if p.Bytes != nil {
		s.mark = string(p.Bytes)
	}
	broken := errors.New("reading the position: its files are cut off")
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, broken
		}
		k := &known{id: binary.BigEndian.Uint64(b), tried: -1, size: -1}
		b = b[8:]
		for _, to := range []*int64{&k.modified, &k.at} {
			v, n := binary.Varint(b)
			if n <= 0 {
				return nil, broken
			}
			*to, b = v, b[n:]
		}
		if len(b) < 1 {
			return nil, broken
		}
		if k.begin.length, b = b[0], b[1:]; k.begin.length > 0 {
			if len(b) < 4 {
				return nil, broken
			}
			k.begin.hash, b = binary.BigEndian.Uint32(b), b[4:]
		}
		s.add(k)
	}
	return s, nil
}

func (s *state) add(k *known) {
	s.files = append(s.files, k)
	s.byID[k.id] = k
}

// fresh tells whether a file that isn't known has not been read.
func (s *state) fresh(f File) bool {
	return f.Name > s.mark || f.Modified.UnixMilli() > s.since
}

// forget drops what was read and modified longest ago, down to those that are remembered.
func (s *state) forget() {
	for len(s.files) > remembered {
		oldest := -1
		for i, k := range s.files {
			if (k.at == whole || k.begin.length > 0 && k.at == k.size) && (oldest < 0 || k.modified < s.files[oldest].modified) {
				oldest = i
			}
		}
		if oldest < 0 {
			return
		}
		k := s.files[oldest]
		s.since = max(s.since, k.modified)
		delete(s.byID, k.id)
		s.files = slices.Delete(s.files, oldest, oldest+1)
	}
}
