package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/skew"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/testing/conformance/memory"
)

// served is a folder with fraud's history, a model, and the log of what was served.
type served struct {
	t   *testing.T
	dir string
}

func newServed(t *testing.T) served {
	s := served{t, t.TempDir()}
	history(t, s.path("history.csv"), 1<<62)
	u, err := spec.Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.Open(t.Context(), s.path("registry"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := &picky{Most: 1e9, Features: []models.Feature{{Name: "tx_amount", Type: models.Number}, {Name: "terminal_risk_7d", Type: models.Number}}}
	threshold := 150.0
	b := &bundle.Bundle{Manifest: bundle.Manifest{Fingerprint: u.Features().Fingerprint(), Threshold: &threshold}, Model: m, Golden: []float32{1, 0}}
	v, err := r.Publish(t.Context(), "fraud", b)
	if err == nil {
		err = r.SetAlias(t.Context(), "fraud", "champion", v, "test", registry.Any)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s served) path(name string) string { return filepath.Join(s.dir, name) }

// run scores, into three sinks at once.
func (s served) run(source string, more ...string) {
	s.t.Helper()
	args := []string{"run", "fraud", "--source", source, "--registry", s.path("registry"), "--dead-letters", s.path("dead") + "/",
		"--set", fmt.Sprintf("sinks={scores: %[1]s/scores/, alerts: {url: %[1]s/alerts/, when: \"decision == 'block'\"}, feature_log: %[1]s/log/}", s.dir)}
	if code, _, stderr := call(s.t, append(args, more...)...); code != exitOK {
		s.t.Fatalf("running: %d %s", code, stderr)
	}
}

func (s served) skew(more ...string) (int, skew.Report, string) {
	s.t.Helper()
	code, stdout, stderr := call(s.t, append([]string{"skew", "fraud", "--log", s.path("log/"), "--source", s.path("history.csv"), "--runner", "direct", "--json"}, more...)...)
	var r skew.Report
	if stdout != "" {
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			s.t.Fatalf("%v in %s", err, stdout)
		}
	}
	return code, r, stderr
}

// shuffled puts the history into a topic in the order of time + noise below the lateness.
func (s served) shuffled(topic *memory.Topic, lateness time.Duration) {
	s.t.Helper()
	text, err := os.ReadFile(s.path("history.csv"))
	if err != nil {
		s.t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	type item struct {
		at   int64
		line string
	}
	var items []item
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ",")
		if f[0] == "TRANSACTION_ID" {
			continue
		}
		at, err := time.Parse(time.RFC3339, f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		items = append(items, item{at.UnixMicro() + rng.Int64N(lateness.Microseconds()),
			fmt.Sprintf(`{"TRANSACTION_ID":%s,"TX_DATETIME":%q,"CUSTOMER_ID":%s,"TERMINAL_ID":%s,"TX_AMOUNT":%s,"TX_FRAUD":%s}`, f[0], f[1], f[2], f[3], f[4], f[5])})
	}
	slices.SortStableFunc(items, func(a, b item) int { return int(a.at - b.at) })
	for _, it := range items {
		fill(topic, it.line)
	}
	topic.End()
}

func (s served) events() int64 {
	text, err := os.ReadFile(s.path("history.csv"))
	if err != nil {
		s.t.Fatal(err)
	}
	return int64(bytes.Count(text, []byte("\n"))) - 1
}

// lines are those of the files of a folder.
func (s served) lines(folder string) (all []string) {
	s.t.Helper()
	files, err := filepath.Glob(s.path(folder + "/*.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	slices.Sort(all)
	return all
}

// alerted holds that the alerts are the blocked ones of the scores, and the log has a row for each score.
func (s served) alerted() {
	s.t.Helper()
	var blocked []string
	scores := s.lines("scores")
	for _, l := range scores {
		if strings.Contains(l, `"decision":"block"`) {
			blocked = append(blocked, l)
		}
	}
	if len(blocked) == 0 || len(blocked) == len(scores) || int64(len(scores)) != s.events() {
		s.t.Errorf("%d of %d scores are blocked, of %d events", len(blocked), len(scores), s.events())
	}
	if alerts := s.lines("alerts"); !slices.Equal(alerts, blocked) {
		s.t.Errorf("%d alerts for %d blocked events", len(alerts), len(blocked))
	}
	tables, err := filepath.Glob(s.path("log/*.parquet"))
	if err != nil || len(tables) == 0 {
		s.t.Fatalf("no log: %v %v", tables, err)
	}
	rows, blocks := 0, 0
	for _, path := range tables {
		type logged struct {
			ID       string  `parquet:"id"`
			Decision string  `parquet:"decision,optional"`
			Class    *string `parquet:"class,optional"`
			Model    string  `parquet:"model"`
		}
		all, err := parquet.ReadFile[logged](path)
		if err != nil {
			s.t.Fatal(err)
		}
		rows += len(all)
		for _, r := range all {
			if r.Model != "fraud@1" || r.ID == "" || r.Class != nil {
				s.t.Fatalf("%s holds %+v", path, r)
			}
			if r.Decision == "block" {
				blocks++
			}
		}
	}
	if rows != len(scores) || blocks != len(blocked) {
		s.t.Errorf("the log has %d rows, %d blocked; %d and %d were served", rows, blocks, len(scores), len(blocked))
	}
}

// TestSkew: what a bounded run and a stream in the order of event time have served is what history gives,
// to the bit; a stream in the order of arrival has seen other windows, and skew says which.
func TestSkew(t *testing.T) {
	s := newServed(t)
	s.run(s.path("history.csv"), "--runner", "direct")
	s.alerted()
	code, r, stderr := s.skew()
	if code != exitOK || r.Logged != s.events() || r.Compared != r.Logged || len(r.Features) != 18 || len(r.Beyond()) > 0 {
		t.Fatalf("a bounded run: exit %d, %+v\n%s", code, r, stderr)
	}
	if code, r, stderr := s.skew("--sample", "0.1", "--from", "2018-05-01T00:00:00Z"); code != exitOK || r.Logged == 0 || r.Logged > s.events()/12 || r.Compared != r.Logged {
		t.Errorf("a sample: exit %d, %d of %d rows\n%s", code, r.Compared, r.Logged, stderr)
	}
	other := `features[0].expr=TX_AMOUNT * 2.0`
	if code, _, stderr := s.skew("--set", other); code != exitFailed || !strings.Contains(stderr, "served with features") {
		t.Errorf("other features: exit %d, %s", code, stderr)
	}

	const lateness = 6 * time.Hour
	events := memory.New(t, "skew")
	events.PerPoll = 100
	s.shuffled(events, lateness)
	for _, order := range []string{"event_time", "arrival"} {
		for _, folder := range []string{"scores", "alerts", "log", "dead"} {
			if err := os.RemoveAll(s.path(folder)); err != nil {
				t.Fatal(err)
			}
		}
		s.run(events.Address(), "--order", order, "--lateness", "6h", "--set", "stream.roll=1d")
		s.alerted()
		code, r, stderr := s.skew()
		if r.Compared != s.events() || r.Missing > 0 || len(r.Features) != 18 {
			t.Fatalf("order %s: exit %d, %+v\n%s", order, code, r, stderr)
		}
		if order == "event_time" {
			if code != exitOK || len(r.Beyond()) > 0 {
				t.Errorf("order event_time: exit %d, %v differ\n%s", code, r.Beyond(), stderr)
			}
			continue
		}
		beyond := r.Beyond()
		if code != exitFailed || !slices.Contains(beyond, "customer_tx_count_1d") || slices.Contains(beyond, "tx_amount") || slices.Contains(beyond, "night") {
			t.Errorf("order arrival: exit %d, %v differ\n%s", code, beyond, stderr)
		}
		if code, _, stderr := s.skew("--tolerance", "2"); code != exitOK {
			t.Errorf("a tolerance for all: exit %d, %s", code, stderr)
		}
		for _, f := range r.Features {
			t.Logf("%s: %d of %d differ, by %g, %g; %v", f.Name, f.Differ, f.Rows, f.Absolute, f.Relative, f.First)
		}
	}
}

func TestSkewRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--log", dir, "--runner", "dataflow"}, exitUsage, "skew works in folders of this machine"},
		{[]string{"--log", dir, "--runner", "flink", "--flink", "checkpoint_interval=5s"}, exitUsage, "checkpoint_interval is for streams"},
		{[]string{"--log", dir, "--flink", "parallelism=2"}, exitUsage, "--flink goes with --runner flink"},
		{[]string{"--source", dir}, exitUsage, "sinks.feature_log"},
		{[]string{"--log", dir, "--sample", "2"}, exitUsage, "above 0 to 1"},
		{[]string{"--log", dir, "--tolerance", "-1"}, exitUsage, "tolerance"},
		{[]string{"--log", dir, "--from", "May"}, exitUsage, "2026-01-31T18:00:00Z"},
		{[]string{"--log", filepath.Join(dir, "none.parquet"), "--source", filepath.Join(dir, "none.csv")}, exitFailed, "none.parquet"},
		{[]string{"--log", dir, "--source", "memory://none"}, exitUsage, "no end"},
		{[]string{"--log", dir, "--set", "sinks.feature_log={url: x/, format: csv}"}, exitUsage, "which is Parquet"},
		{[]string{"--log", dir, "--set", "sinks.feature_log=x/", "--set", "features[0].name=score"}, exitUsage, "score"},
	} {
		if code, _, stderr := call(t, append([]string{"skew", "fraud"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit code %d, want %d; it says %q, want %q in it", c.args, code, c.code, stderr, c.says)
		}
	}
}
