package shardstate

import (
	"errors"
	"time"
)

// The errors that end a job: a retry gives them again, so whoever watches a runner cancels the job
// instead of letting it restart. Over a runner only the text survives; these texts do not change.
var (
	// ErrForeign is state that another stage, another number of shards or another version wrote.
	ErrForeign = errors.New("shardstate: foreign state")
	// ErrCorrupt is state that is damaged, or that a machine can't replay.
	ErrCorrupt = errors.New("shardstate: corrupt state")
	// ErrFull is a shard that has outgrown what a runner can read in one piece.
	ErrFull = errors.New("shardstate: shard too large")
)

// Config describes the shards of one stage.
type Config struct {
	// Run and Stage are, with the shard, the key of the cache. Run is random and travels in the
	// graph, so that a second run in this process starts from its own state.
	Run, Stage string
	// Fingerprint of the stage stands in each log's header; other state is refused with ErrForeign.
	Fingerprint string
	// Shards is S, at least 1. It stands in the headers too.
	Shards int
	// New makes an empty machine. The New of the first Open serves all, so it must not depend on
	// the instance that opens.
	New func() Machine
	// Rand gives random bits for tokens (default: crypto/rand). Tokens must never repeat, not in
	// another process either: a seed is for tests only.
	Rand func() uint64
	// Now is asked how long rebuilds take (default: nil, durations stay 0).
	Now func() time.Time
	// Trigger is the size of a log over that of its live entities from which it is compacted, at
	// least 1.5 (default 2).
	Trigger float64
	// MinLog is the size in bytes below which a log is not compacted (default 1 MiB).
	MinLog int
	// CopyBytes is the least number of bytes that a call copies while a compaction runs (default
	// 256 KiB).
	CopyBytes int
}

// Store is a reference to the cache of one stage's shards in this process.
type Store struct{}

// Open returns a reference to the process-wide store of (Run, Stage), which is made on first use.
// Several instances of a DoFn each open and close their own reference; the last Close drops the
// machines. Another fingerprint or number of shards under the same key is an error.
func Open(c Config) (*Store, error) { return &Store{}, nil }

// Close gives the reference up. A second Close does nothing.
func (s *Store) Close() {}

// Do runs one call on a shard. It reads the head, takes the machine out of the cache or rebuilds it
// from its log, and calls apply, which changes the machine and returns what it did as deltas: what
// Replay needs to do the same to another machine in the same state. The deltas are appended to the
// log, a running compaction advances, the head gets a new token, the machine goes back.
//
// Deltas are read before the machine is used again, so they may lie in the machine's buffers. Empty
// ones are skipped. With none nothing was changed, and nothing is written.
//
// If apply or a cell fails, or anything panics, the machine is dropped; the caller must then fail
// its bundle. Do on different shards may run at once. On the same shard a correct runner makes one
// call at a time; a second one is safe, and works on a machine of its own.
func (s *Store) Do(shard int, cells Cells, apply func(Machine) (deltas [][]byte, err error)) error {
	return errors.ErrUnsupported
}

// Stats are a store's figures; the counters never fall while the store is open.
type Stats struct {
	// LiveBytes and LogBytes are sums over the cached shards: [Machine.Size] and the active log.
	LiveBytes, LogBytes int64
	// LargestShard is the most live bytes that a cached shard has.
	LargestShard int64
	// OverGoal and OverWarn count the cached shards with more than [GoalBytes] and [WarnBytes].
	OverGoal, OverWarn int
	// Misses counts calls that found no machine with the head's token, Rebuilds those of them that
	// read a log (the others found a shard without state).
	Misses, Rebuilds int64
	// LongestRebuild and LargestRebuild are the worst of them, in time (0 without Config.Now) and in
	// bytes read.
	LongestRebuild time.Duration
	LargestRebuild int64
	// DeltaBytes were written for deltas, TwiceBytes of them again into running copies, CopyBytes
	// for live entities, HeaderBytes for the headers of logs and for framing.
	DeltaBytes, TwiceBytes, CopyBytes, HeaderBytes int64
	// Compactions counts flips, Restarts compactions that a rebuild started again.
	Compactions, Restarts int64
}

// Bounds of a shard's live bytes.
const (
	// GoalBytes is what to choose the number of shards for.
	GoalBytes = 32 << 20
	// WarnBytes is where rebuilds take seconds and several times the memory.
	WarnBytes = 256 << 20
	// LimitBytes is where a call is refused with ErrFull.
	LimitBytes = 1 << 30
)

// Stats returns the figures of all references together.
func (s *Store) Stats() Stats { return Stats{} }
