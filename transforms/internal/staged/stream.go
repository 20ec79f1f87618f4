package staged

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
)

func init() {
	beam.RegisterDoFn(&RollFn{})
	register.Function1x1(rolled)
}

// Stream says how a folder that is written without an end is cut into files.
type Stream struct {
	// Roll is the span of event time that a file belongs to; by default a minute.
	Roll time.Duration
	// Bytes is about the largest size of a file; by default 128 MiB.
	Bytes int64
	// Keep is for how long a chunk stays staged after it was published; by default an hour. A job can
	// be restored from no checkpoint that is older.
	Keep time.Duration
	// Patience is for how long a target that can't be written (a full disk, a store that does not
	// answer) is tried again before the stream fails; by default ten minutes.
	Patience time.Duration
}

// Validate reports all that is wrong with writing to an address so.
func (s *Stream) Validate(address string) error {
	var errs []error
	if !strings.HasSuffix(address, "/") {
		errs = append(errs, fmt.Errorf("sink: %s is one file, which a stream never completes: give the folder %[1]s/, which gets a file every %v, or - for standard output",
			connect.Redact(address), s.roll()))
	}
	if s.Roll < 0 || s.Roll > 0 && s.Roll < time.Second {
		errs = append(errs, fmt.Errorf("sink: files of %v of event time: a second is the least", s.Roll))
	}
	if s.Bytes < 0 {
		errs = append(errs, fmt.Errorf("sink: files of %d bytes", s.Bytes))
	}
	if s.Keep < 0 {
		errs = append(errs, fmt.Errorf("sink: chunks kept for %v", s.Keep))
	}
	if s.Patience < 0 {
		errs = append(errs, fmt.Errorf("sink: patience of %v", s.Patience))
	}
	return errors.Join(errs...)
}

func (s *Stream) roll() time.Duration {
	if s.Roll > 0 {
		return s.Roll
	}
	return time.Minute
}

func (s *Stream) keep() time.Duration {
	if s.Keep > 0 {
		return s.Keep
	}
	return time.Hour
}

func (s *Stream) patience() time.Duration {
	if s.Patience > 0 {
		return s.Patience
	}
	return 10 * time.Minute
}

// forever is longer than any chunk is late. What a runner keeps of a window meanwhile is its number
// of panes.
const forever = 100 * 365 * 24 * time.Hour

// Roll commits the chunks (a PCollection<KV<int,Chunk>> with the chunks' times) of every window once
// the watermark has passed it, and those that come later in files of their own; commit is a DoFn as
// [RollFn].
func Roll(s beam.Scope, chunks beam.PCollection, t Target, commit any) {
	s = s.Scope("roll")
	windows := beam.WindowInto(s, window.NewFixedWindows(t.Stream.roll()), chunks,
		beam.Trigger(trigger.Default()), beam.PanesDiscard(), beam.AllowedLateness(forever))
	rows := beam.ParDo(s, commit, beam.GroupByKey(s, windows))
	beam.ParDo(s, rolled, beam.Reshuffle(s, rows)) // see Publish
}

func rolled(rows int64) int64 { return rows }

// RollFn concatenates the chunks of a window.
type RollFn struct{ Target Target }

// ProcessElement commits a pane.
func (f *RollFn) ProcessElement(ctx context.Context, pane beam.PaneInfo, w beam.Window, _ int, next func(*Chunk) bool, emit func(int64)) error {
	rows, err := CommitPane(ctx, f.Target, pane, w, next, nil)
	if err != nil {
		return err
	}
	emit(rows)
	return nil
}

