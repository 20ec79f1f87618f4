package feature

import (
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"math/bits"
	"runtime"
	"strconv"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
)

func init() {
	register.DoFn3x1[event.Batch, func(beam.EventTime, event.Batch), func(deadletter.Letter), error](&deriveFn{})
	register.DoFn2x1[event.Batch, func(beam.EventTime, int64, part), error](&splitFn{})
	register.DoFn4x1[int64, func(*part) bool, func(beam.EventTime, event.Batch), func(deadletter.Letter), error](&computeFn{})
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
	s = s.Scope("feature.Compute")
	c, err := compile(p)
	if err != nil {
		return beam.PCollection{}, beam.PCollection{}, err
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
		split := beam.ParDo(s, &splitFn{Params: p, Stage: i, Run: run}, rows)
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

// splitFn sends rows to the shards of a stage's entity. It gathers them over the bundle: shards that
// feed shards would make crumbs of the batches otherwise.
type splitFn struct {
	Params Params
	Stage  int
	Run    string

	c       *compiled
	salt    uint64
	rows    [][]int32
	pending []part
	counts  []int
	bytes   []int64
	file    *spillFile
}

func (f *splitFn) Setup() (err error) {
	if f.c, err = compile(f.Params); err != nil {
		return err
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(f.c.stages[f.Stage].name))
	f.salt = h.Sum64()
	return nil
}

func (f *splitFn) StartBundle(func(beam.EventTime, int64, part)) {
	n := f.Params.Shards
	f.rows, f.pending, f.counts, f.bytes, f.file = make([][]int32, n), make([]part, n), make([]int, n), make([]int64, n), nil
}

func (f *splitFn) ProcessElement(b event.Batch, emit func(beam.EventTime, int64, part)) (err error) {
	if f.Stage == 0 {
		if b, err = fit(b, f.c.input); err != nil {
			return err
		}
		if b, err = f.c.first.apply(b); err != nil {
			return err
		}
	}
	who, ids := &b.Cols[f.c.stages[f.Stage].entity], b.IDs()
	for i := range f.rows {
		f.rows[i] = f.rows[i][:0]
	}
	for i := range b.N {
		key := who
		if who.Null(i) {
			key = ids // rows without an entity spread out; duplicates still meet
		}
		shard, _ := bits.Mul64(scramble(key.HashID(i)^f.salt), uint64(len(f.rows)))
		f.rows[shard] = append(f.rows[shard], int32(i))
	}
	for shard, rows := range f.rows {
		if len(rows) == 0 {
			continue
		}
		sub := b.Gather(rows)
		f.pending[shard].Batches = append(f.pending[shard].Batches, sub)
		f.counts[shard] += sub.N
		f.bytes[shard] += int64(sub.Size())
		if f.counts[shard] >= batchRows || f.bytes[shard] >= 1<<20 {
			if err := f.flush(shard, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

// scramble is the finaliser of MurmurHash3 (Appleby): hashes that differ by a salt become independent.
func scramble(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func (f *splitFn) flush(shard int, emit func(beam.EventTime, int64, part)) (err error) {
	p := f.pending[shard]
	if len(p.Batches) == 0 {
		return nil
	}
	at := timestamp(&p.Batches[0])
	for i := range p.Batches {
		at = min(at, timestamp(&p.Batches[i]))
	}
	if f.Params.Local || heldBy(f.Run, f.Stage).Add(f.bytes[shard]) > f.Params.Memory/int64(len(f.c.stages)) {
		if f.file == nil {
			if f.file, err = newSpillFile(spillFolder(f.Params.SpillDir, f.Run)); err != nil {
				return err
			}
		}
		if p, err = f.file.write(p.Batches); err != nil {
			return err
		}
	}
	f.pending[shard], f.counts[shard], f.bytes[shard] = part{}, 0, 0
	emit(at, int64(shard), p)
	return nil
}

func (f *splitFn) FinishBundle(emit func(beam.EventTime, int64, part)) error {
	for shard := range f.pending {
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

// compute is the bounded run of a shard: all its rows in order through the engine.
func (f *computeFn) compute(parts []part) ([]event.Batch, []deadletter.Letter, error) {
	var batches []event.Batch
	for i := range parts {
		loaded, err := parts[i].load()
		if err != nil {
			return nil, nil, err
		}
		batches = append(batches, loaded...)
	}
	if len(batches) == 0 {
		return nil, nil, nil
	}
	all, err := event.Concat(batches)
	if err != nil {
		return nil, nil, err
	}
	st := f.c.stages[f.Stage]
	rows := order(&all)
	var letters []deadletter.Letter
	if f.Stage == 0 {
		var duplicates []int32
		rows, duplicates = once(&all, rows, st.entity)
		for _, r := range duplicates {
			letters = append(letters, f.letter(&all, int(r)))
		}
	}
	sh := st.newShard()
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
	return out, letters, nil
}

func (f *computeFn) letter(b *event.Batch, r int) deadletter.Letter {
	return deadletter.Letter{
		ID: string(b.IDs().AppendID(nil, r)), Stage: "features", Class: deadletter.Duplicate,
		Message:   fmt.Sprintf("another event of the same time and %s has this id", f.c.stages[f.Stage].name),
		EventTime: time.UnixMicro(b.Times()[r]).UTC().Format(time.RFC3339Nano), Fingerprint: f.fingerprint, Attempts: 1,
	}
}
