package shardstate

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/transforms/telemetry"
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
	// another process either: a seed is for tests only. Calls on several shards ask at once.
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

func (c *Config) setDefaults() error {
	if c.Rand == nil {
		c.Rand = func() uint64 {
			var b [8]byte
			_, _ = rand.Read(b[:]) // never fails
			return binary.LittleEndian.Uint64(b[:])
		}
	}
	if c.Now == nil {
		c.Now = func() time.Time { return time.Time{} }
	}
	if c.Trigger == 0 {
		c.Trigger = 2
	}
	if c.MinLog == 0 {
		c.MinLog = 1 << 20
	}
	if c.CopyBytes == 0 {
		c.CopyBytes = 256 << 10
	}
	var errs []error
	if c.Run == "" || c.Stage == "" {
		errs = append(errs, errors.New("a run and a stage are needed: they key the cache"))
	}
	if c.Shards < 1 {
		errs = append(errs, fmt.Errorf("shards: %d, want at least 1", c.Shards))
	}
	if c.New == nil {
		errs = append(errs, errors.New("a machine is needed"))
	}
	// Just above 1 a finished copy would at once be due again.
	if c.Trigger < 1.5 {
		errs = append(errs, fmt.Errorf("trigger: %g, want at least 1.5", c.Trigger))
	}
	if c.MinLog < 0 || c.CopyBytes < 0 {
		errs = append(errs, errors.New("sizes can't be negative"))
	}
	return errors.Join(errs...)
}

type key struct{ run, stage string }

var (
	cachesMu sync.Mutex
	caches   = map[key]*cache{}
)

// cache holds the machines of one stage in this process, at most one a shard: nothing is ever
// evicted for want of room, so it can't thrash.
type cache struct {
	Config
	refs int // under cachesMu

	mu     sync.Mutex
	shards []*entry // nil: not known, or in the hands of a Do
	live   []int64  // by shard, as of its last Do
	logs   []int64
	stats  Stats // the counters
	// The bounds are those of the package except in tests.
	limit, maxRecord int
}

// Store is a reference to the cache of one stage's shards in this process.
type Store struct {
	c      *cache
	closed atomic.Bool
}

// Open returns a reference to the process-wide store of (Run, Stage), which is made on first use.
// Several instances of a DoFn each open and close their own reference; the last Close drops the
// machines. Another fingerprint or number of shards under the same key is an error.
func Open(c Config) (*Store, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("opening the shards of stage %q: %w", c.Stage, err)
	}
	cachesMu.Lock()
	defer cachesMu.Unlock()
	k := key{c.Run, c.Stage}
	old := caches[k]
	if old == nil {
		old = &cache{
			Config: c, shards: make([]*entry, c.Shards), live: make([]int64, c.Shards), logs: make([]int64, c.Shards),
			limit: LimitBytes, maxRecord: maxRecord,
		}
		caches[k] = old
	}
	if old.Fingerprint != c.Fingerprint || old.Shards != c.Shards {
		return nil, fmt.Errorf("opening the shards of stage %q: this process has them open with fingerprint %q and %d shards, not %q and %d: name stages apart",
			c.Stage, old.Fingerprint, old.Shards, c.Fingerprint, c.Shards)
	}
	old.refs++
	return &Store{c: old}, nil
}

// Close gives the reference up. A second Close does nothing.
func (s *Store) Close() {
	if s.closed.Swap(true) {
		return
	}
	cachesMu.Lock()
	defer cachesMu.Unlock()
	if s.c.refs--; s.c.refs == 0 {
		delete(caches, key{s.c.Run, s.c.Stage})
	}
}

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
	c := s.c
	if s.closed.Load() {
		return fmt.Errorf("shard %d of stage %q: the store is closed", shard, c.Stage)
	}
	if shard < 0 || shard >= c.Shards {
		return fmt.Errorf("shard %d of stage %q: there are %d shards", shard, c.Stage, c.Shards)
	}
	head, known, err := cells.Head()
	if err != nil {
		return fmt.Errorf("reading the head of shard %d: %w", shard, err)
	}
	// From here to put the entry is in nobody's hands but ours: whatever goes wrong in between, a
	// panic too, loses it, and can't leave changed contents under a valid token.
	e := c.take(shard, head, known)
	if e == nil {
		if e, err = c.rebuild(shard, cells, head, known); err != nil {
			return err
		}
	}
	before := e.machine.Size()
	deltas, err := apply(e.machine)
	if err != nil {
		return err
	}
	if size(deltas) > 0 {
		if live := e.machine.Size(); live > int64(c.limit) {
			return fmt.Errorf("%w: shard %d of stage %q holds %d MiB, the limit is %d MiB: with %d instead of %d shards each would hold about %d MiB; the number is fixed for the life of the state, so start with fresh state and replay",
				ErrFull, shard, c.Stage, live>>20, c.limit>>20, int64(c.Shards)*(live/GoalBytes+1), c.Shards, GoalBytes>>20)
		}
		if err := e.write(c, shard, cells, deltas, before); err != nil {
			return err
		}
	}
	c.put(shard, e)
	return nil
}