// CommitPane commits what an iterator gives, and sweeps what is old.
func CommitPane(ctx context.Context, t Target, pane beam.PaneInfo, w beam.Window, next func(*Chunk) bool, join Join) (int64, error) {
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
	start := w.MaxTimestamp().ToTime().Add(time.Millisecond - t.Stream.roll())
	var rows int64
	err = t.persist(ctx, func() (err error) {
		rows, err = s.commitPane(ctx, start.UTC().Format("20060102T150405Z"), pane.Index, slices.Clone(chunks), join)
		return err
	})
	if err != nil {
		return 0, t.wrap("publishing to", s.explain(err))
	}
	for _, c := range chunks {
		inflight.Published(c.Name)
	}
	if err := t.persist(ctx, func() error { return s.sweepOld(ctx) }); err != nil {
		return 0, t.wrap("sweeping", err)
	}
	return rows, nil
}

// receipt is what a commit leaves in the staging: what it published, and what it published that from.
type receipt struct {
	Files  []string `json:"files"`
	Chunks []string `json:"chunks"`
}

func (s *Stage) receipts() string { return s.dir() + "committed/" }

// commitPane publishes a pane as <window>-<part>-of-<parts>-pane<i>. A runner that was set back
// commits a pane again, of chunks that are cut differently: then the files replace those of before.
func (s *Stage) commitPane(ctx context.Context, window string, pane int64, chunks []Chunk, join Join) (_ int64, err error) {
	chunks, rows := inOrder(chunks)
	groups := s.group(chunks)
	parts := make([]part, 0, len(groups))
	var r receipt
	defer func() {
		if err == nil {
			return
		}
		for _, p := range parts { // they would fill the disk that may be full
			if !slices.ContainsFunc(chunks, func(c Chunk) bool { return c.Name == p.staged }) {
				_ = s.store.Delete(ctx, p.staged) // the sweep gets what stays
			}
		}
	}()
	for i, g := range groups {
		p, err := s.build(ctx, g, join, nil)
		if err != nil {
			return 0, err
		}
		p.Name = fmt.Sprintf("%s-%05d-of-%05d-pane%d%s", window, i, len(groups), pane, s.target.Ext)
		parts, r.Files, r.Chunks = append(parts, p), append(r.Files, p.Name), append(r.Chunks, p.staged)
	}
	for _, c := range chunks {
		r.Chunks = append(r.Chunks, c.Name)
	}
	// Written ahead: whoever repeats this commit after a crash knows all that it may have published.
	name := fmt.Sprintf("%s%s-pane%d", s.receipts(), window, pane)
	var old receipt
	if err := s.get(ctx, name, &old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	text, err := json.Marshal(receipt{Files: union(r.Files, old.Files), Chunks: union(r.Chunks, old.Chunks)})
	if err != nil {
		return 0, err
	}
	if err := s.put(ctx, name, text); err != nil {
		return 0, err
	}
	ages.born(s.target.URL + name)
	for _, p := range parts {
		if err := s.store.Copy(ctx, p.staged, p.Name); err != nil {
			return 0, err
		}
	}
	for _, f := range old.Files {
		if !slices.Contains(r.Files, f) {
			if err := s.store.Delete(ctx, f); err != nil {
				return 0, err
			}
		}
	}
	return rows, nil
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// sweepOld deletes the chunks of receipts that this process has known for long enough: a job that was
// down for a while may be set back to a time before they were published.
func (s *Stage) sweepOld(ctx context.Context) error {
	names, err := s.store.List(ctx, s.receipts())
	if err != nil {
		return err
	}
	for _, name := range names {
		key := s.target.URL + name
		if ages.of(key) < s.target.Stream.keep() {
			continue
		}
		var r receipt
		if err := s.get(ctx, name, &r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // it is nobody's, if another worker has just swept it
		}
		for _, chunk := range append(r.Chunks, name) {
			if err := s.store.Delete(ctx, chunk); err != nil {
				return err
			}
		}
		ages.forget(key)
	}
	return nil
}

// ages are those of receipts, as far as this process knows: DoFns come and go.
var ages = births{at: map[string]time.Time{}}

type births struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (b *births) born(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at[key] = Now()
}

func (b *births) of(key string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := Now()
	if _, ok := b.at[key]; !ok {
		b.at[key] = now
	}
	return now.Sub(b.at[key])
}

func (b *births) forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.at, key)
}
