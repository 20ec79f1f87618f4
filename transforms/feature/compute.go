package feature

import (
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"math/bits"
	"runtime"
	"strconv"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
)

func init() {
	beam.RegisterDoFn(&deriveFn{})
	beam.RegisterDoFn(&splitFn{})
	beam.RegisterDoFn(&computeFn{})
	register.Emitter2[beam.EventTime, event.Batch]()
	register.Emitter3[beam.EventTime, int64, part]()
	register.Emitter1[deadletter.Letter]()
	register.Iter1[part]()
}

const (
	defaultShards = 16
	defaultMemory = 1 << 30
	batchRows     = 4096
)

// Compute appends the features to bounded batches of events (PCollection<event.Batch>, in the global
// window). It gives PCollection<event.Batch> of schema [Params.Output], in another order, and
// PCollection<deadletter.Letter>, the duplicates. It panics if p isn't valid.
func Compute(s beam.Scope, events beam.PCollection, p Params) (rows, rejected beam.PCollection) {
	rows, rejected, err := TryCompute(s, events, p)
	if err != nil {
		panic(err)
	}
	return rows, rejected
}

// TryCompute is Compute that returns the faults of p.
func TryCompute(s beam.Scope, events beam.PCollection, p Params) (rows, rejected beam.PCollection, err error) {
	if p.Labels != nil {
		err = fmt.Errorf("%w: labels come as events of their own: use ComputeLabeled", ErrParams)
		return beam.PCollection{}, beam.PCollection{}, err
	}
	return compute(s, events, beam.PCollection{}, p)
}

// ComputeLabeled is Compute with labels that come as events of their own, PCollection<event.Batch> of the
// schema that p.Labels tells. Without p.Labels it is Compute, and with labels that aren't valid none come. Labels give no rows. Among the rejected are those
// whose events have not come.
func ComputeLabeled(s beam.Scope, events, labels beam.PCollection, p Params) (rows, rejected beam.PCollection) {
	rows, rejected, err := compute(s, events, labels, p)
	if err != nil {
		panic(err)
	}
	return rows, rejected
}

func compute(s beam.Scope, events, labels beam.PCollection, p Params) (rows, rejected beam.PCollection, err error) {
	s = s.Scope("feature.Compute")
	c, err := compile(p)
	if err != nil {
		return beam.PCollection{}, beam.PCollection{}, err
	}
	if p.Stream != nil && len(c.stages) > 0 {
		rows, rejected = stream(s, events, labels, p, c)
		return rows, rejected, nil
	}
	if p.Shards == 0 {
		p.Shards = defaultShards
	}
	if p.Memory == 0 {
		p.Memory = defaultMemory
	}
	if len(c.stages) == 0 {
		rows, rejected = beam.ParDo2(s, &deriveFn{Params: p}, events)
		return rows, rejected, nil
	}
	rows = events
	run := rand.Text() // names this run's files; it never reaches a feature
	var letters []beam.PCollection
	for i, st := range c.stages {
		s := s.Scope(st.name + strconv.Itoa(i))
		split := beam.ParDo(s, &splitFn{Params: p, Stage: i, Run: run}, st.labeled(s, rows, labels))
		var dups beam.PCollection
		rows, dups = beam.ParDo2(s, &computeFn{Params: p, Stage: i}, beam.GroupByKey(s, split))
		letters = append(letters, dups)
	}
	return rows, beam.Flatten(s, letters...), nil
}

func timestamp(b *event.Batch) beam.EventTime { return mtime.FromMilliseconds(b.MinTime()) }

// fit gives b the columns of s, which it may have among others.
func fit(b event.Batch, s *event.Schema) (event.Batch, error) {
	if b.Schema.Equal(s) {
		return b, nil
	}
	return b.Only(s)
}

// deriveFn computes features that need no entity.
type deriveFn struct {
	Params Params

	c *compiled
}

func (f *deriveFn) Setup() (err error) {
	f.c, err = compile(f.Params)
	return err
}

func (f *deriveFn) ProcessElement(b event.Batch, emit func(beam.EventTime, event.Batch), _ func(deadletter.Letter)) error {
	b, err := fit(b, f.c.input)
	if err != nil {
		return err
	}
	if b, err = f.c.first.apply(b); err != nil {
		return err
	}
	emit(timestamp(&b), b)
	return nil
}

