package kinesis

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"

	"github.com/millrace-ml/millrace/testing/conformance/memory"
)

func TestMain(m *testing.M) {
	*jobopts.Experiments = "prism_disable_sdf_split"
	beam.Init()
	os.Exit(m.Run())
}

// testPipeline: nothing is late, and nothing taken for the end, when a stream's one shard is split and what it was
// split into merged.
func testPipeline(t *testing.T, b bench) {
	b.copy(t, 1, 1, func(put func(shards ...int)) {
		put(0)
		b.split(t, 0) // 1, 2
		put(1, 2)
		b.merge(t, 1, 2) // 3
		put(3)
	})
}

// testGroups: several groups read each shard once between them, also when all of one's come to the other.
func testGroups(t *testing.T, b bench) {
	b.copy(t, 2, 2, func(put func(shards ...int)) {
		put(0, 1)
		b.split(t, 1) // 2, 3: of the second group
		put(2, 3)
		b.merge(t, 0, 2) // 4: of the first
		put(3, 4)
		b.merge(t, 4, 3) // 5: of the first, with all keys
		put(5)
		b.split(t, 5) // 6, 7
		put(6, 7)
	})
}

// copy copies a stream to a topic in memory, by a graph, while steps change it: each record comes once. What steps
// put into shards has come when put returns.
func (b bench) copy(t *testing.T, shards, groups int, steps func(put func(shards ...int))) {
	t.Helper()
	b.CreateStream(b.stream, shards)
	out := memory.New(t, b.stream)
	p, s := beam.NewPipelineWithRoot()
	events, bad := source.Read(s, source.Params{
		URLs: []string{b.address},
		Decode: decode.Params{ID: []string{"id"}, Time: "t", Fields: []decode.Field{
			{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp},
		}},
		Stream: &source.Stream{Run: b.stream, Lateness: time.Minute, Groups: groups, Refresh: 500 * time.Millisecond},
	})
	sink.Write(s, events, sink.Params{URL: out.Address(), Stream: &sink.Stream{}})
	beam.ParDo0(s, &refuseFn{}, bad)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := prism.Execute(ctx, p)
		done <- err
	}()
	n := 0
	var want []string
	steps(func(shards ...int) {
		t.Helper()
		for _, shard := range shards {
			var lines []string
			for range 200 {
				lines = append(lines, fmt.Sprintf(`{"id":%d,"t":"2026-01-01T00:%02d:%02dZ"}`, n, n/60%60, n%60))
				n++
			}
			want = append(want, lines...)
			b.Put(b.stream, *b.Shards(b.stream)[shard].HashKeyRange.StartingHashKey, lines...)
		}
		for len(out.Records("0")) < n {
			select {
			case err := <-done:
				t.Fatalf("it ended with %d of %d records: %v", len(out.Records("0")), n, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	source.Drain(b.stream)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	source.CleanUp()
	var got []string
	for _, r := range out.Records("0") {
		got = append(got, string(r.Value))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("copied %d records %.200q, want %d %.200q", len(got), got, len(want), want)
	}
}

func init() { beam.RegisterDoFn(&refuseFn{}) }

// refuseFn fails for each letter.
type refuseFn struct{}

func (*refuseFn) ProcessElement(l deadletter.Letter) error {
	return fmt.Errorf("%s: %s: %s", l.Class, l.Message, l.Original)
}
