package kinesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() { source.Register("kinesis", sourceDriver{}) }

var (
	throttledReads = beam.NewCounter("kinesis", "throttled_reads")
	expiredShards  = beam.NewCounter("kinesis", "expired_shards")
	behindMS       = beam.NewDistribution("kinesis", "behind_ms")
)

type sourceDriver struct{}

var _ driver.Log = sourceDriver{}

// Partitions lists the stream's shards, with those that are closed and still keep records.
func (sourceDriver) Partitions(ctx context.Context, text string) ([]driver.Partition, error) {
	a, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	c, err := a.lastClient(ctx)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	shards, _, err := a.list(ctx, c)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	var parts []driver.Partition
	for _, s := range shards {
		from, to, err := keys(s)
		if err != nil {
			return nil, fmt.Errorf("shard %s: %w", *s.ShardId, err)
		}
		parts = append(parts, driver.Partition{URL: text, Name: a.name(*s.ShardId), Size: -1, From: from, To: to})
	}
	slices.SortFunc(parts, func(x, y driver.Partition) int { return cmp.Compare(x.Name, y.Name) })
	return parts, nil
}

func (a address) name(shard string) string { return a.stream + "/" + shard }

// allKeys are 2^128, by the hash of a partition key.
const allKeys = 1 << 128

// keys are a shard's part of all, from 0 to 1.
func keys(s types.Shard) (from, to float64, err error) {
	if s.HashKeyRange == nil {
		return 0, 0, errors.New("the service doesn't say which keys it has")
	}
	from, err1 := strconv.ParseFloat(aws.ToString(s.HashKeyRange.StartingHashKey), 64)
	to, err2 := strconv.ParseFloat(aws.ToString(s.HashKeyRange.EndingHashKey), 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("reading which keys it has: %w", err)
	}
	return from / allKeys, to / allKeys, nil
}

// list asks for the shards, and what time it is there.
func (a address) list(ctx context.Context, c *kinesis.Client) (shards []types.Shard, now time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ask := &kinesis.ListShardsInput{StreamName: &a.stream}
	for {
		out, err := c.ListShards(ctx, ask)
		if err != nil {
			return nil, now, a.explain(err)
		}
		if t, ok := awsmiddleware.GetServerTime(out.ResultMetadata); ok && now.IsZero() {
			now = t
		}
		shards = append(shards, out.Shards...)
		if out.NextToken == nil {
			return shards, now, nil
		}
		ask = &kinesis.ListShardsInput{NextToken: out.NextToken}
	}
}

// place is where reading goes on in a shard: behind a record, from a time, or at the oldest record.
type place struct {
	behind string // a sequence number
	from   time.Time
}

var sequenceNumber = regexp.MustCompile(`^[0-9]+$`)

func parsePlace(next string) (place, error) {
	if next == "" {
		return place{}, nil
	}
	if sequenceNumber.MatchString(next) {
		return place{behind: next}, nil
	}
	t, err := time.Parse(time.RFC3339, next)
	if err != nil {
		return place{}, fmt.Errorf("%q is neither a sequence number nor a time", next)
	}
	return place{from: t}, nil
}

// String is what parsePlace takes.
func (p place) String() string {
	if p.behind == "" && !p.from.IsZero() {
		return p.from.UTC().Format(time.RFC3339)
	}
	return p.behind
}

// Follow reads on in shards.
func (sourceDriver) Follow(ctx context.Context, text string, from []driver.Position) (driver.Follower, error) {
	a, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	c, err := a.client(ctx)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	listed, now, err := a.list(ctx, c)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	f := &follower{address: a, text: text, client: c, came: make(chan struct{}, 1), reads: make(chan struct{}, maxReads), behind: -1}
	f.room.L = &f.mu
	if err := f.begin(listed, now, from); err != nil {
		return nil, connect.Scrub(err, text)
	}
	reading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.start = func(s *shard) { f.running.Go(func() { f.read(reading, s) }) }
	f.startReady()
	return f, nil
}

