package reentry

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
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() {
	beam.RegisterDoFn(&readFn{})
	beam.RegisterDoFn(&enterFn{})
	beam.RegisterDoFn(&markFn{})
	beam.RegisterDoFn(&orderFn{})
	beam.RegisterDoFn(&followFn{})
	beam.RegisterDoFn(&chooseFn{})
	beam.RegisterDoFn(&paceFn{})
	register.Function2x0(pickFn)
	register.Function1x2(together)
	beam.RegisterDoFn(&againFn{})
	register.Emitter1[deadletter.Letter]()
	register.Emitter1[event.Batch]()
	register.Emitter2[string, deadletter.Letter]()
	register.Emitter2[beam.EventTime, event.Batch]()
	register.Iter1[deadletter.Letter]()
	register.Iter1[event.Batch]()
}

// Params say how letters enter.
type Params struct {
	Filter Filter
	// Decode is how the use case reads records, Features what it computes, with the columns of WithMarks.
	Decode   decode.Params
	Features feature.Params
	// Headers are the first lines of csv files, by their names; see source.Headers.
	Headers map[string][]byte
	// Credit says that the rows under way are counted for the run of Features.Stream.
	Credit bool
	// Models and Sinks are those of source.Stream, where a source of letters is told what has landed.
	Models, Sinks int
}

// WithMarks adds the columns that tell replayed rows from others.
func WithMarks(p feature.Params) feature.Params {
	p.Fields = append(p.Fields[:len(p.Fields):len(p.Fields)], marks...)
	if len(p.Keep) > 0 {
		p.Keep = p.Keep[:len(p.Keep):len(p.Keep)]
		for _, m := range marks {
			p.Keep = append(p.Keep, m.Name)
		}
	}
	return p
}

// Validate reports what is wrong.
func (p Params) Validate() error {
	_, err := newEntrance(p)
	return err
}

// Read gives what the letters of some partitions hold, one of each record: events (PCollection<event.Batch>,
// marked as replayed), rows with their features, and letters of what failed again.
func Read(s beam.Scope, parts []driver.Partition, p Params) (events, rows, failed beam.PCollection) {
	s = s.Scope("reentry.Read")
	keyed, unreadable := beam.ParDo2(s, &readFn{Filter: p.Filter}, beam.Reshuffle(s, beam.CreateList(s, parts)))
	events, rows, failed = beam.ParDo3(s, &enterFn{Params: p}, beam.GroupByKey(s, keyed))
	return events, rows, beam.Flatten(s, unreadable, failed)
}

// Follow is Read for PCollection<deadletter.Letter> without an end. What can't enter is among failed.
func Follow(s beam.Scope, letters beam.PCollection, p Params) (events, rows, failed beam.PCollection) {
	return beam.ParDo3(s.Scope("reentry.Follow"), &followFn{Params: p}, letters)
}

// Choose gives the letters of some partitions that are to be sent to a stream, one of each record, at most
// rate a second (0: no bound).
func Choose(s beam.Scope, parts []driver.Partition, f Filter, rate float64) beam.PCollection {
	s = s.Scope("reentry.Choose")
	keyed, _ := beam.ParDo2(s, &readFn{Filter: f}, beam.Reshuffle(s, beam.CreateList(s, parts)))
	chosen := beam.ParDo(s, &chooseFn{Filter: f}, beam.GroupByKey(s, keyed))
	if rate > 0 {
		chosen = beam.ParDo(s, &paceFn{Rate: rate}, beam.GroupByKey(s, beam.AddFixedKey(s, chosen)))
	}
	return chosen
}

// Mark gives events that were not replayed the columns of WithMarks.
func Mark(s beam.Scope, events beam.PCollection, p decode.Params) beam.PCollection {
	return beam.ParDo(s.Scope("reentry.Mark"), &markFn{Decode: p}, events)
}

// Pick lets replayed rows through.
func Pick(s beam.Scope, rows beam.PCollection) beam.PCollection {
	return beam.ParDo(s.Scope("reentry.Pick"), pickFn, rows)
}

// Order brings bounded rows together, and hands them on by time and id, so that files are written equal
// again; rate bounds the rows a second, 0 doesn't.
func Order(s beam.Scope, rows beam.PCollection, rate float64) beam.PCollection {
	s = s.Scope("reentry.Order")
	return beam.ParDo(s, &orderFn{Rate: rate}, beam.GroupByKey(s, beam.ParDo(s, together, rows)))
}

// Again takes the marks out of letters that later stages made, and counts the attempts of those of replayed
// rows. The other letters are dropped unless first says that there are none of them yet.
func Again(s beam.Scope, letters beam.PCollection, first bool) beam.PCollection {
	return beam.ParDo(s.Scope("reentry.Again"), &againFn{First: first}, letters)
}

var (
	read       = beam.NewCounter("replay", "letters")
	unreadable = beam.NewCounter("replay", "unreadable")
	atDecode   = beam.NewCounter("replay", "at_decode")
	atPredict  = beam.NewCounter("replay", "at_predict")
	sent       = beam.NewCounter("replay", "sent")
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
	Params Params

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
	f.e, err = newEntrance(f.Params)
	return err
}

