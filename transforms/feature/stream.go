package feature

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/internal/keygroup"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate/cells"
)

func init() {
	beam.RegisterDoFn(&routeFn{})
	beam.RegisterDoFn(&arriveFn{})
	beam.RegisterDoFn(&waitFn{})
	register.Emitter3[beam.EventTime, string, event.Batch]()
}

var (
	duplicates        = beam.NewCounter("features", "duplicate")
	conflicts         = beam.NewCounter("features", "duplicate_conflict")
	frontierViolation = beam.NewCounter("features", "frontier_violation")
	labelsIn          = beam.NewCounter("features", "labels")
	labelsPast        = beam.NewCounter("features", "labels_past")
	labelOrphans      = beam.NewCounter("features", "label_orphan")
)

const (
	defaultStreamShards = 8
	stateFormat         = 1 // of the deltas and copies
)

// kept is for how long, in microseconds, a stream keeps rows for later ones. One microsecond more than
// the lateness: a row as late as may be still finds its copy.
func (p Params) kept() int64 {
	if p.Stream == nil || p.Stream.Order == EventTime {
		return 0
	}
	return p.Stream.Lateness.Microseconds() + 1
}

// fingerprint identifies the state of a stage: equal ones can go on with each other's.
func (s *stage) fingerprint(p Params) string {
	h := sha256.New()
	fmt.Fprintf(h, "format %d\nshards %d\nbuckets of %d ms\n%s", stateFormat, p.Shards, p.Stream.bucket(), strings.Join(s.meaning, "\n"))
	if p.Stream.Order == EventTime { // whole rows wait
		fmt.Fprintf(h, "\nrows %v", s.rows)
	}
	if s.labels != nil {
		fmt.Fprintf(h, "\nlabels %v", s.labels.schema)
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

func (s *stage) label(p Params) string { return s.name + "@" + s.fingerprint(p) }

// stream is the graph without an end: for each stage a router, and a DoFn that keeps the shards.
func stream(s beam.Scope, events, labels beam.PCollection, p Params, c *compiled) (rows, rejected beam.PCollection) {
	s = s.Scope("features")
	own := *p.Stream
	p.Stream = &own
	if own.Order == "" {
		own.Order = Arrival
	}
	if own.Run == "" {
		own.Run = rand.Text() // names caches; it never reaches a feature
	}
	if p.Shards == 0 {
		p.Shards = defaultStreamShards
	}
	rows = events
	var letters []beam.PCollection
	for i, st := range c.stages {
		s := s.Scope(st.label(p))
		routed := beam.ParDo(s, &routeFn{Params: p, Stage: i}, st.labeled(s, rows, labels))
		var fn any = &arriveFn{
			Params: p, Stage: i,
			Head: state.MakeValueState[int64]("head"), LogA: state.MakeBagState[cells.Record]("logA"), LogB: state.MakeBagState[cells.Record]("logB"),
		}
		if own.Order == EventTime {
			fn = &waitFn{
				Params: p, Stage: i, Passed: timers.InEventTime("passed"),
				Head: state.MakeValueState[int64]("head"), LogA: state.MakeBagState[cells.Record]("logA"), LogB: state.MakeBagState[cells.Record]("logB"),
			}
		}
		var dups beam.PCollection
		rows, dups = beam.ParDo2(s, fn, routed)
		letters = append(letters, dups)
	}
	return rows, beam.Flatten(s, letters...)
}

// routeFn sends rows to the shards of a stage's entity, once a bundle if they are few.
type routeFn struct {
	Params Params
	Stage  int

	r    *router
	keys []string // of the shards
}

func (f *routeFn) Setup() (err error) {
	f.r, err = newRouter(f.Params, f.Stage)
	f.keys = keygroup.Keys(f.Params.Shards, f.Params.Stream.KeyGroups)
	return err
}

func (f *routeFn) StartBundle(func(beam.EventTime, string, event.Batch)) { f.r.start(f.Params.Shards) }

func (f *routeFn) ProcessElement(b event.Batch, emit func(beam.EventTime, string, event.Batch)) error {
	return f.r.add(b, func(shard int) error { return f.flush(shard, emit) })
}

func (f *routeFn) FinishBundle(emit func(beam.EventTime, string, event.Batch)) error {
	for shard := range f.Params.Shards {
		if err := f.flush(shard, emit); err != nil {
			return err
		}
	}
	return nil
}

func (f *routeFn) flush(shard int, emit func(beam.EventTime, string, event.Batch)) error {
	batches, _ := f.r.take(shard)
	st := f.r.c.stages[f.Stage]
	// Labels before rows: with what comes in a bundle together, rows know the labels.
	slices.SortStableFunc(batches, func(a, b event.Batch) int {
		switch x, y := st.isLabels(&a), st.isLabels(&b); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	n := 0
	for n < len(batches) && st.isLabels(&batches[n]) {
		n++
	}
	for _, part := range [][]event.Batch{batches[:n], batches[n:]} {
		if len(part) == 0 {
			continue
		}
		b, err := event.Concat(part)
		if err != nil {
			return err
		}
		emit(timestamp(&b), f.keys[shard], b)
	}
	return nil
}

// shards is what the two DoFns with state have in common.
type shards struct {
	p           Params
	stage       int
	st          *stage
	fingerprint string
	store       *shardstate.Store
	last        bool
}

func openShards(p Params, stage int) (*shards, error) {
	c, err := compile(p)
	if err != nil {
		return nil, err
	}
	st := c.stages[stage]
	store, err := shardstate.Open(shardstate.Config{
		Run: p.Stream.Run, Stage: st.label(p), Fingerprint: st.fingerprint(p), Shards: p.Shards,
		New: func() shardstate.Machine { return newMachine(p, st, stage) },
	})
	if err != nil {
		return nil, err
	}
	return &shards{p, stage, st, p.Fingerprint(), store, stage == len(c.stages)-1}, nil
}

// do runs one call on the shard of a key.
func (s *shards) do(key string, c shardstate.Cells, apply func(*machine) ([][]byte, error)) error {
	shard, err := keygroup.Shard(key)
	if err != nil {
		return err
	}
	return s.store.Do(shard, c, func(m shardstate.Machine) ([][]byte, error) { return apply(m.(*machine)) })
}

// hand passes a batch on. The rows of the last stage, and the rejected ones of any, leave the features
// here.
func (s *shards) hand(ctx context.Context, a applied, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) {
	if a.out.N > 0 {
		emit(timestamp(&a.out), a.out)
	}
	for _, r := range a.duplicates {
		reject(duplicate(&a.in, int(r), s.st.name, s.fingerprint))
	}
	if s.p.Stream.Order != EventTime { // rows that wait for the watermark are not under way
		left := len(a.duplicates)
		if s.last {
			left += a.out.N
		}
		inflight.Land(ctx, s.p.Stream.Run, left)
	}
	if n := len(a.duplicates); n > 0 {
		duplicates.Inc(ctx, int64(n))
		conflicts.Inc(ctx, int64(a.conflicts))
	}
	if a.orphans.N > 0 && s.st.labels.first {
		for _, l := range s.st.orphans(&a.orphans, s.fingerprint) {
			reject(l)
		}
		labelOrphans.Inc(ctx, int64(a.orphans.N))
	}
}

// learn takes labels in. They give no rows, wait for no watermark, and are of no use to rows before they were
// known: it is enough that they are there before it has passed that time.
func (s *shards) learn(ctx context.Context, key string, c shardstate.Cells, b event.Batch) error {
	past := 0
	err := s.do(key, c, func(m *machine) (deltas [][]byte, err error) {
		var delta []byte
		if past, delta, err = m.learn(b); delta != nil {
			deltas = [][]byte{delta}
		}
		return deltas, err
	})
	if err == nil && s.st.labels.first {
		labelsIn.Inc(ctx, int64(b.N))
		labelsPast.Inc(ctx, int64(past))
	}
	return err
}

// arriveFn scores batches as they come.
type arriveFn struct {
	Params     Params
	Stage      int
	Head       state.Value[int64]
	LogA, LogB state.Bag[cells.Record]

	s *shards
}

func (f *arriveFn) Setup() (err error) {
	f.s, err = openShards(f.Params, f.Stage)
	return err
}

func (f *arriveFn) Teardown() {
	if f.s != nil {
		f.s.store.Close()
	}
}

func (f *arriveFn) ProcessElement(ctx context.Context, sp state.Provider, key string, b event.Batch, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	c := cells.Of(sp, &f.Head, &f.LogA, &f.LogB)
	if f.s.st.isLabels(&b) {
		return f.s.learn(ctx, key, c, b)
	}
	var done applied
	err := f.s.do(key, c, func(m *machine) (deltas [][]byte, err error) {
		done, deltas, err = m.arrive(b, f.Stage == 0)
		return deltas, err
	})
	if err != nil {
		return err
	}
	f.s.hand(ctx, done, emit, reject)
	return nil
}

// waitFn lets rows wait until the watermark has passed them. A bucket of time has one timer, which is
// set with its first row and never moved: timers that move, or that OnTimer sets again, hang runners
// or fall behind.
type waitFn struct {
	Params     Params
	Stage      int
	Passed     timers.EventTime
	Head       state.Value[int64]
	LogA, LogB state.Bag[cells.Record]

	s *shards
}

func (f *waitFn) Setup() (err error) {
	f.s, err = openShards(f.Params, f.Stage)
	return err
}

func (f *waitFn) Teardown() {
	if f.s != nil {
		f.s.store.Close()
	}
}

func (f *waitFn) ProcessElement(ctx context.Context, sp state.Provider, tp timers.Provider, key string, b event.Batch, _ func(beam.EventTime, event.Batch), _ func(deadletter.Letter)) error {
	c := cells.Of(sp, &f.Head, &f.LogA, &f.LogB)
	if f.s.st.isLabels(&b) {
		return f.s.learn(ctx, key, c, b)
	}
	var buckets []bucket
	err := f.s.do(key, c, func(m *machine) ([][]byte, error) {
		delta := event.Append([]byte{pendingMark}, b)
		var behind int
		if buckets, behind = m.add(b, len(delta)); behind > 0 {
			frontierViolation.Inc(ctx, int64(behind-replayed(&b, f.Params.Stream.Fresh, m.frontier)))
		}
		return [][]byte{delta}, nil
	})
	if err != nil {
		return err
	}
	if f.Stage == 0 {
		inflight.Land(ctx, f.Params.Stream.Run, b.N)
	}
	for _, b := range buckets {
		f.Passed.Set(tp, mtime.Time(b.end()).ToTime(), timers.WithTag(b.tag()), timers.WithOutputTimestamp(mtime.Time(b.start()).ToTime()))
	}
	return nil
}

// replayed counts the rows behind a frontier that a Bool column is false for; of no column none is.
func replayed(b *event.Batch, fresh string, frontier int64) (n int) {
	c := b.Col(fresh)
	if c == nil {
		return 0
	}
	for i, t := range b.Times() {
		if floor(t, 1000) < frontier && c.Ints[i] == 0 {
			n++
		}
	}
	return n
}

// OnTimer drains the rows before the end of a bucket, which the timer's tag names.
func (f *waitFn) OnTimer(ctx context.Context, _ beam.EventTime, sp state.Provider, _ timers.Provider, key string, timer timers.Context, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	b, err := parseTag(timer.Tag)
	if err != nil {
		return err
	}
	fire := b.end()
	var done []applied
	err = f.s.do(key, cells.Of(sp, &f.Head, &f.LogA, &f.LogB), func(m *machine) (deltas [][]byte, err error) {
		done, deltas, err = m.pass(fire, f.Stage == 0)
		return deltas, err
	})
	if err != nil {
		return err
	}
	for _, a := range done {
		f.s.hand(ctx, a, emit, reject)
	}
	return nil
}
