package intake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// reader reads the log in order.
type reader struct {
	w    *wal
	next uint64 // number of the next record

	file  *os.File // nil before the first read, and between segments
	first uint64   // of the file
	at    int64    // offset of the next record
}

// read returns the next records that are on disk, about limit bytes, of one segment.
func (r *reader) read(limit int) ([]driver.Record, error) {
	first, end, ok := r.w.of(r.next)
	if !ok || r.next >= end {
		return nil, nil
	}
	if r.file == nil || r.first != first {
		if err := r.open(first); err != nil {
			return nil, err
		}
	}
	buf := make([]byte, min(max(limit, 4<<10), 4<<20))
	var records []driver.Record
	for {
		n, err := r.file.ReadAt(buf, r.at)
		if err != nil && err != io.EOF {
			return nil, err
		}
		rest := buf[:n]
		for r.next < end && limit > 0 {
			record, more, ok, err := cutFrame(rest)
			if err != nil {
				return nil, fmt.Errorf("record %d in %s: %w: the log is corrupt", r.next, r.file.Name(), err)
			}
			if !ok {
				break
			}
			records = append(records, driver.Record{Value: record, Offset: int64(r.next)})
			limit -= len(record) + 1
			r.at += int64(len(rest) - len(more))
			r.next++
			rest = more
		}
		if len(records) > 0 {
			return records, nil
		}
		if n < len(buf) || len(buf) > 2*maxRecord {
			return nil, fmt.Errorf("record %d in %s is cut off: the log is corrupt", r.next, r.file.Name())
		}
		buf = make([]byte, 4*len(buf)) // the record is longer
	}
}

// open opens a segment and goes to the next record.
func (r *reader) open(first uint64) error {
	r.close()
	f, err := os.Open(filepath.Join(r.w.dir, segmentName(first)))
	if err != nil {
		return err
	}
	r.file, r.first, r.at = f, first, headLength
	for number := first; number < r.next; number++ {
		var length [4]byte
		if _, err := f.ReadAt(length[:], r.at); err != nil {
			return fmt.Errorf("going to record %d in %s: %w", r.next, f.Name(), err)
		}
		r.at += frameLength + int64(binary.LittleEndian.Uint32(length[:]))
	}
	return nil
}

func (r *reader) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
