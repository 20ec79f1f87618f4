package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

func init() {
	beam.RegisterDoFn(&tickFn{})
	beam.RegisterDoFn(&buryFn{})
	beam.RegisterDoFn(&takeFn{})
	register.Emitter2[beam.EventTime, event.Batch]()
	register.Emitter2[beam.EventTime, deadletter.Letter]()
}

var schema = func() *event.Schema {
	s, err := event.NewSchema([]event.Field{{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}}, "id", "t")
	if err != nil {
		panic(err)
	}
	return s
}()

const (
	start = 1577836800_000_000 // 2020-01-01, microseconds
	rows  = 10                 // of a batch
	late  = 1_000_000          // ids of late rows
)

// batch has rows of a second each, from second s on.
func batch(id, s int) event.Batch {
	b := event.New(schema, rows)
	b.N = rows
	for i := range rows {
		b.Cols[0].Ints = append(b.Cols[0].Ints, int64(id+i))
		b.Cols[1].Ints = append(b.Cols[1].Ints, start+int64(s+i)*1e6)
	}
	return b
}

// tickFn is a source without an end, until it ends: a batch a step, each call one step. Every seventh
// step also gives a batch that is five minutes behind the watermark.
type tickFn struct{ Steps int64 }

func (f *tickFn) CreateInitialRestriction(int) offsetrange.Restriction {
	return offsetrange.Restriction{End: f.Steps}
}

func (f *tickFn) SplitRestriction(_ int, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

func (f *tickFn) RestrictionSize(_ int, r offsetrange.Restriction) float64 { return r.Size() }

func (f *tickFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (f *tickFn) InitialWatermarkEstimatorState(beam.EventTime, offsetrange.Restriction, int) int64 {
	return start / 1000
}

func (f *tickFn) CreateWatermarkEstimator(ms int64) *sdf.ManualWatermarkEstimator {
	return &sdf.ManualWatermarkEstimator{State: time.UnixMilli(ms)}
}

func (f *tickFn) WatermarkEstimatorState(e *sdf.ManualWatermarkEstimator) int64 {
	return e.State.UnixMilli()
}

func (f *tickFn) ProcessElement(_ context.Context, e *sdf.ManualWatermarkEstimator, rt *sdf.LockRTracker, _ int, emit func(beam.EventTime, event.Batch)) sdf.ProcessContinuation {
	i := rt.GetRestriction().(offsetrange.Restriction).Start
	if !rt.TryClaim(i) {
		return sdf.StopProcessing()
	}
	at := int(i) * rows
	put := func(b event.Batch) { emit(beam.EventTime(b.MinTime()), b) }
	put(batch(at, at))
	if i%7 == 6 && at > 300 {
		put(batch(late+at, at-300))
	}
	e.UpdateWatermark(time.UnixMicro(start + int64(at+rows)*1e6))
	return sdf.ResumeProcessingIn(time.Millisecond)
}

// ids are those that tickFn gives.
func ids(steps int) (all []int64) {
	for i := range steps {
		for k := range rows {
			all = append(all, int64(i*rows+k))
			if i%7 == 6 && i*rows > 300 {
				all = append(all, int64(late+i*rows+k))
			}
		}
	}
	slices.Sort(all)
	return all
}

// buryFn makes a letter of each row.
type buryFn struct{}

func (buryFn) ProcessElement(at beam.EventTime, b event.Batch, emit func(beam.EventTime, deadletter.Letter)) {
	for i := range b.N {
		emit(at, deadletter.FromRow(deadletter.Score, &b, i))
	}
}

var (
	takenMu sync.Mutex
	taken   = map[string][]int64{}
)

// takeFn keeps the ids it sees, for a test.
type takeFn struct{ Test string }

func (f *takeFn) ProcessElement(b event.Batch) {
	takenMu.Lock()
	defer takenMu.Unlock()
	taken[f.Test] = append(taken[f.Test], b.IDs().Ints...)
}

// watch reads a folder over and over, as others do, and reports files that were not whole.
func watch(t *testing.T, dir string) (stop func() (seen map[string][]byte)) {
	done, ended := make(chan struct{}), make(chan struct{})
	seen := map[string][]byte{}
	go func() {
		defer close(ended)
		for {
			for name, text := range files(t, dir) {
				if old, ok := seen[name]; ok && !bytes.Equal(old, text) {
					t.Errorf("%s changed from %d to %d bytes", name, len(old), len(text))
				}
				seen[name] = text
			}
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() map[string][]byte {
		close(done)
		<-ended
		return seen
	}
}

// files are those that a reader of the folder sees.
func files(t *testing.T, dir string) map[string][]byte {
	found := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Error(err)
		}
		found[e.Name()] = text
	}
	return found
}

func idsOf(t *testing.T, files map[string][]byte) (all []int64) {
	for name, text := range files {
		for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
			var r struct {
				ID  int64
				Row struct{ ID int64 }
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				// The id of an envelope is a text.
				var e struct{ Row struct{ ID int64 } }
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Fatalf("%s: %v in %q", name, err, line)
				}
				r.ID = e.Row.ID
			}
			all = append(all, r.ID)
		}
	}
	slices.Sort(all)
	return all
}

var form = regexp.MustCompile(`^2020010\dT\d{4}00Z-\d{5}-of-\d{5}-pane\d+\.`)

