package flink

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/millrace-ml/millrace/pipelines/runner/internal/option"
)

// Where the workers of a job run.
const (
	// External workers are started by a pool beside each TaskManager (boot --worker_pool).
	External = "EXTERNAL"
	// Process workers are started by the TaskManagers, which have boot.
	Process = "PROCESS"
	// Docker workers are containers that the TaskManagers start.
	Docker = "DOCKER"
	// Loopback workers run in this process, which the TaskManagers must reach: on this machine alone.
	Loopback = "LOOPBACK"
)

// What becomes of a job when the context of its Wait ends.
const (
	// StopCancel ends the job at once.
	StopCancel = "cancel"
	// StopSavepoint stops a stream with a savepoint, from which another job can go on.
	StopSavepoint = "savepoint"
)

// Options say how a graph runs on a Flink cluster. The zero value of a field is its default.
type Options struct {
	// Endpoint is the address of Beam's job server (default localhost:8099).
	Endpoint string
	// REST is the address of Flink's REST interface, a URL or host:port (default localhost:8081).
	REST string
	// Name is the job's (default millrace). Jobs are found by it: give one that no other job has.
	Name string

	// Environment is where workers run (default EXTERNAL).
	Environment string
	// EnvironmentConfig is for EXTERNAL the address of the pool as TaskManagers see it (default
	// localhost:50000), for PROCESS the path of boot on their machines, or a JSON object with command and
	// env, for DOCKER the image.
	EnvironmentConfig string
	// WorkerBinary is what workers run (default: this executable). It is sent with each job.
	WorkerBinary string
	// SDKWorkerParallelism is the number of worker processes a TaskManager (default 1).
	SDKWorkerParallelism int

	// Parallelism is the number of subtasks of a stage, and of slots that the job takes (default 1).
	Parallelism int
	// MaxParallelism is the number of key groups (default 128). State can't be restored with another one.
	MaxParallelism int
	// ObjectReuse saves copies between operators of a TaskManager.
	ObjectReuse bool
	// BundleSize is how many elements end a bundle (default 100,000: an element is a batch of events), and
	// BundleTime for how long one gathers (default 10 ms; less costs more than it saves). Both hold for
	// streams; bounded jobs have bundles as large as their input.
	BundleSize int
	BundleTime time.Duration
	// Retries is how often a job that failed starts again, after RetryDelay; 0 leaves both to the cluster's
	// restart strategy, but for a bounded job that fails with one error of a Go worker twice in a row, which is
	// cancelled; -1 means never.
	Retries    int
	RetryDelay time.Duration

	// The rest is for streams alone.

	// CheckpointInterval is the time between two checkpoints (default 5 s), MinPause the least time from
	// the end of one to the next (default 500 ms), and after CheckpointTimeout one is given up (default
	// 10 min). Only one runs at a time, and bundles end before it.
	CheckpointInterval time.Duration
	MinPause           time.Duration
	CheckpointTimeout  time.Duration
	// Unaligned checkpoints overtake what waits between operators.
	Unaligned bool
	// StateBackend is hashmap or rocksdb (default: the cluster's), and needs StoragePath, the URL of a folder
	// for checkpoints that all machines see.
	StateBackend string
	StoragePath  string
	// DiscardCheckpoints deletes the last checkpoint when the job is cancelled.
	DiscardCheckpoints bool
	// SavepointPath is the savepoint or checkpoint that the job goes on from.
	SavepointPath string
	// Shards is into how many parts the graph's state is split; 0: whoever builds the graph says it. It is
	// noted beside savepoints, since it is fixed for the life of the state; see [Options.Resume].
	Shards int
	// FreshState lets the job start without the state of stages that it doesn't have any more, or that mean
	// something else now.
	FreshState bool
	// OnStop is what happens to the job when its context ends: cancel (default) or savepoint, written to
	// SavepointDir (default: the cluster's).
	OnStop       string
	SavepointDir string
}

