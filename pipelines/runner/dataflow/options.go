package dataflow

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core"

	"github.com/millrace-ml/millrace/pipelines/runner/internal/option"
)

// What becomes of a job when the context of its Run ends.
const (
	// StopCancel ends the job at once.
	StopCancel = "cancel"
	// StopDrain ends the sources of a stream, and the job when what was read is finished.
	StopDrain = "drain"
	// StopLeave lets the job go on.
	StopLeave = "leave"
)

// How Dataflow finds the number of workers.
const (
	// Fixed keeps NumWorkers.
	Fixed = "NONE"
	// Throughput goes up to MaxNumWorkers.
	Throughput = "THROUGHPUT_BASED"
)

// Options say how a graph runs on Dataflow. The zero value of a field is its default. Names in Parse are those
// of the SDK's flags.
type Options struct {
	// Project, Region and StagingLocation, a gs:// folder for what workers fetch, have no default.
	Project         string
	Region          string
	StagingLocation string
	// TempLocation is a gs:// folder (default: tmp in the staging location).
	TempLocation string
	// JobName is the job's (default millrace). No two jobs that run have the same.
	JobName string
	// Labels of the job, up to 64; Parse reads them as a JSON object.
	Labels map[string]string

	// MachineType of the workers, as n2-standard-4 (default: Dataflow's choice). The worker's binary has to be
	// for its processors.
	MachineType string
	// NumWorkers is the number of workers at the start (default: Dataflow's choice), and with the algorithm NONE
	// at any time. MaxNumWorkers is the most (default: Dataflow's choice).
	NumWorkers    int
	MaxNumWorkers int
	// AutoscalingAlgorithm is THROUGHPUT_BASED or NONE (default: Dataflow's choice).
	AutoscalingAlgorithm string
	// WorkerThreads is how many bundles a worker process takes at a time (default: Dataflow's choice).
	WorkerThreads int
	// DiskSizeGB is the size of a worker's disk (default: Dataflow's choice).
	DiskSizeGB int
	// WorkerZone keeps workers in a zone of the region (default: Dataflow's choice).
	WorkerZone string

	// ServiceAccount is the email of the account that workers have (default: the project's for Compute Engine).
	ServiceAccount string
	// Network and Subnetwork, as regions/REGION/subnetworks/NAME, are where workers are (default: default).
	Network    string
	Subnetwork string
	// NoPublicIPs gives workers private addresses only. They then need a WorkerImage that they reach without the
	// internet.
	NoPublicIPs bool
	// KMSKey encrypts what Dataflow keeps (default: a key of Google's).
	KMSKey string

	// WorkerImage is the container that workers run in (default apache/beam_go_sdk of the SDK's version). It needs
	// Beam's boot: cmd/millrace/container says how one is built.
	WorkerImage string
	// WorkerBinary is what workers run (default: this executable). It has to be for Linux.
	WorkerBinary string

	// Experiments and ServiceOptions go to Dataflow as they are; Parse reads them with commas between. Those
	// that the SDK needs are always given.
	Experiments    []string
	ServiceOptions []string

	// DryRun describes the job, and contacts nothing.
	DryRun bool
	// TemplateLocation is a gs:// object that the job is written to, instead of being started: a flex template's
	// launcher asks for it.
	TemplateLocation string
	// Endpoint is the URL of the Dataflow API (default: Google's).
	Endpoint string

	// OnStop is what happens to the job when its context ends: cancel (default), drain, for streams, or leave.
	OnStop string

	// The rest is for streams alone.

	// Shards is into how many parts the graph's state is split; 0: whoever builds the graph says it. It is fixed
	// for the life of the state: stages of another number have other names.
	Shards int
	// Update replaces the running job of the same JobName, and goes on from its state.
	Update bool
	// TransformNames maps names of the running job's transforms to those of this one, beside what the program
	// knows itself; Parse reads a JSON object.
	TransformNames map[string]string
}

