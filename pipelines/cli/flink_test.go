package cli

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/pipelines/scoring"
	_ "github.com/millrace-ml/millrace/transforms/connect/intake"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

// TestFar: what this machine alone has is refused before a job is sent away.
func TestFar(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p    scoring.Plan
		want string
	}{
		"topic":  {scoring.Plan{Source: source.Params{URLs: []string{"kafka://b:1/t"}}}, ""},
		"intake": {scoring.Plan{Source: source.Params{URLs: []string{"intake://:8080/x?wal=d"}}}, "broker"},
		"labels": {scoring.Plan{Source: source.Params{Labels: source.Labels{URLs: []string{"intake://:8080/x?wal=d"}}}}, "broker"},
		"replay": {scoring.Plan{Source: source.Params{Replay: []string{"intake://:8080/x?wal=d"}}}, "broker"},
		"stdin":  {scoring.Plan{Source: source.Params{URLs: []string{"-"}}}, "standard input"},
		"stdout": {scoring.Plan{Sinks: []sink.Params{{URL: "-"}}}, "standard output"},
	} {
		err := far(&c.p)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	p := scoring.Plan{Source: source.Params{URLs: []string{"in.csv"}}, DeadLetters: "dead/"}
	if err := far(&p); err != nil || !strings.HasPrefix(p.Source.URLs[0], "/") || !strings.HasSuffix(p.DeadLetters, "/dead/") || !strings.HasPrefix(p.DeadLetters, "/") {
		t.Errorf("paths %s and %s, %v", p.Source.URLs[0], p.DeadLetters, err)
	}
}

// TestBoundedOnFlink: verbs that read to an end refuse what only streams use before they look at anything else,
// and go to the cluster that they are told, none of which is there.
func TestBoundedOnFlink(t *testing.T) {
	events, _ := shopEvents()
	s := newShop(t, "direct", shopUseCase, events[:50])
	s.do("run", "first")
	history(t, s.path("history.csv"), 1<<62)
	write(t, s.path("log.csv"), "")
	place := func(name string) []string {
		return []string{"--sink", s.path(name + ".jsonl"), "--dead-letters", s.path(name + "-dead.jsonl")}
	}
	for _, args := range [][]string{
		append([]string{"run", s.path("shop.yaml"), "--registry", s.path("registry"), "--source", s.path("events.jsonl")}, place("run")...),
		append([]string{"features", s.path("shop.yaml"), "--source", s.path("events.jsonl")}, place("features")...),
		append([]string{"replay", s.path("shop.yaml"), "--registry", s.path("registry"), "--source", s.path("events.jsonl"), "--from", s.path("first-dead.jsonl")}, place("replay")...),
		{"retrain", "fraud", "--source", s.path("history.csv"), "--registry", s.path("models"), "--report", s.path("report"), "--work", s.dir},
		{"skew", "fraud", "--log", s.path("log.csv"), "--source", s.path("history.csv"), "--work", s.dir},
		append([]string{"simulate", "fraud", "--days", "2"}, place("simulate")...),
	} {
		flink := func(options ...string) []string {
			all := append(slices.Clone(args), "--runner", "flink")
			for _, o := range options {
				all = append(all, "--flink", o)
			}
			return all
		}
		if code, _, stderr := call(t, flink("savepoint_dir=/x", "checkpoint_interval=2s")...); code != exitUsage || !strings.Contains(stderr, "checkpoint_interval is for streams") || !strings.Contains(stderr, "savepoint_dir is for streams") {
			t.Errorf("%s: exit code %d, %s", args[0], code, stderr)
		}
		if code, _, stderr := call(t, flink("endpoint=127.0.0.1:1", "rest=127.0.0.1:2")...); code != exitFailed || !strings.Contains(stderr, "127.0.0.1:2") {
			t.Errorf("%s: exit code %d, and it doesn't ask the cluster: %s", args[0], code, stderr)
		}
	}
	if left, err := filepath.Glob(s.path("millrace-*")); err != nil || len(left) > 0 {
		t.Errorf("work folders are left: %v, %v", left, err)
	}
}
