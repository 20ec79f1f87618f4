package dataflow

import (
	"context"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	sdk "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/dataflow"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	df "google.golang.org/api/dataflow/v1b3"

	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	_ "github.com/millrace-ml/millrace/transforms/connect/pubsub"
	"github.com/millrace-ml/millrace/transforms/predict"
)

func TestMain(m *testing.M) {
	// Nothing here may be contacted: a client that looks for credentials ends at once.
	os.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/credentials")
	beam.Init()
	os.Exit(m.Run())
}

// shape is what a test changes in the fraud graph.
type shape struct {
	stream bool
	order  string
	sinks  []string // several, by name
	source string   // of a stream, instead of Kafka
	model  int
}

// scoringGraph is the graph that scores the built-in fraud use case.
func scoringGraph(t *testing.T, c shape) *beam.Pipeline {
	t.Helper()
	u, err := spec.Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	o := scoring.Options{Sources: []string{"gs://acme-risk/in.csv"}, Sink: "gs://acme-risk/scores.jsonl", DeadLetters: "gs://acme-risk/dead.jsonl"}
	model := predict.Model{Name: "fraud", Registry: "gs://acme-risk/registry", Version: 1 + c.model}
	if c.stream {
		o.Sources, o.Sink, o.DeadLetters = []string{"kafka://broker:9092/transactions"}, "kafka://broker:9092/scores", "gs://acme-risk/dead/"
		lateness := time.Minute // it is part of what the state means
		o.Stream = &scoring.Stream{Order: c.order, Lateness: &lateness, Native: Native}
		if c.source != "" {
			o.Sources = []string{c.source}
		}
	}
	p, err := scoring.Features(u, o)
	if err != nil {
		t.Fatal(err)
	}
	p.Predict.Models = []predict.Model{model}
	if len(c.sinks) > 0 {
		one := p.Sinks[0]
		p.Sinks = nil
		for _, name := range c.sinks {
			out := one
			out.Name, out.URL = name, strings.Replace(one.URL, "scores", name, 1)
			p.Sinks = append(p.Sinks, out)
		}
	}
	pipeline, s := beam.NewPipelineWithRoot()
	scoring.Build(s, p)
	return pipeline
}

