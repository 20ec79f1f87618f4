package kinesis

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() { sink.Register("kinesis", sinkDriver{}) }

const (
	// What shares a request, and how many requests may be under way.
	requestRecords = 500
	requestBytes   = 5 << 20
	maxRequests    = 8
	// The largest record, with its key, where the stream doesn't tell.
	defaultRecord = 1 << 20
	maxKey        = 256
	// A request that failed is tried again after firstRetry, and then twice as long each time, up to lastRetry, while
	// nothing of it is taken. What the stream didn't take in deliveryTimeout fails its bundle.
	firstRetry      = 100 * time.Millisecond
	lastRetry       = 5 * time.Second
	deliveryTimeout = 2 * time.Minute
)

type sinkDriver struct{}

var _ driver.Publisher = sinkDriver{}

// OpenSender connects to a stream.
func (sinkDriver) OpenSender(ctx context.Context, text string) (driver.Sender, error) {
	a, err := parseSink(text)
	if err != nil {
		return nil, err
	}
	c, err := a.client(ctx)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	s := &sender{address: a, text: text, client: c, largest: defaultRecord, places: make(chan struct{}, maxRequests), keys: map[string]bool{}}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := c.DescribeStreamSummary(ask, &kinesis.DescribeStreamSummaryInput{StreamName: &a.stream})
	switch {
	case err == nil:
		if kib := aws.ToInt32(out.StreamDescriptionSummary.MaxRecordSizeInKiB); kib > 0 {
			s.largest = int(kib) << 10
		}
	case !hasCode(err, "AccessDeniedException"): // who may write needn't be allowed to look
		return nil, connect.Scrub(a.explain(err), text)
	}
	s.renew()
	return s, nil
}

// sender sends to a stream. Of a key one record at most is under way, and that decides the order.
type sender struct {
	address address
	text    string // the address as it was given
	client  *kinesis.Client
	largest int // record, with its key

	batch  []outgoing
	bytes  int
	keys   map[string]bool // of the batch and of what is under way
	places chan struct{}
	flying sync.WaitGroup
	launch func(batch []outgoing)
	cancel func()       // what is under way, and all that is launched after it
	over   func() error // not nil when it was

	mu       sync.Mutex
	failed   error // the first since the last Flush
	rejected []rejection
}

// outgoing is a record with its bytes.
type outgoing struct {
	entry    types.PutRecordsRequestEntry
	rejected func(error)
}

type rejection struct {
	tell func(error)
	err  error
}

// Send puts a copy of the record in a batch, and the batch under way when it is full.
func (s *sender) Send(ctx context.Context, r driver.Record, rejected func(error)) error {
	s.tell()
	key := partitionKey(r)
	size := len(key) + len(r.Value)
	if size > s.largest {
		rejected(fmt.Errorf("record of %d bytes with its key: stream %s takes %d", size, s.address.stream, s.largest))
		return nil
	}
	switch {
	case s.keys[key]: // a record of the key has to arrive first
		s.put(ctx)
		s.land(ctx)
	case len(s.batch) == requestRecords || s.bytes+size > requestBytes:
		s.put(ctx)
	}
	s.keys[key] = true
	s.batch = append(s.batch, outgoing{types.PutRecordsRequestEntry{Data: bytes.Clone(r.Value), PartitionKey: aws.String(key)}, rejected})
	s.bytes += size
	return nil
}

// partitionKey is the record's key in the form that the service allows.
func partitionKey(r driver.Record) string {
	key := r.Key
	if len(key) > 0 && len(key) <= maxKey && utf8.Valid(key) {
		return string(key)
	}
	if len(key) == 0 {
		key = r.Value
	}
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// put puts the batch under way, when there is a place.
func (s *sender) put(ctx context.Context) {
	if len(s.batch) == 0 {
		return
	}
	batch := s.batch
	s.batch, s.bytes = nil, 0
	stop := context.AfterFunc(ctx, s.cancel) // which makes places
	s.places <- struct{}{}
	stop()
	s.launch(batch)
}

// renew makes sending possible, at first and after it was canceled.
func (s *sender) renew() {
	under, cancel := context.WithCancel(context.Background())
	s.cancel, s.over = cancel, under.Err
	s.launch = func(batch []outgoing) {
		s.flying.Go(func() {
			defer func() { <-s.places }()
			ctx, cancel := context.WithTimeout(under, deliveryTimeout)
			defer cancel()
			if err := s.deliver(ctx, batch); err != nil {
				s.mu.Lock()
				s.failed = cmp.Or(s.failed, err)
				s.mu.Unlock()
			}
		})
	}
}

// land waits for all that is under way, or gives it up when ctx ends.
func (s *sender) land(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.cancel)
	s.flying.Wait()
	stop()
	clear(s.keys)
}

// deliver sends a batch until the stream has taken all of it.
func (s *sender) deliver(ctx context.Context, batch []outgoing) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	var last error
	for retry := firstRetry; waitFor(ctx, pause); retry = min(2*retry, lastRetry) {
		pause.Reset(retry)
		entries := make([]types.PutRecordsRequestEntry, len(batch))
		for i := range batch {
			entries[i] = batch[i].entry
		}
		asking, done := context.WithTimeout(ctx, callTimeout)
		out, err := s.client.PutRecords(asking, &kinesis.PutRecordsInput{StreamName: &s.address.stream, Records: entries}, once)
		done()
		switch {
		case err == nil:
			var left []outgoing
			for i, r := range out.Records {
				if r.ErrorCode != nil {
					left = append(left, batch[i])
					last = fmt.Errorf("%s: %s", *r.ErrorCode, aws.ToString(r.ErrorMessage))
				}
			}
			if len(left) == 0 {
				return nil
			}
			if len(left) < len(batch) { // it has room
				retry = firstRetry / 2
			}
			batch = left
		case refused(err):
			return s.deliverEach(ctx, batch, err)
		case !passes(err):
			return err
		case ctx.Err() == nil || last == nil:
			last = err
		}
	}
	return cmp.Or(last, ctx.Err())
}

// refused tells whether a request will never be taken as it is.
func refused(err error) bool {
	return hasCode(err, "InvalidArgumentException", "ValidationException", "SerializationException")
}

// deliverEach finds the records for which their request was refused: in halves, in order.
func (s *sender) deliverEach(ctx context.Context, batch []outgoing, err error) error {
	if len(batch) == 1 {
		r := batch[0]
		s.mu.Lock()
		s.rejected = append(s.rejected, rejection{r.rejected, fmt.Errorf("record of %d bytes to stream %s: %w", len(r.entry.Data), s.address.stream, err)})
		s.mu.Unlock()
		return nil
	}
	half := len(batch) / 2
	if err := s.deliver(ctx, batch[:half]); err != nil {
		return err
	}
	return s.deliver(ctx, batch[half:])
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
	s.put(ctx)
	s.land(ctx)
	if s.over() != nil {
		s.renew()
	}
	s.tell()
	s.mu.Lock()
	err := s.failed
	s.failed = nil
	s.mu.Unlock()
	var missing *types.ResourceNotFoundException
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing):
		err = fmt.Errorf("the stream was deleted while it was written: %w", err)
	}
	return connect.Scrub(fmt.Errorf("sending to stream %s: %w", s.address.stream, err), s.text)
}

// Close ends what is under way; what was not flushed may be lost.
func (s *sender) Close() error {
	s.cancel()
	s.flying.Wait()
	return nil
}
