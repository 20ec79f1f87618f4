package label

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/keygroup"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate/cells"
)

func init() {
	beam.RegisterDoFn(&routeFn{})
	beam.RegisterDoFn(&joinFn{})
	beam.RegisterDoFn(&meetFn{})
	register.Emitter2[beam.EventTime, event.Batch]()
	register.Emitter3[beam.EventTime, string, event.Batch]()
	register.Emitter1[deadletter.Letter]()
	register.Iter1[event.Batch]()
}

// ErrParams reports Params that make no join.
var ErrParams = errors.New("unusable join of labels")

var (
	joined  = beam.NewCounter("labels", "joined")
	waiting = beam.NewCounter("labels", "waiting")
	orphans = beam.NewCounter("labels", "orphan")
)

// Params says what is joined. It is plain data.
type Params struct {
	// Fields, ID and Time are the schema of events.
	Fields   []event.Field
	ID, Time string
	// Labels is that of labels, whose id has the name that it has in events and is that of their event. Known
	// is the field that says when a label became known.
	Labels []event.Field
	Known  string
	// Keys are the fields of events that labels get, beside Time. Fields that labels have already are replaced.
	Keys []string
	// Horizon is how long after its event's time a label may become known.
	Horizon time.Duration
	// Shards is into how many parts ids are split; 0: 8. In a stream it is fixed for the life of the state.
	Shards int
	// Stream, if not nil, makes Join work without an end to its input.
	Stream *Stream
}

// Stream makes Join work without an end to its input.
type Stream struct {
	// Run names the run: caches belong to it. Join makes one up if empty.
	Run string
	// KeyGroups is how many groups of keys the runner spreads over its subtasks, Flink's max_parallelism;
	// 0: 128. Shards are placed evenly for it.
	KeyGroups int
}

const (
	defaultShards = 8
	stateFormat   = 2 // of the deltas, and of the shards' keys: 1 had plain ones
)

// plan is Params, checked.
type plan struct {
	events *event.Schema // what the side branch keeps of an event: id, time, keys
	input  *event.Schema // labels as they come
	labels *event.Schema // without what events bring
	output *event.Schema
	far    int64 // the horizon, in microseconds
	width  int64 // of a bucket, in milliseconds
}

// bucket is that of a time.
func (p *plan) bucket(micros int64) int64 {
	b := micros / (p.width * 1000)
	if micros%(p.width*1000) < 0 {
		b--
	}
	return b
}

// end is the time, in microseconds, before which all of a bucket is.
func (p *plan) end(bucket int64) int64 { return (bucket + 1) * p.width * 1000 }

// fires is when a bucket is let go: nothing comes any more that became known within the horizon.
func (p *plan) fires(bucket int64) time.Time { return time.UnixMicro(p.end(bucket) + p.far + 1000) }