func describe(t *testing.T, c shape, o Options) Job {
	t.Helper()
	j, err := Describe(t.Context(), scoringGraph(t, c), o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// rich are options with every field that a description shows.
func rich() Options {
	o := asked()
	o.DryRun, o.JobName, o.Labels, o.TempLocation = true, "fraud", map[string]string{"team": "risk"}, "gs://acme-risk/temp"
	o.MachineType, o.NumWorkers, o.MaxNumWorkers, o.AutoscalingAlgorithm, o.WorkerThreads, o.DiskSizeGB = "n2-standard-4", 2, 8, Throughput, 12, 50
	o.WorkerZone, o.ServiceAccount, o.Network, o.Subnetwork = "europe-west1-b", "w@acme-risk.iam.gserviceaccount.com", "net", "regions/europe-west1/subnetworks/workers"
	o.KMSKey, o.NoPublicIPs, o.WorkerImage = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k", true, "registry/millrace:1"
	o.Experiments, o.ServiceOptions = []string{"enable_recommendations"}, []string{"enable_prime"}
	return o
}

// TestDescribe holds that a job's description says what the options and the use case ask.
func TestDescribe(t *testing.T) {
	every := []string{"beam_fn_api", "use_runner_v2", "use_unified_worker", "use_portable_job_submission"}
	streams := []string{"beam_fn_api", "use_runner_v2", "use_unified_worker", "use_portable_job_submission", "enable_streaming_engine", "enable_windmill_service"}
	all := Job{
		Name: "fraud", Project: "acme-risk", Region: "europe-west1", Streaming: true, TempLocation: "gs://acme-risk/temp", WorkerImage: "registry/millrace:1",
		MachineType: "n2-standard-4", NumWorkers: 2, MaxNumWorkers: 8, Autoscaling: "AUTOSCALING_ALGORITHM_BASIC", WorkerThreads: 12, DiskSizeGB: 50,
		WorkerZone: "europe-west1-b", ServiceAccount: "w@acme-risk.iam.gserviceaccount.com", Network: "net", Subnetwork: "regions/europe-west1/subnetworks/workers",
		PrivateAddresses: true, KMSKey: "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k",
		Experiments: append([]string{"enable_recommendations"}, streams...), ServiceOptions: []string{"enable_prime"}, Labels: map[string]string{"team": "risk"},
		Windowings: []string{"fixed_windows", "global_windows"},
	}
	least := Job{
		Name: "millrace", Project: "acme-risk", Region: "europe-west1", TempLocation: "gs://acme-risk/staging/tmp", WorkerImage: "apache/beam_go_sdk:" + core.SdkVersion,
		NumWorkers:  1, // the SDK's own; Dataflow starts with more where it finds that better
		Experiments: every, Windowings: []string{"global_windows"},
	}
	update := least
	update.Name, update.Streaming, update.Experiments, update.Windowings, update.Renamed = "fraud", true, streams, all.Windowings, map[string]string{"scores": "sink.Write"}
	updating := asked()
	updating.JobName, updating.Update, updating.TransformNames = "fraud", true, update.Renamed
	for _, c := range []struct {
		name       string
		shape      shape
		o          Options
		want       Job
		stateful   []string
		splittable []string
	}{
		{"bounded, least", shape{}, asked(), least, nil, []string{"source.Read/source.readFn"}},
		{"stream, all, by arrival", shape{stream: true, order: "arrival"}, rich(), all, []string{"arriveFn", "arriveFn"}, []string{"source.Read/source.followFn"}},
		{"stream, update, by event time", shape{stream: true, order: "event_time"}, updating, update, []string{"waitFn", "waitFn"}, []string{"source.Read/source.followFn"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := describe(t, c.shape, c.o)
			if d := cmp.Diff(c.want, got, cmpopts.IgnoreFields(Job{}, "Steps", "Model", "Worker", "WorkerSHA256")); d != "" {
				t.Error(d)
			}
			if !strings.HasPrefix(got.Model, "gs://acme-risk/staging/") || !strings.HasSuffix(got.Worker, "/worker") || len(got.WorkerSHA256) != 64 {
				t.Errorf("the graph is staged at %s, the worker, %s, at %s", got.Model, got.WorkerSHA256, got.Worker)
			}
			var stateful, splittable []string
			kinds := map[string]int{}
			for _, s := range got.Steps {
				kinds[s.Kind]++
				if s.Stateful {
					stateful = append(stateful, s.Name[strings.LastIndex(s.Name, ".")+1:])
				}
				if s.Splittable {
					splittable = append(splittable, s.Name)
				}
			}
			if d := cmp.Diff(c.stateful, stateful); d != "" {
				t.Errorf("stateful steps: %s", d)
			}
			if d := cmp.Diff(c.splittable, splittable); d != "" {
				t.Errorf("splittable steps: %s", d)
			}
			for _, k := range []string{"impulse", "pardo", "group_by_key", "flatten"} {
				if kinds[k] == 0 {
					t.Errorf("no step is a %s: %v", k, kinds)
				}
			}
		})
	}
}

// TestPubSub holds that Dataflow's own read takes the place of the source's, and that all else is as it was.
func TestPubSub(t *testing.T) {
	for _, order := range []string{"arrival", "event_time"} {
		t.Run(order, func(t *testing.T) {
			in := shape{stream: true, order: order, source: "pubsub://acme-risk/payments?id_attribute=id&time_attribute=event_time"}
			got, kafka := describe(t, in, asked()), describe(t, shape{stream: true, order: order}, asked())
			var read []Step
			rest := func(steps []Step) []Step {
				return slices.DeleteFunc(slices.Clone(steps), func(s Step) bool { return strings.HasPrefix(s.Name, "source.Read/") })
			}
			for _, s := range got.Steps {
				if strings.HasPrefix(s.Name, "source.Read/") {
					read = append(read, s)
				}
			}
			const scope = "source.Read/projects.acme-risk.subscriptions.payments/"
			want := []Step{
				{Name: scope + "External", Kind: "pubsub_read", Subscription: "projects/acme-risk/subscriptions/payments", TimeAttribute: "event_time", IDAttribute: "id"},
				{Name: scope + "source.nativeFn", Kind: "pardo"},
			}
			if d := cmp.Diff(want, read); d != "" {
				t.Errorf("what is read: %s", d)
			}
			if d := cmp.Diff(rest(kafka.Steps), rest(got.Steps)); d != "" {
				t.Errorf("the rest, of Kafka (-) and of Pub/Sub (+): %s", d)
			}
			if !got.Streaming {
				t.Error("it is no stream")
			}
		})
	}
}

// TestFaultyOptions holds that nothing is described before the options are right.
func TestFaultyOptions(t *testing.T) {
	_, err := Describe(t.Context(), scoringGraph(t, shape{}), Options{OnStop: StopDrain})
	compareFaults(t, err, []string{"project is missing", "region is missing", "staging_location is missing", "on_stop=drain is for streams"})
}

// lines keeps what the SDK logs.
type lines struct{ all []string }

func (l *lines) Log(_ context.Context, _ log.Severity, _ int, msg string) { l.all = append(l.all, msg) }

// TestLikeSDK holds that the description is the one that the SDK's own runner would send for the same options:
// that runner is asked for a dry run, and what it logs is compared.
func TestLikeSDK(t *testing.T) {
	o := rich()
	for name, value := range map[string]string{
		"dry_run": "true", "project": o.Project, "region": o.Region, "staging_location": o.StagingLocation, "temp_location": o.TempLocation, "job_name": o.JobName,
		"labels": `{"team":"risk"}`, "machine_type": o.MachineType, "num_workers": "2", "max_num_workers": "8", "autoscaling_algorithm": o.AutoscalingAlgorithm,
		"number_of_worker_harness_threads": "12", "disk_size_gb": "50", "worker_zone": o.WorkerZone, "service_account_email": o.ServiceAccount,
		"network": o.Network, "subnetwork": o.Subnetwork, "no_use_public_ips": "true", "dataflow_kms_key": o.KMSKey, "sdk_container_image": o.WorkerImage,
		"experiments": "enable_recommendations", "dataflow_service_options": "enable_prime",
	} {
		f := flag.Lookup(name)
		before := f.Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(name, before) })
	}
	graphs := map[string]shape{"bounded": {}, "stream": {stream: true, order: "arrival"}}
	for _, name := range slices.Sorted(maps.Keys(graphs)) {
		t.Run(name, func(t *testing.T) {
			p := scoringGraph(t, graphs[name])
			var said lines
			log.SetLogger(&said)
			defer log.SetLogger(&log.Standard{Level: log.SevWarn})
			if _, err := sdk.Execute(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(said.all, func(s string) bool { return strings.HasPrefix(s, "{") && strings.Contains(s, `"sdkPipelineOptions"`) })
			if i < 0 {
				t.Fatalf("the SDK's dry run tells no job: %q", said.all)
			}
			var want, got df.Job
			if err := json.Unmarshal([]byte(said.all[i]), &want); err != nil {
				t.Fatal(err)
			}
			r, err := prepare(t.Context(), p, o)
			if err != nil {
				t.Fatal(err)
			}
			text, err := r.job.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(generic(t, want), generic(t, got)); d != "" {
				t.Errorf("the SDK's (-) and ours (+):\n%s", d)
			}
		})
	}
}

// generic is a job without what differs from one staging to the next, and without what the SDK repeats of all
// flags of the process, the test's own among them.
func generic(t *testing.T, job df.Job) map[string]any {
	t.Helper()
	job.Environment.WorkerPools[0].Packages = nil
	text, err := job.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	options := all["environment"].(map[string]any)["sdkPipelineOptions"].(map[string]any)
	delete(options, "display_data")
	delete(options["options"].(map[string]any), "pipelineUrl")
	delete(options["options"].(map[string]any), "pipelineProtoHash")
	worker := options["beam:option:go_options:v1"].(map[string]any)["options"].(map[string]any)
	maps.DeleteFunc(worker, func(name string, _ any) bool {
		return name != "temp_location" && name != "experiments" && name != "hooks"
	})
	return all
}
