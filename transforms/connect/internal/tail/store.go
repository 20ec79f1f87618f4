package tail

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"net/url"
	"time"
)

// File is what a store says of a file.
type File struct {
	Name string
	// ID is the file's, whatever its name; a file that takes its place has another.
	ID       uint64
	Size     int64
	Modified time.Time
	// Final says that the file never changes: it is whole, and another one is another file.
	Final bool
}

// Store is where files lie.
type Store interface {
	// List calls each for the files whose names come after a name, in order of names, until each returns
	// false. Nothing there is no error.
	List(ctx context.Context, after string, each func(File) bool) error
	// Open opens a file, an error of fs.ErrNotExist if the name stands for none or for another. The content
	// may be read until it or the store is closed, whatever becomes of the name.
	Open(ctx context.Context, f File) (Content, error)
	// Show is a name as people know it.
	Show(name string) string
	// Hopeless tells whether an error stays if nobody does anything about it.
	Hopeless(err error) bool
	// Close ends what still reads.
	Close() error
}

// Content is an open file.
type Content interface {
	io.ReaderAt
	io.Closer
	// Size is that of now.
	Size() (int64, error)
}

// Local is a content whose small reads cost nothing.
type Local interface {
	Content
	Local()
}

// Identity makes an identity of texts and numbers.
func Identity(text string, numbers ...int64) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, text)
	for _, n := range numbers {
		var b [8]byte
		for i := range b {
			b[i] = byte(n >> (8 * i))
		}
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}

// Poll is the parameter of addresses that says how often a store is looked at.
const Poll = "poll"

// Interval reads the parameter.
func Interval(values url.Values, otherwise time.Duration) (time.Duration, error) {
	texts := values[Poll]
	if len(texts) == 0 {
		return otherwise, nil
	}
	if d, err := time.ParseDuration(texts[0]); err == nil && len(texts) == 1 && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("parameter %s: want one duration above 0, as 500ms or 10s", Poll)
}
