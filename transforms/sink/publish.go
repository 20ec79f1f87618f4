package sink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	beam.RegisterDoFn(&publishFn{})
	register.Function1x1(received)
	register.Emitter2[beam.EventTime, deadletter.Letter]()
	register.Emitter2[beam.EventTime, int64]()
}

var refused = beam.NewCounter("sink", "refused")

// modelColumn is where package predict names the model of a row.
const modelColumn = "model"

// publish sends every row and returns the letters of those that were refused.
func publish(s beam.Scope, batches beam.PCollection, p Params) beam.PCollection {
	unsent, receipts := beam.ParDo2(s, &publishFn{Params: p}, batches)
	// On Prism a stage without an output spins: the last one is tiny, and has one.
	beam.ParDo(s, received, beam.Reshuffle(s, receipts))
	return unsent
}

func received(rows int64) int64 { return rows }

// publishFn sends rows as they come and waits for the target at the end of the bundle.
type publishFn struct {
	Params Params

	enc    encoder
	model  int // the column, or -1
	sender driver.Sender

	mu        sync.Mutex // of the slots' errors: a driver may hear of a refusal in a goroutine of its own
	slots     []*slot    // of the rows under way, the first sent of them
	sent      int
	bytes     int
	rows      int64
	first     int64 // milliseconds
	text, key []byte
}

// slot is a row under way.
type slot struct {
	batch  *event.Batch
	row    int
	refuse func(error) // made once, so that sending a row allocates nothing
	err    error
}

// No more than this is under way: a direct runner has one bundle for everything.
const (
	maxRows  = 1 << 16
	maxBytes = 32 << 20
)

// Setup connects.
func (f *publishFn) Setup(ctx context.Context) (err error) {
	f.enc = encoder{params: f.Params, kind: "json"}
	f.sender, err = openSender(ctx, f.Params)
	return err
}

func openSender(ctx context.Context, p Params) (driver.Sender, error) {
	d := staged.Publisher(p.URL, p.Stream)
	if d == nil {
		_, err := staged.Driver(p.URL)
		return nil, err
	}
	s, err := d.OpenSender(ctx, p.URL)
	if err != nil {
		return nil, fmt.Errorf("opening sink %s: %w", connect.Redact(p.URL), connect.Scrub(err, p.URL))
	}
	return s, nil
}

// StartBundle forgets what an attempt before has left.
func (f *publishFn) StartBundle(ctx context.Context, _ func(beam.EventTime, deadletter.Letter), _ func(beam.EventTime, int64)) {
	if f.sent > 0 {
		_ = f.sender.Flush(ctx) // its rows come again, whatever has become of them
		f.slots = nil           // nor may a late word about them count
	}
	f.sent, f.bytes, f.rows, f.first = 0, 0, 0, math.MaxInt64
}

// ProcessElement starts sending a batch.
func (f *publishFn) ProcessElement(ctx context.Context, b event.Batch, unsent func(beam.EventTime, deadletter.Letter), _ func(beam.EventTime, int64)) error {
	if b.N == 0 {
		return nil
	}
	fresh, err := f.enc.use(b.Schema)
	if err != nil {
		return err
	}
	if fresh {
		f.model = b.Schema.Index(modelColumn)
		if f.model >= 0 && b.Schema.Fields[f.model].Kind != event.Category {
			f.model = -1
		}
	}
	all, first := b, b.MinTime()
	if b, err = keep(b, f.enc.when); err != nil {
		return err
	}
	inflight.LeftOut(&all, &b)
	dropped.Inc(ctx, int64(all.N-b.N))
	if f.text, err = f.enc.text.Append(f.text[:0], b); err != nil {
		return f.enc.wrap(err)
	}
	f.first = min(f.first, first)
	rest, times, held := f.text, times(&b), &b
	for i := range b.N {
		end := bytes.IndexByte(rest, '\n')
		f.key = appendKey(f.key[:0], held, i, f.model)
		r := driver.Record{Key: f.key, Value: rest[:end:end]}
		if times != nil {
			r.Time = time.UnixMicro(times[i])
		}
		if err := f.sender.Send(ctx, r, f.slot(held, i)); err != nil {
			return f.wrap(err)
		}
		f.bytes += end
		if f.sent >= maxRows || f.bytes >= maxBytes {
			if err := f.flush(ctx, unsent); err != nil {
				return err
			}
		}
		rest = rest[end+1:]
	}
	return nil
}

