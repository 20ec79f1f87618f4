package replay

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() {
	register.DoFn4x1[context.Context, driver.Partition, func(string, deadletter.Letter), func(deadletter.Letter), error](&readFn{})
	register.DoFn6x1[context.Context, string, func(*deadletter.Letter) bool, func(beam.EventTime, event.Batch), func(beam.EventTime, event.Batch), func(deadletter.Letter), error](&enterFn{})
	register.DoFn2x1[event.Batch, func(event.Batch), error](&markFn{})
	register.DoFn4x1[context.Context, int, func(*event.Batch) bool, func(beam.EventTime, event.Batch), error](&orderFn{})
	register.Function2x0(pickFn)
	register.Function1x2(together)
	register.Function3x0(againFn)
	register.Emitter1[deadletter.Letter]()
	register.Emitter1[event.Batch]()
	register.Emitter2[string, deadletter.Letter]()
	register.Emitter2[beam.EventTime, event.Batch]()
	register.Iter1[deadletter.Letter]()
	register.Iter1[event.Batch]()
}

var (
	read       = beam.NewCounter("replay", "letters")
	unreadable = beam.NewCounter("replay", "unreadable")
	atDecode   = beam.NewCounter("replay", "at_decode")
	atPredict  = beam.NewCounter("replay", "at_predict")
	refailed   = beam.NewCounter("replay", "failed")
	skipped    = map[string]beam.Counter{}
)

func init() {
	for _, r := range reasons {
		skipped[r] = beam.NewCounter("replay", "skipped_"+r)
	}
}

// readFn reads envelopes, and keys those that the filter lets through by their record.
type readFn struct {
	Filter Filter
}

// ProcessElement reads a partition.
func (f *readFn) ProcessElement(ctx context.Context, p driver.Partition, emit func(string, deadletter.Letter), reject func(deadletter.Letter)) error {
	return source.Letters(ctx, p, func(l deadletter.Letter, err error) error {
		read.Inc(ctx, 1)
		if err != nil {
			unreadable.Inc(ctx, 1)
			refailed.Inc(ctx, 1)
			reject(l)
		} else if why := f.Filter.skip(&l); why != "" {
			skipped[why].Inc(ctx, 1)
		} else {
			emit(identity(&l), l)
		}
		return ctx.Err()
	})
}

// enterFn decodes letters, one of each record, in batches over its bundle.
type enterFn struct {
	Filter   Filter
	Decode   decode.Params
	Features feature.Params
	Headers  map[string][]byte

	e       *entrance
	pending []deadletter.Letter
	bytes   int
}

const (
	enterRows  = 4096
	enterBytes = 4 << 20
)

// Setup compiles the decoders.
func (f *enterFn) Setup() (err error) {
	f.e, err = newEntrance(f.Filter, f.Decode, f.Features, f.Headers)
	return err
}

// StartBundle forgets what an attempt before has left.
func (f *enterFn) StartBundle(func(beam.EventTime, event.Batch), func(beam.EventTime, event.Batch), func(deadletter.Letter)) {
	f.pending, f.bytes = nil, 0
}

// ProcessElement takes the letters of a record in.
func (f *enterFn) ProcessElement(ctx context.Context, _ string, next func(*deadletter.Letter) bool, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	var l deadletter.Letter
	next(&l)
	for other := (deadletter.Letter{}); next(&other); other = (deadletter.Letter{}) {
		l = merge(l, other)
		skipped[copied].Inc(ctx, 1)
	}
	if why := f.e.skip(&l); why != "" {
		skipped[why].Inc(ctx, 1)
		return nil
	}
	f.pending = append(f.pending, l)
	f.bytes += len(l.Original) + len(l.Row)
	if len(f.pending) < enterRows && f.bytes < enterBytes {
		return nil
	}
	return f.flush(ctx, events, rows, reject)
}

func (f *enterFn) flush(ctx context.Context, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	out, err := f.e.enter(f.pending)
	f.pending, f.bytes = nil, 0
	if err != nil {
		return err
	}
	for _, b := range out.events {
		atDecode.Inc(ctx, int64(b.N))
		events(mtime.FromMilliseconds(b.MinTime()), b)
	}
	for _, b := range out.rows {
		atPredict.Inc(ctx, int64(b.N))
		rows(mtime.FromMilliseconds(b.MinTime()), b)
	}
	for _, l := range out.failed {
		refailed.Inc(ctx, 1)
		reject(l)
	}
	return nil
}

// FinishBundle decodes the rest.
func (f *enterFn) FinishBundle(ctx context.Context, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	return f.flush(ctx, events, rows, reject)
}

// markFn marks the events of the history.
type markFn struct {
	Decode decode.Params

	schema *event.Schema
}

// Setup makes the schema.
func (f *markFn) Setup() error {
	s, err := f.Decode.Schema()
	if err == nil {
		f.schema, err = s.With(marks...)
	}
	return err
}

// ProcessElement marks a batch.
func (f *markFn) ProcessElement(b event.Batch, emit func(event.Batch)) error {
	b, err := mark(b, nil, f.schema)
	if err == nil {
		emit(b)
	}
	return err
}

// pickFn lets replayed rows through.
func pickFn(b event.Batch, emit func(event.Batch)) {
	history := b.Col(historyColumn)
	var replayed []int32
	for i := range b.N {
		if history.Ints[i] == 0 {
			replayed = append(replayed, int32(i))
		}
	}
	if len(replayed) > 0 {
		emit(b.Gather(replayed))
	}
}

// againFn counts the attempt of a letter that the graph made, and drops what befell the history: it has
// letters already.
func againFn(ctx context.Context, l deadletter.Letter, emit func(deadletter.Letter)) {
	if unmark(&l) {
		refailed.Inc(ctx, 1)
		emit(l)
	}
}

// together gathers the replayed rows in one place, where they are ordered and paced.
func together(b event.Batch) (int, event.Batch) { return 0, b }

// orderFn hands rows on by time and id, so that files are written equal again, and at a rate, if there is one.
type orderFn struct {
	Rate float64
}

// pieceRows is the size of a batch where no rate makes it smaller.
const pieceRows = 4096

// ProcessElement orders all replayed rows.
func (f *orderFn) ProcessElement(ctx context.Context, _ int, next func(*event.Batch) bool, emit func(beam.EventTime, event.Batch)) error {
	var batches []event.Batch
	for b := (event.Batch{}); next(&b); b = (event.Batch{}) {
		batches = append(batches, b)
	}
	all, err := event.Concat(batches)
	if err != nil {
		return err
	}
	rows, times, ids := make([]int32, all.N), all.Times(), all.IDs()
	for i := range rows {
		rows[i] = int32(i)
	}
	slices.SortFunc(rows, func(x, y int32) int {
		return cmp.Or(cmp.Compare(times[x], times[y]), event.CompareIDs(ids, int(x), ids, int(y)))
	})
	piece := pieceRows
	if f.Rate > 0 { // about a tenth of a second
		piece = min(piece, max(1, int(f.Rate/10)))
	}
	for piece := range slices.Chunk(rows, piece) {
		b := all.Gather(piece)
		emit(mtime.FromMilliseconds(b.MinTime()), b)
		if f.Rate > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(float64(b.N) / f.Rate * float64(time.Second))):
			}
		}
	}
	return nil
}
