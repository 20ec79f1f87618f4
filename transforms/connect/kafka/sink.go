package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() { sink.Register("kafka", sinkDriver{}) }

const (
	// Records wait so long for others to share a batch.
	linger = 3 * time.Millisecond
	// What may be under way, in records and bytes.
	maxRecords = 1 << 15
	maxBytes   = 32 << 20
	// A record that the brokers didn't take in so long fails its bundle.
	deliveryTimeout = 2 * time.Minute
	abortTimeout    = 5 * time.Second
)

type sinkDriver struct{}

var _ driver.Publisher = sinkDriver{}

// OpenSender connects to a topic.
func (sinkDriver) OpenSender(ctx context.Context, text string) (driver.Sender, error) {
	a, err := parseSink(text)
	if err != nil {
		return nil, err
	}
	if _, err := a.describe(ctx); err != nil {
		return nil, connect.Scrub(err, text)
	}
	opts := []kgo.Opt{
		kgo.ProducerLinger(linger), kgo.MaxBufferedRecords(maxRecords), kgo.MaxBufferedBytes(maxBytes),
		kgo.RecordDeliveryTimeout(deliveryTimeout), kgo.ProducerBatchCompression(kgo.SnappyCompression()),
	}
	if n := a.maxMessage(ctx); n > 0 {
		// A broker refuses a whole batch for its size: no batch may be larger than one record may be.
		opts = append(opts, kgo.ProducerBatchMaxBytes(min(n, maxBytes)))
	}
	s := &sender{text: text, topic: a.topic}
	if s.client, err = a.client(opts...); err != nil {
		return nil, connect.Scrub(err, text)
	}
	s.idle.New = func() any {
		f := &flight{}
		f.done = func(_ *kgo.Record, err error) { s.done(f, err) }
		return f
	}
	return s, nil
}

// maxMessage asks for the topic's max.message.bytes; 0 where the broker doesn't tell.
func (a address) maxMessage(ctx context.Context) int32 {
	c, err := a.client(kgo.RetryTimeout(askTimeout))
	if err != nil {
		return 0
	}
	defer c.Close()
	configs, err := kadm.NewClient(c).DescribeTopicConfigs(ctx, a.topic)
	if err != nil || len(configs) != 1 {
		return 0
	}
	for _, config := range configs[0].Configs {
		if config.Key == "max.message.bytes" && config.Value != nil {
			n, _ := strconv.ParseInt(*config.Value, 10, 32)
			return int32(n)
		}
	}
	return 0
}

// sender sends to a topic.
type sender struct {
	text   string // the address as it was given
	topic  string
	client *kgo.Client
	idle   sync.Pool // of *flight

	mu       sync.Mutex
	failed   error // the first since the last Flush
	rejected []rejection
}

// flight is a record under way. It keeps its bytes and its callback for the next record.
type flight struct {
	record   kgo.Record
	bytes    []byte
	rejected func(error)
	done     func(*kgo.Record, error)
}

type rejection struct {
	tell func(error)
	err  error
}

// Send puts a copy of the record under way.
func (s *sender) Send(ctx context.Context, r driver.Record, rejected func(error)) error {
	s.tell()
	f := s.idle.Get().(*flight)
	f.bytes = append(append(f.bytes[:0], r.Key...), r.Value...)
	k := len(r.Key)
	f.record = kgo.Record{Topic: s.topic, Key: f.bytes[:k:k], Value: f.bytes[k:]}
	f.rejected = rejected
	s.client.Produce(ctx, &f.record, f.done)
	return nil
}

// done is called by the client, for one record after the other.
func (s *sender) done(f *flight, err error) {
	switch {
	case err == nil:
		f.rejected = nil
		s.idle.Put(f) // after an error the client may still look at it
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord):
		s.mu.Lock()
		s.rejected = append(s.rejected, rejection{f.rejected, fmt.Errorf("record of %d bytes to topic %s: %w", len(f.record.Value), s.topic, err)})
		s.mu.Unlock()
	default:
		s.mu.Lock()
		if s.failed == nil {
			s.failed = err
		}
		s.mu.Unlock()
	}
}

// tell tells what was rejected.
func (s *sender) tell() {
	s.mu.Lock()
	rejected := s.rejected
	s.rejected = nil
	s.mu.Unlock()
	for _, r := range rejected {
		r.tell(connect.Scrub(r.err, s.text))
	}
}

// Flush waits for all that is under way.
func (s *sender) Flush(ctx context.Context) error {
	err := s.client.Flush(ctx)
	if err != nil { // what is left must not be sent beside its repetition
		abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
		defer cancel()
		err = errors.Join(err, s.client.AbortBufferedRecords(abort))
	}
	s.tell()
	s.mu.Lock()
	if err == nil {
		err = s.failed
	}
	s.failed = nil
	s.mu.Unlock()
	if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		s.client.PurgeTopicsFromProducing(s.topic) // made anew it has another id, which is asked for next
	}
	if err != nil {
		err = connect.Scrub(fmt.Errorf("sending to topic %s: %w", s.topic, err), s.text)
	}
	return err
}

// Close ends the connection; what was not flushed may be lost.
func (s *sender) Close() error {
	s.client.Close()
	return nil
}
