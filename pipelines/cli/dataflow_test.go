package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/millrace-ml/millrace/pipelines/runner/dataflow"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"

	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	_ "github.com/millrace-ml/millrace/transforms/connect/pubsub"
	_ "github.com/millrace-ml/millrace/transforms/connect/stdio"
)

// dry are the arguments of a dry run, without those of the runner.
func dry(args ...string) []string {
	return append(args, "--runner", "dataflow", "--dataflow", "dry_run=true", "--dataflow", "project=acme-risk", "--dataflow", "region=europe-west1", "--dataflow", "staging_location=gs://acme-risk/staging")
}

// TestDryRun holds that a dry run describes what was asked, and reaches out for nothing: neither the bucket nor
// the broker exists.
func TestDryRun(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/credentials")
	for _, c := range []struct {
		name string
		args []string
		want dataflow.Job
		step string
	}{
		{"bounded", dry("features", "fraud", "--source", "gs://acme-risk/in.csv", "--sink", "gs://acme-risk/features.parquet", "--dead-letters", "gs://acme-risk/dead.jsonl"),
			dataflow.Job{Name: "millrace", NumWorkers: 1, Windowings: []string{"global_windows"}}, "sink.Write/publish/sink.parquetFn"},
		{"stream", dry("features", "fraud", "--source", "kafka://nowhere:9092/in", "--sink", "kafka://nowhere:9092/out", "--dead-letters", "gs://acme-risk/dead/",
			"--dataflow", "job_name=fraud", "--dataflow", "machine_type=n2-standard-4", "--dataflow", "max_num_workers=4"),
			dataflow.Job{Name: "fraud", Streaming: true, MachineType: "n2-standard-4", NumWorkers: 1, MaxNumWorkers: 4, Windowings: []string{"fixed_windows", "global_windows"}}, "source.Read/source.followFn"},
		{"Pub/Sub", dry("features", "fraud", "--source", "pubsub://acme-risk/payments?time_attribute=event_time", "--order", "event_time", "--sink", "kafka://nowhere:9092/out", "--dead-letters", "gs://acme-risk/dead/"),
			dataflow.Job{Name: "millrace", Streaming: true, NumWorkers: 1, Windowings: []string{"fixed_windows", "global_windows"}}, "source.Read/projects.acme-risk.subscriptions.payments/source.nativeFn"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := call(t, c.args...)
			if code != exitOK {
				t.Fatalf("%d: %s", code, stderr)
			}
			var got dataflow.Job
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatal(err)
			}
			c.want.Project, c.want.Region, c.want.TempLocation = "acme-risk", "europe-west1", "gs://acme-risk/staging/tmp"
			if d := cmp.Diff(c.want, got, cmpopts.IgnoreFields(dataflow.Job{}, "Steps", "Experiments", "Model", "Worker", "WorkerSHA256", "WorkerImage")); d != "" {
				t.Error(d)
			}
			if !slices.ContainsFunc(got.Steps, func(s dataflow.Step) bool { return s.Name == c.step }) {
				t.Errorf("no step %s in %v", c.step, got.Steps)
			}
		})
	}
}

func TestDataflowFaults(t *testing.T) {
	remote := []string{"--source", "gs://b/in.csv", "--sink", "gs://b/out.csv", "--dead-letters", "gs://b/dead.jsonl"}
	for _, c := range []struct {
		args []string
		says string
	}{
		{append(dry("features", "fraud"), append(remote, "--dataflow", "machine=x")...), "dataflow option machine: unknown; there are project"},
		{append(dry("features", "fraud"), append(remote, "--dataflow", "num_workers=-1")...), "num_workers: -1"},
		{append(dry("features", "fraud"), append(remote, "--flink", "rest=x:1")...), "--flink goes with --runner flink"},
		{dry("features", "fraud", "--source", "kafka://b:9/in", "--sink", "gs://b/out.csv", "--dead-letters", "gs://b/dead/"), "folder"},
		{append(dry("run", "fraud"), append(remote, "--metrics-addr", ":0")...), "Cloud Monitoring"},
		{append(dry("features", "fraud"), "--source", "pubsub://acme-risk/payments", "--order", "event_time", "--sink", "kafka://nowhere:9092/out", "--dead-letters", "gs://acme-risk/dead/"), "time_attribute=NAME"},
		{append(dry("retrain", "fraud"), "--source", "gs://b/in.csv"), "retrain works in folders of this machine"},
		{append(dry("replay", "fraud"), "--from", "gs://b/dead.jsonl"), "replay works in folders of this machine"},
		{dry("features", "fraud", "--source", "in.csv", "--sink", "gs://b/out.csv", "--dead-letters", "gs://b/dead.jsonl"), "source in.csv: workers on Dataflow don't see this machine's files"},
		{[]string{"features", "fraud", "--dataflow", "region=europe-west1"}, "--dataflow goes with --runner dataflow"},
	} {
		code, _, stderr := call(t, c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.says) {
			t.Errorf("%v gives %d and %s, want %q", c.args, code, stderr, c.says)
		}
	}
}

