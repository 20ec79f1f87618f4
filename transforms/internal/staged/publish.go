package staged

import (
	"context"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	beam.RegisterType(reflect.TypeOf((*Chunk)(nil)).Elem())
	beam.RegisterDoFn(&noneFn{})
	beam.RegisterDoFn(&CommitFn{})
	beam.RegisterDoFn(&sweepFn{})
	register.Emitter3[beam.EventTime, int, Chunk]()
	register.Emitter2[int, Chunk]()
	register.Emitter1[int64]()
	register.Iter1[Chunk]()
}

// Publish gathers the chunks (a PCollection<KV<int,Chunk>>) and commits them; commit is a DoFn over
// KV<int, iterator of Chunk> that emits the number of rows, such as a [CommitFn].
func Publish(s beam.Scope, chunks beam.PCollection, t Target, commit any) {
	s = s.Scope("publish")
	// A graph without a row has no chunk, and its output is to appear as well.
	none := beam.ParDo(s, &noneFn{}, beam.Impulse(s))
	grouped := beam.GroupByKey(s, beam.Flatten(s, chunks, none))
	rows := beam.ParDo(s, commit, grouped)
	// On Prism a stage without an output spins: the heavy work must stand before a Reshuffle.
	beam.ParDo0(s, &sweepFn{Target: t}, beam.Reshuffle(s, rows))
}

type noneFn struct{}

func (*noneFn) ProcessElement(_ []byte, emit func(int, Chunk)) { emit(0, Chunk{}) }

// CommitFn concatenates chunks.
type CommitFn struct {
	Target Target
	// Empty is the content of a file without rows.
	Empty []byte
}

// ProcessElement commits the chunks of all bundles.
func (f *CommitFn) ProcessElement(ctx context.Context, _ int, next func(*Chunk) bool, emit func(int64)) error {
	rows, err := CommitAll(ctx, f.Target, next, nil, f.Empty)
	if err != nil {
		return err
	}
	emit(rows)
	return nil
}

// CommitAll commits what an iterator gives.
func CommitAll(ctx context.Context, t Target, next func(*Chunk) bool, join Join, empty []byte) (int64, error) {
	var chunks []Chunk
	var c Chunk
	for next(&c) {
		chunks = append(chunks, c)
	}
	s, err := t.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return s.Commit(ctx, chunks, join, empty)
}

type sweepFn struct{ Target Target }

func (f *sweepFn) ProcessElement(ctx context.Context, _ int64) error { return Sweep(ctx, f.Target) }

// Sweep deletes what is staged for a target; see [Stage.Sweep].
func Sweep(ctx context.Context, t Target) error {
	s, err := t.Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Sweep(ctx)
}
