package deadletter

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() {
	beam.RegisterDoFn(&publishFn{})
	register.Function1x1(received)
	register.Emitter2[beam.EventTime, int64]()
}

// publish sends letters as package sink sends rows.
func publish(s beam.Scope, letters beam.PCollection, p Params) {
	receipts := beam.ParDo(s, &publishFn{Params: p}, letters)
	beam.ParDo(s, received, beam.Reshuffle(s, receipts))
}

func received(letters int64) int64 { return letters }

// publishFn sends letters as they come and waits for the target at the end of the bundle.
type publishFn struct {
	Params Params

	sender  driver.Sender
	text    []byte
	sent    int64
	first   beam.EventTime
	refused error
	ends    []inflight.End
}

// Setup connects.
func (f *publishFn) Setup(ctx context.Context) (err error) {
	f.sender, err = openSender(ctx, f.Params)
	return err
}

func openSender(ctx context.Context, p Params) (driver.Sender, error) {
	s, err := staged.Publisher(p.URL, p.Stream).OpenSender(ctx, p.URL)
	if err != nil {
		return nil, p.wrap("opening", err)
	}
	return s, nil
}

func (p Params) wrap(doing string, err error) error {
	return fmt.Errorf("%s dead letters %s: %w", doing, connect.Redact(p.URL), connect.Scrub(err, p.URL))
}

// StartBundle forgets what an attempt before has left.
func (f *publishFn) StartBundle(ctx context.Context, _ func(beam.EventTime, int64)) {
	if f.sent > 0 {
		_ = f.sender.Flush(ctx)
	}
	f.sent, f.first, f.refused, f.ends = 0, mtime.MaxTimestamp, nil, nil
}

// ProcessElement starts sending a letter. Its key is the event's id, or the record's digest.
func (f *publishFn) ProcessElement(ctx context.Context, at beam.EventTime, l Letter, _ func(beam.EventTime, int64)) (err error) {
	if f.text, err = Append(f.text[:0], stamped(l)); err != nil {
		return err
	}
	r := driver.Record{Key: []byte(cmp.Or(l.ID, l.Digest)), Value: bytes.TrimSuffix(f.text, []byte("\n"))}
	if t, err := time.Parse(time.RFC3339Nano, l.EventTime); err == nil {
		r.Time = t
	}
	f.sent++
	f.first = min(f.first, at)
	f.ends = end(f.ends, &l)
	// A letter has nowhere else to go.
	if err := f.sender.Send(ctx, r, func(err error) { f.refused = err }); err != nil {
		return f.Params.wrap("sending", err)
	}
	return nil
}

// FinishBundle waits for the target.
func (f *publishFn) FinishBundle(ctx context.Context, receipt func(beam.EventTime, int64)) error {
	if f.sent == 0 {
		return nil
	}
	err := f.sender.Flush(ctx)
	if err == nil {
		err = f.refused
	}
	if err != nil {
		return f.Params.wrap("sending", err)
	}
	inflight.Ended(f.ends...)
	written.Inc(ctx, f.sent)
	receipt(f.first, f.sent)
	f.sent = 0
	return nil
}

// Teardown disconnects.
func (f *publishFn) Teardown(context.Context) error {
	if f.sender == nil {
		return nil
	}
	return f.sender.Close()
}
