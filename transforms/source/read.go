package source

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/klauspost/compress/gzip"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	// A row with a slice that is nil is one that Java's coders of Flink don't understand.
	beam.RegisterCoder(reflect.TypeOf((*driver.Partition)(nil)).Elem(), encodePartition, decodePartition)
	beam.RegisterDoFn(&listFn{})
	beam.RegisterDoFn(&readFn{})
	register.Emitter1[driver.Partition]()
	register.Emitter2[beam.EventTime, event.Batch]()
	register.Emitter1[deadletter.Letter]()
}

func encodePartition(p driver.Partition) []byte { b, _ := json.Marshal(p); return b }

func decodePartition(b []byte) (p driver.Partition, err error) { return p, json.Unmarshal(b, &p) }

var (
	readEvents = beam.NewCounter("source", "read")
	badEvents  = beam.NewCounter("source", "bad")
	blankLines = beam.NewCounter("source", "blank")

	skippedChanges = beam.NewCounter("source", "skipped")
)

// listFn finds the partitions of an address.
type listFn struct {
	// Format overrides what a name's ending tells.
	Format string
}

// ProcessElement lists an address.
func (f *listFn) ProcessElement(ctx context.Context, address string, emit func(driver.Partition)) error {
	parts, err := list(ctx, address)
	if err != nil {
		return err
	}
	d, err := driverOf(address)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if f.Format != "" {
			p.Format = f.Format
		}
		if p.Format == "" {
			p.Format = "json"
		}
		if p.Format == "parquet" {
			p.Splittable = false
		}
		if bytes, ok := d.(driver.Bytes); ok && p.Splittable && p.Format == "csv" {
			if p.Header, err = header(ctx, bytes, p); err != nil {
				return fmt.Errorf("reading the header of %s: %w", p.Name, connect.Scrub(err, address))
			}
		}
		emit(p)
	}
	return nil
}

// readFn reads ranges of partitions.
type readFn struct {
	Decode decode.Params
	Split  int64

	decoders map[string]*decode.Decoder // by format
	schema   *event.Schema
}

// CreateInitialRestriction is the whole partition: its positions, or one if they can't be told apart.
func (f *readFn) CreateInitialRestriction(p driver.Partition) offsetrange.Restriction {
	if !p.Splittable {
		return offsetrange.Restriction{End: 1}
	}
	return offsetrange.Restriction{End: p.Size}
}

// SplitRestriction cuts it into ranges.
func (f *readFn) SplitRestriction(p driver.Partition, r offsetrange.Restriction) []offsetrange.Restriction {
	step := p.Step
	if step == 0 {
		step = max(f.Split, 2) // a range that began at 1 couldn't be opened a byte before
	}
	if r.Size() <= float64(step) {
		return []offsetrange.Restriction{r}
	}
	return r.SizedSplits(step)
}

// RestrictionSize is what a runner balances by.
func (f *readFn) RestrictionSize(p driver.Partition, r offsetrange.Restriction) float64 {
	if !p.Splittable {
		return float64(max(p.Size, 1))
	}
	return r.Size()
}

// CreateTracker returns a tracker that claims a range whole.
func (f *readFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(&wholeTracker{offsetrange.NewTracker(r)})
}

// wholeTracker claims all of the restriction, whatever position is asked for, and never splits it.
type wholeTracker struct{ *offsetrange.Tracker }

func (t *wholeTracker) TryClaim(any) bool {
	r := t.GetRestriction().(offsetrange.Restriction)
	return r.Start < r.End && t.Tracker.TryClaim(r.End-1)
}

func (t *wholeTracker) TrySplit(float64) (primary, residual any, err error) {
	return t.GetRestriction(), nil, nil
}

// Setup makes room for decoders.
func (f *readFn) Setup() (err error) {
	f.decoders = make(map[string]*decode.Decoder)
	f.schema, err = f.Decode.Schema()
	return err
}

