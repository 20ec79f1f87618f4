package faults

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/testing/components"
)

var flinkResume = flag.String("flink-resume", "1,2", "over how many subtasks a job on Flink is spread, one after the other, each from the savepoint of the one before; with commas")

// TestFlinkResume: a job on Flink is stopped with a savepoint under way and goes on from it over another number of
// subtasks, time and again, once with another version of the model. Its scores and features are those of a bounded
// run to the bit. What its state can't serve is refused.
func TestFlinkResume(t *testing.T) {
	var steps []int
	for _, text := range strings.Split(*flinkResume, ",") {
		n, err := strconv.Atoi(text)
		check(t, err)
		steps = append(steps, n)
	}
	t.Setenv(asCommand, "1") // to what the TaskManagers start too
	cluster := components.Flink(t, local.Options{TaskManagers: 2, Slots: (slices.Max(steps) + 1) / 2, Heap: 512 << 20, Settings: map[string]string{"metrics.fetcher.update-interval": "1000"}})
	b := newBed(t, components.Kafka(t))
	near(t, cluster)
	chunk := *flinkEvents / 4
	in, later := newPayments(t, (len(steps)+1)*chunk).split(t, len(steps)*chunk)
	want := in.bounded(t, b.registry)
	w := watch(t, b)
	var point string
	for i, parallelism := range steps {
		var from []string
		if i > 0 {
			from = savepoint(point)
		}
		c := b.resume(t, parallelism, from...)
		first, last := i*chunk, (i+1)*chunk
		if i == len(steps)-1 {
			last = len(in.lines)
		}
		sent := in.send(t, b, first, last)
		c.await("scored", first+chunk/2, w.ids)
		allWork(t, cluster, parallelism)
		if last == len(in.lines) {
			c.await("scored", last, w.ids)
		}
		point = stopped(t, c)
		sent()
		if i == 0 {
			refuseShards(t, b, steps, point)
			publish(t, b.registry)
		}
	}
	if second := w.count(`"fraud@2"`); second == 0 || second == len(in.lines) {
		t.Errorf("%d of %d lines are of the second version", second, len(in.lines))
	}
	w.rewrite(func(line string) string { return strings.ReplaceAll(line, `"fraud@2"`, `"fraud@1"`) }) // they are alike
	w.equal(t, want)
	changeFeatures(t, b, steps[len(steps)-1], point, in, later)
}

// split cuts events in two, about where it is told to, between two days.
func (e events) split(t *testing.T, at int) (before, after events) {
	t.Helper()
	for e.time(t, at).YearDay() == e.time(t, at-1).YearDay() {
		at++
	}
	return events{e.lines[:at]}, events{e.lines[at:]}
}

// resume is the command on the cluster of the user, over so many subtasks, from a savepoint if there is one.
func (b bed) resume(t *testing.T, parallelism int, more ...string) *command {
	t.Helper()
	return b.run(t, slices.Concat(ordered, spread(parallelism).flags(), more)...)
}

func savepoint(path string, more ...string) []string {
	return append([]string{"--flink", "savepoint_path=" + path}, more...)
}

// allWork wants the job's stages with state to have so many subtasks, each of which gets rows: shards are spread evenly.
func allWork(t *testing.T, cluster *local.Cluster, parallelism int) {
	t.Helper()
	f, err := flink.Open(cluster.REST())
	check(t, err)
	job, err := f.Find(t.Context(), "fraud")
	check(t, err)
	detail, err := f.Job(t.Context(), job.ID)
	check(t, err)
	stages := 0
	for _, v := range detail.Vertices {
		if !strings.Contains(v.Name, "feature.Compute") || strings.Contains(v.Name, "source.Read") { // where rows are sent to their shards
			continue
		}
		stages++
		var got []int64
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) { // Flink tells it a little later
			got = rowsIn(t, cluster, job.ID, v.ID)
			if len(got) == parallelism && !slices.Contains(got, 0) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("the subtasks of %s got %v batches, want some for each of %d", v.Name, got, parallelism)
				break
			}
		}
		t.Logf("over %d subtasks: %v", parallelism, got)
	}
	if stages != 2 {
		t.Errorf("%d stages with state, want 2", stages)
	}
}