// router sorts the rows of a bundle by the shards of a stage's entity. It gathers them over the
// bundle: shards that feed shards would make crumbs of the batches otherwise.
type router struct {
	c       *compiled
	stage   int
	salt    uint64
	rows    [][]int32
	pending [][]event.Batch
	counts  []int
	bytes   []int64
}

func newRouter(p Params, stage int) (*router, error) {
	c, err := compile(p)
	if err != nil {
		return nil, err
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.stages[stage].name))
	return &router{c: c, stage: stage, salt: h.Sum64()}, nil
}

// labeled are rows, and labels where the stage uses them.
func (s *stage) labeled(scope beam.Scope, rows, labels beam.PCollection) beam.PCollection {
	if s.labels == nil || !labels.IsValid() {
		return rows
	}
	return beam.Flatten(scope, rows, labels)
}

// start forgets what a bundle before has left.
func (r *router) start(shards int) {
	r.rows, r.pending, r.counts, r.bytes = make([][]int32, shards), make([][]event.Batch, shards), make([]int, shards), make([]int64, shards)
}

// add takes a batch in, and calls flush for shards that have enough for one.
func (r *router) add(b event.Batch, flush func(shard int) error) (err error) {
	st := r.c.stages[r.stage]
	key := st.entity
	switch {
	case r.c.isLabels(&b):
		if b, err = b.Only(st.labels.schema); err != nil {
			return err
		}
		key = labelEntity
	case r.stage == 0:
		if b, err = fit(b, r.c.input); err != nil {
			return err
		}
		if b, err = r.c.first.apply(b); err != nil {
			return err
		}
	}
	who, ids := &b.Cols[key], b.IDs()
	for i := range r.rows {
		r.rows[i] = r.rows[i][:0]
	}
	for i := range b.N {
		key := who
		if who.Null(i) {
			key = ids // rows without an entity spread out; duplicates still meet
		}
		shard, _ := bits.Mul64(scramble(key.HashID(i)^r.salt), uint64(len(r.rows)))
		r.rows[shard] = append(r.rows[shard], int32(i))
	}
	for shard, rows := range r.rows {
		if len(rows) == 0 {
			continue
		}
		sub := b.Gather(rows)
		r.pending[shard] = append(r.pending[shard], sub)
		r.counts[shard] += sub.N
		r.bytes[shard] += int64(sub.Size())
		if r.counts[shard] >= batchRows || r.bytes[shard] >= 1<<20 {
			if err := flush(shard); err != nil {
				return err
			}
		}
	}
	return nil
}

// take hands over what a shard has, and how many bytes it is.
func (r *router) take(shard int) (batches []event.Batch, bytes int64) {
	batches, bytes = r.pending[shard], r.bytes[shard]
	r.pending[shard], r.counts[shard], r.bytes[shard] = nil, 0, 0
	return batches, bytes
}