func compile(p Params) (*plan, error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	all, err := event.NewSchema(p.Fields, p.ID, p.Time)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	out := &plan{far: p.Horizon.Microseconds()}
	if out.input, err = event.NewSchema(p.Labels, p.ID, p.Known); err != nil {
		return nil, fmt.Errorf("%w: labels: %w", ErrParams, err)
	}
	if p.ID == "" || p.Time == "" || p.Known == "" {
		fault("the event's id and time, and the time from which a label is known, must be named")
	}
	if p.Horizon <= 0 {
		fault("a horizon of %v", p.Horizon)
	}
	if p.Shards < 0 || p.Shards > 1<<16 {
		fault("%d shards", p.Shards)
	}
	brought := []string{p.Time}
	for _, k := range p.Keys {
		switch {
		case all.Index(k) < 0:
			fault("no field %q in events", k)
		case k != p.ID && !slices.Contains(brought, k):
			brought = append(brought, k)
		}
	}
	if slices.Contains(brought, p.Known) {
		fault("%q is a field of events, and says of labels when they are known", p.Known)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	if out.events, err = all.Only(append([]string{p.ID}, brought...)...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	var own []string
	for _, f := range p.Labels {
		if !slices.Contains(brought, f.Name) {
			own = append(own, f.Name)
		}
	}
	if out.labels, err = out.input.Only(own...); err != nil {
		return nil, fmt.Errorf("%w: labels: %w", ErrParams, err)
	}
	var more []event.Field
	for _, name := range brought {
		more = append(more, all.Fields[all.Index(name)])
	}
	if out.output, err = out.labels.With(more...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	out.width = max(p.Horizon/16, 50*time.Millisecond).Milliseconds()
	return out, nil
}

// Validate reports all faults, joined.
func (p Params) Validate() error {
	_, err := compile(p)
	return err
}

// Output is the schema of joined labels: their own fields, then the time and the keys of their events.
func (p Params) Output() (*event.Schema, error) {
	c, err := compile(p)
	if err != nil {
		return nil, err
	}
	return c.output, nil
}

func (p Params) fingerprint(c *plan) string {
	h := sha256.New()
	fmt.Fprintf(h, "format %d\nshards %d\nhorizon %v\n%v\n%v", stateFormat, p.Shards, p.Horizon, c.events, c.labels)
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// Join gives labels what their events know: PCollection<event.Batch> of schema [Params.Output], and
// PCollection<deadletter.Letter>, labels without an event. It panics if p isn't valid.
func Join(s beam.Scope, events, labels beam.PCollection, p Params) (rows, orphaned beam.PCollection) {
	c, err := compile(p)
	if err != nil {
		panic(err)
	}
	if p.Shards == 0 {
		p.Shards = defaultShards
	}
	if p.Stream == nil {
		s = s.Scope("labels")
		routed := beam.ParDo(s, &routeFn{Params: p}, beam.Flatten(s, events, labels))
		return beam.ParDo2(s, &joinFn{Params: p}, beam.GroupByKey(s, routed))
	}
	own := *p.Stream
	if own.Run == "" {
		own.Run = rand.Text() // names caches; it never reaches a label
	}
	p.Stream = &own
	s = s.Scope("labels@" + p.fingerprint(c))
	routed := beam.ParDo(s, &routeFn{Params: p}, beam.Flatten(s, events, labels))
	return beam.ParDo2(s, &meetFn{
		Params: p, Passed: timers.InEventTime("passed"), Head: state.MakeValueState[int64]("head"), LogA: state.MakeBagState[cells.Record]("logA"), LogB: state.MakeBagState[cells.Record]("logB"),
	}, routed)
}

func timestamp(b *event.Batch) beam.EventTime { return mtime.FromMilliseconds(b.MinTime()) }

// routeFn sends what is needed of events and labels to the shards of ids, once a bundle if they are few.
type routeFn struct {
	Params Params

	p       *plan
	keys    []string           // of the shards
	pending [2][][]event.Batch // labels and events, by shard
	counts  [2][]int
}

func (f *routeFn) Setup() (err error) {
	f.p, err = compile(f.Params)
	groups := 0
	if f.Params.Stream != nil {
		groups = f.Params.Stream.KeyGroups
	}
	f.keys = keygroup.Keys(f.Params.Shards, groups)
	return err
}

func (f *routeFn) StartBundle(func(beam.EventTime, string, event.Batch)) {
	for k := range f.pending {
		f.pending[k], f.counts[k] = make([][]event.Batch, f.Params.Shards), make([]int, f.Params.Shards)
	}
}

const batchRows = 4096

func (f *routeFn) ProcessElement(b event.Batch, emit func(beam.EventTime, string, event.Batch)) (err error) {
	kind, schema := 1, f.p.events
	if b.Schema.Equal(f.p.input) {
		kind, schema = 0, f.p.labels
	}
	if b, err = b.Only(schema); err != nil {
		return err
	}
	rows := make([][]int32, f.Params.Shards)
	for i := range b.N {
		shard, _ := bits.Mul64(scramble(b.IDs().HashID(i)), uint64(f.Params.Shards))
		rows[shard] = append(rows[shard], int32(i))
	}
	for shard, rows := range rows {
		if len(rows) == 0 {
			continue
		}
		f.pending[kind][shard] = append(f.pending[kind][shard], b.Gather(rows))
		if f.counts[kind][shard] += len(rows); f.counts[kind][shard] >= batchRows {
			if err := f.flush(kind, shard, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *routeFn) flush(kind, shard int, emit func(beam.EventTime, string, event.Batch)) error {
	if len(f.pending[kind][shard]) == 0 {
		return nil
	}
	b, err := event.Concat(f.pending[kind][shard])
	if err != nil {
		return err
	}
	f.pending[kind][shard], f.counts[kind][shard] = nil, 0
	emit(timestamp(&b), f.keys[shard], b)
	return nil
}

func (f *routeFn) FinishBundle(emit func(beam.EventTime, string, event.Batch)) error {
	for kind := range f.pending {
		for shard := range f.Params.Shards {
			if err := f.flush(kind, shard, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

// scramble is the finaliser of MurmurHash3 (Appleby), with a salt, so that the shards of ids have nothing to
// do with those of an entity.
func scramble(x uint64) uint64 {
	x ^= 0x6c6162656c73
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// rows makes joined labels of pairs; those that became known too late are apart.
func (p *plan) rows(met []pair) (rows event.Batch, late []event.Batch, err error) {
	var parts []event.Batch
	for len(met) > 0 {
		// Runs of pairs from the same two batches.
		n := 1
		for n < len(met) && met[n].label == met[0].label && met[n].event == met[0].event {
			n++
		}
		var ls, es, old []int32
		for _, m := range met[:n] {
			if m.label.Times()[m.l]-m.event.Times()[m.e] > p.far {
				old = append(old, int32(m.l))
			} else {
				ls, es = append(ls, int32(m.l)), append(es, int32(m.e))
			}
		}
		if len(ls) > 0 {
			e := met[0].event.Gather(es)
			parts = append(parts, met[0].label.Gather(ls).With(p.output, e.Cols[1:]...)) // the id is there
		}
		if len(old) > 0 {
			late = append(late, met[0].label.Gather(old))
		}
		met = met[n:]
	}
	if len(parts) > 0 {
		rows, err = event.Concat(parts)
	}
	return rows, late, err
}

// emit passes joined labels on.
func (p *plan) emit(b event.Batch, field string, emit func(beam.EventTime, event.Batch)) {
	if b.N == 0 {
		return
	}
	// A label that is known before its event's time is of no use before that.
	of, at := b.Col(field).Ints, int64(math.MaxInt64)
	for i, t := range b.Times() {
		at = min(at, max(t, of[i]))
	}
	emit(mtime.FromTime(time.UnixMicro(at)), b)
}

// letters are those of labels without events.
func letters(batches []event.Batch, why string) (out []deadletter.Letter) {
	for _, b := range batches {
		for i := range b.N {
			l := deadletter.FromRow(deadletter.LabelOrphan, &b, i)
			l.Stage, l.Message = "labels", why
			out = append(out, l)
		}
	}
	return out
}

func (p Params) tooLate() string {
	return fmt.Sprintf("it became known more than the horizon, %v, after its event", p.Horizon)
}

func (p Params) noEvent() string {
	return fmt.Sprintf("no event with its id has come; a label waits for %v", p.Horizon)
}

// joinFn joins whole shards.
type joinFn struct {
	Params Params

	p *plan
}

func (f *joinFn) Setup() (err error) {
	f.p, err = compile(f.Params)
	return err
}

func (f *joinFn) ProcessElement(_ string, next func(*event.Batch) bool, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	var events, labels []event.Batch
	for b := (event.Batch{}); next(&b); b = (event.Batch{}) {
		if b.Schema.Equal(f.p.labels) {
			labels = append(labels, b)
		} else {
			events = append(events, b)
		}
	}
	m := newMachine(f.p)
	for _, b := range events {
		m.arrive(b)
	}
	for _, b := range labels {
		rows, late, err := f.p.rows(m.learn(b).met)
		if err != nil {
			return err
		}
		f.p.emit(rows, f.Params.Time, emit)
		for _, l := range letters(late, f.Params.tooLate()) {
			reject(l)
		}
	}
	left, _ := m.drop(1<<63 - 1)
	for _, l := range letters(left, f.Params.noEvent()) {
		reject(l)
	}
	return nil
}

// meetFn joins what comes. A bucket of time has one timer, set with its first batch and never moved, that lets
// it go: only the watermark tells what can still come.
type meetFn struct {
	Params     Params
	Passed     timers.EventTime
	Head       state.Value[int64]
	LogA, LogB state.Bag[cells.Record]

	p     *plan
	store *shardstate.Store
}

func (f *meetFn) Setup() (err error) {
	if f.p, err = compile(f.Params); err != nil {
		return err
	}
	p := f.p
	f.store, err = shardstate.Open(shardstate.Config{
		Run: f.Params.Stream.Run, Stage: "labels@" + f.Params.fingerprint(p), Fingerprint: f.Params.fingerprint(p), Shards: f.Params.Shards,
		New: func() shardstate.Machine { return newMachine(p) },
	})
	return err
}

func (f *meetFn) Teardown() {
	if f.store != nil {
		f.store.Close()
	}
}

// do runs one call on the shard of a key.
func (f *meetFn) do(sp state.Provider, key string, apply func(*machine) ([][]byte, error)) error {
	shard, err := keygroup.Shard(key)
	if err != nil {
		return err
	}
	c := cells.Of(sp, &f.Head, &f.LogA, &f.LogB)
	return f.store.Do(shard, c, func(m shardstate.Machine) ([][]byte, error) { return apply(m.(*machine)) })
}

func (f *meetFn) ProcessElement(ctx context.Context, sp state.Provider, tp timers.Provider, key string, b event.Batch, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	var c change
	var rows event.Batch
	var late []event.Batch
	err := f.do(sp, key, func(m *machine) (deltas [][]byte, err error) {
		if b.Schema.Equal(f.p.labels) {
			c = m.learn(b)
		} else {
			c = m.arrive(b)
		}
		rows, late, err = f.p.rows(c.met)
		return c.deltas, err
	})
	if err != nil {
		return err
	}
	if c.bucket != nil {
		fire := f.p.fires(*c.bucket)
		f.Passed.Set(tp, fire, timers.WithTag(strconv.FormatInt(*c.bucket, 10)), timers.WithOutputTimestamp(fire))
	}
	f.p.emit(rows, f.Params.Time, emit)
	lost(ctx, letters(late, f.Params.tooLate()), reject)
	joined.Inc(ctx, int64(rows.N))
	waiting.Inc(ctx, int64(c.waiting))
	return nil
}

// OnTimer lets a bucket go, whose number is the timer's tag.
func (f *meetFn) OnTimer(ctx context.Context, _ beam.EventTime, sp state.Provider, _ timers.Provider, key string, timer timers.Context, _ func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	bucket, err := strconv.ParseInt(timer.Tag, 10, 64)
	if err != nil {
		return fmt.Errorf("reading the tag of a timer: %w", err)
	}
	var old []event.Batch
	err = f.do(sp, key, func(m *machine) (deltas [][]byte, err error) {
		old, deltas = m.pass(bucket)
		return deltas, nil
	})
	if err != nil {
		return err
	}
	lost(ctx, letters(old, f.Params.noEvent()), reject)
	return nil
}

func lost(ctx context.Context, gone []deadletter.Letter, reject func(deadletter.Letter)) {
	for _, l := range gone {
		reject(l)
	}
	orphans.Inc(ctx, int64(len(gone)))
}