// StartBundle forgets what an attempt before has left.
func (f *enterFn) StartBundle(func(beam.EventTime, event.Batch), func(beam.EventTime, event.Batch), func(deadletter.Letter)) {
	f.pending, f.bytes = nil, 0
}

// ProcessElement takes the letters of a record in.
func (f *enterFn) ProcessElement(ctx context.Context, _ string, next func(*deadletter.Letter) bool, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	l := f.Params.Filter.merged(ctx, next)
	if why := f.e.skip(&l); why != "" {
		skipped[why].Inc(ctx, 1)
		return nil
	}
	return f.take(ctx, l, events, rows, reject)
}

func (f *enterFn) take(ctx context.Context, l deadletter.Letter, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
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
		if f.Params.Credit {
			run := f.Params.Features.Stream.Run
			inflight.Add(run, b.N, time.Time{}) // the features count them out
			if f.Params.Features.Stream.Order == feature.EventTime {
				inflight.Await(run, b.Times())
			}
		}
		events(mtime.FromMilliseconds(b.MinTime()), b)
	}
	for _, b := range out.rows {
		atPredict.Inc(ctx, int64(b.N))
		rows(mtime.FromMilliseconds(b.MinTime()), b)
	}
	for _, l := range out.failed {
		refailed.Inc(ctx, 1)
		f.Params.forego(&l)
		reject(l)
	}
	return nil
}

// forego notes that a letter which comes to its end again is of an event that no model and no sink will see:
// the letter's own end is that at one of them.
func (p Params) forego(l *deadletter.Letter) {
	if l.Class.Enter() != "predict" || !inflight.Active() {
		return
	}
	key := inflight.LetterOf(l.ID, l.Digest, l.Original)
	var ends []inflight.End
	for range p.Models - 1 {
		ends = append(ends, inflight.End{Key: key, Share: inflight.ByModel})
	}
	if l.Class == deadletter.Sink {
		for range p.Sinks - 1 {
			ends = append(ends, inflight.End{Key: key, Share: inflight.BySink})
		}
	}
	inflight.Ended(ends...)
}

// FinishBundle decodes the rest.
func (f *enterFn) FinishBundle(ctx context.Context, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	return f.flush(ctx, events, rows, reject)
}

// chooseFn passes one letter of each record on.
type chooseFn struct {
	Filter Filter
}

// ProcessElement takes the letters of a record.
func (f *chooseFn) ProcessElement(ctx context.Context, _ string, next func(*deadletter.Letter) bool, emit func(deadletter.Letter)) {
	l := f.Filter.merged(ctx, next)
	if why := f.Filter.spent(&l); why != "" {
		skipped[why].Inc(ctx, 1)
		return
	}
	sent.Inc(ctx, 1)
	emit(l)
}

// merged is the one letter of a record.
func (f Filter) merged(ctx context.Context, next func(*deadletter.Letter) bool) (l deadletter.Letter) {
	next(&l)
	for other := (deadletter.Letter{}); next(&other); other = (deadletter.Letter{}) {
		l = merge(l, other)
		skipped[copied].Inc(ctx, 1)
	}
	return l
}

// paceFn passes letters on at a rate.
type paceFn struct {
	Rate float64
}

// ProcessElement takes all letters.
func (f *paceFn) ProcessElement(ctx context.Context, _ int, next func(*deadletter.Letter) bool, emit func(deadletter.Letter)) error {
	for l := (deadletter.Letter{}); next(&l); l = (deadletter.Letter{}) {
		emit(l)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(float64(time.Second) / f.Rate)):
		}
	}
	return nil
}

// followFn decodes the letters of a stream as they come. What can't enter stays a letter.
type followFn struct {
	Params Params

	in *enterFn
}

// Setup compiles the decoders.
func (f *followFn) Setup() error {
	f.in = &enterFn{Params: f.Params}
	return f.in.Setup()
}

// StartBundle forgets what an attempt before has left.
func (f *followFn) StartBundle(events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) {
	f.in.StartBundle(events, rows, reject)
}

// ProcessElement takes a letter in.
func (f *followFn) ProcessElement(ctx context.Context, l deadletter.Letter, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	read.Inc(ctx, 1)
	why := f.Params.Filter.skip(&l)
	if why == "" {
		why = f.in.e.skip(&l)
	}
	if why != "" {
		skipped[why].Inc(ctx, 1)
		f.Params.forego(&l)
		reject(l)
		return nil
	}
	return f.in.take(ctx, l, events, rows, reject)
}

// FinishBundle decodes the rest.
func (f *followFn) FinishBundle(ctx context.Context, events, rows func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	return f.in.flush(ctx, events, rows, reject)
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

// againFn takes the marks out of letters that the graph made, and counts the attempts of those that were
// replayed. Letters of the history are dropped, unless they are the first ones that there are.
type againFn struct {
	First bool
}

// ProcessElement looks at a letter.
func (f *againFn) ProcessElement(ctx context.Context, l deadletter.Letter, emit func(deadletter.Letter)) {
	replayed := unmark(&l)
	if replayed {
		refailed.Inc(ctx, 1)
	}
	if replayed || f.First {
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
