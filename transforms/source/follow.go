package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/source/driver"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	beam.RegisterDoFn(&followFn{})
	register.Emitter2[beam.EventTime, deadletter.Letter]()
}

var (
	lateEvents = beam.NewCounter("source", "late")
	readLabels = beam.NewCounter("source", "labels")
)

const (
	// A call ends with so many rows or bytes, however long it might linger.
	callRows  = 4096
	callBytes = 1 << 20
	// firstWait is for how long a call waits for the first record, and for credit.
	firstWait = 100 * time.Millisecond
	// labelWait is for how long a call waits for labels: events shall not wait for those that are rare.
	labelWait = time.Millisecond
	// maxCall bounds the bytes of a poll where reading has to catch up.
	maxCall = 8 << 20
)

// followFn reads logs. Each call reads for a moment, claims, emits, and hands the rest back. It never waits
// once it has emitted: Prism asks a bundle that has given data for its progress without a pause.
type followFn struct {
	Decode decode.Params
	Stream Stream
	// Labels is how labels are read; without fields there are none.
	Labels decode.Params

	decoder, labels *decode.Decoder
}

// Setup makes the decoders.
func (f *followFn) Setup() (err error) {
	if f.decoder, err = decode.New(f.Decode); err == nil && len(f.Labels.Fields) > 0 {
		f.labels, err = decode.New(f.Labels)
	}
	return err
}

// CreateInitialRestriction begins with no partition: the first call lists them.
func (f *followFn) CreateInitialRestriction(group) progress {
	return progress{V: 1, Watermark: never}
}

// SplitRestriction keeps it whole: the element is a group already.
func (f *followFn) SplitRestriction(_ group, p progress) []progress { return []progress{p} }

// RestrictionSize is a guess: a log has no size.
func (f *followFn) RestrictionSize(group, progress) float64 { return 1 }

// CreateTracker tracks a group.
func (f *followFn) CreateTracker(p progress) *sdf.LockRTracker {
	return sdf.NewLockRTracker(&tracker{at: p})
}

// TruncateRestriction ends reading where the job is drained.
func (f *followFn) TruncateRestriction(rt *sdf.LockRTracker, _ group) progress {
	p := rt.GetRestriction().(progress)
	p.Done = true
	return p
}

// InitialWatermarkEstimatorState is the watermark that was reported, in microseconds.
func (f *followFn) InitialWatermarkEstimatorState(_ beam.EventTime, p progress, _ group) int64 {
	return p.Watermark
}

// CreateWatermarkEstimator goes on from a reported watermark.
func (f *followFn) CreateWatermarkEstimator(micros int64) *sdf.ManualWatermarkEstimator {
	return &sdf.ManualWatermarkEstimator{State: instant(micros)}
}

// WatermarkEstimatorState is what CreateWatermarkEstimator takes.
func (f *followFn) WatermarkEstimatorState(e *sdf.ManualWatermarkEstimator) int64 {
	if e.State.Equal(instant(never)) {
		return never
	}
	return e.State.UnixMicro()
}

// instant is the watermark of a time in microseconds, floored to milliseconds as Beam's times are.
func instant(micros int64) time.Time {
	if micros == never {
		return time.UnixMilli(int64(mtime.MinTimestamp))
	}
	ms := micros / 1000
	if micros%1000 < 0 {
		ms--
	}
	return time.UnixMilli(ms)
}

