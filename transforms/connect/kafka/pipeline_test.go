package kafka

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

	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

func TestMain(m *testing.M) {
	*jobopts.Experiments = "prism_disable_sdf_split"
	beam.Init()
	os.Exit(m.Run())
}

// testPipeline copies one topic to another, by a graph.
func testPipeline(t *testing.T, b bench) {
	const n = 2000
	b.CreateTopic(b.topic, 2)
	b.CreateTopic("Copy", 1)
	var want []string
	b.Fill(b.topic, n, func(buf []byte, i int) []byte {
		line := fmt.Appendf(nil, `{"id":%d,"t":"2020-01-01T00:%02d:00Z"}`, i, i/100)
		want = append(want, string(line))
		return append(buf, line...)
	})
	p, s := beam.NewPipelineWithRoot()
	events, _ := source.Read(s, source.Params{
		URLs: []string{b.address + "?group=copies"},
		Decode: decode.Params{ID: []string{"id"}, Time: "t", Fields: []decode.Field{
			{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp},
		}},
		Stream: &source.Stream{Run: b.topic, Lateness: time.Hour, IdleTimeout: 3 * time.Second},
	})
	sink.Write(s, events, sink.Params{URL: "kafka://" + b.Addr + "/Copy"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := prism.Execute(ctx, p); err != nil {
		t.Fatal(err)
	}
	source.CleanUp()
	r := follow(t, "kafka://"+b.Addr+"/Copy", nil)
	r.read(t, n)
	r.quiet(t)
	got := r.got["Copy/0"]
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("copied %d records %.200q, want %.200q", len(got), got, want)
	}
}