// follower reads shards, each in a goroutine.
type follower struct {
	address address
	text    string // the address as it was given
	client  *kinesis.Client
	start   func(*shard) // its goroutine
	cancel  func()
	running sync.WaitGroup
	reads   chan struct{} // a place for each read under way
	came    chan struct{} // one place: look again

	mu        sync.Mutex
	room      sync.Cond
	shards    []*shard
	bytes     int // of records that were fetched and not polled
	throttled int64
	behind    int64 // in ms, of the furthest shard that was read; -1 for none
	lost      int64 // shards that were passed over
	failed    error

	turn    int             // which shard a poll begins with
	records []driver.Record // of the last poll
	chunks  []driver.Chunk
}

type shard struct {
	id, name string
	parents  []*shard // of this follower

	started bool
	at      place // behind what was fetched
	fetched []types.Record
	current bool // with what was fetched all is there that the shard has
	closed  bool // nothing comes behind what was fetched
	gone    bool // it is no longer listed
	alone   bool // closed for so long that its children must be another's

	next   string // behind what was polled
	told   bool   // next is known to the caller
	paused bool
	ended  bool // the caller knows
}

// begin makes the shards.
func (f *follower) begin(listed []types.Shard, now time.Time, from []driver.Position) error {
	byID := map[string]*types.Shard{}
	for i := range listed {
		byID[*listed[i].ShardId] = &listed[i]
	}
	begin := place{from: f.address.from}
	if f.address.newest || begin.from.After(now) {
		if now.IsZero() {
			return fmt.Errorf("stream %s: the service doesn't say what time it is, by which start=newest begins: give start=oldest or a time", f.address.stream)
		}
		begin.from = now // the service refuses times to come
	}
	own := map[string]*shard{}
	for _, pos := range from {
		id, ok := strings.CutPrefix(pos.Partition, f.address.stream+"/")
		if !ok || !strings.HasPrefix(id, "shardId-") {
			return fmt.Errorf("%q is no shard of stream %s: want its name and a shard's, as %s", pos.Partition, f.address.stream, f.address.name("shardId-000000000000"))
		}
		s := &shard{id: id, name: pos.Partition, next: pos.Next, told: true}
		var err error
		if s.at, err = parsePlace(pos.Next); err != nil {
			return fmt.Errorf("position of %s: %w", pos.Partition, err)
		}
		switch {
		case byID[id] == nil && f.address.skipsLost:
			s.started, s.closed, s.gone = true, true, true
			f.lost++
		case byID[id] == nil:
			return fmt.Errorf("stream %s has no shard %s any more: its records have expired, or the stream was made anew; "+
				"begin without positions, or set on_expired=oldest to lose what is missing and go on", f.address.stream, id)
		case pos.Next != "" || pos.Gained:
		default:
			s.at = begin
			s.next, s.told = begin.String(), begin.String() == ""
		}
		own[id] = s
		f.shards = append(f.shards, s)
	}
	for _, s := range f.shards {
		if of := byID[s.id]; of != nil {
			for _, parent := range []*string{of.ParentShardId, of.AdjacentParentShardId} {
				if p := own[aws.ToString(parent)]; p != nil {
					s.parents = append(s.parents, p)
				}
			}
		}
	}
	return nil
}

// startReady starts the shards whose parents have ended.
func (f *follower) startReady() {
	for _, s := range f.shards {
		if !s.started && !slices.ContainsFunc(s.parents, func(p *shard) bool { return !p.ended }) {
			s.started = true
			f.start(s)
		}
	}
}