// FinishBundle waits for the target.
func (f *publishFn) FinishBundle(ctx context.Context, unsent func(beam.EventTime, deadletter.Letter), receipt func(beam.EventTime, int64)) error {
	if err := f.flush(ctx, unsent); err != nil {
		return err
	}
	if f.rows > 0 {
		receipt(mtime.FromMilliseconds(f.first), f.rows)
	}
	return nil
}

// Teardown disconnects.
func (f *publishFn) Teardown(context.Context) error {
	if f.sender == nil {
		return nil
	}
	return f.sender.Close()
}

func (f *publishFn) wrap(err error) error {
	return fmt.Errorf("sending to sink %s: %w", connect.Redact(f.Params.URL), connect.Scrub(err, f.Params.URL))
}

// slot notes that a row is under way, and returns whom to tell when it is refused.
func (f *publishFn) slot(b *event.Batch, row int) func(error) {
	if f.sent == len(f.slots) {
		s := &slot{}
		s.refuse = func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			s.err = err
		}
		f.slots = append(f.slots, s)
	}
	s := f.slots[f.sent]
	s.batch, s.row = b, row
	f.sent++
	return s.refuse
}

func (f *publishFn) flush(ctx context.Context, unsent func(beam.EventTime, deadletter.Letter)) error {
	if f.sent == 0 {
		return nil
	}
	if err := f.sender.Flush(ctx); err != nil {
		return f.wrap(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := int64(f.sent)
	var ends []inflight.End
	awaited := inflight.Active()
	for _, s := range f.slots[:f.sent] {
		if s.err != nil {
			taken--
			unsent(mtime.FromMilliseconds(s.batch.MinTime()), f.letter(s.batch, s.row, s.err))
		} else if awaited {
			ends = append(ends, inflight.End{Key: inflight.IDOf(s.batch, s.row), Share: inflight.BySink})
		}
		s.batch, s.err = nil, nil
	}
	inflight.Ended(ends...)
	written.Inc(ctx, taken)
	telemetry.Written(connect.Redact(f.Params.URL), int(taken))
	refused.Inc(ctx, int64(f.sent)-taken)
	f.rows += int64(f.sent)
	f.sent, f.bytes = 0, 0
	return nil
}

// letter is that of a refused row; its original is the record that was refused.
func (f *publishFn) letter(b *event.Batch, row int, err error) deadletter.Letter {
	l := deadletter.FromRow(deadletter.Sink, b, row)
	l.Stage = "sink"
	l.Message = fmt.Sprintf("%s refused the record: %v", connect.Redact(f.Params.URL), connect.Scrub(err, f.Params.URL))
	if f.model >= 0 {
		l.Model = string(b.Cols[f.model].Raw(row))
	}
	if text, err := f.enc.text.Append(nil, b.Gather([]int32{int32(row)})); err == nil {
		l.Original = bytes.TrimSuffix(text, []byte("\n"))
		sum := sha256.Sum256(l.Original)
		l.Digest = hex.EncodeToString(sum[:])
	}
	return l
}

func times(b *event.Batch) []int64 {
	if b.Schema.Time < 0 {
		return nil
	}
	return b.Times()
}

// appendKey appends "id:model", the model without its version: a replay may score with a newer one.
func appendKey(dst []byte, b *event.Batch, row, model int) []byte {
	if b.Schema.ID >= 0 {
		dst = b.IDs().AppendID(dst, row)
	}
	if model < 0 {
		return dst
	}
	name, _, _ := bytes.Cut(b.Cols[model].Raw(row), []byte{'@'})
	return append(append(dst, ':'), name...)
}
