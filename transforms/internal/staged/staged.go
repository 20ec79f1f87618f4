package staged

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

var (
	driversMu sync.Mutex
	drivers   = map[string]any{}
)

// Register makes a [driver.Opener] or a [driver.Publisher] known for a scheme. It panics if it is
// neither, or if there is one.
func Register(scheme string, d any) {
	_, opens := d.(driver.Opener)
	_, publishes := d.(driver.Publisher)
	if !opens && !publishes {
		panic(fmt.Sprintf("sink driver for %q: %T is neither an Opener nor a Publisher", scheme, d))
	}
	driversMu.Lock()
	defer driversMu.Unlock()
	if _, ok := drivers[scheme]; ok {
		panic(fmt.Sprintf("sink driver for %q registered twice", scheme))
	}
	drivers[scheme] = d
}

// Driver is what is registered for the scheme of an address.
func Driver(address string) (any, error) {
	scheme := connect.Scheme(address)
	driversMu.Lock()
	defer driversMu.Unlock()
	if d := drivers[scheme]; d != nil {
		return d, nil
	}
	known := slices.Sorted(maps.Keys(drivers))
	return nil, fmt.Errorf("opening sink %s: nothing is linked for the scheme %q (known: %s)",
		connect.Redact(address), scheme, strings.Join(known, ", "))
}

// Publisher is the driver of an address that takes records one by one, or nil if it takes files. A
// driver of both takes records where the stream has no end.
func Publisher(address string, stream *Stream) driver.Publisher {
	d, _ := Driver(address)
	p, _ := d.(driver.Publisher)
	if _, both := d.(driver.Opener); both && stream == nil {
		return nil
	}
	return p
}

// Target is where a run publishes. It travels inside DoFns.
type Target struct {
	// URL is the address: one file, or a folder if it ends in a slash.
	URL string
	// Run tells this run's chunks from those of others.
	Run string
	// Ext ends the names of parts: ".jsonl.gz".
	Ext string
	// PartBytes is about the least size of a part (default 128 MiB).
	PartBytes int64
	// Stream is set where the folder is written without an end.
	Stream *Stream
}

// NewRun is a fresh name of a run.
func NewRun() string { return random() }

func random() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Chunk is a piece that a bundle has written.
type Chunk struct {
	// Name is the object's name in the store; "" means that there is no chunk.
	Name string
	// Rows and Size (bytes) are what it holds, a head of Head bytes included.
	Rows, Size, Head int64
	// Digest is the SHA-256 (hex) of the chunk, where the target is a folder.
	Digest string
	// First is the event time of the first row, microseconds: in a stream, the time of the element that
	// came first.
	First int64
}

// Time is the chunk's timestamp, in milliseconds.
func (c Chunk) Time() int64 { return floorDiv(c.First, 1000) }

// Stage is an opened target.
type Stage struct {
	target Target
	store  driver.Store
	name   string // of the one file; "" for a folder
}

// Open opens the target's store.
func (t Target) Open(ctx context.Context) (*Stage, error) {
	d, err := Driver(t.URL)
	if err != nil {
		return nil, err
	}
	o, ok := d.(driver.Opener)
	if !ok {
		return nil, t.wrap("opening", errors.New("it takes records, not files"))
	}
	store, name, err := o.OpenStore(ctx, t.URL)
	if err != nil {
		return nil, t.wrap("opening", err)
	}
	return &Stage{target: t, store: store, name: name}, nil
}

func (t Target) wrap(doing string, err error) error {
	return fmt.Errorf("%s sink %s: %w", doing, connect.Redact(t.URL), connect.Scrub(err, t.URL))
}

// Close releases the store.
func (s *Stage) Close() error { return s.store.Close() }

// dir is where chunks for this target lie, of any run.
func (s *Stage) dir() string {
	name := s.name
	if name == "" {
		name = "_parts"
	}
	return "_staging/" + name + "/"
}

func (s *Stage) fresh() string { return s.dir() + s.target.Run + "/" + random() }

