package deadletter

import (
	"context"
	"errors"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	beam.RegisterDoFn(&stageFn{})
	register.Emitter1[Letter]()
}

var written = beam.NewCounter("deadletter", "written")

// Params says where letters go.
type Params struct {
	// URL is a file, a folder if it ends in a slash, or a target that takes records, such as a topic.
	URL string
	// Stream is set where the input has no end; then a URL of files has to be a folder.
	Stream *Stream
}

// Stream says how a folder that is written without an end is cut into files.
type Stream = staged.Stream

var errNoAddress = errors.New("dead letters: no address to write them to (a path, or - for standard output)")

// Validate reports all that is wrong.
func (p Params) Validate() error {
	switch {
	case p.URL == "":
		return errNoAddress
	case p.Stream != nil && !p.publishes():
		return p.Stream.Validate(p.URL)
	}
	return nil
}

// publishes reports whether letters are sent one by one.
func (p Params) publishes() bool { return staged.Publisher(p.URL, p.Stream) != nil }

func (p Params) target() staged.Target {
	ext := ".jsonl"
	if _, gzip := connect.Ending(p.URL); gzip {
		ext += ".gz"
	}
	return staged.Target{URL: p.URL, Ext: ext, Stream: p.Stream}
}

// Check finds out whether letters can be written; call it before a job is submitted.
func Check(ctx context.Context, p Params) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if p.publishes() {
		s, err := openSender(ctx, p)
		if err != nil {
			return err
		}
		return s.Close()
	}
	return staged.Check(ctx, p.target())
}

// Sweep deletes what a job has staged that failed, or a stream that has ended.
func Sweep(ctx context.Context, p Params) error {
	if p.publishes() {
		return nil
	}
	return staged.Sweep(ctx, p.target())
}

// Write writes letters, PCollections<Letter>: as one file, as parts if the address ends in a slash,
// as records to a target that takes those. It panics on bad params or without letters: events are
// never dropped.
func Write(s beam.Scope, p Params, letters ...beam.PCollection) {
	if err := p.Validate(); err != nil {
		panic(err)
	}
	s = s.Scope("deadletter.Write")
	all := beam.Flatten(s, letters...)
	if p.publishes() {
		publish(s, all, p)
		return
	}
	t := p.target()
	t.Run = staged.NewRun()
	chunks := beam.ParDo(s, &stageFn{Target: t}, all)
	if t.Stream != nil {
		staged.Roll(s, chunks, t, &staged.RollFn{Target: t})
		return
	}
	commit := &staged.CommitFn{Target: t}
	if _, gzip := connect.Ending(p.URL); gzip {
		commit.Empty = staged.EmptyGzip
	}
	staged.Publish(s, chunks, t, commit)
}

// stamped is the letter with the times of failure that it lacks.
func stamped(l Letter) Letter {
	telemetry.DeadLetters(string(l.Class), 1)
	if l.LastFailure == "" {
		l.LastFailure = staged.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
	if l.FirstFailure == "" {
		l.FirstFailure = l.LastFailure
	}
	return l
}

// stageFn writes letters into the chunks of its bundle.
type stageFn struct {
	Target staged.Target

	stage *staged.Stage
	w     *staged.Writer
	buf   []byte // of letters of one window
	rows  int64
	first int64 // microseconds
	ends  []inflight.End
	gzip  bool
}

// Setup opens the target.
func (f *stageFn) Setup(ctx context.Context) (err error) {
	_, f.gzip = connect.Ending(f.Target.URL)
	f.stage, err = f.Target.Open(ctx)
	return err
}

// StartBundle drops what an attempt before has left.
func (f *stageFn) StartBundle(ctx context.Context, _ func(beam.EventTime, int, staged.Chunk)) {
	f.abort(ctx)
	f.w = f.stage.NewWriter()
}

func (f *stageFn) abort(ctx context.Context) {
	f.buf, f.rows, f.ends = f.buf[:0], 0, nil
	if f.w != nil {
		f.w.Abort(ctx)
		f.w = nil
	}
}

// ProcessElement buffers a letter.
func (f *stageFn) ProcessElement(ctx context.Context, at beam.EventTime, l Letter, _ func(beam.EventTime, int, staged.Chunk)) error {
	err := f.add(ctx, at.Milliseconds()*1000, l)
	if err != nil {
		f.abort(ctx)
	}
	return err
}

func (f *stageFn) add(ctx context.Context, at int64, l Letter) (err error) {
	if f.Target.Stream == nil {
		at = 0 // a bounded run has no order of letters
	}
	if f.rows > 0 && f.Target.Window(at) != f.Target.Window(f.first) || len(f.buf) >= 1<<20 {
		if err := f.flush(ctx); err != nil {
			return err
		}
	}
	if f.rows == 0 {
		f.first = at
	}
	f.buf, err = Append(f.buf, stamped(l))
	f.rows++
	f.ends = end(f.ends, &l)
	return err
}

func (f *stageFn) flush(ctx context.Context) error {
	p := f.buf
	if f.gzip {
		p = staged.Gzip(p)
	}
	if err := f.w.Write(ctx, p, f.rows, f.first); err != nil {
		return err
	}
	if len(f.ends) > 0 {
		inflight.Stage(f.w.Chunk(f.first), f.ends)
	}
	written.Inc(ctx, f.rows)
	f.buf, f.rows, f.ends = f.buf[:0], 0, nil
	return nil
}

// FinishBundle makes the chunks durable and names them to the commit.
func (f *stageFn) FinishBundle(ctx context.Context, emit func(beam.EventTime, int, staged.Chunk)) error {
	err := f.flush(ctx)
	var chunks []staged.Chunk
	if err == nil {
		chunks, err = f.w.Finish(ctx)
	}
	if err != nil {
		f.abort(ctx)
		return err
	}
	f.w = nil
	for _, c := range chunks {
		emit(mtime.FromMilliseconds(c.Time()), 0, c)
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
