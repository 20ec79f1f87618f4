package feature

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/event"
)

func init() {
	beam.RegisterCoder(reflect.TypeOf((*part)(nil)).Elem(), encodePart, decodePart)
}

// part is what goes through a shuffle: batches of one shard, or where they lie in a file.
type part struct {
	Batches []event.Batch
	Path    string // empty: not in a file
	Offset  int64
	Length  int64
}

var errPart = errors.New("corrupt part of a shuffle")

// The binary form is the path's length and the path; then, with a path, offset and length of the run
// in the file, else a run. A run is the batches, each behind its length.
func encodePart(p part) []byte {
	dst := binary.AppendUvarint(nil, uint64(len(p.Path)))
	dst = append(dst, p.Path...)
	if p.Path != "" {
		return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(p.Offset)), uint64(p.Length))
	}
	return appendRun(dst, p.Batches)
}

func appendRun(dst []byte, batches []event.Batch) []byte {
	for _, b := range batches {
		// The length goes in front; four bytes are kept for it, since it is known afterwards only.
		at := len(dst)
		dst = event.Append(append(dst, 0, 0, 0, 0), b)
		binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	}
	return dst
}

func decodePart(b []byte) (part, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return part{}, errPart
	}
	p := part{Path: string(b[k : k+int(n)])}
	b = b[k+int(n):]
	if p.Path == "" {
		var err error
		p.Batches, err = decodeRun(b)
		return p, err
	}
	offset, k := binary.Uvarint(b)
	length, l := binary.Uvarint(b[max(0, k):])
	if k <= 0 || l <= 0 {
		return part{}, errPart
	}
	p.Offset, p.Length = int64(offset), int64(length)
	return p, nil
}

func decodeRun(b []byte) ([]event.Batch, error) {
	var batches []event.Batch
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, errPart
		}
		n := int(binary.LittleEndian.Uint32(b))
		if b = b[4:]; n > len(b) {
			return nil, errPart
		}
		batch, err := event.Decode(b[:n])
		if err != nil {
			return nil, err
		}
		batches, b = append(batches, batch), b[n:]
	}
	return batches, nil
}

// load returns the batches of a part, from its file if they lie there.
func (p *part) load() ([]event.Batch, error) {
	if p.Path == "" {
		return p.Batches, nil
	}
	f, err := os.Open(p.Path)
	if err != nil {
		return nil, fmt.Errorf("reading a spilled run (all workers must see the folder for spilling): %w", err)
	}
	defer f.Close()
	b := make([]byte, p.Length)
	if _, err := f.ReadAt(b, p.Offset); err != nil {
		return nil, fmt.Errorf("reading a spilled run of %d bytes at %d: %w", p.Length, p.Offset, err)
	}
	batches, err := decodeRun(b)
	if err != nil {
		return nil, fmt.Errorf("reading a spilled run in %s at %d: %w", p.Path, p.Offset, err)
	}
	return batches, nil
}

// held counts, for each run's shuffles in this process, the bytes that they were given; a shuffle keeps
// them all until its last reader is done.
var held sync.Map // run + stage -> *atomic.Int64

func heldBy(run string, stage int) *atomic.Int64 {
	n, _ := held.LoadOrStore(fmt.Sprint(run, "/", stage), new(atomic.Int64))
	return n.(*atomic.Int64)
}

func spillFolder(dir, run string) string {
	if dir == "" {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "millrace-shuffle-"+run)
}

// folders are those in which this process has put files.
var folders sync.Map // path -> nil

// CleanUp removes the files to which the shuffles of this process's jobs have spilled, and forgets what
// they held. Call it when no job of the process runs.
func CleanUp() error {
	var errs []error
	folders.Range(func(path, _ any) bool {
		errs = append(errs, os.RemoveAll(path.(string)))
		folders.Delete(path)
		return true
	})
	held.Clear()
	return errors.Join(errs...)
}

// spillFile is a file to which one bundle writes its runs.
type spillFile struct {
	f  *os.File
	at int64
	b  []byte
}

func newSpillFile(folder string) (*spillFile, error) {
	folders.Store(folder, nil)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("spilling a shuffle: %w", err)
	}
	f, err := os.CreateTemp(folder, "run-*")
	if err != nil {
		return nil, fmt.Errorf("spilling a shuffle: %w", err)
	}
	return &spillFile{f: f}, nil
}

func (s *spillFile) write(batches []event.Batch) (part, error) {
	s.b = appendRun(s.b[:0], batches)
	if _, err := s.f.Write(s.b); err != nil {
		return part{}, fmt.Errorf("spilling a shuffle (is the disk full? --set another folder or more memory): %w", err)
	}
	p := part{Path: s.f.Name(), Offset: s.at, Length: int64(len(s.b))}
	s.at += p.Length
	return p, nil
}
