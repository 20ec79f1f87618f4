package driver

import (
	"context"
	"io"

	"github.com/millrace-ml/millrace/transforms/event"
)

// Partition is what can be read on its own. It travels between workers.
type Partition struct {
	// URL is what Open needs, with secrets.
	URL string
	// Name is what people see: the path or the URL, without secrets.
	Name string
	// Size is the number of positions; for bytes -1 if it isn't known.
	Size int64
	// Splittable says that reading may start at any position: false for compressed files and pipes.
	Splittable bool
	// Step is the number of positions of a range; 0 leaves it to the reader.
	Step int64
	// Format is "json", "csv" or "parquet", or "" where the name doesn't tell.
	Format string
	// Gzip says that the bytes are gzip.
	Gzip bool
	// Header is the first line of a csv file; the reader fills it in.
	Header []byte
	// From and To say which keys the records of a log's partition have, as a part of all, from 0 up to 1, where
	// partitions are split and merged: together, those that are open have all keys, and what comes of them later
	// has a Name behind theirs. To is 0 where partitions stay what they are.
	From, To float64
}

// Driver finds what an address stands for.
type Driver interface {
	// Partitions lists what the address names, sorted by name. An address that names nothing is an
	// error. It may be called in the process that submits and in any worker.
	Partitions(ctx context.Context, address string) ([]Partition, error)
}

// Bytes is a driver of sources that are bytes to be decoded.
type Bytes interface {
	Driver
	// Open reads from an offset on; the caller closes, maybe long before the end. If what is
	// returned implements io.ReaderAt, formats that need random access use it.
	Open(ctx context.Context, p Partition, offset int64) (io.ReadCloser, error)
}

// Estimator is a driver that can say about how many bytes the records of an address would take as
// text, where partitions don't tell.
type Estimator interface {
	EstimateBytes(ctx context.Context, address string) (int64, error)
}

// Batches is a driver of sources that need no decoding.
type Batches interface {
	Driver
	// ReadBatches emits the records at the positions from <= i < to. Emitted batches belong to the
	// receiver. An error of emit is returned as it is.
	ReadBatches(ctx context.Context, p Partition, from, to int64, emit func(event.Batch) error) error
}
