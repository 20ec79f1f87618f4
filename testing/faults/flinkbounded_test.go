package faults

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/testing/shareddata"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	"github.com/millrace-ml/millrace/transforms/deadletter"
)

var flinkAll = flag.Bool("flink-all", false, "let the runners score all 1,754,155 transactions of the handbook, not some tens of thousands")

// TestFlinkBounded: what a run to the end writes does not depend on the runner: the same scores and features, to
// the bit, the same alerts and dead letters, into a folder and into single files, by several subtasks as by one
// process.
func TestFlinkBounded(t *testing.T) {
	t.Setenv(asCommand, "1") // to what the TaskManagers start too
	source, rows, bad := "", 1_754_155, 0
	if *flinkAll {
		source = shareddata.Path(t, "fraud-handbook/transactions.csv.gz")
	} else {
		source, rows, bad = simulated(t)
	}
	cluster := components.Flink(t, local.Options{TaskManagers: 2, Slots: 1, Heap: 512 << 20, Settings: patient})
	registry := filepath.Join(t.TempDir(), "registry")
	publish(t, registry)
	var want written
	var dir string // of the run on Flink
	for _, engine := range []string{"direct", "prism", "flink"} {
		dir = t.TempDir()
		got := runOn(t, engine, cluster, dir, source, registry)
		if len(got.scores) != rows || len(got.dead) != bad {
			t.Errorf("%s: %d scores and %d dead letters, want %d and %d", engine, len(got.scores), len(got.dead), rows, bad)
		}
		if blocked := len(got.alerts); blocked == 0 || blocked == rows {
			t.Errorf("%s: %d alerts of %d events: nothing was decided", engine, blocked, rows)
		}
		if !strings.Contains(got.says, strconv.Itoa(rows+bad)+" events") && !strings.Contains(got.says, strconv.Itoa(rows)+" events") {
			t.Errorf("%s doesn't say how many events it read", engine)
		}
		t.Logf("%s: scores %016x in %d files, alerts %016x, dead letters %016x", engine, sum(got.scores), got.files, sum(got.alerts), sum(got.dead))
		if want.scores == nil {
			want = got
			continue
		}
		same(t, engine+": scores", got.scores, want.scores)
		same(t, engine+": alerts", got.alerts, want.alerts)
		same(t, engine+": dead letters", got.dead, want.dead)
	}
	if !*flinkAll {
		testFlinkSkew(t, cluster, source, featureLog(dir))
		testFlinkReplay(t, cluster, source, registry, want.scores)
	}
}

// runOn lets a runner score a source into a folder, in which the features are logged too.
func runOn(t *testing.T, engine string, cluster *local.Cluster, dir, source, registry string) written {
	t.Helper()
	logged := ""
	if !*flinkAll {
		logged = ", feature_log: " + featureLog(dir)
	}
	args := append([]string{
		"run", "fraud", "--source", source, "--registry", registry, "--features",
		"--set", "models[0].decide=[{name: block, when: score >= 0.5}, {name: pass}]",
		"--set", fmt.Sprintf("sinks={scores: %[1]s/scores/, alerts: {url: %[1]s/alerts.jsonl, when: \"decision == 'block'\"}, dead_letters: %[1]s/dead.jsonl%[2]s}", dir, logged),
	}, on(engine, cluster)...)
	took := func() float64 { return 0 }
	if engine == "flink" {
		took = meter(t, cluster)
	}
	begin := time.Now()
	c := start(t, args...)
	if code := c.exit(15 * time.Minute); code != 0 {
		t.Fatalf("%s: exit code %d", engine, code)
	}
	seconds, usage := time.Since(begin).Seconds(), c.cmd.ProcessState
	t.Logf("%s: %.1f s, %.1f s of CPU", engine, seconds, usage.UserTime().Seconds()+usage.SystemTime().Seconds()+took())
	got := read(t, dir)
	got.says = c.says()
	return got
}

func featureLog(dir string) string { return filepath.Join(dir, "log") + "/" }

// testFlinkSkew: nothing differs in the log of a run on Flink, and a comparison on a cluster with another history
// reports the differences that one here does.
func testFlinkSkew(t *testing.T, cluster *local.Cluster, source, log string) {
	compare := func(history string, code int, args ...string) string {
		c := start(t, append([]string{"skew", "fraud", "--log", log, "--source", history, "--json"}, args...)...)
		if got := c.exit(10 * time.Minute); got != code {
			t.Errorf("exit code %d of a comparison with %s, want %d", got, history, code)
		}
		says := c.says()
		return says[max(0, strings.Index(says, "{")) : strings.LastIndexByte(says, '}')+1]
	}
	compare(source, 0, "--runner", "direct")
	part := filepath.Join(source, "payments-[012].jsonl")
	want := compare(part, 1, "--runner", "direct")
	if got := compare(part, 1, on("flink", cluster)...); got != want || got == "" {
		t.Errorf("on Flink it reports %s\nwant %s", got, want)
	}
}

