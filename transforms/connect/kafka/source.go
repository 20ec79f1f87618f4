package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() { source.Register("kafka", sourceDriver{}) }

var expired = beam.NewCounter("kafka", "expired")

const (
	// A fetch from a broker, compressed, and what of it may be of one partition. One fetch is under
	// way while another is read, for each broker.
	fetchBytes     = 16 << 20
	partitionBytes = 4 << 20
	// The broker answers at once when there is a record; without one it holds the question so long,
	// and a partition that is resumed waits for that answer.
	fetchWait = 100 * time.Millisecond
)

type sourceDriver struct{}

var _ driver.Log = sourceDriver{}

// Partitions lists the topic's partitions.
func (sourceDriver) Partitions(ctx context.Context, text string) ([]driver.Partition, error) {
	a, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	topic, err := a.describe(ctx)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	var parts []driver.Partition
	for id := range topic.Partitions {
		parts = append(parts, driver.Partition{URL: text, Name: a.name(id), Size: -1})
	}
	slices.SortFunc(parts, func(x, y driver.Partition) int { return cmp.Compare(x.Name, y.Name) })
	return parts, nil
}

func (a address) name(id int32) string { return a.topic + "/" + strconv.Itoa(int(id)) }

// Follow reads on in partitions.
func (sourceDriver) Follow(ctx context.Context, text string, from []driver.Position) (driver.Follower, error) {
	a, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	topic, err := a.describe(ctx)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	f := &follower{address: a, text: text, topic: topic.ID, parts: map[int32]*partition{}}
	// The isolation hides what a transaction has not committed, or has aborted.
	f.client, err = a.client(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.KeepRetryableFetchErrors(),
		kgo.FetchMinBytes(1), kgo.FetchMaxWait(fetchWait), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(partitionBytes))
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	if err := f.begin(ctx, topic, from); err != nil {
		f.client.Close()
		return nil, connect.Scrub(err, text)
	}
	if a.group != "" {
		f.commits = startCommits(kadm.NewClient(f.client), a)
	}
	return f, nil
}

// follower reads partitions by one client.
type follower struct {
	address address
	text    string // the address as it was given
	topic   kadm.TopicID
	client  *kgo.Client
	commits *commits // nil without a group
	parts   map[int32]*partition

	fetched []run           // of records that were not polled yet
	records []driver.Record // of the last poll
	chunks  []driver.Chunk
}

type partition struct {
	id     int32
	name   string
	next   int64 // behind what was polled
	end    int64 // of the partition, as the broker last said
	told   bool  // next is known to the caller
	paused bool
}

// run is records of a partition, in order.
type run struct {
	of      *partition
	records []*kgo.Record
}

// begin finds out where the partitions begin, and starts to read.
func (f *follower) begin(ctx context.Context, topic kadm.TopicDetail, from []driver.Position) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+askTimeout)
	defer cancel()
	oldest, newest, first, err := f.bounds(ctx)
	if err != nil {
		return err
	}
	for _, pos := range from {
		id, err := f.address.partition(pos.Partition)
		if err != nil {
			return err
		}
		if _, ok := topic.Partitions[id]; !ok {
			return fmt.Errorf("partition %s: %w: the topic was made anew with fewer partitions; begin without positions", pos.Partition, kerr.UnknownTopicOrPartition)
		}
		p := &partition{id: id, name: pos.Partition, end: newest[id], told: pos.Next != ""}
		f.parts[id] = p
		switch {
		case pos.Next != "":
			if p.next, err = strconv.ParseInt(pos.Next, 10, 64); err != nil {
				return fmt.Errorf("position of partition %s: %w", pos.Partition, err)
			}
			if p.next < oldest[id] || p.next > newest[id] {
				if err := f.expire(ctx, p, oldest[id]); err != nil {
					return err
				}
			}
		case pos.Gained:
			p.next = oldest[id]
		default:
			p.next = first[id]
		}
		f.consume(p)
	}
	return nil
}

// bounds asks for the oldest and the newest offset of each partition, and that where reading begins.
func (f *follower) bounds(ctx context.Context) (oldest, newest, first map[int32]int64, err error) {
	admin := kadm.NewClient(f.client)
	ask := func(list func(context.Context, ...string) (kadm.ListedOffsets, error)) map[int32]int64 {
		offsets := map[int32]int64{}
		listed, failed := list(ctx, f.address.topic)
		err = errors.Join(err, failed)
		listed.Each(func(o kadm.ListedOffset) {
			err = errors.Join(err, o.Err)
			offsets[o.Partition] = o.Offset
		})
		return offsets
	}
	oldest, newest = ask(admin.ListStartOffsets), ask(admin.ListEndOffsets)
	switch {
	case f.address.newest:
		first = newest
	case !f.address.from.IsZero():
		first = ask(func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return admin.ListOffsetsAfterMilli(ctx, f.address.from.UnixMilli(), topics...)
		})
	default:
		first = oldest
	}
	if err != nil {
		err = fmt.Errorf("asking where the partitions of topic %s begin and end: %w", f.address.topic, err)
	}
	return oldest, newest, first, err
}

func (a address) partition(name string) (int32, error) {
	number, ok := strings.CutPrefix(name, a.topic+"/")
	id, err := strconv.ParseInt(number, 10, 32)
	if !ok || err != nil || name != a.name(int32(id)) { // "orders/00" would be read beside "orders/0"
		return 0, fmt.Errorf("%q is no partition of topic %s: want its name and a number, as %s", name, a.topic, a.name(0))
	}
	return int32(id), nil
}

