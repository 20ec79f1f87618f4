package shardstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// The format of a log; doc.go tells it in prose. A change of anything here needs a new version and a
// reader of the old one.
const (
	magic   = "MRSS"
	version = 1

	formPlain = 'p'
	formCopy  = 'c'

	partDelta    = 'D'
	partEntities = 'E'
	partComplete = 'C'

	recordSize = 4 + 8 + 4 + 1 // checksum, token, number, last
	partSize   = 1 + 4         // kind, length
	maxRecord  = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a log says about itself, in its first record.
type header struct {
	form        byte
	shards      int
	shard       int
	fingerprint string
}

func appendHeader(dst []byte, h header) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, version, h.form)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.shards))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.shard))
	dst = append(dst, h.fingerprint...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// parseHeader reads a log's first record. The version is judged before anything that another version
// may have put elsewhere.
func parseHeader(b []byte) (h header, err error) {
	if len(b) < len(magic)+1 || string(b[:len(magic)]) != magic {
		return h, errors.New("no header")
	}
	if v := b[len(magic)]; v != version {
		return h, fmt.Errorf("%w: format version %d, this build reads version %d", ErrForeign, v, version)
	}
	if len(b) < len(magic)+2+4+4+4 {
		return h, errors.New("header is cut off")
	}
	body := b[:len(b)-4]
	if binary.LittleEndian.Uint32(b[len(b)-4:]) != crc32.Checksum(body, castagnoli) {
		return h, errors.New("header's checksum differs")
	}
	body = body[len(magic)+1:]
	h.form = body[0]
	h.shards = int(binary.LittleEndian.Uint32(body[1:]))
	h.shard = int(binary.LittleEndian.Uint32(body[5:]))
	h.fingerprint = string(body[9:])
	if h.form != formPlain && h.form != formCopy {
		return h, fmt.Errorf("log of unknown form %q", h.form)
	}
	return h, nil
}

// check compares the header of a log with the one that is expected; the form is free.
func (h header) check(want header) error {
	var diff []string
	if h.fingerprint != want.fingerprint {
		diff = append(diff, fmt.Sprintf("stage fingerprint %q, want %q", h.fingerprint, want.fingerprint))
	}
	if h.shards != want.shards {
		diff = append(diff, fmt.Sprintf("%d shards, want %d", h.shards, want.shards))
	}
	if h.shard != want.shard {
		diff = append(diff, fmt.Sprintf("shard %d, want %d", h.shard, want.shard))
	}
	if diff == nil {
		return nil
	}
	return fmt.Errorf("%w: it was written with %s", ErrForeign, strings.Join(diff, ", "))
}

func appendPart(dst []byte, kind byte, payload []byte) []byte {
	dst = append(dst, kind)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

// appendRecord appends one record of the call with this token: the n-th of its log after the header.
func appendRecord(dst []byte, token uint64, n uint32, last bool, body []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, token)
	dst = binary.LittleEndian.AppendUint32(dst, n)
	if last {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	dst = append(dst, body...)
	binary.LittleEndian.PutUint32(dst[start:], crc32.Checksum(dst[start+4:], castagnoli))
	return dst
}

// replayer makes a machine from the records of an active log, one by one.
type replayer struct {
	machine Machine
	want    header

	form     byte   // 0 before the header
	create   bool   // the machine holds all: the log is plain, or its copy complete
	token    uint64 // of the last record
	pending  []byte // a part that goes on in the next record
	open     bool   // the last record's call goes on
	records  uint32 // after the header
	bytes    int64
	complete bool
}

// record takes the next record. It keeps nothing of it.
func (r *replayer) record(b []byte) error {
	r.bytes += int64(len(b))
	if r.form == 0 {
		h, err := parseHeader(b)
		if err != nil {
			return err
		}
		r.form, r.create = h.form, h.form == formPlain
		return h.check(r.want)
	}
	if len(b) < recordSize {
		return errors.New("record is cut off")
	}
	if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return errors.New("checksum differs")
	}
	if n := binary.LittleEndian.Uint32(b[12:]); n != r.records {
		return fmt.Errorf("it has number %d: records were lost, repeated or reordered", n)
	}
	token, last := binary.LittleEndian.Uint64(b[4:]), b[16] == 1
	if r.open && token != r.token {
		return errors.New("the call before it has no end")
	}
	r.records++
	r.token, r.open = token, !last

	body := b[recordSize:]
	if len(r.pending) > 0 {
		r.pending = append(r.pending, body...)
		body = r.pending
	}
	rest, err := r.parts(body)
	if err != nil {
		return err
	}
	// rest may be the tail of pending: copy moves it to the front, overlapping or not.
	if cap(r.pending) < len(rest) {
		r.pending = make([]byte, 0, 2*len(rest))
	}
	r.pending = r.pending[:copy(r.pending[:len(rest)], rest)]
	if last && len(rest) > 0 {
		return errors.New("its last part is cut off")
	}
	return nil
}

// parts takes the whole parts of b and returns the rest.
func (r *replayer) parts(b []byte) (rest []byte, err error) {
	for len(b) >= partSize {
		n := uint64(binary.LittleEndian.Uint32(b[1:]))
		if n > uint64(len(b)-partSize) {
			break
		}
		kind, payload := b[0], b[partSize:partSize+n]
		b = b[partSize+n:]
		switch {
		case kind == partDelta:
			err = r.machine.Replay(payload, r.create)
		case kind == partEntities && r.form == formCopy && !r.complete:
			err = r.machine.Load(payload)
		case kind == partComplete && r.form == formCopy && !r.complete && n == 0:
			r.complete, r.create = true, true
		default:
			err = fmt.Errorf("unexpected part of kind %q", kind)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// end says whether the log that was read is all that the head's token promises.
func (r *replayer) end(token uint64) error {
	switch {
	case r.form == 0:
		return errors.New("the log is empty")
	case r.open:
		return errors.New("the last call has no end")
	case r.form == formCopy && !r.complete:
		return errors.New("the copy has no end")
	case r.records == 0 || r.token != token:
		return errors.New("the head belongs to another call than the last record")
	}
	return nil
}