// ProcessElement reads on for a moment.
func (f *followFn) ProcessElement(ctx context.Context, we *sdf.ManualWatermarkEstimator, rt *sdf.LockRTracker, g group, emit, label func(beam.EventTime, event.Batch), reject, replay func(beam.EventTime, deadletter.Letter)) (sdf.ProcessContinuation, error) {
	p := rt.GetRestriction().(progress)
	if p.Done {
		return sdf.StopProcessing(), nil
	}
	r, err := take(ctx, f.Stream, g, p)
	if err != nil {
		return sdf.StopProcessing(), err
	}
	if f.Stream.Credit > 0 && !inflight.Wait(ctx, f.Stream.Run, f.Stream.Credit, firstWait) {
		r.put()
		return sdf.ResumeProcessingIn(0), ctx.Err()
	}
	next := p.clone()
	var got taken
	end, first := clock().Add(firstWait), true
	for got.nothing() || got.rows < callRows && got.bytes < callBytes {
		left := end.Sub(clock())
		if left <= 0 || next.Done {
			break
		}
		if err := r.poll(ctx, f, &next, left, maxCall, &got); err != nil {
			got.leave(r)
			return sdf.StopProcessing(), err
		}
		if first && !got.nothing() {
			end, first = clock().Add(f.Stream.Linger), false
		}
	}
	if !rt.TryClaim(next) { // the runner took the rest away: what was read is for somebody else
		got.leave(r)
		return sdf.StopProcessing(), nil
	}
	if f.Stream.Credit > 0 {
		for i, b := range got.batches {
			inflight.Add(f.Stream.Run, b.N, got.began[i])
			if f.Stream.Waits {
				inflight.Await(f.Stream.Run, b.Times())
			}
		}
		if f.Stream.Waits && next.Watermark != p.Watermark {
			inflight.Passed(f.Stream.Run, next.Watermark)
		}
	}
	for _, o := range got.owed {
		o.expect(inflight.Ways{Models: f.Stream.Models, Sinks: f.Stream.Sinks})
	}
	for _, b := range got.batches {
		emit(mtime.Normalize(mtime.FromMilliseconds(b.MinTime())), b)
	}
	for _, b := range got.labels {
		label(mtime.Normalize(mtime.FromMilliseconds(b.MinTime())), b)
		readLabels.Inc(ctx, int64(b.N))
	}
	// A letter has the time up to which was read: with that of the first element of all, the beginning of
	// time, windows downstream would take it for too late.
	now := mtime.FromMilliseconds(0)
	if next.Watermark != never {
		now = mtime.Normalize(mtime.FromTime(instant(next.Watermark)))
	}
	for _, l := range got.letters {
		reject(now, l)
	}
	for _, l := range got.replayed {
		replay(now, l)
	}
	r.report(next, got)
	readEvents.Inc(ctx, int64(got.rows))
	badEvents.Inc(ctx, int64(len(got.letters)-got.late))
	lateEvents.Inc(ctx, int64(got.late))
	blankLines.Inc(ctx, got.blank)
	skippedChanges.Inc(ctx, got.skipped)
	if next.Watermark != never {
		we.UpdateWatermark(instant(next.Watermark))
	}
	if next.Done {
		r.close()
		return sdf.StopProcessing(), nil
	}
	r.put()
	return sdf.ResumeProcessingIn(0), nil
}

// taken is what a poll gave.
type taken struct {
	batches []event.Batch
	began   []time.Time // when the source had taken in the first row of each batch
	labels  []event.Batch
	letters []deadletter.Letter
	// replayed are letters that were read.
	replayed []deadletter.Letter
	owed     []owed
	rows     int
	late     int
	bytes    int
	blank    int64
	skipped  int64
}

func (t *taken) nothing() bool {
	return len(t.batches)+len(t.labels)+len(t.letters)+len(t.replayed) == 0
}

// leave closes a reading of which nothing goes on: what was polled is given again.
func (t *taken) leave(r *reading) {
	r.close()
	for _, o := range t.owed {
		o.settle()
	}
}

// poll reads what there is, moves p on, and sets the late rows apart.
func (r *reading) poll(ctx context.Context, f *followFn, p *progress, wait time.Duration, limit int, got *taken) error {
	now := clock()
	if err := r.refresh(ctx, f.Stream, p, now); err != nil {
		return err
	}
	r.align(f.Stream, p, now)
	for a, follower := range r.followers {
		if follower == nil {
			continue
		}
		wait := wait / time.Duration(len(r.followers))
		if r.group.labels(a) {
			wait = min(wait, labelWait)
		}
		chunks, err := follower.Poll(ctx, wait, limit)
		if err != nil {
			return r.fault(a, err)
		}
		came := clock()
		for i := range chunks {
			if err := r.chunk(f, p, a, &chunks[i], came, got); err != nil {
				return err
			}
		}
	}
	r.advance(f.Stream, p, now)
	return nil
}

