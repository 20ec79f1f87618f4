package dataflow

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/pipelines/runner/names"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/names.txt")

// graphNames are the names of a scoring graph's transforms, as Dataflow gets them.
func graphNames(t *testing.T, c shape) []string {
	t.Helper()
	r, err := prepare(t.Context(), scoringGraph(t, c), asked())
	if err != nil {
		t.Fatal(err)
	}
	return names.All(r.pipeline)
}

var numbered = regexp.MustCompile(`(^|/)e\d+_`)

// TestNames holds that names stay, whatever model serves, and that one that changes has a mapping in names.json:
// else an update of a running job would lose its state, or be refused.
func TestNames(t *testing.T) {
	var moved map[string]string
	if err := json.Unmarshal(known, &moved); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "names.txt")
	before, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	was := sections(string(before))
	var now bytes.Buffer
	for _, c := range []struct {
		name string
		shape
	}{
		{"bounded", shape{}}, {"bounded, two sinks", shape{sinks: []string{"scores", "alerts"}}},
		{"arrival", shape{stream: true, order: "arrival"}}, {"arrival, two sinks", shape{stream: true, order: "arrival", sinks: []string{"scores", "alerts"}}},
		{"event_time", shape{stream: true, order: "event_time"}},
		{"arrival, Pub/Sub", shape{stream: true, order: "arrival", source: "pubsub://acme-risk/payments"}},
	} {
		got := graphNames(t, c.shape)
		fmt.Fprintf(&now, "# %s\n%s\n", c.name, strings.Join(got, "\n"))
		again := c.shape
		again.model++
		if d := cmp.Diff(got, graphNames(t, again)); d != "" {
			t.Errorf("%s: built again, with another model, the graph has other names:\n%s", c.name, d)
		}
		if n := len(slices.Compact(slices.Clone(got))); n != len(got) {
			t.Errorf("%s: %d of %d names are unique", c.name, n, len(got))
		}
		for _, fault := range lost(was[c.name], got, moved) {
			t.Errorf("%s: %s", c.name, fault)
		}
		for _, n := range got {
			if numbered.MatchString(n) {
				t.Errorf("%s: %s has the number of an edge, which is another one after any change of the graph", c.name, n)
			}
		}
	}
	if t.Failed() {
		return // a golden isn't written over names that are lost
	}
	if *rewrite {
		if err := os.WriteFile(golden, now.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(strings.Split(string(before), "\n"), strings.Split(now.String(), "\n")); d != "" {
		t.Errorf("names were added, or are mapped (-before +now); run with -rewrite:\n%s", d)
	}
}

// sections are the names of a golden by their heading.
func sections(golden string) map[string][]string {
	found := map[string][]string{}
	var heading string
	for line := range strings.Lines(golden) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "# "); ok {
			heading = title
			continue
		}
		found[heading] = append(found[heading], line)
	}
	return found
}

// lost tells which names of before are neither there now nor mapped to one that is, or to nothing.
func lost(before, now []string, moved map[string]string) (faults []string) {
	for _, n := range before {
		if slices.Contains(now, n) {
			continue
		}
		to, ok := moved[n]
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("the name %s is gone: map it to the new one in names.json, or to \"\" if the transform is gone too", n))
		case to != "" && !slices.Contains(now, to):
			faults = append(faults, fmt.Sprintf("names.json maps %s to %s, which isn't there", n, to))
		}
	}
	return faults
}

func TestLost(t *testing.T) {
	t.Parallel()
	moved := map[string]string{"b": "B", "c": "C", "d": ""}
	for _, c := range []struct {
		before, now []string
		want        string
	}{
		{[]string{"a"}, []string{"a", "new"}, ""}, {[]string{"b"}, []string{"B"}, ""}, {[]string{"d"}, nil, ""},
		{[]string{"a"}, []string{"b"}, "the name a is gone"}, {[]string{"c"}, []string{"B"}, "maps c to C, which isn't there"},
	} {
		got := strings.Join(lost(c.before, c.now, moved), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v to %v: %q, want %q", c.before, c.now, got, c.want)
		}
	}
}

// TestSinksKeepNames holds that a sink that comes, goes or changes place leaves the names of all else as they are.
func TestSinksKeepNames(t *testing.T) {
	for _, stream := range []bool{false, true} {
		of := func(sinks ...string) []string {
			return graphNames(t, shape{stream: stream, order: "arrival", sinks: sinks})
		}
		one, two := of("scores"), of("scores", "alerts")
		if d := cmp.Diff(two, of("alerts", "scores")); d != "" {
			t.Errorf("in another order sinks have other names:\n%s", d)
		}
		if gone := lost(one, two, nil); gone != nil {
			t.Errorf("one sink more: %s", strings.Join(gone, "\n"))
		}
		if others := slices.DeleteFunc(slices.Clone(two), func(n string) bool { return strings.HasPrefix(n, "alerts/") || n == "alerts" }); !slices.Equal(one, others) {
			t.Errorf("names that are the second sink's don't say so:\n%s", cmp.Diff(one, others))
		}
	}
}

func TestRenames(t *testing.T) {
	defer func(before []byte) { known = before }(known)
	known = []byte(`{"old":"a","older":"gone","oldest":"","mine":"a"}`)
	p := &pipepb.Pipeline{Components: &pipepb.Components{Transforms: map[string]*pipepb.PTransform{"1": {UniqueName: "a"}, "2": {UniqueName: "b"}}}}
	if d := cmp.Diff(map[string]string{"old": "a", "mine": "b"}, renames(p, map[string]string{"mine": "b"})); d != "" {
		t.Error(d)
	}
	known = []byte(`{}`)
	if got := renames(p, nil); got != nil {
		t.Errorf("nothing is renamed, and there is %v", got)
	}
}