func (f *readFn) decoder(format string) (*decode.Decoder, error) {
	if d := f.decoders[format]; d != nil {
		return d, nil
	}
	p := f.Decode
	p.Format = format
	d, err := decode.New(p)
	if err == nil {
		f.decoders[format] = d
	}
	return d, err
}

// ProcessElement reads a range.
func (f *readFn) ProcessElement(ctx context.Context, rt *sdf.LockRTracker, p driver.Partition, emit func(beam.EventTime, event.Batch), reject func(deadletter.Letter)) error {
	if !rt.TryClaim(nil) {
		return nil
	}
	r := rt.GetRestriction().(offsetrange.Restriction)
	send := func(b event.Batch) error {
		if b.N > 0 {
			readEvents.Inc(ctx, int64(b.N))
			telemetry.Read(b.N)
			emit(mtime.Normalize(mtime.FromMilliseconds(b.MinTime())), b)
		}
		return ctx.Err()
	}
	bury := func(l deadletter.Letter) error {
		badEvents.Inc(ctx, 1)
		telemetry.Bad(1)
		reject(l)
		return ctx.Err()
	}
	d, err := driverOf(p.URL)
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.Name, err)
	}
	switch d := d.(type) {
	case driver.Batches:
		err = f.readBatches(ctx, d, p, r, send)
	case driver.Bytes:
		err = f.readBytes(ctx, d, p, r, send, bury)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.Name, connect.Scrub(err, p.URL))
	}
	return nil
}

func (f *readFn) readBytes(ctx context.Context, d driver.Bytes, p driver.Partition, r offsetrange.Restriction, emit func(event.Batch) error, reject func(deadletter.Letter) error) error {
	dec, err := f.decoder(p.Format)
	if err != nil {
		return err
	}
	from := int64(0)
	src := decode.Source{Name: p.Name, End: -1}
	if p.Splittable && r.Start > 0 {
		// One byte more: if it ends a line, the range begins with a line of its own.
		from = r.Start - 1
		src.Header = p.Header
	}
	if p.Splittable {
		src.End = r.End
	}
	src.Offset = from
	file, err := d.Open(ctx, p, from)
	if err != nil {
		return err
	}
	defer file.Close()
	var stats decode.Stats
	switch {
	case p.Format == "parquet":
		at, size, done, err := f.randomAccess(ctx, d, p, file)
		if err != nil {
			return err
		}
		defer done()
		stats, err = dec.ReadParquet(at, size, src, emit, reject)
		passOver(ctx, stats)
		return err
	case p.Splittable:
		stats, err = dec.Read(&reader{ctx, file}, src, emit, reject)
	default:
		plain, err := inflate(&reader{ctx, file})
		if err != nil {
			return err
		}
		stats, err = dec.Read(plain, src, emit, reject)
		if err != nil {
			return err
		}
	}
	passOver(ctx, stats)
	return err
}

// passOver counts what is neither an event nor a letter.
func passOver(ctx context.Context, s decode.Stats) {
	blankLines.Inc(ctx, s.Blank)
	skippedChanges.Inc(ctx, s.Skipped)
	telemetry.Blank(int(s.Blank))
	telemetry.Skipped(int(s.Skipped))
}

// reader ends when the bundle is cancelled.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// inflate decompresses what begins with the magic of gzip; nothing else of a stream is to be trusted.
func inflate(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReaderSize(r, 1<<18)
	magic, err := buffered.Peek(2)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(magic) < 2 || magic[0] != 0x1f || magic[1] != 0x8b {
		return buffered, nil
	}
	z, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	return z, nil
}

