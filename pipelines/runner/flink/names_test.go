package flink

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/pipelines/runner/names"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	"github.com/millrace-ml/millrace/transforms/predict"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/names.txt")

// scoringNames are the unique names of the fraud graph's transforms.
func scoringNames(t *testing.T, stream bool, order string, version int) []string {
	t.Helper()
	u, err := spec.Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	o := scoring.Options{Sources: []string{"in.csv"}, Sink: "scores.jsonl", DeadLetters: "dead.jsonl"}
	model := predict.Model{Name: "fraud", Registry: "registry", Version: version}
	if stream {
		o.Sources, o.Sink, o.DeadLetters = []string{"kafka://broker:9092/transactions"}, "kafka://broker:9092/scores", "dead/"
		lateness := time.Minute // it is part of what the state means
		o.Stream = &scoring.Stream{Order: order, Lateness: &lateness}
		model.Version, model.Alias = 0, fmt.Sprintf("alias%d", version)
	}
	p, err := scoring.Features(u, o)
	if err != nil {
		t.Fatal(err)
	}
	p.Predict.Models = []predict.Model{model}
	pipeline, s := beam.NewPipelineWithRoot()
	scoring.Build(s, p)
	edges, _, err := pipeline.Build()
	if err != nil {
		t.Fatal(err)
	}
	proto, err := graphx.Marshal(edges, &graphx.Options{})
	if err != nil {
		t.Fatal(err)
	}
	settle(proto)
	read := map[string]bool{}
	for _, t := range proto.GetComponents().GetTransforms() {
		for _, id := range t.GetInputs() {
			read[proto.GetComponents().GetPcollections()[id].GetUniqueName()] = true
		}
	}
	for _, n := range names.All(proto) {
		if strings.HasSuffix(n, "/feature.routeFn") && !read[n+".i0"] {
			t.Errorf("nothing reads %s.i0, by which Flink finds the state behind it; there are %v", n, read)
		}
	}
	return names.All(proto)
}

// TestNames holds that the names of the scoring graph's transforms are the same whenever it is built, and
// whatever model serves: Flink finds the state of an operator by its name, and Dataflow updates a job so.
func TestNames(t *testing.T) {
	var got bytes.Buffer
	for _, c := range []struct {
		name   string
		stream bool
		order  string
	}{{"bounded", false, ""}, {"arrival", true, "arrival"}, {"event_time", true, "event_time"}} {
		first := scoringNames(t, c.stream, c.order, 1)
		if d := cmp.Diff(first, scoringNames(t, c.stream, c.order, 2)); d != "" {
			t.Errorf("%s: built again, with another model, the graph has other names:\n%s", c.name, d)
		}
		if n := len(slices.Compact(slices.Clone(first))); n != len(first) {
			t.Errorf("%s: %d of %d names are unique", c.name, n, len(first))
		}
		if kept := states(first); c.stream && len(kept) != 2 {
			t.Errorf("%s: the names tell the states %v, want one for each of two entities", c.name, kept)
		}
		fmt.Fprintf(&got, "# %s\n%s\n", c.name, strings.Join(first, "\n"))
	}
	golden := filepath.Join("testdata", "names.txt")
	if *rewrite {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); d != "" {
		t.Errorf("names changed (-before +now): a savepoint or --update loses its state: add a mapping; then run with -rewrite\n%s", d)
	}
}
