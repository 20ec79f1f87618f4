package cli

import (
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/millrace-ml/millrace/transforms/connect/simulate"
)

// TestLintRunner: what a runner can't do with a use case is known before anything runs, by all runners.
func TestLintRunner(t *testing.T) {
	const (
		bounded  = "source: gs://b/in.jsonl\nregistry: gs://b/registry\nsinks: {scores: gs://b/scores/, dead_letters: gs://b/dead/}"
		topics   = "source: kafka://b:9092/in\nregistry: gs://b/registry\nsinks: {scores: kafka://b:9092/out, dead_letters: gs://b/dead/}"
		near     = "source: ./in.jsonl\nsinks: {scores: ./scores.jsonl, dead_letters: ./dead/}"
		stdio    = "source: \"-\"\nsinks: {scores: \"-\", dead_letters: gs://b/dead/}"
		intake   = "source: intake://:8080/x?wal=d\nsinks: {scores: kafka://b:9092/out, dead_letters: gs://b/dead/}"
		pubsub   = "source: pubsub://p/payments\nregistry: gs://b/registry\nsinks: {scores: kafka://b:9092/out, dead_letters: gs://b/dead/}"
		oneFile  = "source: kafka://b:9092/in\nsinks: {scores: gs://b/scores.jsonl, dead_letters: gs://b/dead/}"
		replayed = "source: kafka://b:9092/in\nreplay: intake://:8081/x?wal=e\nsinks: {scores: kafka://b:9092/out, dead_letters: gs://b/dead/}"
		unknown  = "source: ${env:MILLRACE_NOT_SET}\nregistry: ${env:MILLRACE_NOT_SET}\nsinks: {scores: gs://b/scores/, dead_letters: gs://b/dead/}"
	)
	const head = `name: own
event: {id: ID, time: AT, fields: {ID: id, AT: timestamp, WHO: id, AMOUNT: float}}
features: [{name: twice, expr: AMOUNT * 2.0}]
models: [{name: own, kind: binary, decide: [{name: pass}]}]
`
	flink := func(options ...string) (args []string) {
		args = []string{"--runner", "flink"}
		for _, o := range options {
			args = append(args, "--flink", o)
		}
		return args
	}
	for _, c := range []struct {
		name, text string
		args       []string
		says       []string // why not; none: it can
	}{
		{"bounded", bounded, []string{"--runner", "direct"}, nil},
		{"bounded", bounded, []string{"--runner", "prism"}, nil},
		{"bounded", bounded, flink(), nil},
		{"bounded", bounded, []string{"--runner", "dataflow"}, nil},
		{"topics", topics, []string{"--runner", "direct"}, []string{"direct runs bounded graphs alone"}},
		{"topics", topics, []string{"--runner", "prism"}, nil},
		{"topics", topics, flink("parallelism=4", "checkpoint_interval=2s"), nil},
		{"topics", topics, []string{"--runner", "dataflow"}, nil},
		{"near", near, []string{"--runner", "direct"}, nil},
		{"near", near, []string{"--runner", "prism"}, nil},
		{"near", near, flink(), nil},
		{"near", near, []string{"--runner", "dataflow"}, []string{"source ./in.jsonl: workers on Dataflow", "sink ./scores.jsonl", "dead letters ./dead/"}},
		{"stdio", stdio, []string{"--runner", "direct"}, nil},
		{"stdio", stdio, []string{"--runner", "prism"}, nil},
		{"stdio", stdio, flink(), []string{"no standard input", "no standard output"}},
		{"stdio", stdio, []string{"--runner", "dataflow"}, []string{"source -: workers on Dataflow", "sink -: workers on Dataflow"}},
		{"intake", intake, []string{"--runner", "direct"}, []string{"direct runs bounded graphs alone"}},
		{"intake", intake, []string{"--runner", "prism"}, nil},
		{"intake", intake, flink(), []string{"broker"}},
		{"intake", intake, []string{"--runner", "dataflow"}, []string{"broker"}},
		{"pubsub", pubsub, []string{"--runner", "direct"}, []string{"direct runs bounded graphs alone"}},
		{"pubsub", pubsub, []string{"--runner", "prism"}, nil},
		{"pubsub", pubsub, flink(), []string{"acknowledged by what has landed in this process"}},
		{"pubsub", pubsub, []string{"--runner", "dataflow"}, nil},
		{"one file", oneFile, []string{"--runner", "direct"}, []string{"direct runs bounded graphs alone", "a stream never completes"}},
		{"one file", oneFile, []string{"--runner", "prism"}, []string{"a stream never completes"}},
		{"one file", oneFile, flink(), []string{"a stream never completes"}},
		{"one file", oneFile, []string{"--runner", "dataflow"}, []string{"a stream never completes"}},
		{"replay", replayed, []string{"--runner", "prism"}, nil},
		{"replay", replayed, flink(), []string{"broker"}},
		{"not known here", unknown, []string{"--runner", "dataflow"}, nil},

		{"options of a stream", bounded, flink("checkpoint_interval=2s", "shards=4"), []string{"checkpoint_interval is for streams", "shards is for streams"}},
		{"options that nobody has", topics, flink("shutdown_sources_after_idle_ms=1"), []string{"no checkpoint of a stream completes"}},
		{"options of another", bounded, []string{"--runner", "prism", "--flink", "parallelism=2"}, []string{"--flink goes with --runner flink"}},
		{"options of no runner", bounded, []string{"--dataflow", "region=x"}, []string{"--dataflow goes with --runner dataflow"}},
		{"options of Dataflow", bounded, []string{"--runner", "dataflow", "--dataflow", "update=true"}, []string{"project is missing", "update and transform_name_mapping are for streams"}},
		{"no runner", bounded, []string{"--runner", "spark"}, []string{"prism, direct, flink or dataflow"}},
	} {
		t.Run(c.name+" "+strings.Join(c.args, " "), func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "own.yaml"), head+c.text+"\n")
			code, stdout, stderr := call(t, append([]string{"lint", file}, c.args...)...)
			want := exitOK
			if len(c.says) > 0 {
				want = exitUsage
			}
			if code != want || (code == exitOK) != strings.Contains(stdout, "can score its events") {
				t.Errorf("exit code %d, want %d: %s%s", code, want, stdout, stderr)
			}
			for _, s := range c.says {
				if !strings.Contains(stderr, s) {
					t.Errorf("it says %q, want %q in it", stderr, s)
				}
			}
		})
	}
}

// TestWhole: workers elsewhere start from another folder.
func TestWhole(t *testing.T) {
	t.Parallel()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"":                        "",
		"in.csv":                  here + "/in.csv",
		"./dead/":                 here + "/dead/",
		"file://./registry":       "file://" + here + "/registry",
		"file://./dead/":          "file://" + here + "/dead/",
		"file:///dead/":           "file:///dead/",
		"file://localhost/models": "file://localhost/models",
		"/in.csv":                 "/in.csv",
		"gs://b/in.csv":           "gs://b/in.csv",
		"-":                       "-",
	} {
		got := address
		if err := whole(&got); err != nil || got != want {
			t.Errorf("%q is %q, %v, want %q", address, got, err, want)
		}
	}
}
