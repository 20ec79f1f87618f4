package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() {
	source.Register("memory", broker{})
	sink.Register("memory", broker{})
}

var (
	topicsMu sync.Mutex
	topics   = map[string]*Topic{} // by address
)

// Topic is a topic. Its methods may be called from any goroutine.
type Topic struct {
	// PerPoll is how many records of a partition a poll gives at the most; 0: as many as are asked for. Set it
	// before anybody follows.
	PerPoll int

	address string

	mu         sync.Mutex
	changed    chan struct{} // closed at every change
	partitions map[string][]Record
	ended      bool
	followed   map[string]bool
	taken      map[string]int // records that a poll gave, of whose follower another poll was asked
	polls      int
	due        map[int]func() // by the number of records that a poll has to come to in a partition
}

// Record is a record of a partition.
type Record struct {
	Partition string
	Key       []byte
	Value     []byte
	// Time is the event's time of what was sent.
	Time time.Time
}

// New makes a topic with partitions, by default one, "0". It goes with the test.
func New(t testing.TB, name string, partitions ...string) *Topic {
	t.Helper()
	topic := &Topic{address: "memory://" + name, changed: make(chan struct{}), partitions: map[string][]Record{}, followed: map[string]bool{}, taken: map[string]int{}}
	if len(partitions) == 0 {
		partitions = []string{"0"}
	}
	topic.Add(partitions...)
	topicsMu.Lock()
	defer topicsMu.Unlock()
	if topics[topic.address] != nil {
		t.Fatalf("there is a topic %s", topic.address)
	}
	topics[topic.address] = topic
	t.Cleanup(func() {
		topicsMu.Lock()
		defer topicsMu.Unlock()
		delete(topics, topic.address)
	})
	return topic
}

// Address is where graphs find the topic.
func (t *Topic) Address() string { return t.address }

// change does something to the topic, and wakes who waits.
func (t *Topic) change(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
	close(t.changed)
	t.changed = make(chan struct{})
}

// Add adds partitions.
func (t *Topic) Add(partitions ...string) {
	t.change(func() {
		for _, p := range partitions {
			t.partitions[p] = append([]Record{}, t.partitions[p]...)
		}
	})
}

// Append appends records, all before anybody polls. It keeps them.
func (t *Topic) Append(records ...Record) {
	t.change(func() {
		for _, r := range records {
			t.partitions[r.Partition] = append(t.partitions[r.Partition], r)
		}
	})
}

// End says that nothing more will come.
func (t *Topic) End() { t.change(func() { t.ended = true }) }

// When does something, once, in the poll that gives the n-th record of a partition, before it is handed on.
func (t *Topic) When(n int, do func()) {
	t.change(func() {
		if t.due == nil {
			t.due = map[int]func(){}
		}
		t.due[n] = do
	})
}

// Records are those of a partition.
func (t *Topic) Records(partition string) []Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.partitions[partition])
}

// State is how far the topic was read.
type State struct {
	// Records there are, and Taken of them: their follower was asked for more, and so is done with them.
	Records, Taken int
	// Followed are the partitions that somebody follows, or has followed.
	Followed map[string]bool
	// Polls is how often a follower was asked.
	Polls int
}

// Wait returns once a condition holds of the topic, or an error once ctx is done.
func (t *Topic) Wait(ctx context.Context, until func(State) bool) error {
	for {
		t.mu.Lock()
		s := State{Followed: maps.Clone(t.followed), Polls: t.polls}
		for name, records := range t.partitions {
			s.Records += len(records)
			s.Taken += t.taken[name]
		}
		changed := t.changed
		t.mu.Unlock()
		if until(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s, which stands at %+v: %w", t.address, s, context.Cause(ctx))
		}
	}
}

type broker struct{}

var (
	_ driver.Log           = broker{}
	_ sinkdriver.Publisher = broker{}
)

func find(address string) (*Topic, error) {
	topicsMu.Lock()
	defer topicsMu.Unlock()
	address, _, _ = strings.Cut(address, "?")
	if t := topics[address]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("there is no topic %s: make it with New", address)
}