// randomAccess gives parquet what it needs: the file itself, reads of ranges, or a copy on disk of
// what can be read only once.
func (f *readFn) randomAccess(ctx context.Context, d driver.Bytes, p driver.Partition, file io.Reader) (at io.ReaderAt, size int64, done func(), err error) {
	nothing := func() {}
	if p.Size >= 0 && !p.Gzip {
		if at, ok := file.(io.ReaderAt); ok {
			return at, p.Size, nothing, nil
		}
		return &ranges{ctx, d, p}, p.Size, nothing, nil
	}
	plain, err := inflate(&reader{ctx, file})
	if err != nil {
		return nil, 0, nothing, err
	}
	temp, err := os.CreateTemp("", "millrace-*.parquet")
	if err != nil {
		return nil, 0, nothing, err
	}
	done = func() {
		temp.Close()
		os.Remove(temp.Name())
	}
	size, err = io.Copy(temp, plain)
	if err != nil {
		done()
		return nil, 0, nothing, err
	}
	return temp, size, done, nil
}

type ranges struct {
	ctx context.Context
	d   driver.Bytes
	p   driver.Partition
}

func (r *ranges) ReadAt(b []byte, offset int64) (int, error) {
	if offset >= r.p.Size {
		return 0, io.EOF
	}
	file, err := r.d.Open(r.ctx, r.p, offset)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	n, err := io.ReadFull(file, b)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// readBatches renames and picks the columns that the use case asks for.
func (f *readFn) readBatches(ctx context.Context, d driver.Batches, p driver.Partition, r offsetrange.Restriction, emit func(event.Batch) error) error {
	from, to := r.Start, r.End
	if !p.Splittable {
		from, to = 0, p.Size
	}
	return d.ReadBatches(ctx, p, from, to, func(b event.Batch) error {
		out, err := fit(f.Decode, f.schema, b)
		if err != nil {
			return err
		}
		return emit(out)
	})
}

// fit gives a batch that needs no decoding the columns that are asked for.
func fit(p decode.Params, schema *event.Schema, b event.Batch) (event.Batch, error) {
	out := event.Batch{Schema: schema, Cols: make([]event.Column, len(schema.Fields)), N: b.N}
	for i, want := range schema.Fields {
		name := want.Name
		for _, field := range p.Fields {
			if field.Name == want.Name && field.Path != "" {
				name = field.Path
			}
		}
		at := b.Schema.Index(name)
		if at < 0 {
			return out, fmt.Errorf("it has no field %q; it has %v", name, b.Schema)
		}
		var err error
		if out.Cols[i], err = convert(b.Cols[at], b.Schema.Fields[at], want, b.N); err != nil {
			return out, err
		}
	}
	return out, nil
}

// convert makes a column fit a field of another kind where no value changes.
func convert(c event.Column, have, want event.Field, n int) (event.Column, error) {
	whole := func(k event.Kind) bool { return k == event.Int || k == event.Bool || k == event.ID && c.Ints != nil }
	text := func(k event.Kind) bool { return k == event.Category || k == event.String || k == event.ID }
	switch {
	case have.Kind == want.Kind && have.Scale == want.Scale && have.Elem == want.Elem,
		whole(have.Kind) && (want.Kind == event.Int || want.Kind == event.Bool || want.Kind == event.ID),
		c.Ints == nil && text(have.Kind) && text(want.Kind):
		return c, nil
	case want.Kind == event.Float && (whole(have.Kind) || have.Kind == event.Decimal):
		// Dividing by a power of ten rounds once, as reading the decimal's digits does.
		unit := 1.0
		if have.Kind == event.Decimal {
			for range have.Scale {
				unit *= 10
			}
		}
		floats := make([]float64, n)
		for i, v := range c.Ints {
			floats[i] = float64(v) / unit
		}
		return event.Column{Floats: floats, Nulls: c.Nulls}, nil
	case want.Kind == event.Decimal && have.Kind == event.Decimal && want.Scale > have.Scale:
		ints := make([]int64, n)
		factor := int64(1)
		for range want.Scale - have.Scale {
			factor *= 10
		}
		for i, v := range c.Ints {
			ints[i] = v * factor
		}
		return event.Column{Ints: ints, Nulls: c.Nulls}, nil
	}
	return event.Column{}, fmt.Errorf("its field %q is a %v, and %v is asked for", have.Name, have.Kind, want.Kind)
}