// Check makes sure that something can be written at the target, and leaves nothing behind.
func Check(ctx context.Context, t Target) error {
	if t.Run == "" {
		t.Run = NewRun()
	}
	s, err := t.Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	name := s.fresh()
	w, err := s.store.Create(ctx, name)
	if err != nil {
		return t.wrap("preparing", err)
	}
	if err := w.Close(); err != nil {
		return t.wrap("preparing", err)
	}
	if err := s.store.Delete(ctx, name); err != nil {
		return t.wrap("preparing", err)
	}
	return nil
}

// Writer writes the chunks of one bundle. Its zero value is not usable; see Stage.NewWriter.
type Writer struct {
	stage *Stage
	head  []byte
	open  map[int64]*open // by the start of the window; without windows there is one
	done  []Chunk
}

type open struct {
	out   driver.Writer // nil in a stream
	bytes []byte        // all of a stream's chunk, so that it can be written again
	sum   hash.Hash
	chunk Chunk
}

// heldBytes is about how much of a stream's chunk is held before it is written.
const heldBytes = 16 << 20

// NewWriter begins a bundle. Nothing is created before the first row.
func (s *Stage) NewWriter() *Writer { return &Writer{stage: s, open: map[int64]*open{}} }

// Head sets the bytes that each chunk begins with, and that a file made of several has once.
func (w *Writer) Head(head []byte) { w.head = head }

// Write appends encoded rows; first is the event time of the first of them. In a stream it chooses
// the window whose chunk gets all of them.
func (w *Writer) Write(ctx context.Context, p []byte, rows, first int64) error {
	if rows == 0 {
		return nil
	}
	target := w.stage.target
	window := target.Window(first)
	o := w.open[window]
	if o == nil {
		o = &open{chunk: Chunk{Name: w.stage.fresh(), Head: int64(len(w.head)), First: first}}
		if target.Stream == nil {
			var err error
			if o.out, err = w.stage.store.Create(ctx, o.chunk.Name); err != nil {
				return target.wrap("writing", err)
			}
		}
		w.open[window] = o
		if w.stage.name == "" {
			o.sum = sha256.New()
		}
		if err := o.write(w.head); err != nil {
			return target.wrap("writing", err)
		}
	}
	if err := o.write(p); err != nil {
		return target.wrap("writing", err)
	}
	o.chunk.Rows += rows
	if w.stage.name == "" && o.chunk.Size >= target.partBytes() || o.out == nil && o.chunk.Size >= heldBytes {
		return w.close(ctx, window)
	}
	return nil
}

// Chunk is the name of the chunk that rows were written to, by the time of the first of them, right after
// Write.
func (w *Writer) Chunk(first int64) string {
	if o := w.open[w.stage.target.Window(first)]; o != nil {
		return o.chunk.Name
	}
	return w.done[len(w.done)-1].Name // they have filled it
}