func TestRemote(t *testing.T) {
	p := scoring.Plan{
		Source:      source.Params{URLs: []string{"-", "intake://:8080/x?wal=d", "in/*.csv", "gs://b/in.csv"}},
		Sinks:       []sink.Params{{URL: "-"}, {URL: "./out/"}, {URL: "kafka://b:9092/out"}},
		DeadLetters: "file:///dead/", Predict: predict.Params{Models: []predict.Model{{Registry: "registry"}}},
	}
	err := remote(p)
	if err == nil {
		t.Fatal("no fault")
	}
	lines := strings.Split(err.Error(), "\n")
	want := []string{"source -: workers", "source intake://:8080/x?wal=...: what it takes in", "source in/*.csv: workers", "sink -: workers", "sink ./out/: workers", "dead letters file:///dead/", "registry registry"}
	if len(lines) != len(want) {
		t.Fatalf("%d faults, want %d:\n%v", len(lines), len(want), err)
	}
	for i, part := range want {
		if !strings.Contains(lines[i], part) {
			t.Errorf("fault %d is %q, want %q", i, lines[i], part)
		}
	}
	fine := scoring.Plan{
		Source: source.Params{URLs: []string{"kafka://b:9092/in", "pubsub://p/payments"}},
		Sinks:  p.Sinks[2:], DeadLetters: "gs://b/dead/",
	}
	if err := remote(fine); err != nil {
		t.Error(err)
	}
}

func TestIsLaunch(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{"--job_name=x", "--template_location=gs://b/t", "--use_case=fraud"}, true},
		{[]string{"run", "fraud", "--dataflow", "template_location=gs://b/t"}, false}, {[]string{"--help"}, false}, {nil, false},
	} {
		if got := isLaunch(c.args); got != c.want {
			t.Errorf("%v: %v", c.args, got)
		}
	}
}

// TestTemplate holds that a launcher's call is a run, and that everything it may not say has a name.
func TestTemplate(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--project=p"}, "--use_case is missing"},
		{[]string{"--use_case=fraud", "--streaming=true"}, "unknown flag: --streaming"},
		{[]string{"--use_case=fraud", "--registry=" + filepath.Join(dir, "none"), "--runner=DataflowRunner", "--update"}, "run retrain first"},
		{[]string{"--use_case=fraud", "--num_workers=x"}, `num_workers: "x" is no number`},
	} {
		code, _, stderr := call(t, append([]string{"template"}, c.args...)...)
		if code == exitOK || !strings.Contains(stderr, c.says) {
			t.Errorf("%v gives %d and %s, want %q", c.args, code, stderr, c.says)
		}
	}
}

// TestTemplateMetadata holds that the metadata of the flex template name the parameters that the verb takes, with
// its words, and the options that users of a template set as such.
func TestTemplateMetadata(t *testing.T) {
	text, err := os.ReadFile("../../cmd/millrace/container/template.json")
	if err != nil {
		t.Fatal(err)
	}
	var metadata struct {
		Name, Description                        string
		Streaming                                bool
		SupportsExactlyOnce, SupportsAtLeastOnce bool
		Parameters                               []struct {
			Name, Label, HelpText, ParamType string
			IsOptional                       bool
			Regexes                          []string
			EnumOptions                      []struct{ Value string }
		}
	}
	if err := json.Unmarshal(text, &metadata); err != nil {
		t.Fatal(err)
	}
	var c common
	var o scoring.Options
	var st streamFlags
	var useCase string
	cmd := templateCommand(nil)
	var own []string
	probe := templateCommand(nil)
	probe.ResetFlags()
	templateParameters(probe, &c, &o, &st, &useCase)
	probe.Flags().VisitAll(func(f *pflag.Flag) { own = append(own, f.Name) })
	var named []string
	for _, p := range metadata.Parameters {
		f := cmd.Flags().Lookup(p.Name)
		if f == nil || f.Name == "runner" {
			t.Errorf("%s is no parameter of the verb", p.Name)
			continue
		}
		if p.Label == "" || p.ParamType == "" {
			t.Errorf("%s has neither label nor type", p.Name)
		}
		if probe.Flags().Lookup(p.Name) == nil {
			continue
		}
		named = append(named, p.Name)
		if p.IsOptional != (p.Name != "use_case") {
			t.Errorf("%s is optional: %v", p.Name, p.IsOptional)
		}
		if p.HelpText != strings.ToUpper(f.Usage[:1])+f.Usage[1:]+"." {
			t.Errorf("%s: the metadata say %q, the verb %q", p.Name, p.HelpText, f.Usage)
		}
	}
	slices.Sort(named)
	slices.Sort(own)
	if d := cmp.Diff(own, named); d != "" {
		t.Errorf("the verb's parameters (-) and those of the metadata (+):\n%s", d)
	}
	if metadata.Name == "" || !metadata.Streaming {
		t.Errorf("the template is %q, streaming %v", metadata.Name, metadata.Streaming)
	}
}