// fields are the options by their names, for Parse.
var fields = []option.Field[Options]{
	{Name: "endpoint", Of: func(o *Options) any { return &o.Endpoint }},
	{Name: "rest", Of: func(o *Options) any { return &o.REST }},
	{Name: "name", Of: func(o *Options) any { return &o.Name }},
	{Name: "environment", Of: func(o *Options) any { return &o.Environment }},
	{Name: "environment_config", Of: func(o *Options) any { return &o.EnvironmentConfig }},
	{Name: "worker_binary", Of: func(o *Options) any { return &o.WorkerBinary }},
	{Name: "sdk_worker_parallelism", Of: func(o *Options) any { return &o.SDKWorkerParallelism }},
	{Name: "parallelism", Of: func(o *Options) any { return &o.Parallelism }},
	{Name: "max_parallelism", Of: func(o *Options) any { return &o.MaxParallelism }},
	{Name: "object_reuse", Of: func(o *Options) any { return &o.ObjectReuse }},
	{Name: "bundle_size", Of: func(o *Options) any { return &o.BundleSize }},
	{Name: "bundle_time", Of: func(o *Options) any { return &o.BundleTime }},
	{Name: "retries", Of: func(o *Options) any { return &o.Retries }},
	{Name: "retry_delay", Of: func(o *Options) any { return &o.RetryDelay }},
	{Name: "checkpoint_interval", Of: func(o *Options) any { return &o.CheckpointInterval }},
	{Name: "min_pause", Of: func(o *Options) any { return &o.MinPause }},
	{Name: "checkpoint_timeout", Of: func(o *Options) any { return &o.CheckpointTimeout }},
	{Name: "unaligned", Of: func(o *Options) any { return &o.Unaligned }},
	{Name: "state_backend", Of: func(o *Options) any { return &o.StateBackend }},
	{Name: "storage_path", Of: func(o *Options) any { return &o.StoragePath }},
	{Name: "discard_checkpoints", Of: func(o *Options) any { return &o.DiscardCheckpoints }},
	{Name: "savepoint_path", Of: func(o *Options) any { return &o.SavepointPath }},
	{Name: "shards", Of: func(o *Options) any { return &o.Shards }},
	{Name: "fresh_state", Of: func(o *Options) any { return &o.FreshState }},
	{Name: "on_stop", Of: func(o *Options) any { return &o.OnStop }},
	{Name: "savepoint_dir", Of: func(o *Options) any { return &o.SavepointDir }},
}

// refused are options of Beam's Flink runner that can't be given, and why.
var refused = map[string]string{
	"streaming":                           "it follows from the sources",
	"finish_bundle_before_checkpointing":  "it is always on: without it parts of a job may never start",
	"shutdown_sources_after_idle_ms":      "no checkpoint of a stream completes with it, and bounded jobs end without it",
	"tolerable_checkpoint_failure_number": "the runner ignores it",
	"fail_on_checkpointing_errors":        "it is always off: a stream goes on without checkpoints, says why they fail, and has them again when they don't",
	"environment_cache_millis":            "the runner ignores it unless Beam is in the TaskManagers' own class path",
	"checkpointing_mode":                  "state is exactly once, always",
	"num_concurrent_checkpoints":          "one checkpoint runs at a time, always",
}

var options = option.Set[Options]{Runner: "flink", Fields: fields, Refused: refused}

// Parse reads options written as name=value. It reports all faults; only Validate knows whether the values
// make sense.
func Parse(pairs []string) (Options, error) { return options.Parse(pairs) }

// Names are those of the options that Parse takes.
func Names() []string { return options.Names() }

func (o Options) withDefaults(stream bool) Options {
	o.Endpoint = cmp.Or(o.Endpoint, "localhost:8099")
	o.REST = cmp.Or(o.REST, "localhost:8081")
	o.Name = cmp.Or(o.Name, "millrace")
	o.Environment = cmp.Or(o.Environment, External)
	if o.Environment == External {
		o.EnvironmentConfig = cmp.Or(o.EnvironmentConfig, "localhost:50000")
	}
	o.SDKWorkerParallelism = cmp.Or(o.SDKWorkerParallelism, 1)
	o.Parallelism = cmp.Or(o.Parallelism, 1)
	o.MaxParallelism = cmp.Or(o.MaxParallelism, 128)
	o.OnStop = cmp.Or(o.OnStop, StopCancel)
	if stream {
		o.BundleSize = cmp.Or(o.BundleSize, 100_000)
		o.BundleTime = cmp.Or(o.BundleTime, 10*time.Millisecond)
		o.CheckpointInterval = cmp.Or(o.CheckpointInterval, 5*time.Second)
		o.MinPause = cmp.Or(o.MinPause, 500*time.Millisecond)
		o.CheckpointTimeout = cmp.Or(o.CheckpointTimeout, 10*time.Minute)
	}
	return o
}