func TestAStreamRollsFiles(t *testing.T) {
	const steps = 80
	for _, target := range []string{"rows", "letters"} {
		t.Run(target, func(t *testing.T) {
			dir := t.TempDir() + "/out/"
			stop := watch(t, dir)
			p, s := beam.NewPipelineWithRoot()
			in := beam.ParDo(s, &tickFn{Steps: steps}, beam.Create(s, 0))
			stream := &sink.Stream{}
			if target == "rows" {
				sink.Write(s, in, sink.Params{URL: dir, Stream: stream})
			} else {
				deadletter.Write(s, deadletter.Params{URL: dir, Stream: stream}, beam.ParDo(s, &buryFn{}, in))
			}
			if _, err := prism.Execute(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			before := stop()
			after := files(t, dir)
			if got := idsOf(t, after); !slices.Equal(got, ids(steps)) {
				t.Errorf("%d rows, want %d", len(got), len(ids(steps)))
			}
			lates := 0
			for name := range after {
				if !form.MatchString(name) {
					t.Errorf("a file is named %s", name)
				}
				if !strings.Contains(name, "-pane0.") {
					lates++
				}
			}
			if len(after) < 15 || lates < 5 {
				t.Errorf("%d files, %d of late rows", len(after), lates)
			}
			t.Logf("%d files, %d seen before the end, %d of late rows", len(after), len(before), lates)
		})
	}
}

func TestAStreamOfOtherFormats(t *testing.T) {
	for _, p := range []sink.Params{{Format: "csv"}, {Format: "parquet"}, {Format: "json", Stream: &sink.Stream{Bytes: 200}}} {
		t.Run(p.Format, func(t *testing.T) {
			dir := t.TempDir() + "/"
			p.URL = dir
			if p.Stream == nil {
				p.Stream = &sink.Stream{Roll: time.Hour}
			}
			pl, s := beam.NewPipelineWithRoot()
			sink.Write(s, beam.ParDo(s, &tickFn{Steps: 30}, beam.Create(s, 0)), p)
			if _, err := prism.Execute(t.Context(), pl); err != nil {
				t.Fatal(err)
			}
			if p.Stream.Bytes > 0 && !slices.ContainsFunc(names(t, dir), func(n string) bool { return strings.Contains(n, "-00001-of-0000") }) {
				t.Errorf("no file was cut: %v", names(t, dir))
			}
			if err := sink.Sweep(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			pl, s = beam.NewPipelineWithRoot()
			back, _ := source.Read(s, source.Params{URLs: []string{dir}, Decode: decode.Params{ID: []string{"id"}, Time: "t", Fields: []decode.Field{
				{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp},
			}}})
			beam.ParDo0(s, &takeFn{Test: t.Name()}, back)
			if _, err := prism.Execute(t.Context(), pl); err != nil {
				t.Fatal(err)
			}
			takenMu.Lock()
			defer takenMu.Unlock()
			got := taken[t.Name()]
			slices.Sort(got)
			if !slices.Equal(got, ids(30)) {
				t.Errorf("read %d rows back, want %d", len(got), len(ids(30)))
			}
		})
	}
}

// TestAStreamWaitsForRoom fills the disk of a stream, and makes room once the stream says that it waits.
func TestAStreamWaitsForRoom(t *testing.T) {
	dir := t.TempDir() + "/"
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no small disk can be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	ballast := dir + ".ballast"
	if err := os.WriteFile(ballast, make([]byte, 1<<20-1<<15), 0o600); err != nil {
		t.Fatal(err)
	}
	before := slog.Default()
	defer slog.SetDefault(before)
	var said, again atomic.Int64
	slog.SetDefault(slog.New(heard{before.Handler(), func(r slog.Record) {
		switch {
		case strings.Contains(r.Message, "can't be written"):
			said.Add(1)
			if err := os.Remove(ballast); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		case strings.Contains(r.Message, "again"):
			again.Add(1)
		}
	}}))
	stop := watch(t, dir)
	const steps = 120
	p, s := beam.NewPipelineWithRoot()
	sink.Write(s, beam.ParDo(s, &tickFn{Steps: steps}, beam.Create(s, 0)), sink.Params{URL: dir, Stream: &sink.Stream{}})
	if _, err := prism.Execute(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	stop()
	if got := idsOf(t, files(t, dir)); !slices.Equal(got, ids(steps)) {
		t.Errorf("%d rows, want %d", len(got), len(ids(steps)))
	}
	if said.Load() == 0 || again.Load() == 0 {
		t.Errorf("it said %d times that it waits, %d times that it goes on", said.Load(), again.Load())
	}
}

// heard tells what is logged.
type heard struct {
	slog.Handler
	tell func(slog.Record)
}

func (h heard) Handle(ctx context.Context, r slog.Record) error {
	h.tell(r)
	return h.Handler.Handle(ctx, r)
}

func names(t *testing.T, dir string) (all []string) {
	for name := range files(t, dir) {
		all = append(all, name)
	}
	return all
}

func TestAStreamNeedsAFolder(t *testing.T) {
	for _, err := range []error{
		sink.Params{URL: "out.jsonl", Stream: &sink.Stream{}}.Validate(),
		deadletter.Params{URL: "out.jsonl", Stream: &deadletter.Stream{}}.Validate(),
	} {
		if err == nil || !strings.Contains(err.Error(), "out.jsonl/") || !strings.Contains(err.Error(), "1m0s") {
			t.Errorf("%v", err)
		}
	}
	if err := (sink.Params{URL: "out/", Stream: &sink.Stream{Roll: time.Millisecond}}).Validate(); err == nil {
		t.Error("a millisecond was taken")
	}
	if err := (sink.Params{URL: "out/", Stream: &sink.Stream{}}).Validate(); err != nil {
		t.Error(fmt.Errorf("a folder: %w", err))
	}
}
