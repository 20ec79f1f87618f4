package deadletter

import (
	"context"
	"errors"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
)

func init() {
	register.DoFn3x1[context.Context, Letter, func(int, staged.Chunk), error](&stageFn{})
	register.Emitter1[Letter]()
}

var written = beam.NewCounter("deadletter", "written")

func target(address, run string) staged.Target {
	ext := ".jsonl"
	if _, gzip := connect.Ending(address); gzip {
		ext += ".gz"
	}
	return staged.Target{URL: address, Run: run, Ext: ext}
}

// Check finds out whether letters can be written to the address; call it before a job is submitted.
func Check(ctx context.Context, address string) error {
	if address == "" {
		return errNoAddress
	}
	return staged.Check(ctx, target(address, ""))
}

// Sweep deletes what a job that failed has staged for the address.
func Sweep(ctx context.Context, address string) error {
	s, err := target(address, "").Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Sweep(ctx)
}

var errNoAddress = errors.New("dead letters: no address to write them to (a path, or - for standard output)")

// Write publishes letters, PCollections<Letter>, as one file, or as parts if the address ends in a
// slash. It panics without an address or letters: events are never dropped.
func Write(s beam.Scope, address string, letters ...beam.PCollection) {
	if address == "" {
		panic(errNoAddress)
	}
	s = s.Scope("deadletter.Write")
	all := beam.Flatten(s, letters...)
	t := target(address, staged.NewRun())
	chunks := beam.ParDo(s, &stageFn{Target: t}, all)
	_, gzip := connect.Ending(address)
	commit := &staged.CommitFn{Target: t}
	if gzip {
		commit.Empty = staged.EmptyGzip
	}
	staged.Publish(s, chunks, t, commit)
}

// stageFn writes letters into the chunks of its bundle.
type stageFn struct {
	Target staged.Target

	stage *staged.Stage
	w     *staged.Writer
	buf   []byte
	rows  int64
	gzip  bool
}

// Setup opens the target.
func (f *stageFn) Setup(ctx context.Context) (err error) {
	_, f.gzip = connect.Ending(f.Target.URL)
	f.stage, err = f.Target.Open(ctx)
	return err
}

// StartBundle drops what an attempt before has left.
func (f *stageFn) StartBundle(ctx context.Context, _ func(int, staged.Chunk)) {
	f.abort(ctx)
	f.w = f.stage.NewWriter()
}

func (f *stageFn) abort(ctx context.Context) {
	f.buf, f.rows = f.buf[:0], 0
	if f.w != nil {
		f.w.Abort(ctx)
		f.w = nil
	}
}

// ProcessElement buffers a letter.
func (f *stageFn) ProcessElement(ctx context.Context, l Letter, _ func(int, staged.Chunk)) (err error) {
	f.buf, err = Append(f.buf, l)
	f.rows++
	if err == nil && len(f.buf) >= 1<<20 {
		err = f.flush(ctx)
	}
	if err != nil {
		f.abort(ctx)
	}
	return err
}

func (f *stageFn) flush(ctx context.Context) error {
	p := f.buf
	if f.gzip {
		p = staged.Gzip(p)
	}
	if err := f.w.Write(ctx, p, f.rows, 0); err != nil {
		return err
	}
	written.Inc(ctx, f.rows)
	f.buf, f.rows = f.buf[:0], 0
	return nil
}

// FinishBundle makes the chunks durable and names them to the commit.
func (f *stageFn) FinishBundle(ctx context.Context, emit func(int, staged.Chunk)) error {
	err := f.flush(ctx)
	var chunks []staged.Chunk
	if err == nil {
		chunks, err = f.w.Finish()
	}
	if err != nil {
		f.abort(ctx)
		return err
	}
	f.w = nil
	for _, c := range chunks {
		emit(0, c)
	}
	return nil
}

// Teardown closes the target.
func (f *stageFn) Teardown(ctx context.Context) error {
	if f.stage == nil {
		return nil
	}
	f.abort(ctx)
	return f.stage.Close()
}