// consume reads a partition from where it stands.
func (f *follower) consume(p *partition) {
	f.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{f.address.topic: {p.id: kgo.NewOffset().At(p.next)}})
}

// expire moves a partition whose next record isn't there to the oldest that is, or refuses.
func (f *follower) expire(ctx context.Context, p *partition, oldest int64) error {
	if !f.address.skipsLost {
		return fmt.Errorf("partition %s keeps no offset %d: %w, records from %d on are there; "+
			"to lose what is missing and go on with the oldest record set on_expired=oldest", p.name, p.next, kerr.OffsetOutOfRange, oldest)
	}
	expired.Inc(ctx, max(1, oldest-p.next))
	p.next = oldest
	return nil
}

// Poll returns what was fetched, or waits for a fetch.
func (f *follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	if f.commits != nil {
		f.commits.reach(f.parts) // what the last poll returned has been taken
	}
	if !slices.ContainsFunc(f.fetched, func(r run) bool { return !r.of.paused }) {
		if err := f.fetch(ctx, wait); err != nil {
			return nil, connect.Scrub(err, f.text)
		}
	}
	f.records, f.chunks = f.records[:0], f.chunks[:0]
	kept := f.fetched[:0]
	for _, r := range f.fetched {
		if !r.of.paused && limit > 0 {
			r.records = f.take(r, &limit)
		}
		if len(r.records) > 0 {
			kept = append(kept, r)
		}
	}
	clear(f.fetched[len(kept):])
	f.fetched = kept
	for _, p := range f.parts {
		if !p.told {
			p.told = true
			f.chunks = append(f.chunks, driver.Chunk{Partition: p.name, Next: strconv.FormatInt(p.next, 10)})
		}
	}
	return f.chunks, nil
}

// take makes a chunk of a run's records, and returns those that were too many.
func (f *follower) take(r run, limit *int) []*kgo.Record {
	begin, n := len(f.records), 0
	for ; n < len(r.records) && *limit > 0; n++ {
		rec := r.records[n]
		f.records = append(f.records, driver.Record{Value: rec.Value, Offset: rec.Offset, Time: rec.Timestamp})
		*limit -= len(rec.Value) + 1
	}
	r.of.next, r.of.told = r.records[n-1].Offset+1, true
	f.chunks = append(f.chunks, driver.Chunk{Partition: r.of.name, Records: f.records[begin:len(f.records):len(f.records)], Next: strconv.FormatInt(r.of.next, 10)})
	return r.records[n:]
}

// fetch waits for records and puts them with those that are there.
func (f *follower) fetch(ctx context.Context, wait time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var failed error
	f.client.PollFetches(waiting).EachPartition(func(fetched kgo.FetchTopicPartition) {
		p := f.parts[fetched.Partition]
		if p != nil && len(fetched.Records) > 0 {
			f.fetched = append(f.fetched, run{p, fetched.Records})
		}
		if p != nil && fetched.Err == nil {
			p.end = fetched.HighWatermark
		}
		ended := errors.Is(fetched.Err, context.DeadlineExceeded) || errors.Is(fetched.Err, context.Canceled)
		if fetched.Err != nil && failed == nil && !ended {
			failed = f.fault(ctx, p, fetched.Err)
		}
	})
	return failed
}

// fault judges an error of a partition, or with nil of the topic: what goes away by itself is none.
func (f *follower) fault(ctx context.Context, p *partition, err error) error {
	var truncated *kgo.ErrDataLoss
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		topic, err := f.address.describe(ctx)
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("the topic was deleted while it was read: %w", err)
		case err == nil && topic.ID != f.topic:
			return fmt.Errorf("topic %s was deleted and made anew while it was read: begin without positions", f.address.topic)
		}
		return nil // it is too new for the broker, or the broker is away
	case p != nil && errors.Is(err, kerr.OffsetOutOfRange):
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		oldest, _, _, err := f.bounds(ask)
		if err != nil {
			return err
		}
		if err := f.expire(ctx, p, oldest[p.id]); err != nil {
			return err
		}
		f.client.RemoveConsumePartitions(map[string][]int32{f.address.topic: {p.id}})
		f.consume(p)
		return nil
	case p != nil && errors.As(err, &truncated) && f.address.skipsLost:
		expired.Inc(ctx, max(1, truncated.ConsumedTo-truncated.ResetTo))
		return nil
	case kerr.IsRetriable(err):
		return nil
	}
	return fmt.Errorf("reading topic %s: %w", f.address.topic, err)
}

// Pause leaves partitions out.
func (f *follower) Pause(names []string) {
	for _, p := range f.parts {
		pause := slices.Contains(names, p.name)
		if pause == p.paused {
			continue
		}
		p.paused = pause
		which := map[string][]int32{f.address.topic: {p.id}}
		if pause {
			f.client.PauseFetchPartitions(which)
		} else {
			f.client.ResumeFetchPartitions(which)
		}
	}
}

// Lag is how far the partitions' ends are.
func (f *follower) Lag() map[string]int64 {
	lag := make(map[string]int64, len(f.parts))
	for _, p := range f.parts {
		lag[p.name] = max(0, p.end-p.next)
	}
	return lag
}

// Close ends reading.
func (f *follower) Close() error {
	if f.commits != nil {
		f.commits.stop()
	}
	f.client.Close()
	return nil
}