// Partitions lists the topic's partitions.
func (broker) Partitions(_ context.Context, address string) ([]driver.Partition, error) {
	t, err := find(address)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []driver.Partition
	for _, name := range slices.Sorted(maps.Keys(t.partitions)) {
		parts = append(parts, driver.Partition{URL: address, Name: name, Size: -1})
	}
	return parts, nil
}

// Follow reads on in partitions.
func (broker) Follow(_ context.Context, address string, from []driver.Position) (driver.Follower, error) {
	t, err := find(address)
	if err != nil {
		return nil, err
	}
	f := &follower{topic: t, at: map[string]int{}}
	t.change(func() {
		for _, p := range from {
			records, ok := t.partitions[p.Partition]
			at := 0
			if p.Next != "" {
				at, err = strconv.Atoi(p.Next)
			}
			if !ok || err != nil || at < 0 || at > len(records) {
				err = fmt.Errorf("topic %s has no partition %q with a position %q", address, p.Partition, p.Next)
				return
			}
			f.at[p.Partition], t.followed[p.Partition] = at, true
		}
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

type follower struct {
	topic  *Topic
	at     map[string]int
	paused []string
}

// Poll gives what there is.
func (f *follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	t := f.topic
	t.change(func() {
		t.polls++
		for name, at := range f.at {
			t.taken[name] = max(t.taken[name], at)
		}
	})
	enough := time.NewTimer(wait)
	defer enough.Stop()
	for {
		t.mu.Lock()
		chunks, due := f.take(limit)
		changed := t.changed
		t.mu.Unlock()
		for _, do := range due {
			do()
		}
		if len(chunks) > 0 {
			return chunks, nil
		}
		select {
		case <-changed:
		case <-enough.C:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// take is what there is, and what is to be done then, under the topic's lock.
func (f *follower) take(limit int) (chunks []driver.Chunk, due []func()) {
	for _, name := range slices.Sorted(maps.Keys(f.at)) {
		if slices.Contains(f.paused, name) || limit <= 0 {
			continue
		}
		at, all := f.at[name], f.topic.partitions[name]
		c := driver.Chunk{Partition: name}
		for ; at < len(all) && limit > 0 && (f.topic.PerPoll == 0 || len(c.Records) < f.topic.PerPoll); at++ {
			c.Records = append(c.Records, driver.Record{Value: slices.Clone(all[at].Value), Offset: int64(at)})
			limit -= len(all[at].Value) + 1
			if do := f.topic.due[at+1]; do != nil {
				delete(f.topic.due, at+1)
				due = append(due, do)
			}
		}
		c.Next, c.Ended = strconv.Itoa(at), f.topic.ended && at == len(all)
		if len(c.Records) == 0 && !c.Ended {
			continue
		}
		if f.at[name] = at; c.Ended {
			delete(f.at, name)
		}
		chunks = append(chunks, c)
	}
	return chunks, due
}

// Pause leaves partitions out.
func (f *follower) Pause(names []string) { f.paused = slices.Clone(names) }

// Lag is what is left.
func (f *follower) Lag() map[string]int64 {
	f.topic.mu.Lock()
	defer f.topic.mu.Unlock()
	lag := map[string]int64{}
	for name, at := range f.at {
		lag[name] = int64(len(f.topic.partitions[name]) - at)
	}
	return lag
}

func (f *follower) Close() error { return nil }

// OpenSender appends to the partition that the address names, or the first.
func (broker) OpenSender(_ context.Context, address string) (sinkdriver.Sender, error) {
	t, err := find(address)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, name, ok := strings.Cut(address, "?partition=")
	if !ok {
		name = slices.Sorted(maps.Keys(t.partitions))[0]
	}
	if _, ok := t.partitions[name]; !ok {
		return nil, fmt.Errorf("topic %s has no partition %q: add it", t.address, name)
	}
	return sender{t, name}, nil
}

type sender struct {
	topic     *Topic
	partition string
}

// Send appends.
func (s sender) Send(ctx context.Context, r sinkdriver.Record, _ func(error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.topic.Append(Record{s.partition, slices.Clone(r.Key), slices.Clone(r.Value), r.Time})
	return nil
}

func (s sender) Flush(ctx context.Context) error { return ctx.Err() }
func (s sender) Close() error                    { return nil }