// Window is the start of the window that a time, in microseconds, falls in; 0 if there are none.
func (t Target) Window(at int64) int64 {
	if t.Stream == nil {
		return 0
	}
	roll := t.Stream.roll().Microseconds()
	return floorDiv(at, roll) * roll
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (t Target) partBytes() int64 {
	switch {
	case t.Stream != nil && t.Stream.Bytes > 0:
		return t.Stream.Bytes
	case t.Stream == nil && t.PartBytes > 0:
		return t.PartBytes
	}
	return 128 << 20
}

func (o *open) write(p []byte) error {
	if o.out == nil {
		o.bytes = append(o.bytes, p...)
	} else if _, err := o.out.Write(p); err != nil {
		return err
	}
	if o.sum != nil {
		o.sum.Write(p)
	}
	o.chunk.Size += int64(len(p))
	return nil
}

func (w *Writer) close(ctx context.Context, window int64) error {
	o := w.open[window]
	delete(w.open, window)
	var err error
	if o.out != nil {
		err = o.out.Close()
	} else {
		err = w.stage.target.persist(ctx, func() error { return w.stage.put(ctx, o.chunk.Name, o.bytes) })
	}
	if err != nil {
		return w.stage.target.wrap("writing", err)
	}
	if o.sum != nil {
		o.chunk.Digest = hex.EncodeToString(o.sum.Sum(nil))
	}
	w.done = append(w.done, o.chunk)
	return nil
}

// Finish makes the bundle's chunks durable and returns them.
func (w *Writer) Finish(ctx context.Context) ([]Chunk, error) {
	for window := range w.open {
		if err := w.close(ctx, window); err != nil {
			return nil, err
		}
	}
	return w.done, nil
}

// Abort drops what the bundle has written, as far as that is possible.
func (w *Writer) Abort(ctx context.Context) {
	for _, o := range w.open {
		if o.out != nil {
			o.out.Abort()
		}
	}
	for _, c := range w.done {
		_ = w.stage.store.Delete(ctx, c.Name) // the sweep gets what stays
	}
	w.open, w.done = map[int64]*open{}, nil
}

// Join writes the file that chunks make up. Opened chunks are closed by it.
type Join func(w io.Writer, open func(Chunk, int64) (io.ReadCloser, error), chunks []Chunk) error

// concatenate joins chunks by their bytes; heads after the first are left out.
func concatenate(w io.Writer, open func(Chunk, int64) (io.ReadCloser, error), chunks []Chunk) error {
	for i, c := range chunks {
		skip := int64(0)
		if i > 0 {
			skip = c.Head
		}
		r, err := open(c, skip)
		if err != nil {
			return err
		}
		n, err := io.Copy(w, r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err == nil && n != c.Size-skip {
			err = fmt.Errorf("chunk %s has %d bytes where %d were written: %w", c.Name, n+skip, c.Size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type manifest struct {
	V     int    `json:"v"`
	Run   string `json:"run"`
	Rows  int64  `json:"rows"`
	Parts []part `json:"parts"`
}

type part struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`

	staged string
}

// ManifestName is the file that says what a folder holds.
const ManifestName = "_manifest.json"

// Commit publishes chunks at the target and returns the number of rows. A nil join concatenates;
// empty is the content of a file without rows. It may be repeated with the same chunks.
func (s *Stage) Commit(ctx context.Context, chunks []Chunk, join Join, empty []byte) (rows int64, err error) {
	chunks, rows = inOrder(chunks)
	if s.name != "" {
		p, err := s.build(ctx, chunks, join, empty)
		if err == nil {
			err = s.store.Copy(ctx, p.staged, s.name)
		}
		if err != nil {
			return 0, s.target.wrap("publishing to", s.explain(err))
		}
		return rows, nil
	}
	if err := s.commitFolder(ctx, chunks, rows, join); err != nil {
		return 0, s.target.wrap("publishing to", s.explain(err))
	}
	return rows, nil
}

// inOrder sorts chunks and leaves out what is none.
func inOrder(chunks []Chunk) (sorted []Chunk, rows int64) {
	slices.SortFunc(chunks, func(a, b Chunk) int {
		return cmp.Or(cmp.Compare(a.First, b.First), strings.Compare(a.Name, b.Name))
	})
	chunks = slices.DeleteFunc(slices.Compact(chunks), func(c Chunk) bool { return c.Name == "" })
	for _, c := range chunks {
		rows += c.Rows
	}
	return chunks, rows
}

func (s *Stage) explain(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; if another run published to the same target meanwhile, run this one again", err)
	}
	return err
}

func (s *Stage) commitFolder(ctx context.Context, chunks []Chunk, rows int64, join Join) error {
	if old, err := s.readManifest(ctx); err == nil && old.Run == s.target.Run {
		return nil // a repeated commit
	}
	groups := s.group(chunks)
	m := manifest{V: 1, Run: s.target.Run, Rows: rows, Parts: make([]part, 0, len(groups))}
	keep := map[string]bool{}
	// All bytes are written before anything can be seen: what follows only puts names in place.
	for i, g := range groups {
		p, err := s.build(ctx, g, join, nil)
		if err != nil {
			return err
		}
		p.Name = fmt.Sprintf("part-%05d-of-%05d%s", i, len(groups), s.target.Ext)
		m.Parts, keep[p.Name] = append(m.Parts, p), true
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	stagedManifest := s.fresh()
	if err := s.put(ctx, stagedManifest, append(text, '\n')); err != nil {
		return err
	}
	if err := s.store.Delete(ctx, ManifestName); err != nil {
		return err
	}
	for _, p := range m.Parts {
		if err := s.store.Copy(ctx, p.staged, p.Name); err != nil {
			return err
		}
	}
	old, err := s.store.List(ctx, "part-")
	if err != nil {
		return err
	}
	for _, name := range old {
		if !keep[name] {
			if err := s.store.Delete(ctx, name); err != nil {
				return err
			}
		}
	}
	return s.store.Copy(ctx, stagedManifest, ManifestName)
}

// group makes parts of about partBytes of chunks.
func (s *Stage) group(chunks []Chunk) (groups [][]Chunk) {
	size := int64(0)
	for _, c := range chunks {
		if len(groups) == 0 || size >= s.target.partBytes() {
			groups, size = append(groups, nil), 0
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], c)
		size += c.Size
	}
	return groups
}

func (s *Stage) readManifest(ctx context.Context) (m manifest, err error) {
	return m, s.get(ctx, ManifestName, &m)
}

// get reads an object of JSON.
func (s *Stage) get(ctx context.Context, name string, v any) error {
	r, err := s.store.Open(ctx, name, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	return json.NewDecoder(r).Decode(v)
}

func (s *Stage) put(ctx context.Context, name string, p []byte) error {
	w, err := s.store.Create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := w.Write(p); err != nil {
		w.Abort()
		return err
	}
	return w.Close()
}

// build makes the staged file of a part. One chunk that needs no joining is that file already.
func (s *Stage) build(ctx context.Context, chunks []Chunk, join Join, empty []byte) (part, error) {
	if len(chunks) == 1 && join == nil {
		c := chunks[0]
		return part{Rows: c.Rows, Bytes: c.Size, SHA256: c.Digest, staged: c.Name}, nil
	}
	p := part{staged: s.fresh()}
	for _, c := range chunks {
		p.Rows += c.Rows
	}
	out, err := s.store.Create(ctx, p.staged)
	if err != nil {
		return part{}, err
	}
	var w io.Writer = out // bare, so that a file may be copied by the kernel
	var sum hash.Hash
	if s.name == "" {
		sum = sha256.New()
		w = io.MultiWriter(out, sum, (*counter)(&p.Bytes))
	}
	open := func(c Chunk, offset int64) (io.ReadCloser, error) { return s.store.Open(ctx, c.Name, offset) }
	switch {
	case len(chunks) == 0 && join == nil:
		_, err = io.Copy(w, bytes.NewReader(empty))
	case join == nil:
		err = concatenate(w, open, chunks)
	default:
		err = join(w, open, chunks)
	}
	if err != nil {
		out.Abort()
		return part{}, err
	}
	if err := out.Close(); err != nil {
		return part{}, err
	}
	if sum != nil {
		p.SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return p, nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Sweep deletes what is staged for the target, of this run and of those that broke off.
func (s *Stage) Sweep(ctx context.Context) error {
	prefix := s.dir()
	if _, ok := s.store.(driver.Shared); ok {
		if s.target.Run == "" {
			return nil
		}
		prefix += s.target.Run + "/"
	}
	names, err := s.store.List(ctx, prefix)
	if err != nil {
		return s.target.wrap("sweeping", err)
	}
	for _, name := range names {
		if err := s.store.Delete(ctx, name); err != nil {
			return s.target.wrap("sweeping", err)
		}
	}
	return nil
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.DefaultCompression)
	return w
}}

// EmptyGzip is a member that holds nothing (RFC 1952): an empty file is no gzip file.
var EmptyGzip = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// Gzip compresses p into a member of its own: members may be concatenated.
func Gzip(p []byte) []byte {
	if len(p) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.Grow(len(p)/4 + 64)
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&b)
	_, _ = w.Write(p) // to memory
	_ = w.Close()
	return b.Bytes()
}
