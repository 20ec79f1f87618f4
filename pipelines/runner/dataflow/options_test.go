package dataflow

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asked are options that stand for a real job's.
func asked() Options {
	return Options{Project: "acme-risk", Region: "europe-west1", StagingLocation: "gs://acme-risk/staging"}
}

func TestParse(t *testing.T) {
	t.Parallel()
	o, err := Parse([]string{
		"project=p", "max_num_workers=4", "no_use_public_ips=true", `labels={"team":"risk"}`, "experiments=a,b=c", "update=true",
		`transform_name_mapping={"old":"new"}`, "sdk_container_image=registry/millrace:1",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Options{
		Project: "p", MaxNumWorkers: 4, NoPublicIPs: true, Labels: map[string]string{"team": "risk"}, Experiments: []string{"a", "b=c"}, Update: true,
		TransformNames: map[string]string{"old": "new"}, WorkerImage: "registry/millrace:1",
	}
	if d := cmp.Diff(want, o); d != "" {
		t.Error(d)
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	_, err := Parse([]string{"projekt=p", "num_workers=four", "update=maybe", "labels=team:risk", "region", "streaming=true", "parallelism=4", "zone=europe-west1-b"})
	compareFaults(t, err, []string{
		"projekt: unknown; there are project, region,", `num_workers: "four" is no number`, `update: "maybe" is neither`, "labels: \"team:risk\" is no JSON object",
		`"region": write name=value`, "streaming: can't be set: it follows from the sources", "parallelism: can't be set: Dataflow ignores it", "zone: can't be set: give worker_zone",
	})
}

func TestRefusedHaveNoField(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		if refused[name] != "" {
			t.Errorf("%s is taken and refused", name)
		}
	}
}

func compareFaults(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		if len(want) > 0 {
			t.Fatal("no fault")
		}
		return
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d faults, want %d:\n%v", len(lines), len(want), err)
	}
	for i, part := range want {
		if !strings.Contains(lines[i], part) {
			t.Errorf("fault %d is %q, want %q", i, lines[i], part)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "worker")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprintf("l%d", i)] = ""
	}
	with := func(change func(*Options)) Options {
		o := asked()
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		o      Options
		stream bool
		want   []string
	}{
		"least, bounded": {o: asked()},
		"least, stream":  {o: asked(), stream: true},
		"all": {o: with(func(o *Options) {
			o.Project, o.TempLocation, o.JobName, o.Labels = "example.com:acme-risk", "gs://acme-risk/tmp", "fraud-1", map[string]string{"team": "risk", "empty": ""}
			o.MachineType, o.NumWorkers, o.MaxNumWorkers, o.AutoscalingAlgorithm, o.WorkerThreads, o.DiskSizeGB = "n2-standard-4", 2, 8, Throughput, 12, 50
			o.WorkerZone, o.ServiceAccount, o.Network, o.Subnetwork = "europe-west1-b", "w@acme-risk.iam.gserviceaccount.com", "net", "regions/europe-west1/subnetworks/workers"
			o.KMSKey, o.NoPublicIPs, o.WorkerImage = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k", true, "registry/millrace:1"
			o.Experiments, o.ServiceOptions, o.Update, o.TransformNames, o.OnStop = []string{"x=y"}, []string{"enable_prime"}, true, map[string]string{"a": "b"}, StopDrain
		}), stream: true},
		"nothing":         {want: []string{"project is missing", "region is missing", "staging_location is missing"}},
		"project's name":  {o: with(func(o *Options) { o.Project = "Acme Risk" }), want: []string{"project \"Acme Risk\": give the project's id"}},
		"a zone":          {o: with(func(o *Options) { o.Region = "europe-west1-b" }), want: []string{"region \"europe-west1-b\": give a region"}},
		"local folders":   {o: with(func(o *Options) { o.StagingLocation, o.TempLocation, o.TemplateLocation = "/tmp/s", "tmp", "s3://b/t" }), want: []string{"staging_location", "temp_location", "template_location"}},
		"job name":        {o: with(func(o *Options) { o.JobName = "Fraud_1" }), want: []string{"job_name \"Fraud_1\""}},
		"endpoint":        {o: with(func(o *Options) { o.Endpoint = "dataflow.example.com" }), want: []string{"dataflow_endpoint"}},
		"key":             {o: with(func(o *Options) { o.KMSKey = "k" }), want: []string{"dataflow_kms_key"}},
		"other zone":      {o: with(func(o *Options) { o.WorkerZone = "us-central1-a" }), want: []string{"worker_zone \"us-central1-a\": is not in the region europe-west1"}},
		"account":         {o: with(func(o *Options) { o.ServiceAccount = "worker" }), want: []string{"service_account_email"}},
		"other subnet":    {o: with(func(o *Options) { o.Subnetwork = "regions/us-central1/subnetworks/w" }), want: []string{"subnetwork"}},
		"bare subnet":     {o: with(func(o *Options) { o.Subnetwork = "w" }), want: []string{"give regions/europe-west1/subnetworks/NAME"}},
		"private":         {o: with(func(o *Options) { o.NoPublicIPs = true }), want: []string{"no_use_public_ips"}},
		"negative":        {o: with(func(o *Options) { o.NumWorkers, o.MaxNumWorkers, o.WorkerThreads, o.DiskSizeGB = -1, -1, -1, -1 }), want: []string{"num_workers: -1", "max_num_workers: -1", "number_of_worker_harness_threads: -1", "disk_size_gb: -1"}},
		"more than most":  {o: with(func(o *Options) { o.NumWorkers, o.MaxNumWorkers = 9, 8 }), want: []string{"num_workers: 9, want at most max_num_workers (8)"}},
		"fixed":           {o: with(func(o *Options) { o.MaxNumWorkers, o.AutoscalingAlgorithm = 8, Fixed }), want: []string{"max_num_workers has no effect"}},
		"algorithm":       {o: with(func(o *Options) { o.AutoscalingAlgorithm = "BASIC" }), want: []string{"autoscaling_algorithm \"BASIC\": choose"}},
		"no binary":       {o: with(func(o *Options) { o.WorkerBinary = "/no/such" }), want: []string{"worker_binary: open /no/such"}},
		"a script":        {o: with(func(o *Options) { o.WorkerBinary = script }), want: []string{"is no program for Linux"}},
		"other processor": {o: with(func(o *Options) { o.MachineType = "t2a-standard-4" }), want: []string{"the machines are arm64"}},
		"labels":          {o: with(func(o *Options) { o.Labels = map[string]string{"Team": "x", "ok": "Big"} }), want: []string{"labels: Team=x", "labels: ok=Big"}},
		"many labels":     {o: with(func(o *Options) { o.Labels = many }), want: []string{"labels: 65, want 64"}},
		"experiments":     {o: with(func(o *Options) { o.Experiments = []string{"disable_runner_v2", "use_runner_v2", "fine"} }), want: []string{"disable_runner_v2: Go runs", "use_runner_v2: it is always given"}},
		"stop":            {o: with(func(o *Options) { o.OnStop = "pause" }), want: []string{"on_stop \"pause\": choose"}},
		"stop, dry":       {o: with(func(o *Options) { o.OnStop, o.DryRun = StopLeave, true }), want: []string{"on_stop has no effect"}},
		"dry template":    {o: with(func(o *Options) { o.TemplateLocation, o.DryRun = "gs://acme-risk/t.json", true }), want: []string{"dry_run writes nothing"}},
		"update, bounded": {o: with(func(o *Options) { o.Update, o.JobName = true, "fraud" }), want: []string{"are for streams"}},
		"shards, bounded": {o: with(func(o *Options) { o.Shards = 8 }), want: []string{"are for streams"}},
		"shards":          {o: with(func(o *Options) { o.Shards = -1 }), stream: true, want: []string{"shards: -1"}},
		"other state": {o: with(func(o *Options) {
			o.Update, o.JobName = true, "fraud"
			o.TransformNames = map[string]string{"f/C@aaaaaaaa/x": "f/D@bbbbbbbb/x", "f/C@cccccccc/x": "g/C@cccccccc/x"}
		}), stream: true, want: []string{"transform_name_mapping: f/C@aaaaaaaa/x: its state means something else"}},
		"drain, bounded":  {o: with(func(o *Options) { o.OnStop = StopDrain }), want: []string{"on_stop=drain is for streams"}},
		"update, unnamed": {o: with(func(o *Options) { o.Update = true }), stream: true, want: []string{"update needs job_name"}},
		"renamed alone":   {o: with(func(o *Options) { o.TransformNames = map[string]string{"a": "b"} }), stream: true, want: []string{"transform_name_mapping goes with update"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareFaults(t, c.o.Validate(c.stream), c.want)
		})
	}
}