// fields are the options by their names, for Parse.
var fields = []option.Field[Options]{
	{Name: "project", Of: func(o *Options) any { return &o.Project }},
	{Name: "region", Of: func(o *Options) any { return &o.Region }},
	{Name: "staging_location", Of: func(o *Options) any { return &o.StagingLocation }},
	{Name: "temp_location", Of: func(o *Options) any { return &o.TempLocation }},
	{Name: "job_name", Of: func(o *Options) any { return &o.JobName }},
	{Name: "labels", Of: func(o *Options) any { return &o.Labels }},
	{Name: "machine_type", Of: func(o *Options) any { return &o.MachineType }},
	{Name: "worker_machine_type", Of: func(o *Options) any { return &o.MachineType }}, // the SDK takes both
	{Name: "num_workers", Of: func(o *Options) any { return &o.NumWorkers }},
	{Name: "max_num_workers", Of: func(o *Options) any { return &o.MaxNumWorkers }},
	{Name: "autoscaling_algorithm", Of: func(o *Options) any { return &o.AutoscalingAlgorithm }},
	{Name: "number_of_worker_harness_threads", Of: func(o *Options) any { return &o.WorkerThreads }},
	{Name: "disk_size_gb", Of: func(o *Options) any { return &o.DiskSizeGB }},
	{Name: "worker_zone", Of: func(o *Options) any { return &o.WorkerZone }},
	{Name: "service_account_email", Of: func(o *Options) any { return &o.ServiceAccount }},
	{Name: "network", Of: func(o *Options) any { return &o.Network }},
	{Name: "subnetwork", Of: func(o *Options) any { return &o.Subnetwork }},
	{Name: "no_use_public_ips", Of: func(o *Options) any { return &o.NoPublicIPs }},
	{Name: "dataflow_kms_key", Of: func(o *Options) any { return &o.KMSKey }},
	{Name: "sdk_container_image", Of: func(o *Options) any { return &o.WorkerImage }},
	{Name: "worker_binary", Of: func(o *Options) any { return &o.WorkerBinary }},
	{Name: "experiments", Of: func(o *Options) any { return &o.Experiments }},
	{Name: "dataflow_service_options", Of: func(o *Options) any { return &o.ServiceOptions }},
	{Name: "dry_run", Of: func(o *Options) any { return &o.DryRun }},
	{Name: "template_location", Of: func(o *Options) any { return &o.TemplateLocation }},
	{Name: "dataflow_endpoint", Of: func(o *Options) any { return &o.Endpoint }},
	{Name: "on_stop", Of: func(o *Options) any { return &o.OnStop }},
	{Name: "shards", Of: func(o *Options) any { return &o.Shards }},
	{Name: "update", Of: func(o *Options) any { return &o.Update }},
	{Name: "transform_name_mapping", Of: func(o *Options) any { return &o.TransformNames }},
}

// refused are flags of the SDK that can't be given, and why.
var refused = map[string]string{
	"streaming":                      "it follows from the sources",
	"enable_streaming_engine":        "it is always on for streams, and bounded jobs have none",
	"worker_harness_container_image": "give sdk_container_image",
	"environment_type":               "workers are containers, always",
	"environment_config":             "give sdk_container_image",
	"parallelism":                    "Dataflow ignores it: give num_workers and max_num_workers",
	"use_public_ips":                 "give no_use_public_ips",
	"zone":                           "give worker_zone",
	"async":                          "give on_stop=leave, and stop this process when the job is there",
	"execute_async":                  "give on_stop=leave, and stop this process when the job is there",
}

var options = option.Set[Options]{Runner: "dataflow", Fields: fields, Refused: refused}

// Parse reads options written as name=value. It reports all faults; only Validate knows whether the values
// make sense.
func Parse(pairs []string) (Options, error) { return options.Parse(pairs) }

// Names are those of the options that Parse takes.
func Names() []string { return options.Names() }

func (o Options) withDefaults() Options {
	o.TempLocation = cmp.Or(o.TempLocation, strings.TrimSuffix(o.StagingLocation, "/")+"/tmp")
	o.JobName = cmp.Or(o.JobName, "millrace")
	o.WorkerImage = cmp.Or(o.WorkerImage, core.DefaultDockerImage)
	o.OnStop = cmp.Or(o.OnStop, StopCancel)
	return o
}

