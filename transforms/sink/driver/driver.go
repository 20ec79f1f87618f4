package driver

import (
	"context"
	"errors"
	"io"
	"syscall"
)

// Store is a folder, or the part of a bucket below a prefix. Names are relative to it and have
// slashes. All methods may be called from several goroutines. An error that time may mend is
// [Transient]: a stream then tries again.
type Store interface {
	// Create starts an object, replacing any of that name. Nothing of it can be seen, also after a
	// crash, before Close has returned nil; then it is durable.
	Create(ctx context.Context, name string) (Writer, error)
	// Open reads an object from an offset on; fs.ErrNotExist if there is none.
	Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error)
	// Copy makes to the same as from, at once: a reader sees the old object or the new one.
	Copy(ctx context.Context, from, to string) error
	// List gives the names that begin with a prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
	io.Closer
}

// Shared is what a store implements whose staging several targets, maybe of several processes, share:
// then a run sweeps nothing but its own.
type Shared interface {
	Store
	SharesStaging()
}

// Writer writes an object. One of Close and Abort ends it.
type Writer interface {
	io.WriteCloser
	// Abort drops what was written.
	Abort()
}

// Opener opens the store of an address.
type Opener interface {
	// OpenStore returns the store that holds what the address names, and the name of the one object
	// that is asked for; "" if the address is a folder. It creates nothing.
	OpenStore(ctx context.Context, address string) (store Store, target string, err error)
}

// Transient marks an error that time may mend: of a store that does not answer, or has too much to do.
func Transient(err error) error {
	if err == nil {
		return nil
	}
	return transient{err}
}

type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

// IsTransient reports whether time may mend an error: it is marked, or a disk or a quota is full.
func IsTransient(err error) bool {
	var t transient
	return errors.As(err, &t) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EMFILE)
}