func size(deltas [][]byte) (n int) {
	for _, d := range deltas {
		n += len(d)
	}
	return n
}

// take removes the shard's entry from the cache, and returns it if it is that of the head.
func (c *cache) take(shard int, head int64, known bool) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.shards[shard]
	c.shards[shard] = nil
	if e == nil || e.known != known || e.head != head {
		c.stats.Misses++
		telemetry.CacheMisses(c.Stage, 1)
		return nil
	}
	return e
}

// put makes the entry the shard's. Of two calls on one shard at once the last one's stays; the token
// says whether it is of use.
func (c *cache) put(shard int, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shards[shard] = e
	c.live[shard], c.logs[shard] = e.machine.Size(), e.logs[e.active].bytes
	c.stats.add(e.written)
	telemetry.StateWritten(c.Stage, int(e.written.bytes()))
	telemetry.StateBytes(c.Stage, c.figures().LiveBytes)
	e.written = Stats{}
}

// rebuilding lets one rebuild run at a time in a process: each holds its log several times over.
var rebuilding sync.Mutex

// rebuild makes the shard's machine from the active log.
func (c *cache) rebuild(shard int, cells Cells, head int64, known bool) (*entry, error) {
	e := &entry{machine: c.New(), head: head, known: known, spread: true}
	if !known {
		return e, nil
	}
	rebuilding.Lock()
	defer rebuilding.Unlock()
	start := c.Now()
	active, copying, token := splitHead(head)
	r := replayer{machine: e.machine, want: header{shards: c.Shards, shard: shard, fingerprint: c.Fingerprint}}
	// A fault of the log is kept apart from one of reading it, which may pass.
	var bad error
	err := cells.Read(active, func(record []byte) error {
		if bad = r.record(record); bad != nil {
			bad = fmt.Errorf("record %d: %w", r.records, bad)
		}
		return bad
	})
	if bad == nil && err == nil {
		bad = r.end(token)
	}
	switch {
	case errors.Is(bad, ErrForeign):
		return nil, fmt.Errorf("shard %d of stage %q: %w: go on with the graph that wrote it, or start this one with fresh state", shard, c.Stage, bad)
	case bad != nil:
		return nil, fmt.Errorf("%w: shard %d of stage %q: %w: restore an older checkpoint, or start with fresh state", ErrCorrupt, shard, c.Stage, bad)
	case err != nil:
		return nil, fmt.Errorf("reading the log of shard %d: %w", shard, err)
	}
	e.active, e.logs[active] = active, logEnd{bytes: r.bytes, records: r.records}
	if copying {
		// Where the other log's copy stood is not known: it starts again.
		e.copying = true
		e.machine.Freeze(true)
		e.written.Restarts++
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Rebuilds++
	c.stats.LongestRebuild = max(c.stats.LongestRebuild, c.Now().Sub(start))
	c.stats.LargestRebuild = max(c.stats.LargestRebuild, r.bytes)
	return e, nil
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

// bytes is all that was written.
func (s Stats) bytes() int64 { return s.DeltaBytes + s.TwiceBytes + s.CopyBytes + s.HeaderBytes }

func (s *Stats) add(w Stats) {
	s.DeltaBytes += w.DeltaBytes
	s.TwiceBytes += w.TwiceBytes
	s.CopyBytes += w.CopyBytes
	s.HeaderBytes += w.HeaderBytes
	s.Compactions += w.Compactions
	s.Restarts += w.Restarts
}

// figures adds the gauges to the counters.
func (c *cache) figures() Stats {
	s := c.stats
	for i, live := range c.live {
		s.LiveBytes += live
		s.LogBytes += c.logs[i]
		s.LargestShard = max(s.LargestShard, live)
		if live > GoalBytes {
			s.OverGoal++
		}
		if live > WarnBytes {
			s.OverWarn++
		}
	}
	return s
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
func (s *Store) Stats() Stats {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.figures()
}