// rowsIn are the records that the subtasks of a stage have got.
func rowsIn(t *testing.T, cluster *local.Cluster, job, stage string) (n []int64) {
	t.Helper()
	var vertex struct {
		Subtasks []struct {
			Metrics struct {
				In int64 `json:"read-records"`
			}
		}
	}
	check(t, cluster.Get(t.Context(), "/jobs/"+job+"/vertices/"+stage, &vertex))
	for _, s := range vertex.Subtasks {
		n = append(n, s.Metrics.In)
	}
	return n
}

// refused wants a command to end with a code, and to say why.
func refused(t *testing.T, c *command, code int, says ...string) {
	t.Helper()
	got := c.exit(*flinkWait)
	if got != code {
		t.Errorf("exit code %d, want %d; it says %s", got, code, c.says())
	}
	for _, text := range says {
		if !strings.Contains(c.says(), text) {
			t.Errorf("it doesn't say %q, but %s", text, c.says())
		}
	}
}

// refuseShards: another number of shards is refused, by the note beside the savepoint before anything starts, without
// it by Flink.
func refuseShards(t *testing.T, b bed, steps []int, point string) {
	parallelism, shards := steps[1], max(8, 4*steps[0]) // as scoring.Stream says
	other := savepoint(point, "--flink", fmt.Sprintf("shards=%d", 2*shards))
	refused(t, b.resume(t, parallelism, other...), 2, fmt.Sprintf("shards=%d", shards))
	note := filepath.Join(strings.TrimPrefix(point, "file:"), "millrace.json")
	check(t, os.Rename(note, note+".away"))
	refused(t, b.resume(t, parallelism, other...), 1, "number of shards")
	check(t, os.Rename(note+".away", note))
}

// changeFeatures: a use case whose features changed is refused, and goes if its state may be fresh: that of the entity
// whose features changed, and no other.
func changeFeatures(t *testing.T, b bed, parallelism int, point string, in, later events) {
	const change = "features[4].windows=[1d, 7d, 30d, 60d]" // of the terminals
	u, err := spec.Load("fraud", []string{change})
	check(t, err)
	b.registry, b.out = filepath.Join(t.TempDir(), "registry"), b.out+".changed"
	publishFor(t, b.registry, u)
	b.CreateTopic(b.out, 2)
	c := b.resume(t, parallelism, savepoint(point, "--set", change)...)
	refused(t, c, 1, "TERMINAL_ID@", "fresh_state=true")
	if strings.Contains(c.says(), "CUSTOMER_ID@") {
		t.Errorf("it refuses state that has not changed: %s", c.says())
	}

	w := watch(t, b)
	c = b.resume(t, parallelism, savepoint(point, "--set", change, "--flink", "fresh_state=true")...)
	later.send(t, b, 0, len(later.lines))
	waited := in.trailers(t) // since before the savepoint
	c.await("scored", len(waited)+len(later.lines), w.ids)
	c.drain()
	whole := events{slices.Concat(in.lines, waited, later.lines)}.bounded(t, b.registry, "--set", change)
	fresh := events{slices.Concat(waited, later.lines)}.bounded(t, b.registry, "--set", change)
	want, changed := map[int]string{}, 0
	for id, line := range fresh {
		want[id] = mixed(t, whole[id], line)
		if want[id] != mixed(t, whole[id], whole[id]) {
			changed++
		}
	}
	t.Logf("%d of %d events would have other features with the state that was dropped", changed, len(want)) // none of a history shorter than the label's delay
	w.rewrite(func(line string) string { return mixed(t, line, line) })
	w.equal(t, want)
}

// mixed are the features of an event as text: those of the terminal from one line of scores, all others from another.
func mixed(t *testing.T, line, terminal string) string {
	t.Helper()
	var all, some struct{ Features map[string]json.RawMessage }
	check(t, json.Unmarshal([]byte(line), &all))
	check(t, json.Unmarshal([]byte(terminal), &some))
	for name, value := range some.Features {
		if strings.HasPrefix(name, "terminal_") {
			all.Features[name] = value
		}
	}
	text, err := json.Marshal(all.Features)
	check(t, err)
	return string(text)
}
