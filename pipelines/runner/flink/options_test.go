package flink

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	o, err := Parse([]string{"endpoint=js:1", "parallelism=4", "unaligned=true", "checkpoint_interval=2s", "state_backend=rocksdb", "storage_path=s3://b/c"})
	if err != nil {
		t.Fatal(err)
	}
	want := Options{Endpoint: "js:1", Parallelism: 4, Unaligned: true, CheckpointInterval: 2 * time.Second, StateBackend: "rocksdb", StoragePath: "s3://b/c"}
	if d := cmp.Diff(want, o); d != "" {
		t.Error(d)
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	_, err := Parse([]string{"paralelism=4", "parallelism=four", "unaligned=maybe", "bundle_time=10", "rest", "tolerable_checkpoint_failure_number=7", "streaming=true"})
	if err == nil {
		t.Fatal("no fault")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, part := range []string{
		"paralelism: unknown; there are endpoint, rest,", `parallelism: "four" is no number`, `unaligned: "maybe" is neither`, `bundle_time: "10" is no duration`,
		`"rest": write name=value`, "tolerable_checkpoint_failure_number: can't be set: the runner ignores it", "streaming: can't be set: it follows from the sources",
	} {
		if i >= len(lines) || !strings.Contains(lines[i], part) {
			t.Errorf("fault %d misses %q in\n%v", i, part, err)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o      Options
		stream bool
		want   []string
	}{
		"nothing, bounded":   {},
		"nothing, stream":    {stream: true},
		"all":                {o: Options{Environment: Process, EnvironmentConfig: `{"command":"/boot"}`, WorkerBinary: self, Retries: 3, RetryDelay: time.Second, StateBackend: "rocksdb", StoragePath: "file:///c", SavepointPath: "/s", FreshState: true, OnStop: StopSavepoint, SavepointDir: "file:///d"}, stream: true},
		"stream's, bounded":  {o: Options{CheckpointInterval: time.Second, BundleTime: time.Second, SavepointPath: "/s"}, want: []string{"bundle_time is for streams", "checkpoint_interval is for streams", "savepoint_path is for streams"}},
		"addresses":          {o: Options{Endpoint: "js", REST: "ftp://x", EnvironmentConfig: "pool"}, want: []string{"endpoint", "environment_config", "rest"}},
		"process":            {o: Options{Environment: Process}, want: []string{"for PROCESS give the path"}},
		"process, bad json":  {o: Options{Environment: Process, EnvironmentConfig: "{"}, want: []string{"for PROCESS give a path, or JSON"}},
		"environment":        {o: Options{Environment: "POD"}, want: []string{`environment "POD": choose`}},
		"worker":             {o: Options{WorkerBinary: "/no/such"}, want: []string{"worker_binary"}},
		"loopback":           {o: Options{Environment: Loopback, WorkerBinary: self}, want: []string{"leave both out"}},
		"numbers":            {o: Options{Parallelism: 200, SDKWorkerParallelism: -1, Retries: -2, RetryDelay: time.Second}, want: []string{"max_parallelism: 128", "retries: -2", "retry_delay", "sdk_worker_parallelism: -1"}},
		"backend, no path":   {o: Options{StateBackend: "rocksdb"}, stream: true, want: []string{"storage_path: state_backend=rocksdb needs one"}},
		"path, no backend":   {o: Options{StoragePath: "file:///c"}, stream: true, want: []string{"storage_path goes with state_backend"}},
		"backend":            {o: Options{StateBackend: "memory"}, stream: true, want: []string{"choose hashmap or rocksdb"}},
		"fresh, no path":     {o: Options{FreshState: true}, stream: true, want: []string{"fresh_state goes with savepoint_path"}},
		"stop":               {o: Options{OnStop: "drain", SavepointDir: "file:///d"}, stream: true, want: []string{"on_stop", "savepoint_dir"}},
		"durations":          {o: Options{BundleTime: time.Minute, CheckpointInterval: time.Microsecond, MinPause: time.Hour}, stream: true, want: []string{"bundle_time: 1m0s", "checkpoint_interval", "min_pause"}},
		"negative durations": {o: Options{BundleTime: -1, BundleSize: -1}, stream: true, want: []string{"bundle_size", "bundle_time"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.o.Validate(c.stream)
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no fault")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("%d faults, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, part := range c.want {
				if !strings.Contains(lines[i], part) {
					t.Errorf("fault %d is %q, want %q", i, lines[i], part)
				}
			}
		})
	}
}

// TestBeamOptions holds the names and the kinds that a real Flink was seen to obey.
func TestBeamOptions(t *testing.T) {
	t.Parallel()
	text := func(o Options, stream bool) map[string]any {
		out := map[string]any{}
		for name, v := range o.withDefaults(stream).beam(stream) {
			out[name] = v.AsInterface()
		}
		return out
	}
	bounded := map[string]any{"streaming": false, "finish_bundle_before_checkpointing": true, "parallelism": 2., "max_parallelism": 128., "sdk_worker_parallelism": 1.}
	if d := cmp.Diff(bounded, text(Options{Parallelism: 2}, false)); d != "" {
		t.Error(d)
	}
	stream := map[string]any{
		"streaming": true, "finish_bundle_before_checkpointing": true, "parallelism": 1., "max_parallelism": 256., "sdk_worker_parallelism": 1.,
		"max_bundle_size": 100000., "max_bundle_time_mills": 10., "checkpointing_interval": 5000., "min_pause_between_checkpoints": 500.,
		"checkpoint_timeout_millis": 600000., "num_concurrent_checkpoints": 1., "fail_on_checkpointing_errors": false, "unaligned_checkpoint_enabled": true,
		"externalized_checkpoints_enabled": true, "retain_externalized_checkpoints_on_cancellation": true,
		"state_backend": "rocksdb", "state_backend_storage_path": "file:///c", "savepoint_path": "/s", "allow_non_restored_state": false,
		"number_of_execution_retries": 5., "execution_retry_delay": 2000., "object_reuse": true, "operator_chaining": false,
	}
	o := Options{MaxParallelism: 256, Unaligned: true, StateBackend: "rocksdb", StoragePath: "file:///c", SavepointPath: "/s", Retries: 5, RetryDelay: 2 * time.Second, ObjectReuse: true}
	if d := cmp.Diff(stream, text(o, true)); d != "" {
		t.Error(d)
	}
	if got := text(Options{StateBackend: "hashmap", StoragePath: "file:///c"}, true)["state_backend"]; got != "filesystem" {
		t.Errorf("the backend hashmap is sent as %v, want the runner's name, filesystem", got)
	}
	if _, ok := text(Options{Parallelism: 2}, true)["operator_chaining"]; ok {
		t.Error("a job of two subtasks is not chained")
	}
	if got := text(Options{Retries: -1}, false)["number_of_execution_retries"]; got != 0. {
		t.Errorf("retries -1 is sent as %v, want 0", got)
	}
}