// testFlinkReplay: letters of events that a stricter use case refused are scored by a replay on a cluster as by one
// here, into the same bytes, and as if they had been good from the start.
func testFlinkReplay(t *testing.T, cluster *local.Cluster, source, registry string, want map[string]uint64) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	do := func(args ...string) string {
		t.Helper()
		c := start(t, append(args, "--source", source, "--registry", registry, "--features", "--set", "models[0].decide=[{name: block, when: score >= 0.5}, {name: pass}]")...)
		if code := c.exit(10 * time.Minute); code != 0 {
			t.Fatalf("%v: exit code %d", args, code)
		}
		return c.says()
	}
	do("run", "fraud", "--runner", "direct", "--set", "event.fields.TX_AMOUNT={type: decimal, scale: 2, min: 5}", "--sink", in("strict.jsonl"), "--dead-letters", in("letters.jsonl"))
	flink := append(on("flink", cluster), "--sink", in("flink.jsonl"), "--dead-letters", in("flink-dead.jsonl"))
	here := []string{"--runner", "direct", "--sink", in("direct.jsonl"), "--dead-letters", in("direct-dead.jsonl")}
	for _, args := range [][]string{here, flink} {
		says := do(append([]string{"replay", "fraud", "--from", in("letters.jsonl"), "--class", "range"}, args...)...)
		if !strings.Contains(says, " replayed (") {
			t.Errorf("a replay says %s", says)
		}
	}
	text, err := os.ReadFile(in("direct.jsonl"))
	check(t, err)
	other, err := os.ReadFile(in("flink.jsonl"))
	check(t, err)
	if !bytes.Equal(text, other) {
		t.Errorf("a replay on Flink wrote other bytes: %d, want %d", len(other), len(text))
	}
	replayed, strict := digests(t, scoreKey, in("flink.jsonl")), digests(t, scoreKey, in("strict.jsonl"))
	if len(replayed) == 0 || len(replayed)+len(strict) != len(want) {
		t.Errorf("%d events replayed and %d scored before, want %d in all", len(replayed), len(strict), len(want))
	}
	for id, d := range replayed {
		if want[id] != d {
			t.Fatalf("event %s has other features or another score than if it had been good from the start", id)
		}
	}
}

// simulated is a folder of four files with the payments of some weeks; some of its lines can't be read.
func simulated(t *testing.T) (folder string, good, bad int) {
	t.Helper()
	var files [4]bytes.Buffer
	n := 0
	check(t, simulate.Fraud(simulate.Params{Days: 56, Customers: 400, Terminals: 800, Radius: 8, Seed: 7}, func(r simulate.Row) error {
		b := &files[n*7%13%4]
		b.Write(append(appendPayment(b.AvailableBuffer(), r, r.Time), '\n'))
		if n%500 == 3 {
			fmt.Fprintf(b, `{"TRANSACTION_ID":"broken-%d"}`+"\n", n)
			bad++
		}
		n++
		return nil
	}))
	folder = filepath.Join(t.TempDir(), "payments") + "/"
	check(t, os.MkdirAll(folder, 0o755))
	for i := range files {
		check(t, os.WriteFile(fmt.Sprintf("%spayments-%d.jsonl", folder, i), files[i].Bytes(), 0o644))
	}
	return folder, n, bad
}

// written is what a run has written: a digest of each line by its event, and of each dead letter by its record.
type written struct {
	scores, alerts, dead map[string]uint64
	files                int    // of scores
	says                 string // of the command
}

func read(t *testing.T, dir string) written {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, "scores", "*.jsonl"))
	check(t, err)
	return written{
		scores: digests(t, scoreKey, parts...),
		alerts: digests(t, scoreKey, filepath.Join(dir, "alerts.jsonl")),
		dead:   digests(t, letterKey, filepath.Join(dir, "dead.jsonl")),
		files:  len(parts),
	}
}

// scoreKey is the id of a line that begins with it, and what of the line is compared: all.
func scoreKey(line []byte) (string, []byte, error) {
	id := lineID(line)
	if id < 0 {
		return "", nil, fmt.Errorf("no score: %q", line)
	}
	return strconv.Itoa(id), line, nil
}

// letterKey is a letter's record, and what does not depend on when it was written.
func letterKey(line []byte) (string, []byte, error) {
	l, err := deadletter.Parse(line)
	return string(l.Original), fmt.Appendf(nil, "%s %s %+v", l.Class, l.Message, l.Place), err
}

// digests are those of the lines of files, none of which may have the key of another.
func digests(t *testing.T, key func([]byte) (string, []byte, error), paths ...string) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, path := range paths {
		f, err := os.Open(path)
		check(t, err)
		defer f.Close()
		s := bufio.NewScanner(f)
		for s.Scan() {
			k, text, err := key(s.Bytes())
			check(t, err)
			if all[k] != 0 {
				t.Fatalf("%s stands twice, in %s too", k, path)
			}
			d := sha256.Sum256(text)
			all[k] = binary.BigEndian.Uint64(d[:]) | 1
		}
		check(t, s.Err())
	}
	return all
}

// sum is a digest of all, in whatever order.
func sum(all map[string]uint64) (total uint64) {
	for _, d := range all {
		total += d
	}
	return total
}

func same(t *testing.T, what string, got, want map[string]uint64) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	var differ []string
	for k, d := range want {
		if got[k] != d {
			differ = append(differ, k)
		}
	}
	slices.Sort(differ)
	t.Errorf("%s: %d of %d differ, and there are %d, as %v", what, len(differ), len(want), len(got), differ[:min(3, len(differ))])
}