var (
	projects = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	regions  = regexp.MustCompile(`^[a-z]+-[a-z]+\d+$`)
	jobNames = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	services = regexp.MustCompile(`^https?://[^/]+/$`)
	buckets  = regexp.MustCompile(`^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/|$)`)
	subnets  = regexp.MustCompile(`(?:^|/)regions/([^/]+)/subnetworks/[^/]+$`)
	keys     = regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$`)
	meaning  = regexp.MustCompile(`@[0-9a-f]{8}\b`) // of a stage's state, in its name
	labelKey = regexp.MustCompile(`^\p{Ll}[\p{Ll}\p{Lo}\p{N}_-]{0,62}$`)
	labelVal = regexp.MustCompile(`^[\p{Ll}\p{Lo}\p{N}_-]{0,63}$`)
)

// Validate reports all that is wrong with the options for a graph whose sources have no end, or for one that is
// bounded.
func (o Options) Validate(stream bool) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("dataflow: "+format, args...)) }
	d := o.withDefaults()
	matches := func(name, value string, like *regexp.Regexp, advice string) {
		if value != "" && !like.MatchString(value) {
			fault("%s %q: %s", name, value, advice)
		}
	}
	for _, f := range []struct{ name, value, is string }{
		{"project", o.Project, "the id of a Google Cloud project"}, {"region", o.Region, "as europe-west1"},
		{"staging_location", o.StagingLocation, "a folder that workers read, as gs://bucket/staging"},
	} {
		if f.value == "" {
			fault("%s is missing: %s", f.name, f.is)
		}
	}
	matches("project", o.Project, projects, "give the project's id, not its name or number")
	matches("region", o.Region, regions, "give a region, as europe-west1")
	matches("staging_location", o.StagingLocation, buckets, "give a folder, as gs://bucket/staging")
	matches("temp_location", o.TempLocation, buckets, "give a folder, as gs://bucket/tmp")
	matches("template_location", o.TemplateLocation, buckets, "give an object, as gs://bucket/job.json")
	matches("job_name", o.JobName, jobNames, "a letter, then letters, digits and dashes, all lower case, 63 at most")
	matches("dataflow_endpoint", o.Endpoint, services, "give the URL of the API, ending in a slash")
	matches("dataflow_kms_key", o.KMSKey, keys, "give projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY")
	if o.WorkerZone != "" && !strings.HasPrefix(o.WorkerZone, o.Region+"-") {
		fault("worker_zone %q: is not in the region %s", o.WorkerZone, o.Region)
	}
	if o.ServiceAccount != "" && !strings.Contains(o.ServiceAccount, "@") {
		fault("service_account_email %q: give the account's email", o.ServiceAccount)
	}
	if m := subnets.FindStringSubmatch(o.Subnetwork); o.Subnetwork != "" && (m == nil || m[1] != o.Region) {
		fault("subnetwork %q: give regions/%s/subnetworks/NAME, in the job's region", o.Subnetwork, cmp.Or(o.Region, "REGION"))
	}
	if o.NoPublicIPs && o.WorkerImage == "" {
		fault("no_use_public_ips: workers then can't fetch %s from the internet: give sdk_container_image, one that they reach", d.WorkerImage)
	}
	o.validateWorkers(fault)
	o.validateLabels(fault)
	o.validateExperiments(fault)
	if !slices.Contains([]string{StopCancel, StopDrain, StopLeave}, d.OnStop) {
		fault("on_stop %q: choose %s, %s or %s", o.OnStop, StopCancel, StopDrain, StopLeave)
	}
	if o.OnStop != "" && (o.DryRun || o.TemplateLocation != "") {
		fault("on_stop has no effect: no job is started")
	}
	if o.DryRun && o.TemplateLocation != "" {
		fault("dry_run writes nothing: leave template_location out")
	}
	if o.Shards < 0 || o.Shards > 1<<16 {
		fault("shards: %d, want from 1 to %d", o.Shards, 1<<16)
	}
	for _, was := range slices.Sorted(maps.Keys(o.TransformNames)) {
		before, now := meaning.FindString(was), meaning.FindString(o.TransformNames[was])
		if before != "" && now != "" && before != now {
			fault("transform_name_mapping: %s: its state means something else than that of %s, which can't go on from it", was, o.TransformNames[was])
		}
	}
	switch {
	case !stream && (o.Update || o.TransformNames != nil || o.Shards != 0):
		fault("shards, update and transform_name_mapping are for streams, and this job is bounded: leave them out")
	case !stream && o.OnStop == StopDrain:
		fault("on_stop=%s is for streams, and this job is bounded: choose %s or %s", StopDrain, StopCancel, StopLeave)
	case o.Update && o.JobName == "":
		fault("update needs job_name, the name of the job to replace")
	case !o.Update && o.TransformNames != nil:
		fault("transform_name_mapping goes with update=true")
	}
	return errors.Join(errs...)
}

func (o Options) validateWorkers(fault func(string, ...any)) {
	for _, f := range []struct {
		name  string
		value int
	}{
		{"num_workers", o.NumWorkers}, {"max_num_workers", o.MaxNumWorkers},
		{"number_of_worker_harness_threads", o.WorkerThreads}, {"disk_size_gb", o.DiskSizeGB},
	} {
		if f.value < 0 {
			fault("%s: %d, want at least 1, or 0 for Dataflow's choice", f.name, f.value)
		}
	}
	if o.MaxNumWorkers > 0 && o.NumWorkers > o.MaxNumWorkers {
		fault("num_workers: %d, want at most max_num_workers (%d)", o.NumWorkers, o.MaxNumWorkers)
	}
	switch o.AutoscalingAlgorithm {
	case "", Throughput:
	case Fixed:
		if o.MaxNumWorkers > 0 {
			fault("max_num_workers has no effect with autoscaling_algorithm=%s: give num_workers", Fixed)
		}
	default:
		fault("autoscaling_algorithm %q: choose %s or %s", o.AutoscalingAlgorithm, Throughput, Fixed)
	}
	if err := o.checkBinary(); err != nil {
		fault("worker_binary: %w", err)
	}
}

func (o Options) validateLabels(fault func(string, ...any)) {
	if len(o.Labels) > 64 {
		fault("labels: %d, want 64 at most", len(o.Labels))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Labels)) {
		if !labelKey.MatchString(k) || !labelVal.MatchString(o.Labels[k]) {
			fault("labels: %s=%s: lower-case letters, digits, _ and -, 63 at most, a letter first in a name", k, o.Labels[k])
		}
	}
}

func (o Options) validateExperiments(fault func(string, ...any)) {
	for _, e := range o.Experiments {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case strings.HasPrefix(name, "disable_") && strings.Contains(name, "runner"), name == "enable_streaming_java_runner":
			fault("experiments: %s: Go runs on Dataflow's portable runner alone", name)
		case slices.Contains(always(true), name):
			fault("experiments: %s: it is always given where it has an effect", name)
		}
	}
}

// always are the experiments that the SDK's own runner gives.
func always(stream bool) []string {
	e := []string{"beam_fn_api", "use_runner_v2", "use_unified_worker", "use_portable_job_submission"}
	if stream {
		e = append(e, "enable_streaming_engine", "enable_windmill_service")
	}
	return e
}

// armMachines have other processors than the rest.
var armMachines = regexp.MustCompile(`^(t2a|c4a|n4a)-`)

// binary is the path of what workers run.
func (o Options) binary() (string, error) {
	if o.WorkerBinary != "" {
		return o.WorkerBinary, nil
	}
	return os.Executable()
}

// checkBinary looks whether workers can run their binary.
func (o Options) checkBinary() error {
	path, err := o.binary()
	if err != nil {
		return err
	}
	want, arch := elf.EM_X86_64, "amd64"
	if armMachines.MatchString(o.MachineType) {
		want, arch = elf.EM_AARCH64, "arm64"
	}
	f, err := elf.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s is no program for Linux: build one by GOOS=linux GOARCH=%s CGO_ENABLED=0 go build ./cmd/millrace", path, arch)
	}
	defer f.Close()
	if f.Machine != want {
		return fmt.Errorf("%s is for %v, and the machines are %s: build one by GOOS=linux GOARCH=%s CGO_ENABLED=0 go build ./cmd/millrace", path, f.Machine, arch, arch)
	}
	return nil
}
