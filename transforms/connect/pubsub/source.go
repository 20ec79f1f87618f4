package pubsub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() { source.Register("pubsub", sourceDriver{}) }

const (
	// Messages are held for as long as the service keeps any.
	longest = 31 * 24 * time.Hour
	// chunkMessages are acknowledged together.
	chunkMessages = 500
	// stuckAfter is for how long nothing may be acknowledged while no message more may come.
	stuckAfter = 10 * time.Minute
)

// A message that a process took with it is given again after at most so long: the deadline that each is given when
// it comes and whenever that is extended, and how long the last acknowledgements may take. The client extends 5 s
// before it ends, which on a machine that is busy may be too late: few messages should need it. Tests lower it.
var lease = 30 * time.Second

type sourceDriver struct{}

var (
	_ driver.Log    = sourceDriver{}
	_ driver.Local  = sourceDriver{}
	_ driver.Native = sourceDriver{}
)

// open counts the followers of this process, by name: what is read is there.
var open = struct {
	sync.Mutex
	followers map[string]int
}{followers: map[string]int{}}

func opened(name string, more int) int {
	open.Lock()
	defer open.Unlock()
	open.followers[name] += more
	return open.followers[name]
}

// Partitions is the subscription. While it is read nobody asks for it: its reader hears of its end.
func (sourceDriver) Partitions(ctx context.Context, text string) ([]driver.Partition, error) {
	a, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	if opened(a.emulator+a.name, 0) == 0 {
		c, err := a.client(ctx)
		if err != nil {
			return nil, connect.Scrub(err, text)
		}
		defer c.Close()
		if err := a.check(ctx, c); err != nil {
			return nil, connect.Scrub(err, text)
		}
	}
	return []driver.Partition{{URL: text, Name: a.name, Size: -1}}, nil
}

// check asks for the subscription.
func (a address) check(ctx context.Context, c *pubsub.Client) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := c.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: a.name})
	switch {
	case status.Code(err) == codes.PermissionDenied:
		return nil // who may read needn't be allowed to look; reading tells the rest
	case err != nil:
		return a.explain(err)
	case s.GetDetached():
		return fmt.Errorf("%s is detached from its topic: make another", a.name)
	case s.GetPushConfig().GetPushEndpoint() != "" || s.GetBigqueryConfig().GetTable() != "" || s.GetCloudStorageConfig().GetBucket() != "":
		return fmt.Errorf("%s sends its messages somewhere: make another, of the delivery type pull", a.name)
	}
	return nil
}

// LocalOnly says why workers of a cluster can't read it.
func (sourceDriver) LocalOnly(address string) string {
	if _, err := parseSource(address); err != nil {
		return err.Error()
	}
	return "its messages are acknowledged by what has landed in this process, which workers of a cluster can't see: " +
		"read it on Prism, or put them into Kafka"
}

// nativeURN is Beam's for reading Pub/Sub. The SDK's package for it, pubsubio, can't be linked: it registers the
// messages of this package's client a second time.
const nativeURN = "beam:transform:pubsub_read:v1"

// Native is the read of a runner that has one, such as Dataflow.
func (sourceDriver) Native(text string) (driver.Transform, error) {
	a, err := parseSource(text)
	if err != nil {
		return driver.Transform{}, err
	}
	payload, err := proto.Marshal(&pipepb.PubSubReadPayload{Subscription: a.name, IdAttribute: a.idAttribute, TimestampAttribute: a.timeAttribute})
	return driver.Transform{URN: nativeURN, Payload: payload, Name: a.name, Timed: a.timeAttribute != ""}, err
}

// Follow begins to take messages.
func (sourceDriver) Follow(ctx context.Context, text string, from []driver.Position) (driver.Follower, error) {
	a, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	if len(from) != 1 || from[0].Partition != a.name {
		return nil, fmt.Errorf("reading %s: its one partition is %s", a.name, a.name)
	}
	c, err := a.client(ctx)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	if err := a.check(ctx, c); err != nil {
		_ = c.Close()
		return nil, connect.Scrub(err, text)
	}
	f := &follower{address: a, text: text, client: c, held: map[string]load{}, came: make(chan struct{}, 1), ended: make(chan struct{})}
	f.room.L = &f.mu
	s := c.Subscriber(a.name)
	s.ReceiveSettings = pubsub.ReceiveSettings{
		MaxExtension: longest, MinDurationPerAckExtension: lease, MaxDurationPerAckExtension: lease,
		MaxOutstandingMessages: a.messages, MaxOutstandingBytes: a.bytes,
	}
	receiving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.stuck = time.AfterFunc(stuckAfter, f.judge)
	opened(a.emulator+a.name, 1)
	go func() {
		defer close(f.ended)
		if err := s.Receive(receiving, f.take); err != nil {
			f.fail(f.lost(err))
		}
	}()
	return f, nil
}

