package tail

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

const (
	// queued is how many files of a look wait to be read; a look that finds more goes on when they are.
	queued = 10_000
	// A look lists everything while that is no more than so many names, else every so often.
	cheapLook = 1000
	sweep     = 30
	// held is how many growing files stay open between looks.
	held = 64
	// filesAPoll bounds the chunks of a poll.
	filesAPoll = 256
	// beginLength is how many bytes tell a file that was written anew.
	beginLength = 128
)

// Follower reads the files of a store.
type Follower struct {
	store Store
	name  string // of the partition
	state *state

	looks  *time.Ticker
	due    bool   // for a look
	more   string // the name that the last look was cut short at
	looked int    // looks since the last that listed all
	names  int    // that this listed
	failed bool   // the store could not be reached
	paused bool

	queue []File
	open  *reading            // what is read now
	kept  map[uint64]*content // growing files
	last  []*reading          // what the chunks of the last poll need, and what has ended

	records, bytes int64 // so far
}

// content is an open file that grows.
type content struct {
	Content
	missing int // looks in a row that listed all and not this
}

// Follow reads files of a store on from a position; they are one partition. It looks for more at intervals.
// The store is closed with the follower.
func Follow(s Store, partition, position string, every time.Duration) (*Follower, error) {
	at, err := decode(position)
	if err != nil {
		return nil, err
	}
	return &Follower{store: s, name: partition, state: at, looks: time.NewTicker(every), due: true, looked: sweep, kept: map[uint64]*content{}}, nil
}

