package driver

import (
	"context"
	"io"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
)

// Log is a driver of sources without an end: each partition is a sequence of records that grows, and
// that can be read again from any position it still keeps.
type Log interface {
	Driver
	// Follow reads on in partitions of an address, each from its position. What it returns belongs to
	// one goroutine.
	Follow(ctx context.Context, address string, from []Position) (Follower, error)
}

// Lister is a log that has other partitions when it is followed than when it is read to an end: files of
// a folder are a partition each, the folder that grows is one.
type Lister interface {
	Log
	// Logs lists the partitions for Follow, sorted by name. An address that names nothing yet is none
	// the worse for it.
	Logs(ctx context.Context, address string) ([]Partition, error)
}

// Local is a driver of sources that one machine alone can read, such as what it takes in itself.
type Local interface {
	Driver
	// LocalOnly says to people why a cluster can't read an address, and what to do instead; the
	// address itself is the caller's to name.
	LocalOnly(address string) string
}

// Native is a log that some runners read by a transform of their own, which keeps what is under way.
type Native interface {
	Log
	// Native is the transform of an address. It contacts nothing.
	Native(address string) (Transform, error)
}

// Transform is what a runner reads by: it gives the values of records, PCollection<[]byte>, with times that the
// runner's watermark goes by.
type Transform struct {
	URN     string
	Payload []byte
	// Name is what people see of it.
	Name string
	// Timed says that the times are those of the events. Else they are the service's, which took them in later.
	Timed bool
}

// Position is where reading goes on in a partition.
type Position struct {
	// Partition is the partition's Name.
	Partition string
	// Next is the position of the next record, in the driver's own form, as a [Chunk] gave it. Empty
	// means where the address says that reading begins; without a word the oldest record.
	Next string
	// Gained says that the partition has come while others of the address were read: without a Next it is read
	// from its oldest record, whatever the address says.
	Gained bool
}

// Follower reads partitions as they grow.
type Follower interface {
	// Poll returns what there is, in each partition in order, about limit bytes at most. With nothing
	// there it waits until something comes, wait is over, or ctx is done; then it returns nothing and
	// no error. What it returned before is no longer valid, batches apart, which belong to the caller.
	Poll(ctx context.Context, wait time.Duration, limit int) ([]Chunk, error)
	// Pause names the partitions that Poll leaves out from now on, all others it reads.
	Pause(partitions []string)
	// Lag is the number of records behind the last position of each partition that the follower knows
	// about; partitions without a known lag are left out.
	Lag() map[string]int64
	Close() error
}

// Chunk is a run of records of a partition.
type Chunk struct {
	Partition string
	// Source is where the records are from, for people and dead letters, if that says more than
	// Partition: a file of a folder.
	Source string
	// Records are to be decoded, Table are rows to be decoded; Batch, where N > 0, is what needs no
	// decoding. A chunk has one of them, or none: then it tells where its partition stands, such as where
	// reading begins.
	Records []Record
	Table   Table
	Batch   event.Batch
	// Fault says what of Source can't be read behind the records, and why: it becomes a dead letter, and
	// reading goes on at Next.
	Fault error
	// Next is the position behind the last record.
	Next string
	// Ended says that nothing will ever come behind Next, as in a shard that was closed.
	Ended bool
}

// Table is a run of rows of a Parquet file.
type Table struct {
	File io.ReaderAt // nil for none
	Size int64       // of the file in bytes
	// From is the number of the first row, To that behind the last; 0 for all that follow.
	From, To int64
}

// Record is bytes with their place.
type Record struct {
	Value []byte
	// Offset is the record's place in the partition for people and dead letters.
	Offset int64
	// Time is when the source took the record in; zero where it doesn't say.
	Time time.Time
}

// Acknowledger is a follower of a source that keeps no positions and gives a record again until it is
// acknowledged. Ack is called with a chunk's Next once all that came of the chunk is durable, from any
// goroutine, in any order, and not after Close. Records that no Ack was called for when Close is called are
// given again, to whomever follows next. Close returns when the acknowledgements have reached the source.
type Acknowledger interface {
	Follower
	Ack(next string)
}