// follower takes the messages of a subscription, and holds them until they are acknowledged.
type follower struct {
	address address
	text    string // the address as it was given
	client  *pubsub.Client
	cancel  func()
	stuck   *time.Timer
	came    chan struct{} // one place: look again
	ended   chan struct{} // closed when no acknowledgement can be sent any more

	mu       sync.Mutex
	room     sync.Cond
	waiting  []*pubsub.Message // to be polled
	held     map[string]load   // by the next of their chunk
	messages int               // waiting or held
	bytes    int
	polled   int64
	paused   bool
	closed   bool
	failed   error

	last    []*pubsub.Message // of the last poll
	records []driver.Record
	chunks  []driver.Chunk
}

// load is a chunk's messages.
type load struct {
	messages []*pubsub.Message
	bytes    int
}

var _ driver.Acknowledger = (*follower)(nil)

// take is called by the client for each message, in many goroutines; of an ordering key, one by one.
func (f *follower) take(_ context.Context, m *pubsub.Message) {
	f.mu.Lock()
	for !f.closed && f.full() {
		f.room.Wait()
	}
	if f.closed {
		f.mu.Unlock()
		m.Nack()
		return
	}
	f.waiting = append(f.waiting, m)
	f.messages++
	f.bytes += len(m.Data)
	f.mu.Unlock()
	f.wake()
}

func (f *follower) full() bool { return f.messages >= f.address.messages || f.bytes >= f.address.bytes }

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

// lost says why receiving has ended.
func (f *follower) lost(err error) error {
	if status.Code(err) == codes.NotFound {
		return fmt.Errorf("%s was deleted while it was read; what was not acknowledged is gone with it: %w", f.address.name, err)
	}
	return f.address.explain(err)
}

// lookLater puts off the look whether anything moves.
func (f *follower) lookLater() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed { // else it would keep all of this for ever
		f.stuck.Reset(stuckAfter)
	}
}

// judge is called when nothing was acknowledged for long.
func (f *follower) judge() {
	f.mu.Lock()
	full := f.full() && !f.closed
	messages, bytes := f.messages, f.bytes
	f.mu.Unlock()
	if !full {
		f.lookLater()
		return
	}
	f.fail(fmt.Errorf("%s: %d messages of %d bytes are under way, no more may be, and for %v none has come to its end: "+
		"the watermark that events wait for moves with new messages alone; raise max_messages and max_bytes, or lower lateness", f.address.name, messages, bytes, stuckAfter))
}

// Poll returns what came. What has been published first is first, as far as it is there.
func (f *follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	for _, m := range f.last {
		m.Data = nil // held may last long
	}
	f.last, f.records, f.chunks = f.last[:0], f.records[:0], f.chunks[:0]
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		f.mu.Lock()
		err := f.failed
		if err == nil && !f.paused {
			f.give(limit)
		}
		f.mu.Unlock()
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

// give makes chunks of what waits.
func (f *follower) give(limit int) {
	if len(f.waiting) == 0 {
		return
	}
	slices.SortStableFunc(f.waiting, func(a, b *pubsub.Message) int { return a.PublishTime.Compare(b.PublishTime) })
	n := 0
	for ; n < len(f.waiting) && limit > 0; n++ {
		limit -= len(f.waiting[n].Data) + 1
	}
	f.last = append(f.last, f.waiting[:n]...)
	f.records = slices.Grow(f.records, n) // the chunks share it
	rest := copy(f.waiting, f.waiting[n:])
	clear(f.waiting[rest:])
	f.waiting = f.waiting[:rest]
	for messages := range slices.Chunk(f.last, chunkMessages) {
		begin, l := len(f.records), load{messages: slices.Clone(messages)}
		for _, m := range messages {
			f.records = append(f.records, driver.Record{Value: m.Data, Offset: f.polled, Time: m.PublishTime})
			f.polled++
			l.bytes += len(m.Data)
		}
		next := strconv.FormatInt(f.polled, 10)
		f.held[next] = l
		f.chunks = append(f.chunks, driver.Chunk{Partition: f.address.name, Records: f.records[begin:len(f.records):len(f.records)], Next: next})
	}
}

// Ack acknowledges a chunk.
func (f *follower) Ack(next string) {
	f.mu.Lock()
	l := f.held[next]
	delete(f.held, next)
	f.messages -= len(l.messages)
	f.bytes -= l.bytes
	f.room.Broadcast()
	f.mu.Unlock()
	for _, m := range l.messages {
		m.Ack()
	}
	f.lookLater()
}

// Pause leaves the one partition out, or not.
func (f *follower) Pause(names []string) {
	f.mu.Lock()
	f.paused = slices.Contains(names, f.address.name)
	f.mu.Unlock()
	f.wake()
}

// Lag is not known: the service doesn't say.
func (f *follower) Lag() map[string]int64 { return nil }

// Close gives back what was not acknowledged.
func (f *follower) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	back := f.waiting
	for _, l := range f.held {
		back = append(back, l.messages...)
	}
	f.waiting, f.held = nil, map[string]load{}
	f.room.Broadcast()
	f.mu.Unlock()
	f.stuck.Stop()
	f.cancel()
	for _, m := range back {
		m.Nack()
	}
	opened(f.address.emulator+f.address.name, -1)
	timer := time.NewTimer(lease)
	defer timer.Stop()
	var late error
	select {
	case <-f.ended:
	case <-timer.C:
		late = errors.New("the last acknowledgements found nobody: their messages are given again")
	}
	return cmp.Or(late, f.client.Close())
}
