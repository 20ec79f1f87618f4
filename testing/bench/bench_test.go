package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func TestMain(m *testing.M) {
	flag.Parse()
	beam.Init()
	os.Exit(m.Run())
}

// The bench is fair only if the loop does the graph's work: the scores of 20,000 events agree, and
// one that doesn't is found.
func TestLoopEqualsGraph(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := prepare(t.Context(), dir, 20_000); err != nil {
		t.Fatal(err)
	}
	if err := bareLoop(t.Context(), in("events.jsonl"), in("bare.jsonl"), in("registry")); err != nil {
		t.Fatal(err)
	}
	if err := graph(t.Context(), "direct", in("events.jsonl"), in("graph.jsonl"), in("registry")); err != nil {
		t.Fatal(err)
	}
	if err := compareScores(in("bare.jsonl"), in("graph.jsonl")); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(in("graph.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"other score": func(b []byte) []byte { return bytes.Replace(b, []byte(`"score":0.`), []byte(`"score":1.`), 1) },
		"line twice":  func(b []byte) []byte { return append(b, b[:bytes.IndexByte(b, '\n')+1]...) },
		"line lost":   func(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] },
	} {
		if err := os.WriteFile(in("changed.jsonl"), change(bytes.Clone(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := compareScores(in("bare.jsonl"), in("changed.jsonl")); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestFigures(t *testing.T) {
	if m := median([]float64{5, 1, 3}); m != 3 {
		t.Errorf("median of 5, 1, 3 is %v", m)
	}
	if m := median([]float64{4, 1}); m != 2.5 {
		t.Errorf("median of 4, 1 is %v", m)
	}
	var out bytes.Buffer
	figures := []figure{
		value("a", 10, "events/s"), value("b", 4, "events/s").over("a", 0.4).atLeast(0.5),
		value("c", 0.2, "us").atMost(0.35), value("d", 3, "s").over("e", 1.6).atMost(1.5),
	}
	if err := printLines(&out, figures); err != nil {
		t.Fatal(err)
	}
	want := `{"name":"a","value":10,"unit":"events/s","against":"","ratio":null,"bar":null,"ok":null}
{"name":"b","value":4,"unit":"events/s","against":"a","ratio":0.4,"bar":0.5,"ok":false}
{"name":"c","value":0.2,"unit":"us","against":"","ratio":null,"bar":0.35,"ok":true}
{"name":"d","value":3,"unit":"s","against":"e","ratio":1.6,"bar":1.5,"ok":false}
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestParseBenchmark(t *testing.T) {
	m, err := parseBenchmark("goos: linux\nBenchmarkGrowth/10000-2   \t 1\t  18.82 state-B/event\t 1065 cpu-ns/event\nPASS\n")
	if err != nil || len(m) != 2 || m["state-B/event"] != 18.82 || m["cpu-ns/event"] != 1065 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := parseBenchmark("PASS\n"); err == nil {
		t.Error("no benchmark, no error")
	}
}
