package file

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source"
)

// seen is what a graph gave.
var (
	seenMu  sync.Mutex
	seen    []string // ids
	letters []deadletter.Letter
)

type eventFn struct{}

func (*eventFn) ProcessElement(b event.Batch, emit func(int)) {
	seenMu.Lock()
	defer seenMu.Unlock()
	for i := range b.N {
		seen = append(seen, string(b.IDs().AppendID(nil, i)))
	}
	emit(b.N)
}

type letterFn struct{}

func (*letterFn) ProcessElement(l deadletter.Letter, emit func(int)) {
	seenMu.Lock()
	defer seenMu.Unlock()
	letters = append(letters, l)
	emit(1)
}

func init() {
	beam.RegisterDoFn(&eventFn{})
	beam.RegisterDoFn(&letterFn{})
	register.Emitter1[int]()
}

// TestStream follows a folder by a graph: lines, gzip, Parquet, and bad ones of each.
func TestStream(t *testing.T) {
	d := newDir(t)
	var want []string
	lines := func(file string, n int) string {
		var b strings.Builder
		for i := range n {
			id := fmt.Sprintf("%s-%d", file, i)
			want = append(want, id)
			fmt.Fprintf(&b, `{"id":%q,"t":"2020-01-01T00:00:%02dZ"}`+"\n", id, i%60)
		}
		return b.String()
	}
	good := lines("a", 100)
	d.write("a.jsonl", good+"rubbish\n"+lines("a2", 10))
	d.write("b.gz", zipped(lines("b", 100)+"{}\n"))
	d.write("c.parquet", table(t, 10)) // its id is there, its time isn't
	p, s := beam.NewPipelineWithRoot()
	events, bad := source.Read(s, source.Params{
		URLs: []string{d.address()},
		Decode: decode.Params{ID: []string{"id"}, Time: "t", Fields: []decode.Field{
			{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp},
		}},
		Stream: &source.Stream{Run: "files", Lateness: time.Hour, IdleTimeout: 3 * time.Second},
	})
	beam.ParDo(s, &eventFn{}, events)
	beam.ParDo(s, &letterFn{}, bad)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	came := func(n int) bool {
		seenMu.Lock()
		defer seenMu.Unlock()
		return len(seen) >= n
	}
	ended := make(chan error, 1)
	go func() {
		_, err := prism.Execute(ctx, p)
		ended <- err
	}()
	for n := len(want); !came(n) && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
	}
	d.append("a.jsonl", lines("later", 5)) // a writer goes on
	d.write("_not.jsonl", "rubbish\n")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	source.CleanUp()
	slices.Sort(want)
	slices.Sort(seen)
	if !slices.Equal(seen, want) {
		t.Errorf("%d events %.300q, want %d", len(seen), seen, len(want))
	}
	var faults []string
	for _, l := range letters {
		faults = append(faults, fmt.Sprintf("%s %s %d", filepath.Base(l.Place.Source), l.Class, l.Place.Offset))
	}
	slices.Sort(faults)
	gz := 0
	for i := range 100 {
		gz += len(fmt.Sprintf(`{"id":"b-%d","t":"2020-01-01T00:00:00Z"}`+"\n", i))
	}
	wantFaults := []string{fmt.Sprintf("a.jsonl decode %d", len(good)), fmt.Sprintf("b.gz schema %d", gz), "c.parquet decode 0"}
	if !slices.Equal(faults, wantFaults) {
		t.Errorf("letters %q, want %q", faults, wantFaults)
	}
}
