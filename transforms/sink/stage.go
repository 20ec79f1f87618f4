package sink

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"runtime"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	beam.RegisterDoFn(&stageFn{})
	beam.RegisterDoFn(&parquetFn{})
	beam.RegisterDoFn(&parquetRollFn{})
	register.Emitter1[deadletter.Letter]()
}

var (
	written = beam.NewCounter("sink", "written")
	dropped = beam.NewCounter("sink", "dropped")
)

// stageFn encodes batches into the chunks of its bundle.
type stageFn struct {
	Params Params
	Kind   string
	Gzip   bool

	stage   *staged.Stage
	w       *staged.Writer
	pending []chan encoded // in the order of the batches

	enc encoder
}

type encoded struct {
	bytes         *[]byte
	ends          []inflight.End
	rows, dropped int64
	first         int64
	err           error
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Setup opens the target.
func (f *stageFn) Setup(ctx context.Context) (err error) {
	f.enc = encoder{params: f.Params, kind: f.Kind, gzip: f.Gzip}
	f.stage, err = f.Params.target().Open(ctx)
	return err
}

// StartBundle drops what an attempt before has left.
func (f *stageFn) StartBundle(ctx context.Context, _ func(beam.EventTime, int, staged.Chunk), _ func(deadletter.Letter)) {
	f.abort(ctx)
	f.w = f.stage.NewWriter()
}

func (f *stageFn) abort(ctx context.Context) {
	for _, p := range f.pending {
		<-p
	}
	f.pending = nil
	if f.w != nil {
		f.w.Abort(ctx)
		f.w = nil
	}
}

// ProcessElement starts encoding a batch and writes those that are ready.
func (f *stageFn) ProcessElement(ctx context.Context, b event.Batch, _ func(beam.EventTime, int, staged.Chunk), _ func(deadletter.Letter)) error {
	if b.N == 0 {
		return nil
	}
	_, err := f.enc.use(b.Schema)
	if err == nil {
		f.w.Head(f.enc.head)
		ready := make(chan encoded, 1) // the goroutine ends also if nobody asks
		text, when := f.enc.text, f.enc.when
		go func() { ready <- f.encode(b, text, when) }()
		f.pending = append(f.pending, ready)
		for err == nil && len(f.pending) > 2*runtime.GOMAXPROCS(0) {
			err = f.writeFirst(ctx)
		}
	}
	if err != nil {
		f.abort(ctx)
	}
	return err
}

// FinishBundle makes the chunks durable and names them to the commit.
func (f *stageFn) FinishBundle(ctx context.Context, chunk func(beam.EventTime, int, staged.Chunk), _ func(deadletter.Letter)) error {
	for len(f.pending) > 0 {
		if err := f.writeFirst(ctx); err != nil {
			f.abort(ctx)
			return err
		}
	}
	chunks, err := f.w.Finish(ctx)
	if err != nil {
		f.abort(ctx)
		return err
	}
	f.w = nil // from here on the chunks are the commit's, or the sweep's
	for _, c := range chunks {
		chunk(mtime.FromMilliseconds(c.Time()), 0, c)
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

func (f *stageFn) encode(b event.Batch, text format.Encoder, when *expr.Program) (out encoded) {
	all := b
	if b, out.err = keep(b, when); out.err != nil {
		return out
	}
	inflight.LeftOut(&all, &b)
	out.dropped, out.ends = int64(all.N-b.N), inflight.AtSink(&b)
	out.rows, out.first = int64(b.N), b.MinTime()*1000
	if b.N == 0 {
		return out
	}
	buf := buffers.Get().(*[]byte)
	if f.Kind == "parquet" {
		*buf = event.Append(append((*buf)[:0], make([]byte, 8)...), b)
		binary.LittleEndian.PutUint64(*buf, uint64(len(*buf)-8))
	} else {
		*buf, out.err = text.Append((*buf)[:0], b)
		if f.Gzip && out.err == nil {
			*buf = append((*buf)[:0], staged.Gzip(*buf)...)
		}
	}
	out.bytes = buf
	return out
}

func (f *stageFn) writeFirst(ctx context.Context) error {
	e := <-f.pending[0]
	f.pending = f.pending[1:]
	if e.err != nil {
		return f.enc.wrap(e.err)
	}
	dropped.Inc(ctx, e.dropped)
	if e.rows == 0 {
		return nil
	}
	if err := f.w.Write(ctx, *e.bytes, e.rows, e.first); err != nil {
		return err
	}
	inflight.Stage(f.w.Chunk(e.first), e.ends)
	buffers.Put(e.bytes)
	written.Inc(ctx, e.rows)
	telemetry.Written(connect.Redact(f.Params.URL), int(e.rows))
	return nil
}

// parquetFn makes Parquet files of chunks that hold batches: Parquet can't be concatenated.
type parquetFn struct {
	Target staged.Target
	Outs   []format.Out
}

// ProcessElement commits the chunks of all bundles.
func (f *parquetFn) ProcessElement(ctx context.Context, _ int, next func(*staged.Chunk) bool, emit func(int64)) error {
	rows, err := staged.CommitAll(ctx, f.Target, next, joinParquet(f.Outs), nil)
	if err != nil {
		return err
	}
	emit(rows)
	return nil
}

// parquetRollFn is parquetFn for the files of a stream.
type parquetRollFn struct {
	Target staged.Target
	Outs   []format.Out
}

// ProcessElement commits the chunks of a window.
func (f *parquetRollFn) ProcessElement(ctx context.Context, pane beam.PaneInfo, w beam.Window, _ int, next func(*staged.Chunk) bool, emit func(int64)) error {
	rows, err := staged.CommitPane(ctx, f.Target, pane, w, next, joinParquet(f.Outs))
	if err != nil {
		return err
	}
	emit(rows)
	return nil
}

func joinParquet(outs []format.Out) staged.Join {
	return func(w io.Writer, open func(staged.Chunk, int64) (io.ReadCloser, error), chunks []staged.Chunk) error {
		next, stop := iter.Pull2(batches(open, chunks))
		defer stop()
		first, err, ok := next()
		if !ok {
			return emptyParquet(w, outs)
		}
		if err != nil {
			return err
		}
		return format.WriteParquet(w, first.Schema, outs, func(yield func(event.Batch, error) bool) {
			for b := first; ok && yield(b, err); b, err, ok = next() {
			}
		})
	}
}

func batches(open func(staged.Chunk, int64) (io.ReadCloser, error), chunks []staged.Chunk) iter.Seq2[event.Batch, error] {
	return func(yield func(event.Batch, error) bool) {
		for _, c := range chunks {
			if !readChunk(open, c, yield) {
				return
			}
		}
	}
}

// readChunk reports whether to go on.
func readChunk(open func(staged.Chunk, int64) (io.ReadCloser, error), c staged.Chunk, yield func(event.Batch, error) bool) bool {
	fail := func(err error) bool {
		yield(event.Batch{}, fmt.Errorf("reading chunk %s: %w", c.Name, err))
		return false
	}
	file, err := open(c, 0)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<18)
	rows := int64(0)
	for {
		var size [8]byte
		if _, err := io.ReadFull(r, size[:]); err == io.EOF {
			break
		} else if err != nil {
			return fail(err)
		}
		n := binary.LittleEndian.Uint64(size[:])
		if n > uint64(c.Size) {
			return fail(event.ErrCorrupt)
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(r, p); err != nil {
			return fail(err)
		}
		b, err := event.Decode(p)
		if err != nil {
			return fail(err)
		}
		rows += int64(b.N)
		if !yield(b, nil) {
			return false
		}
	}
	if rows != c.Rows {
		return fail(fmt.Errorf("%d rows where %d were written: %w", rows, c.Rows, io.ErrUnexpectedEOF))
	}
	return true
}

// emptyFile is what a file without rows holds: of csv the header, as far as the outs tell it.
func emptyFile(p Params, kind string, gzip bool) []byte {
	var head []byte
	if kind == "csv" && len(p.Outs) > 0 {
		if s, outs, err := textSchema(p.Outs); err == nil {
			if enc, err := format.NewEncoder("csv", s, outs); err == nil {
				head = enc.Header()
			}
		}
	}
	if gzip && len(head) == 0 {
		return staged.EmptyGzip
	}
	if gzip {
		return staged.Gzip(head)
	}
	return head
}

// emptyParquet writes a file without rows. The kinds of its columns aren't known: they are strings.
func emptyParquet(w io.Writer, outs []format.Out) error {
	s, outs, err := textSchema(outs)
	if err != nil {
		return err
	}
	return format.WriteParquet(w, s, outs, func(func(event.Batch, error) bool) {})
}

func textSchema(outs []format.Out) (*event.Schema, []format.Out, error) {
	var fields []event.Field
	var renamed []format.Out
	for i, o := range outs {
		column := fmt.Sprintf("c%d", i)
		fields = append(fields, event.Field{Name: column, Kind: event.String})
		renamed = append(renamed, format.Out{Name: o.Name, Column: column, Object: o.Object})
	}
	s, err := event.NewSchema(fields, "", "")
	return s, renamed, err
}