// chunk takes a chunk in.
func (r *reading) chunk(f *followFn, p *progress, address int, c *driver.Chunk, now time.Time, got *taken) (err error) {
	var keys []inflight.Key // of rows
	_, acknowledges := r.followers[address].(*acker)
	letters, replayed := len(got.letters), len(got.replayed)
	defer func() {
		if err == nil {
			err = r.owes(f, address, c.Next, keys, got, letters, replayed)
		}
	}()
	at := p.index(address, c.Partition)
	if at < 0 {
		return r.fault(address, fmt.Errorf("the driver reads %q, which nobody asked for", c.Partition))
	}
	part := &p.Partitions[at]
	part.Next, part.Ended = c.Next, part.Ended || c.Ended
	before := r.heard[at]
	heard := c.Batch.N > 0 || len(c.Records) > 0 || c.Table.File != nil
	if heard {
		r.heard[at], r.last = now, now
	}
	name := cmp.Or(c.Source, c.Partition)
	bury := func(l deadletter.Letter) error {
		got.letters = append(got.letters, l)
		return nil
	}
	if c.Fault != nil {
		defer func() { _ = bury(f.unreadable(name, c.Fault)) }()
	}
	if r.group.replays(address) {
		return r.letters(address, c, got)
	}
	params, decoder, isLabel := f.Decode, f.decoder, r.group.labels(address)
	if isLabel {
		params, decoder = f.Labels, f.labels
	}
	began := now
	if len(c.Records) > 0 && !c.Records[0].Time.IsZero() && c.Records[0].Time.Before(now) {
		began = c.Records[0].Time
	}
	keep := func(b event.Batch) error {
		if acknowledges && !isLabel {
			keys = inflight.IDs(keys, &b)
		}
		for _, t := range b.Times() {
			part.Newest = max(part.Newest, t)
		}
		b, late := sift(b, p.Watermark)
		for i := range late.N {
			l := deadletter.FromRow(deadletter.Late, &late, i)
			l.Stage, l.Place = "source", deadletter.Place{Source: name}
			l.UseCase, l.Fingerprint = f.Decode.UseCase, f.Decode.Fingerprint
			l.Message = fmt.Sprintf("it came after the watermark %s had passed its time; raise lateness if that is too early", instant(p.Watermark).UTC().Format(time.RFC3339Nano))
			got.letters = append(got.letters, l)
		}
		got.late += late.N
		switch {
		case b.N == 0:
		case isLabel:
			got.labels = append(got.labels, b)
		default:
			got.rows += b.N
			got.batches, got.began = append(got.batches, b), append(got.began, began)
		}
		return nil
	}
	if c.Batch.N > 0 {
		b, err := fit(params, decoder.Schema(), c.Batch)
		if err != nil {
			return r.fault(address, err)
		}
		got.bytes += b.Size()
		return keep(b)
	}
	var stats decode.Stats
	if t := c.Table; t.File != nil {
		stats, err = decoder.ReadParquet(t.File, t.Size, decode.Source{Name: name, Offset: t.From, End: t.To}, keep, bury)
		if errors.Is(err, decode.ErrFile) { // the others are fine
			err = bury(f.unreadable(name, err))
		}
	} else {
		stats, err = decoder.Records(name, c.Records, keep, bury)
	}
	if params.Format == "debezium" && stats.Lines == 0 {
		r.heard[at] = before // changes that are no events don't move the watermark, and so may not hold it either
	}
	got.blank += stats.Blank
	got.skipped += stats.Skipped
	got.bytes += int(stats.Bytes)
	return err
}

// unreadable is the letter of what has no records to be shown.
func (f *followFn) unreadable(source string, why error) deadletter.Letter {
	return deadletter.Letter{
		Stage: "decode", Class: deadletter.Decode, Message: why.Error(), Attempts: 1, Place: deadletter.Place{Source: source},
		UseCase: f.Decode.UseCase, Fingerprint: f.Decode.Fingerprint,
	}
}

// letters takes a chunk of dead letters in.
func (r *reading) letters(address int, c *driver.Chunk, got *taken) error {
	if c.Table.File != nil {
		return r.fault(address, fmt.Errorf("%s is Parquet; dead letters are lines of JSON", cmp.Or(c.Source, c.Partition)))
	}
	for _, rec := range c.Records {
		l, err := envelope(cmp.Or(c.Source, c.Partition), rec.Value, deadletter.Place{Offset: rec.Offset})
		switch {
		case errors.Is(err, deadletter.ErrVersion):
			return r.fault(address, err)
		case err != nil:
			got.letters = append(got.letters, l)
		default:
			got.replayed = append(got.replayed, l)
		}
		got.bytes += len(rec.Value)
	}
	return nil
}

// report tells telemetry what was read and how far behind it is.
func (r *reading) report(p progress, got taken) {
	telemetry.Read(got.rows)
	telemetry.Bad(len(got.letters) - got.late)
	telemetry.Blank(int(got.blank))
	telemetry.Skipped(int(got.skipped))
	for _, part := range p.Partitions {
		if n, ok := r.behind[part.Address][part.Name]; ok {
			telemetry.Lag(part.Name, n)
		}
		if part.Newest != never {
			telemetry.Watermark(part.Name, time.UnixMicro(part.Newest))
		}
	}
}

// sift takes the rows out of a batch that are before the watermark.
func sift(b event.Batch, watermark int64) (kept, late event.Batch) {
	var old []int32
	times := b.Times()
	for i, t := range times {
		if t < watermark {
			old = append(old, int32(i))
		}
	}
	if old == nil {
		return b, late
	}
	var fresh []int32
	for i, t := range times {
		if t >= watermark {
			fresh = append(fresh, int32(i))
		}
	}
	return b.Gather(fresh), b.Gather(old)
}

func (r *reading) fault(address int, err error) error {
	a := r.group.Addresses[address]
	return fmt.Errorf("reading %s: %w", connect.Redact(a), connect.Scrub(err, a))
}