// Validate reports all that is wrong with the options for a graph whose sources have no end, or for one
// that is bounded.
func (o Options) Validate(stream bool) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("flink: "+format, args...)) }
	if !stream {
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"bundle_size", o.BundleSize != 0}, {"bundle_time", o.BundleTime != 0},
			{"checkpoint_interval", o.CheckpointInterval != 0}, {"min_pause", o.MinPause != 0}, {"checkpoint_timeout", o.CheckpointTimeout != 0},
			{"unaligned", o.Unaligned}, {"state_backend", o.StateBackend != ""}, {"storage_path", o.StoragePath != ""},
			{"discard_checkpoints", o.DiscardCheckpoints}, {"savepoint_path", o.SavepointPath != ""}, {"shards", o.Shards != 0}, {"fresh_state", o.FreshState},
			{"on_stop=savepoint", o.OnStop == StopSavepoint}, {"savepoint_dir", o.SavepointDir != ""},
		} {
			if f.set {
				fault("%s is for streams, and this job is bounded: leave it out", f.name)
			}
		}
	}
	d := o.withDefaults(stream)
	if _, _, err := net.SplitHostPort(d.Endpoint); err != nil {
		fault("endpoint %q: give the job server's host:port", d.Endpoint)
	}
	if _, err := restURL(d.REST); err != nil {
		fault("rest %q: give the URL of Flink's REST interface, as http://localhost:8081", d.REST)
	}
	switch d.Environment {
	case External:
		if _, _, err := net.SplitHostPort(d.EnvironmentConfig); err != nil {
			fault("environment_config %q: for EXTERNAL give the host:port of the worker pool", d.EnvironmentConfig)
		}
	case Process:
		if d.EnvironmentConfig == "" {
			fault("environment_config: for PROCESS give the path of Beam's boot on the TaskManagers' machines")
		} else if strings.HasPrefix(d.EnvironmentConfig, "{") {
			if command(d.EnvironmentConfig) == "" {
				fault(`environment_config: for PROCESS give a path, or JSON as {"command":"/opt/boot"}`)
			}
		}
	case Docker:
	case Loopback:
		if d.EnvironmentConfig != "" || d.WorkerBinary != "" {
			fault("environment_config, worker_binary: with LOOPBACK the workers are in this process: leave both out")
		}
	default:
		fault("environment %q: choose %s, %s, %s or %s", d.Environment, External, Process, Docker, Loopback)
	}
	if d.WorkerBinary != "" {
		if _, err := os.Stat(d.WorkerBinary); err != nil {
			fault("worker_binary: %w", err)
		}
	}
	for name, n := range map[string]int{"sdk_worker_parallelism": d.SDKWorkerParallelism, "parallelism": d.Parallelism} {
		if n < 1 {
			fault("%s: %d, want at least 1", name, n)
		}
	}
	if d.MaxParallelism < d.Parallelism || d.MaxParallelism > 1<<15 {
		fault("max_parallelism: %d, want from parallelism (%d) to %d", d.MaxParallelism, d.Parallelism, 1<<15)
	}
	if d.Retries < -1 {
		fault("retries: %d, want -1 for never, 0 for the cluster's strategy, or a number", d.Retries)
	}
	if d.RetryDelay < 0 || d.RetryDelay > 0 && d.Retries <= 0 {
		fault("retry_delay: %v goes with retries", d.RetryDelay)
	}
	if stream {
		d.validateStream(fault)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// command is the path of boot in the configuration of PROCESS, a path or JSON; empty if the JSON has none.
func command(config string) string {
	if !strings.HasPrefix(config, "{") {
		return config
	}
	var c struct{ Command string }
	_ = json.Unmarshal([]byte(config), &c)
	return c.Command
}

func (o Options) validateStream(fault func(string, ...any)) {
	if o.BundleSize < 1 {
		fault("bundle_size: %d, want at least 1", o.BundleSize)
	}
	for name, d := range map[string]time.Duration{"bundle_time": o.BundleTime, "checkpoint_interval": o.CheckpointInterval, "checkpoint_timeout": o.CheckpointTimeout} {
		if d < time.Millisecond {
			fault("%s: %v, want at least 1ms", name, d)
		}
	}
	if o.BundleTime > time.Second {
		fault("bundle_time: %v would be the least latency of each stage: a second is the most", o.BundleTime)
	}
	if o.MinPause < 0 || o.MinPause >= o.CheckpointTimeout {
		fault("min_pause: %v, want less than checkpoint_timeout (%v)", o.MinPause, o.CheckpointTimeout)
	}
	switch o.StateBackend {
	case "":
	case "hashmap", "rocksdb":
		if o.StoragePath == "" {
			fault("storage_path: state_backend=%s needs one, as file:///mnt/checkpoints or s3://bucket/checkpoints", o.StateBackend)
		}
	default:
		fault("state_backend %q: choose hashmap or rocksdb", o.StateBackend)
	}
	if o.StoragePath != "" {
		if u, err := url.Parse(o.StoragePath); err != nil || u.Scheme == "" {
			fault("storage_path %q: give a URL, as file:///mnt/checkpoints", o.StoragePath)
		}
		if o.StateBackend == "" {
			fault("storage_path goes with state_backend")
		}
	}
	if o.Shards < 0 || o.Shards > 1<<16 {
		fault("shards: %d, want from 1 to %d", o.Shards, 1<<16)
	}
	if o.FreshState && o.SavepointPath == "" {
		fault("fresh_state goes with savepoint_path: without one all state is fresh")
	}
	if o.OnStop != StopCancel && o.OnStop != StopSavepoint {
		fault("on_stop %q: choose %s or %s", o.OnStop, StopCancel, StopSavepoint)
	}
	if o.SavepointDir != "" && o.OnStop != StopSavepoint {
		fault("savepoint_dir goes with on_stop=%s", StopSavepoint)
	}
}

// beam are the pipeline options of the Java runner, by name. Numbers have to be numbers: the SDK's worker
// ends at once if parallelism is text, and the job then waits for it without a word.
func (o Options) beam(stream bool) map[string]*structpb.Value {
	number := func(n int) *structpb.Value { return structpb.NewNumberValue(float64(n)) }
	millis := func(d time.Duration) *structpb.Value { return number(int(d.Milliseconds())) }
	yes := structpb.NewBoolValue(true)
	v := map[string]*structpb.Value{
		"streaming":                          structpb.NewBoolValue(stream),
		"finish_bundle_before_checkpointing": yes,
		"parallelism":                        number(o.Parallelism),
		"max_parallelism":                    number(o.MaxParallelism),
		"sdk_worker_parallelism":             number(o.SDKWorkerParallelism),
	}
	if o.ObjectReuse {
		v["object_reuse"] = yes
	}
	if o.Retries != 0 {
		v["number_of_execution_retries"] = number(max(0, o.Retries))
		if o.RetryDelay > 0 {
			v["execution_retry_delay"] = millis(o.RetryDelay)
		}
	}
	if !stream {
		return v
	}
	if o.Parallelism <= 1 { // see doc.go
		v["operator_chaining"] = structpb.NewBoolValue(false)
	}
	v["max_bundle_size"] = number(o.BundleSize)
	v["max_bundle_time_mills"] = millis(o.BundleTime)
	v["checkpointing_interval"] = millis(o.CheckpointInterval)
	v["min_pause_between_checkpoints"] = millis(o.MinPause)
	v["checkpoint_timeout_millis"] = millis(o.CheckpointTimeout)
	v["num_concurrent_checkpoints"] = number(1)
	v["fail_on_checkpointing_errors"] = structpb.NewBoolValue(false) // see doc.go
	v["unaligned_checkpoint_enabled"] = structpb.NewBoolValue(o.Unaligned)
	v["externalized_checkpoints_enabled"] = yes
	v["retain_externalized_checkpoints_on_cancellation"] = structpb.NewBoolValue(!o.DiscardCheckpoints)
	if o.StateBackend != "" {
		name := o.StateBackend
		if name == "hashmap" {
			name = "filesystem" // the runner has kept Flink's name of old
		}
		v["state_backend"] = structpb.NewStringValue(name)
	}
	if o.StoragePath != "" {
		v["state_backend_storage_path"] = structpb.NewStringValue(o.StoragePath)
	}
	if o.SavepointPath != "" {
		v["savepoint_path"] = structpb.NewStringValue(o.SavepointPath)
		v["allow_non_restored_state"] = structpb.NewBoolValue(o.FreshState)
	}
	return v
}