// scramble is the finaliser of MurmurHash3 (Appleby): hashes that differ by a salt become independent.
func scramble(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// splitFn sends rows to the shards of a stage's entity.
type splitFn struct {
	Params Params
	Stage  int
	Run    string

	r    *router
	file *spillFile
}

func (f *splitFn) Setup() (err error) {
	f.r, err = newRouter(f.Params, f.Stage)
	return err
}

func (f *splitFn) StartBundle(func(beam.EventTime, int64, part)) {
	f.r.start(f.Params.Shards)
	f.file = nil
}

func (f *splitFn) ProcessElement(b event.Batch, emit func(beam.EventTime, int64, part)) error {
	return f.r.add(b, func(shard int) error { return f.flush(shard, emit) })
}

func (f *splitFn) flush(shard int, emit func(beam.EventTime, int64, part)) (err error) {
	batches, bytes := f.r.take(shard)
	if len(batches) == 0 {
		return nil
	}
	at := timestamp(&batches[0])
	for i := range batches {
		at = min(at, timestamp(&batches[i]))
	}
	p := part{Batches: batches}
	if f.Params.Local || heldBy(f.Run, f.Stage).Add(bytes) > f.Params.Memory/int64(len(f.r.c.stages)) {
		if f.file == nil {
			if f.file, err = newSpillFile(spillFolder(f.Params.SpillDir, f.Run)); err != nil {
				return err
			}
		}
		if p, err = f.file.write(p.Batches); err != nil {
			return err
		}
	}
	emit(at, int64(shard), p)
	return nil
}

func (f *splitFn) FinishBundle(emit func(beam.EventTime, int64, part)) error {
	for shard := range f.Params.Shards {
		if err := f.flush(shard, emit); err != nil {
			return err
		}
	}
	if f.file == nil {
		return nil
	}
	if err := f.file.f.Close(); err != nil {
		return fmt.Errorf("spilling a shuffle: %w", err)
	}
	return nil
}

// computeFn runs the engine over whole shards. Runners may hand over a bundle's shards one after the
// other, and direct has one thread: the shards go to goroutines, so that all cores work.
type computeFn struct {
	Params Params
	Stage  int

	c           *compiled
	fingerprint string
	done        chan computed
	running     int
}

type computed struct {
	batches []event.Batch
	letters []deadletter.Letter
	err     error
}

func (f *computeFn) Setup() (err error) {
	f.c, err = compile(f.Params)
	f.fingerprint = f.Params.Fingerprint()
	return err
}

// StartBundle leaves behind what a failed bundle still has running: its channel has room for all.
func (f *computeFn) StartBundle(func(beam.EventTime, event.Batch), func(deadletter.Letter)) {
	f.done, f.running = make(chan computed, runtime.GOMAXPROCS(0)), 0
}

func (f *computeFn) ProcessElement(_ int64, next func(*part) bool, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	var parts []part
	for p := (part{}); next(&p); p = (part{}) {
		parts = append(parts, p)
	}
	if f.running == cap(f.done) {
		if err := f.collect(emit, reject); err != nil {
			return err
		}
	}
	f.running++
	go func(done chan<- computed) {
		var r computed
		defer func() {
			if fault := recover(); fault != nil { // else it ends the worker, and all its bundles
				r = computed{err: fmt.Errorf("computing features of %s: panic: %v", f.c.stages[f.Stage].name, fault)}
			}
			done <- r
		}()
		r.batches, r.letters, r.err = f.compute(parts)
	}(f.done)
	return nil
}

func (f *computeFn) collect(emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	r := <-f.done
	f.running--
	if r.err != nil {
		return r.err
	}
	for i := range r.batches {
		emit(timestamp(&r.batches[i]), r.batches[i])
	}
	for _, l := range r.letters {
		reject(l)
	}
	return nil
}

func (f *computeFn) FinishBundle(emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	for f.running > 0 {
		if err := f.collect(emit, reject); err != nil {
			return err
		}
	}
	return nil
}

// compute is the bounded run of a shard: all its labels, then all its rows in order through the engine.
func (f *computeFn) compute(parts []part) ([]event.Batch, []deadletter.Letter, error) {
	st := f.c.stages[f.Stage]
	sh := st.newShard()
	var batches []event.Batch
	for i := range parts {
		loaded, err := parts[i].load()
		if err != nil {
			return nil, nil, err
		}
		for _, b := range loaded {
			if !st.isLabels(&b) {
				batches = append(batches, b)
				continue
			}
			in, err := st.labels.input(&b)
			if err != nil {
				return nil, nil, err
			}
			sh.w.Learn(&in)
		}
	}
	if len(batches) == 0 {
		return nil, f.orphans(sh), nil
	}
	all, err := event.Concat(batches)
	if err != nil {
		return nil, nil, err
	}
	rows := order(&all)
	var letters []deadletter.Letter
	if f.Stage == 0 {
		var twins []twin
		rows, twins = once(&all, rows, st.entity)
		for _, t := range twins {
			letters = append(letters, duplicate(&all, int(t.row), st.name, f.fingerprint))
		}
	}
	var out []event.Batch
	for len(rows) > 0 {
		n := min(len(rows), batchRows)
		// Rows that come twice in a later stage only have another first entity: they go on, without
		// this entity's features.
		b, _, err := sh.apply(all.Gather(rows[:n]))
		if err != nil {
			return nil, nil, err
		}
		out, rows = append(out, b), rows[n:]
	}
	return out, append(letters, f.orphans(sh)...), nil
}

// orphans are the letters of labels whose events are not in a shard, now that it is complete.
func (f *computeFn) orphans(sh *shard) []deadletter.Letter {
	st := f.c.stages[f.Stage]
	if st.labels == nil || !st.labels.first {
		return nil
	}
	in := sh.w.Orphans()
	return st.orphans(&in, f.fingerprint)
}

// duplicate is the letter for row r of b.
func duplicate(b *event.Batch, r int, entity, fingerprint string) deadletter.Letter {
	l := deadletter.FromRow(deadletter.Duplicate, b, r)
	l.Stage, l.Fingerprint = "features", fingerprint
	l.Message = fmt.Sprintf("another event of the same time and %s has this id", entity)
	return l
}
