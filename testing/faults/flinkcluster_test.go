package faults

import (
	"context"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
)

var flinkWait = flag.Duration("flink-wait", 5*time.Minute, "for how long a job on Flink may do nothing before it is given up")

// Settings of a cluster on a machine with other work, where who lives may be late to say so: patient if nothing is
// killed under it, watchful otherwise. Who is dead is known by its port.
var (
	patient  = map[string]string{"heartbeat.timeout": "300000", "pekko.ask.timeout": "300 s"}
	watchful = map[string]string{"heartbeat.timeout": "60000"}
)

// ordered are the flags of a stream that is scored in the order of event time. No partition of it is idle: each gets a trailer.
var ordered = []string{"--order", "event_time", "--lateness", "1m", "--features", "--set", "stream.idle=0"}

// place is where and how a job runs, by the names of the options of --flink.
type place map[string]string

// at is a cluster, and what is otherwise.
func at(c *local.Cluster, other place) place {
	kind, config := c.Environment()
	return place{"endpoint": c.JobServer(), "rest": c.REST(), "environment": kind, "environment_config": config}.and(other)
}

// over is a job of so many subtasks a stage.
func over(parallelism int) place { return place{"parallelism": strconv.Itoa(parallelism)} }

// spread is a stream over so many subtasks, with checkpoints often enough for a test.
func spread(parallelism int) place { return over(parallelism).and(place{"checkpoint_interval": "2s"}) }

// and is the place with some options more, or others.
func (p place) and(more place) place {
	all := maps.Clone(p)
	maps.Copy(all, more)
	return all
}

func (p place) flags() []string {
	flags := []string{"--runner", "flink"}
	for _, name := range slices.Sorted(maps.Keys(p)) {
		flags = append(flags, "--flink", name+"="+p[name])
	}
	return flags
}

// on are the flags of a runner, of that for Flink with a cluster.
func on(engine string, c *local.Cluster) []string {
	if engine == "flink" {
		return at(c, over(2)).flags()
	}
	return []string{"--runner", engine}
}

// near lets the command find a cluster as that of the user.
func near(t *testing.T, cluster *local.Cluster) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	home, err := local.DefaultDir()
	check(t, err)
	check(t, os.MkdirAll(filepath.Dir(home), 0o755))
	check(t, os.Symlink(cluster.Dir(), home))
}

// alone waits until the tests before have given a cluster's two slots back. What this one leaves, as it does if it
// fails, is cancelled.
func alone(t *testing.T, cluster *local.Cluster) {
	t.Helper()
	f, err := flink.Open(cluster.REST())
	check(t, err)
	t.Cleanup(func() {
		jobs, err := f.Jobs(context.Background())
		for _, j := range jobs {
			if !j.State.Ended() {
				err = errors.Join(err, f.Cancel(context.Background(), j.ID))
			}
		}
		if err != nil { // one that just ends is no fault
			t.Logf("cancelling what is left: %v", err)
		}
	})
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		have, err := f.Overview(t.Context())
		if err == nil && have.FreeSlots == 2 {
			return
		}
		if time.Since(begin) > *flinkWait {
			t.Fatalf("%d of two slots are free: %v", have.FreeSlots, err)
		}
	}
}

// stopped ends the job that a command runs, with a savepoint, and returns where that is.
func stopped(t *testing.T, c *command, more ...string) (path string) {
	t.Helper()
	drain := start(t, append([]string{"jobs", "drain", "fraud"}, more...)...)
	if code := drain.exit(*flinkWait); code != 0 {
		t.Fatalf("jobs drain: exit code %d", code)
	}
	found := regexp.MustCompile(`savepoint_path=(\S+)`).FindStringSubmatch(drain.says())
	if found == nil {
		t.Fatalf("jobs drain doesn't say where the savepoint is: %s", drain.says())
	}
	if code := c.exit(*flinkWait); code != 0 {
		t.Errorf("exit code %d of the job that was stopped", code)
	}
	return found[1]
}