// Poll reads on, or waits for something to read.
func (f *Follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	f.release()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-f.looks.C:
			f.due = true
		default:
		}
		if !f.paused && (!f.failed || f.due) {
			chunks, err := f.read(ctx, limit)
			if len(chunks) > 0 || err != nil {
				return chunks, err
			}
		}
		select {
		case <-f.looks.C:
			f.due = true
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// read looks where that is due, and reads until the limit.
func (f *Follower) read(ctx context.Context, limit int) ([]driver.Chunk, error) {
	var chunks []driver.Chunk
	for limit > 0 && len(chunks) < filesAPoll && ctx.Err() == nil {
		if f.open == nil && len(f.queue) == 0 {
			if !f.due && f.more == "" || len(chunks) > 0 {
				break
			}
			if err := f.look(ctx); err != nil {
				return nil, f.trouble(ctx, err)
			}
			continue
		}
		if f.open == nil {
			if err := f.next(ctx); err != nil {
				return chunks, f.trouble(ctx, err)
			}
			continue
		}
		c, size, err := f.open.read(limit)
		if errors.Is(err, fs.ErrNotExist) {
			c.Fault, f.open.known.at, f.open.done = fmt.Errorf("it was deleted while it was read: %w", err), whole, true
		} else if err != nil {
			f.queue = slices.Insert(f.queue, 0, f.open.file)
			f.end()
			return chunks, f.trouble(ctx, err)
		}
		f.failed = false
		limit -= size
		if f.open.done {
			f.end()
		}
		if c.Records == nil && c.Table.File == nil && c.Fault == nil {
			continue
		}
		f.records, f.bytes = f.records+int64(len(c.Records)), f.bytes+int64(size)
		c.Partition, c.Next = f.name, f.state.encode()
		chunks = append(chunks, c)
	}
	return chunks, nil
}

// trouble judges an error of the store: nil if there is hope.
func (f *Follower) trouble(ctx context.Context, err error) error {
	if f.store.Hopeless(err) {
		return err
	}
	f.due = false
	if !f.failed && ctx.Err() == nil {
		f.failed = true
		slog.Warn("files can't be read at present; they are tried again", "partition", f.name, "err", err)
	}
	return nil
}

// look finds what there is to read.
func (f *Follower) look(ctx context.Context) error {
	f.due = false
	after := f.more
	if f.more == "" {
		after = f.state.mark
		if f.looked++; f.looked >= sweep || f.names <= cheapLook {
			after, f.looked = "", 0
		}
	}
	names, seen, cut := 0, map[uint64]bool{}, ""
	err := f.store.List(ctx, after, func(file File) bool {
		names++
		seen[file.ID] = true
		if f.wanted(file) {
			f.queue = append(f.queue, file)
		}
		if len(f.queue) == queued {
			cut = file.Name
		}
		return cut == ""
	})
	if err != nil {
		f.queue, f.looked = nil, sweep // some of it may stand before the mark
		return err
	}
	if after == "" {
		f.names = names
	}
	f.more, f.failed = cut, false
	for id, c := range f.kept {
		if !seen[id] {
			if err := f.rotated(id, c, after == "" && cut == ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted tells whether a file that was listed has something to be read.
func (f *Follower) wanted(file File) bool {
	k := f.state.byID[file.ID]
	if k == nil {
		return f.state.fresh(file) && (file.Final || file.Size > 0)
	}
	modified := file.Modified.UnixMilli()
	k.settled = k.size == file.Size && k.modified == modified
	k.name, k.size, k.modified = file.Name, file.Size, modified
	switch {
	case k.at == whole:
		return false
	case file.Final, k.begin.length == 0 && k.at > 0: // in the middle
		return true
	}
	return file.Size != k.at && file.Size != k.tried
}

// rotated reads on in a file that has lost its name, until there is nothing more.
func (f *Follower) rotated(id uint64, c *content, complete bool) error {
	size, err := c.Size()
	if err != nil {
		return err
	}
	k := f.state.byID[id]
	if k != nil && size > k.at && size != k.tried {
		c.missing = 0
		k.size = size
		f.queue = append(f.queue, File{Name: k.name, ID: k.id, Size: size, Modified: time.UnixMilli(k.modified)})
		return nil
	}
	if complete {
		if c.missing++; c.missing > 1 {
			delete(f.kept, id)
			return c.Close()
		}
	}
	return nil
}

// next opens the first file of the queue.
func (f *Follower) next(ctx context.Context) error {
	file := f.queue[0]
	k := f.state.byID[file.ID]
	if k == nil {
		k = &known{id: file.ID, modified: file.Modified.UnixMilli(), name: file.Name, size: file.Size, tried: -1}
	}
	var c Content
	if kept := f.kept[file.ID]; kept != nil {
		c = kept
	} else {
		var err error
		c, err = f.store.Open(ctx, file)
		if errors.Is(err, fs.ErrNotExist) {
			f.queue = f.queue[1:] // it was deleted, or another took its place, which the next look finds
			k.at = whole
			return nil
		}
		if err != nil {
			return err
		}
	}
	f.queue = f.queue[1:]
	if f.state.byID[file.ID] == nil {
		f.state.add(k)
	}
	f.state.mark = max(f.state.mark, file.Name)
	r, err := f.begin(file, k, c)
	if err != nil {
		if f.kept[file.ID] == nil {
			_ = c.Close()
		}
		return err
	}
	if f.open = r; r == nil && f.kept[file.ID] == nil {
		return c.Close()
	}
	return nil
}

// begin starts to read a file, nil if it isn't time.
func (f *Follower) begin(file File, k *known, c Content) (*reading, error) {
	if !file.Final {
		same, err := k.begin.of(c)
		if err != nil {
			return nil, err
		}
		if !same || k.at > file.Size && k.begin.length > 0 {
			k.at, k.begin, k.tried = 0, beginning{}, -1
		}
	}
	r := &reading{file: file, known: k, content: c, source: f.store.Show(file.Name)}
	ready, err := r.start()
	if err != nil {
		return nil, err
	}
	if !ready {
		return nil, nil
	}
	if r.grows {
		f.keep(k.id, c)
	}
	return r, nil
}

// keep leaves a growing file open, and closes another if there are many.
func (f *Follower) keep(id uint64, c Content) {
	if f.kept[id] != nil {
		return
	}
	for len(f.kept) >= held {
		oldest, modified := uint64(0), int64(math.MaxInt64)
		for other := range f.kept {
			if k := f.state.byID[other]; k == nil {
				oldest, modified = other, never
			} else if k.modified < modified {
				oldest, modified = other, k.modified
			}
		}
		_ = f.kept[oldest].Close()
		delete(f.kept, oldest)
	}
	f.kept[id] = &content{Content: c}
}

// end leaves the open file.
func (f *Follower) end() {
	f.last = append(f.last, f.open)
	f.open = nil
	f.state.forget()
}

// release lets go of what the last poll returned.
func (f *Follower) release() {
	for _, r := range f.last {
		r.close()
	}
	f.last = nil
}

// of tells whether a file begins so.
func (b beginning) of(c Content) (bool, error) {
	if b.length == 0 {
		return true, nil
	}
	have, err := begins(c, int(b.length))
	return have == b, err
}

// begins is the beginning of a file, as long as it is.
func begins(c Content, most int) (beginning, error) {
	bytes := make([]byte, most)
	n, err := c.ReadAt(bytes, 0)
	if err != nil && err != io.EOF {
		return beginning{}, err
	}
	h := fnv.New32a()
	_, _ = h.Write(bytes[:n])
	return beginning{uint8(n), h.Sum32()}, nil
}

// Pause leaves the partition out if it is named.
func (f *Follower) Pause(partitions []string) { f.paused = len(partitions) > 0 }

// Lag is about how many records there are to be read, 1 at least if there are any.
func (f *Follower) Lag() map[string]int64 {
	length := int64(200)
	if f.records > 0 {
		length = max(1, f.bytes/f.records)
	}
	bytes, some := int64(0), f.open != nil || len(f.queue) > 0 || f.more != ""
	if f.open != nil {
		bytes += max(0, f.open.file.Size-f.open.known.at)
	}
	for _, file := range f.queue {
		at := int64(0)
		if k := f.state.byID[file.ID]; k != nil {
			at = k.at
		}
		bytes += max(0, file.Size-at)
	}
	lag := bytes / length
	if some {
		lag = max(lag, 1)
	}
	return map[string]int64{f.name: lag}
}

// Close ends reading.
func (f *Follower) Close() error {
	f.looks.Stop()
	f.release()
	if f.open != nil {
		f.open.close()
		f.open = nil
	}
	var errs []error
	for _, c := range f.kept {
		errs = append(errs, c.Close())
	}
	f.kept = nil
	if err := errors.Join(append(errs, f.store.Close())...); err != nil {
		return fmt.Errorf("closing what was followed: %w", err)
	}
	return nil
}
