package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

var (
	errFull   = errors.New("the log is at its limit")
	errBusy   = errors.New("too much waits for the disk")
	errClosed = errors.New("the log is closed")
)

const (
	// maxPending is how much may wait for a sync.
	maxPending = 32 << 20
	landedName = "landed"
	lockName   = "lock"
)

// wal is the log. Appending waits for a sync, which all that wait at the time share.
type wal struct {
	dir     string
	limit   int64 // in bytes, of all segments
	segment int64 // size at which a new one begins
	lock    *os.File
	create  func(path string) (file, error)

	mu       sync.Mutex
	wake     *sync.Cond // there is something to be written, or an end
	grown    chan struct{}
	segments []segment // by number; the last may grow
	next     uint64    // number of the next record: those before are on disk
	landed   uint64
	pending  *batch
	closed   bool

	active file // of the last segment; nil before the first write, or when it is broken
	size   int64
	done   chan struct{} // the writer has ended
}

// file is what is written to.
type file interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

func createFile(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o666)
}

type segment struct {
	first uint64
	size  int64
}

// batch is what the next write holds.
type batch struct {
	frames  []byte
	records uint64
	done    chan struct{}
	err     error
}

// openWAL opens a log, cuts off what an interrupted write has left, and locks it. The limit is in bytes.
func openWAL(dir string, limit int64) (w *wal, err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	w = &wal{
		dir: dir, limit: limit, segment: min(max(limit/8, 64<<10), 64<<20), create: createFile,
		pending: &batch{done: make(chan struct{})}, grown: make(chan struct{}), done: make(chan struct{}),
	}
	w.wake = sync.NewCond(&w.mu)
	if w.lock, err = lockFile(filepath.Join(dir, lockName)); err != nil {
		return nil, fmt.Errorf("locking the log %s: %w (does another process have it?)", dir, err)
	}
	if err := w.recover(); err != nil {
		w.lock.Close()
		return nil, fmt.Errorf("opening the log %s: %w", dir, err)
	}
	go w.write()
	return w, nil
}