// Poll returns what was fetched, or waits for it.
func (f *follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	f.records, f.chunks = f.records[:0], f.chunks[:0]
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		f.mu.Lock()
		err := f.failed
		if err == nil {
			f.give(limit)
		}
		slowed, lost, behind := f.throttled, f.lost, f.behind
		f.throttled, f.lost, f.behind = 0, 0, -1
		f.mu.Unlock()
		if slowed+lost > 0 {
			throttledReads.Inc(ctx, slowed)
			expiredShards.Inc(ctx, lost)
		}
		if behind >= 0 {
			behindMS.Update(ctx, behind)
		}
		if err != nil {
			return nil, connect.Scrub(err, f.text)
		}
		if len(f.chunks) > 0 {
			return f.chunks, nil
		}
		select {
		case <-f.came:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// give makes chunks of what was fetched, of each shard in its turn.
func (f *follower) give(limit int) {
	for i := range f.shards {
		s := f.shards[(f.turn+i)%len(f.shards)]
		if !s.told {
			s.told = true
			f.chunks = append(f.chunks, driver.Chunk{Partition: s.name, Next: s.next})
		}
		if s.paused || s.ended {
			continue
		}
		if len(s.fetched) > 0 && limit > 0 {
			f.take(s, &limit)
		}
		if len(s.fetched) == 0 && s.closed && f.mayEnd(s) {
			s.ended = true
			f.chunks = append(f.chunks, driver.Chunk{Partition: s.name, Next: s.next, Ended: true})
			f.startReady()
		}
	}
	f.turn++
	f.room.Broadcast()
}

// take makes a chunk of a shard's records.
func (f *follower) take(s *shard, limit *int) {
	begin, n := len(f.records), 0
	for ; n < len(s.fetched) && *limit > 0; n++ {
		r := &s.fetched[n]
		f.records = append(f.records, driver.Record{Value: r.Data, Offset: int64(n), Time: aws.ToTime(r.ApproximateArrivalTimestamp)})
		*limit -= len(r.Data) + 1
		f.bytes -= len(r.Data)
	}
	s.next = *s.fetched[n-1].SequenceNumber
	s.told = true
	f.chunks = append(f.chunks, driver.Chunk{
		Partition: s.name, Source: s.name + " from " + *s.fetched[0].SequenceNumber,
		Records: f.records[begin:len(f.records):len(f.records)], Next: s.next,
	})
	s.fetched = s.fetched[n:]
}

// mayEnd tells whether the caller may hear that a shard has ended. Until its children are here it holds back the
// watermark, behind which they would be late.
func (f *follower) mayEnd(s *shard) bool {
	return s.alone || s.gone || slices.ContainsFunc(f.shards, func(o *shard) bool { return slices.Contains(o.parents, s) })
}

// Pause leaves shards out.
func (f *follower) Pause(names []string) {
	f.mu.Lock()
	for _, s := range f.shards {
		s.paused = slices.Contains(names, s.name)
	}
	f.room.Broadcast()
	f.mu.Unlock()
	f.wake()
}

// Lag is 0 for shards of which all was polled; the service doesn't count the records of others.
func (f *follower) Lag() map[string]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	lag := map[string]int64{}
	for _, s := range f.shards {
		if s.current && len(s.fetched) == 0 {
			lag[s.name] = 0
		}
	}
	return lag
}

// Close ends reading.
func (f *follower) Close() error {
	f.cancel()
	f.mu.Lock()
	f.room.Broadcast()
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

func (f *follower) wake() {
	select {
	case f.came <- struct{}{}:
	default:
	}
}

func (f *follower) fail(err error) {
	f.mu.Lock()
	if f.failed == nil {
		f.failed = err
	}
	f.mu.Unlock()
	f.wake()
}

// lostStream says why a shard can't be read any more.
func (f *follower) lostStream(s *shard, err error) error {
	var missing *types.ResourceNotFoundException
	if errors.As(err, &missing) {
		return fmt.Errorf("stream %s was deleted while it was read, or the records of %s have all expired: %w", f.address.stream, s.id, err)
	}
	return fmt.Errorf("reading %s: %w", s.name, err)
}
