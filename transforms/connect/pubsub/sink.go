package pubsub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() { sink.Register("pubsub", sinkDriver{}) }

// The attributes of a message.
const (
	idAttribute   = "id"
	timeAttribute = "event_time"
)

const (
	// Records wait so long for others to share a request.
	linger = 5 * time.Millisecond
	// What shares a request, and what may be under way.
	requestBytes = 1 << 20
	maxRecords   = 20_000
	maxBytes     = 32 << 20
	// A record that the service didn't take in so long fails its bundle.
	deliveryTimeout = 2 * time.Minute
)

type sinkDriver struct{}

var _ driver.Publisher = sinkDriver{}

// OpenSender connects to a topic.
func (sinkDriver) OpenSender(ctx context.Context, text string) (driver.Sender, error) {
	a, err := parseSink(text)
	if err != nil {
		return nil, err
	}
	c, err := a.client(context.WithoutCancel(ctx))
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err = c.TopicAdminClient.GetTopic(ask, &pubsubpb.GetTopicRequest{Topic: a.name})
	if err != nil && status.Code(err) != codes.PermissionDenied { // who may write needn't be allowed to look
		_ = c.Close()
		return nil, connect.Scrub(a.explain(err), text)
	}
	s := &sender{address: a, text: text, client: c, topic: c.Publisher(a.name)}
	s.topic.EnableMessageOrdering = a.order != ""
	s.topic.PublishSettings = pubsub.PublishSettings{
		DelayThreshold: linger, CountThreshold: pubsub.MaxPublishRequestCount, ByteThreshold: requestBytes, Timeout: deliveryTimeout,
		FlowControlSettings: pubsub.FlowControlSettings{
			MaxOutstandingMessages: maxRecords, MaxOutstandingBytes: maxBytes, LimitExceededBehavior: pubsub.FlowControlBlock,
		},
	}
	return s, nil
}

// sender sends to a topic.
type sender struct {
	address address
	text    string // the address as it was given
	client  *pubsub.Client
	topic   *pubsub.Publisher
	flights []flight // since the last Flush
}

// flight is a record under way.
type flight struct {
	message  *pubsub.Message
	result   *pubsub.PublishResult
	rejected func(error)
}

// Send puts a copy of the record under way.
func (s *sender) Send(ctx context.Context, r driver.Record, rejected func(error)) error {
	m := &pubsub.Message{Data: bytes.Clone(r.Value), Attributes: map[string]string{}, OrderingKey: s.orderingKey(r.Value)}
	if len(r.Key) > 0 {
		m.Attributes[idAttribute] = string(r.Key)
	}
	if !r.Time.IsZero() {
		m.Attributes[timeAttribute] = r.Time.UTC().Format(time.RFC3339Nano)
	}
	s.flights = append(s.flights, flight{m, s.topic.Publish(ctx, m), rejected})
	return nil
}

// orderingKey is the value of the key that orders, as JSON writes it, a string bare; "" for none.
func (s *sender) orderingKey(record []byte) string {
	if s.address.order == "" {
		return ""
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(record, &object) != nil {
		return ""
	}
	value := object[s.address.order]
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	return string(value)
}

// Flush waits for all that is under way.
func (s *sender) Flush(ctx context.Context) error {
	if len(s.flights) == 0 {
		return nil
	}
	s.topic.Flush()
	var failed error
	var alone []*flight
	for i := range s.flights {
		f := &s.flights[i]
		_, err := f.result.Get(ctx)
		var paused pubsub.ErrPublishingPaused
		switch {
		case err == nil:
		case errors.Is(err, pubsub.ErrOversizedMessage):
			s.resume(f)
			f.rejected(connect.Scrub(fmt.Errorf("record of %d bytes to %s: %w", len(f.message.Data), s.address.name, err), s.text))
		case status.Code(err) == codes.InvalidArgument, errors.As(err, &paused):
			alone = append(alone, f) // what is wrong with one record its whole request is refused for
		default:
			s.resume(f)
			failed = cmp.Or(failed, err)
		}
	}
	for _, f := range alone {
		s.resume(f)
		if failed == nil {
			failed = s.sendAlone(ctx, f)
		}
	}
	clear(s.flights)
	s.flights = s.flights[:0]
	switch {
	case failed == nil:
		return nil
	case status.Code(failed) == codes.NotFound:
		failed = fmt.Errorf("the topic was deleted while it was written: %w", failed)
	}
	return connect.Scrub(fmt.Errorf("sending to %s: %w", s.address.name, failed), s.text)
}

// resume lets records of an ordering key through again after one has failed.
func (s *sender) resume(f *flight) {
	if f.message.OrderingKey != "" {
		s.topic.ResumePublish(f.message.OrderingKey)
	}
}

// sendAlone sends a record in a request of its own.
func (s *sender) sendAlone(ctx context.Context, f *flight) error {
	m := &pubsubpb.PubsubMessage{Data: f.message.Data, Attributes: f.message.Attributes, OrderingKey: f.message.OrderingKey}
	_, err := s.client.TopicAdminClient.Publish(ctx, &pubsubpb.PublishRequest{Topic: s.address.name, Messages: []*pubsubpb.PubsubMessage{m}})
	if status.Code(err) == codes.InvalidArgument {
		f.rejected(connect.Scrub(fmt.Errorf("record of %d bytes to %s: %w", len(f.message.Data), s.address.name, err), s.text))
		return nil
	}
	return err
}

// Close ends the connection; what was not flushed may be lost.
func (s *sender) Close() error {
	s.topic.Stop()
	return s.client.Close()
}