// recover finds the segments and what has landed.
func (w *wal) recover() error {
	paths, err := filepath.Glob(filepath.Join(w.dir, "*"+ending))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for i, path := range paths {
		first, ok := segmentFirst(path)
		if !ok {
			return fmt.Errorf("%s is no segment's name", path)
		}
		records, sound, torn, err := survey(path, first)
		if err != nil {
			return err
		}
		if i == len(paths)-1 {
			w.next = first + records
			if torn != nil {
				slog.Warn("the end of the log was cut off: a write was interrupted, of which nobody was told that it was done", "segment", path, "at", sound, "why", torn.Error())
			}
			if sound == 0 {
				if err := os.Remove(path); err != nil {
					return err
				}
				break
			}
			if torn != nil {
				if err := os.Truncate(path, sound); err != nil {
					return err
				}
			}
		} else if following, _ := segmentFirst(paths[i+1]); first+records < following {
			return fmt.Errorf("%s is corrupt behind record %d: %w; records to %d are lost: move the segment away to go on without them",
				path, first+records, errors.Join(torn, io.ErrUnexpectedEOF), following)
		}
		w.segments = append(w.segments, segment{first, sound})
	}
	text, err := os.ReadFile(filepath.Join(w.dir, landedName))
	if err == nil {
		var l landedMark
		if err := json.Unmarshal(text, &l); err != nil || l.V != 1 {
			return fmt.Errorf("%s is not what this program writes: version %d, %w", landedName, l.V, err)
		}
		w.landed = l.Next
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(w.segments) > 0 {
		w.landed = max(w.landed, w.segments[0].first)
	}
	w.next = max(w.next, w.landed) // the log was removed
	return nil
}

type landedMark struct {
	V    int    `json:"v"`
	Next uint64 `json:"next"`
}

// append writes records and returns when they are synced.
func (w *wal) append(records [][]byte) error {
	size := int64(0)
	for _, r := range records {
		size += frameLength + int64(len(r))
	}
	w.mu.Lock()
	switch {
	case w.closed:
		w.mu.Unlock()
		return errClosed
	case w.bytes()+int64(len(w.pending.frames))+size > w.limit:
		w.mu.Unlock()
		return errFull
	case len(w.pending.frames) > 0 && int64(len(w.pending.frames))+size > maxPending:
		w.mu.Unlock()
		return errBusy
	}
	b := w.pending
	for _, r := range records {
		b.frames = appendFrame(b.frames, r)
	}
	b.records += uint64(len(records))
	w.wake.Signal()
	w.mu.Unlock()
	<-b.done
	return b.err
}

// bytes is the size of all segments, 0 once all in them has landed: those go as what comes next lands, and no
// sooner, since the last stays until another one follows.
func (w *wal) bytes() (n int64) {
	if w.landed == w.next {
		return 0
	}
	for _, s := range w.segments {
		n += s.size
	}
	return n
}

// write writes and syncs batch after batch.
func (w *wal) write() {
	defer close(w.done)
	for {
		w.mu.Lock()
		for w.pending.records == 0 && !w.closed {
			w.wake.Wait()
		}
		b := w.pending
		w.pending = &batch{done: make(chan struct{})}
		next, ended := w.next, w.closed && b.records == 0
		w.mu.Unlock()
		if ended {
			return
		}
		b.err = w.flush(b.frames, next)
		w.mu.Lock()
		if b.err == nil {
			w.next += b.records
			w.segments[len(w.segments)-1].size = w.size
			close(w.grown)
			w.grown = make(chan struct{})
		}
		w.mu.Unlock()
		close(b.done)
	}
}

// flush writes frames to disk.
func (w *wal) flush(frames []byte, next uint64) error {
	if w.active != nil && w.size >= w.segment {
		if err := w.leave(); err != nil {
			return err
		}
	}
	if w.active == nil {
		if err := w.begin(next); err != nil {
			return err
		}
	}
	_, err := w.active.Write(frames)
	if err == nil {
		err = w.active.Sync()
	}
	if err != nil {
		// A reader never comes to what stands behind, and the next segment's number says where this one ends.
		return errors.Join(err, w.active.Truncate(w.size), w.leave())
	}
	w.size += int64(len(frames))
	return nil
}

func (w *wal) leave() error {
	f := w.active
	w.active = nil
	return f.Close()
}

// begin begins a segment.
func (w *wal) begin(next uint64) error {
	path := filepath.Join(w.dir, segmentName(next))
	w.mu.Lock()
	if n := len(w.segments); n > 0 && w.segments[n-1].first == next { // nothing in it was ever synced
		w.segments = w.segments[:n-1]
	}
	w.mu.Unlock()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := w.create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(appendHead(nil, next))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncFolder(w.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	w.active, w.size = f, headLength
	w.mu.Lock()
	w.segments = append(w.segments, segment{next, headLength})
	w.mu.Unlock()
	return nil
}

// land tells that all records before next have landed, and deletes what nobody needs.
func (w *wal) land(next uint64) error {
	w.mu.Lock()
	next = min(next, w.next)
	if next <= w.landed {
		w.mu.Unlock()
		return nil
	}
	w.mu.Unlock()
	text, err := json.Marshal(landedMark{V: 1, Next: next})
	if err != nil {
		return err
	}
	// First the mark, then the segments: a mark before the first segment is moved to it.
	if err := replaceFile(filepath.Join(w.dir, landedName), append(text, '\n')); err != nil {
		return err
	}
	w.mu.Lock()
	w.landed = next
	var gone []segment
	for len(w.segments) > 1 && w.segments[1].first <= next {
		gone = append(gone, w.segments[0])
		w.segments = w.segments[1:]
	}
	w.mu.Unlock()
	var errs []error
	for _, s := range gone {
		errs = append(errs, os.Remove(filepath.Join(w.dir, segmentName(s.first))))
	}
	return errors.Join(errs...)
}

// bounds are the numbers of the first record that has not landed and of the one behind the last, and a
// channel that is closed when that moves.
func (w *wal) bounds() (landed, next uint64, grown <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.landed, w.next, w.grown
}

// of finds the segment of a record that is there, and where the next one begins.
func (w *wal) of(number uint64) (first, end uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end = w.next
	for _, s := range slices.Backward(w.segments) {
		if s.first <= number {
			return s.first, end, true
		}
		end = s.first
	}
	return 0, 0, false
}

// close writes what waits, and unlocks.
func (w *wal) close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.wake.Signal()
	w.mu.Unlock()
	<-w.done
	var err error
	if w.active != nil {
		err = w.leave()
	}
	return errors.Join(err, w.lock.Close())
}

// replaceFile writes a file whole.
func replaceFile(path string, text []byte) error {
	temp := path + ".tmp"
	f, err := os.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes names durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
