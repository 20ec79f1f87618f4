package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTestVerb(t *testing.T) {
	code, stdout, stderr := call(t, "test", "fraud")
	if code != exitOK || strings.Count(stdout, "ok    ") != 4 {
		t.Errorf("the built-in tests: exit code %d\n%s%s", code, stdout, stderr)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "own.yaml"), `name: own
event:
  id: ID
  time: AT
  fields: {ID: id, AT: timestamp, WHO: id, AMOUNT: {type: decimal, scale: 2, min: 0}, BAD: {type: bool, optional: true}}
label: {expr: BAD, delay: 1d}
features:
  - entity: WHO
    windows: [1d, 2n]
    aggregates:
      m: {of: mean(AMOUNT + 1), where: AMOUNT > 2}
      risk: mean(BAD)
  - {name: twice, expr: m_1d * 2}
models:
  - {name: own, kind: binary, decide: [{name: stop, when: score >= threshold}, {name: pass}]}
`)
	tests := write(t, filepath.Join(dir, "own_test.yaml"), `cases:
  - name: wrong
    events:
      - {ID: 1, AT: 2018-06-01T10:00:00Z, WHO: w, AMOUNT: 9, BAD: 1}
      - {ID: 2, AT: 2018-06-01T11:00:00Z, WHO: w, AMOUNT: 1, BAD: 1}
      - {ID: 3, AT: 2018-06-01T12:00:00Z, WHO: v, AMOUNT: 5}
      - {ID: 4, AT: 2018-06-02T10:00:00Z, WHO: w, AMOUNT: 4}
      - {ID: 5, AT: 2018-06-02T10:30:00Z, WHO: w, AMOUNT: -4}
      - {ID: 6, AT: 2018-06-02T10:30:00Z, WHO: w, AMOUNT: 3}
    scores: {4: 0.5}
    expect:
      1: {dead_letter: schema}
      4: {features: {m_1d: 7, m_2n: 5, risk_2n: 1, twice: 11}, decision: pass}
  - {name: right, events: [{ID: 1, AT: 2018-06-01T10:00:00Z, WHO: w, AMOUNT: 0.1}], expect: {1: {features: {m_1d: null}}}}
`)
	code, stdout, stderr = call(t, "test", filepath.Join(dir, "own.yaml"))
	want := `FAIL  wrong
      event 1, dead letter: want schema, got none
      event 4, m_1d: want 7, got 5
          mean(AMOUNT + 1) of WHO w in (2018-06-01T10:00:00Z, 2018-06-02T10:00:00Z]: 2 events
            2018-06-01T11:00:00Z  2  2  does not count: not AMOUNT > 2
            2018-06-02T10:00:00Z  4  5
      event 4, risk_2n: want 1, got null
          mean(BAD) of WHO w up to 2018-06-02T10:00:00Z: 2 events
            2018-06-01T11:00:00Z  2  true  does not count: its label is not yet known
            2018-06-02T10:00:00Z  4  null  does not count: its label is not yet known
      event 4, twice: want 11, got 10
          m_1d * 2, where m_1d = 5
      event 4, decision: want pass, got stop
          the score is 0.5
      event 5, dead letter: want none, got range
          field "AMOUNT" is "-4"; want a number with at most 2 decimal places of at least 0
ok    right
`
	if d := cmp.Diff(want, stdout); d != "" || code != exitFailed || !strings.Contains(stderr, "6 expectations of own do not hold") {
		t.Errorf("exit code %d, %s\n%s", code, stderr, d)
	}
	write(t, tests, "cases:\n  - {name: x, events: [3], expect: {1: {feature: {m_1d: 1}}}}\n")
	code, _, stderr = call(t, "test", filepath.Join(dir, "own.yaml"))
	if code != exitUsage || !strings.Contains(stderr, "own_test.yaml:2:24: cases[0].events[0]") || !strings.Contains(stderr, "did you mean features?") {
		t.Errorf("faults: exit code %d, %s", code, stderr)
	}
	if code, _, stderr = call(t, "test", "fraud", filepath.Join(dir, "none.yaml")); code != exitUsage || !strings.Contains(stderr, "there is no file") {
		t.Errorf("no file: exit code %d, %s", code, stderr)
	}
}

// TestDamagedBundles spoils a published bundle in each way and looks that both verbs refuse it, say why
// and what to do, and leave no output behind.
func TestDamagedBundles(t *testing.T) {
	dir := t.TempDir()
	csv, whole := filepath.Join(dir, "history.csv"), filepath.Join(dir, "registry")
	history(t, csv, 1<<62)
	code, _, stderr := call(t, "retrain", "fraud", "--runner", "direct", "--source", csv, "--registry", whole,
		"--report", filepath.Join(dir, "report"), "--dead-letters", filepath.Join(dir, "dead.jsonl"),
		"--set", "training.select={from: 2018-04-20, folds: 1}", "--set", "training.report={from: 2018-05-04, folds: 1}",
		"--set", "training.candidates=[{name: lr, kind: logistic}]")
	if code != exitOK {
		t.Fatal(stderr)
	}
	find := func(root, part string) string {
		var found string
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.Contains(filepath.ToSlash(p), part) {
				found = p
			}
			return err
		})
		if err != nil || found == "" {
			t.Fatalf("no %s in the registry: %v", part, err)
		}
		return found
	}
	change := func(part string, how func([]byte) []byte) func(root string) {
		return func(root string) {
			p := find(root, part)
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if b = how(b); b == nil {
				err = os.Remove(p)
			} else {
				err = os.WriteFile(p, b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const copyAgain = "copy the bundle again or publish anew"
	for _, c := range []struct {
		name   string
		damage func(root string)
		why    string
		more   []string
	}{
		{"whole", func(string) {}, "", nil},
		{"a bit flipped", change("/model/", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), copyAgain, nil},
		{"truncated", change("/model/", func(b []byte) []byte { return b[:len(b)/2] }), copyAgain, nil},
		{"a file missing", change("/model/", func([]byte) []byte { return nil }), copyAgain, nil},
		{"goldens missing", change("golden.json", func([]byte) []byte { return nil }), copyAgain, nil},
		{"manifest truncated", change("manifest.json", func(b []byte) []byte { return b[:len(b)/2] }), copyAgain, nil},
		{"manifest missing", change("manifest.json", func([]byte) []byte { return nil }), "", nil},
		{"manifest altered", change("manifest.json", func(b []byte) []byte {
			return regexp.MustCompile(`"threshold": ?[0-9.e-]+`).ReplaceAll(b, []byte(`"threshold": 0.0625`))
		}), "restore it or publish anew", nil},
		{"a foreign manifest", change("manifest.json", func([]byte) []byte { return []byte(`{"mlflow_version": "2.0"}`) }), "not a manifest of Millrace", nil},
		{"trained on other features", func(string) {}, "retrain, or use the use-case file that it was trained with", []string{"--set", "features[2].expr=TX_DATETIME.getHours() <= 7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			reg := filepath.Join(dir, "registry")
			if err := os.CopyFS(reg, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			c.damage(reg)
			ok := c.name == "whole"
			if len(c.more) == 0 {
				code, _, stderr := call(t, "models", "verify", "fraud@1", "--registry", reg)
				if (code == exitOK) != ok || !ok && code != exitFailed || !strings.Contains(stderr, c.why) {
					t.Errorf("verify: exit code %d, %q", code, stderr)
				}
			}
			engine := "direct"
			if c.name == "truncated" {
				engine = "prism"
			}
			args := append([]string{"run", "fraud", "--runner", engine, "--source", csv, "--registry", reg, "--model", "fraud@1",
				"--sink", filepath.Join(dir, "out.jsonl"), "--dead-letters", filepath.Join(dir, "dead.jsonl")}, c.more...)
			code, _, stderr := call(t, args...)
			if (code == exitOK) != ok || !ok && code != exitFailed || !strings.Contains(stderr, c.why) {
				t.Errorf("run: exit code %d, %q", code, stderr)
			}
			if !ok && (!strings.Contains(stderr, "fraud") || strings.Contains(stderr, "DoFn[")) {
				t.Errorf("the message is not for people: %s", stderr)
			}
			left, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil {
				t.Fatal(err)
			}
			if !ok && len(left) != 1 {
				t.Errorf("a refused model left %v", left)
			}
		})
	}
}

// TestCalibrate trains trees as they are and calibrated, and looks that the bundle says so and loads.
func TestCalibrate(t *testing.T) {
	dir := t.TempDir()
	csv := filepath.Join(dir, "history.csv")
	history(t, csv, 1<<62)
	for _, c := range []struct{ entry, kind, calibration string }{
		{"{name: trees, kind: gbdt, params: {trees: 20, depth: 3}}", "gbdt", "none"},
		{"{name: trees, kind: gbdt, params: {trees: 20, depth: 3}, calibrate: platt}", "calibrated", "platt"},
		{"{name: trees, kind: gbdt, params: {trees: 20, depth: 3}, calibrate: isotonic}", "calibrated", "isotonic"},
	} {
		reg := filepath.Join(dir, c.calibration)
		code, _, stderr := call(t, "retrain", "fraud", "--runner", "direct", "--source", csv, "--registry", reg,
			"--report", filepath.Join(dir, "report"), "--dead-letters", filepath.Join(dir, "dead.jsonl"),
			"--set", "training.select={from: 2018-04-20, folds: 1}", "--set", "training.report={from: 2018-05-04, folds: 1}",
			"--set", "training.candidates=["+c.entry+"]")
		if code != exitOK {
			t.Fatal(stderr)
		}
		_, stdout, _ := call(t, "models", "show", "fraud@1", "--registry", reg)
		var m struct {
			Kind        string `json:"kind"`
			Calibration string `json:"calibration"`
		}
		if err := json.Unmarshal([]byte(stdout), &m); err != nil {
			t.Fatal(err)
		}
		if m.Kind != c.kind || m.Calibration != c.calibration {
			t.Errorf("%s: the manifest says kind %s, calibration %s", c.entry, m.Kind, m.Calibration)
		}
		if code, _, stderr := call(t, "models", "verify", "fraud@1", "--registry", reg); code != exitOK {
			t.Errorf("%s: %s", c.entry, stderr)
		}
	}
}

func TestJSONLogs(t *testing.T) {
	broken := write(t, filepath.Join(t.TempDir(), "broken.yaml"), "name: x\nevnt: {}\n")
	dir := t.TempDir()
	for _, args := range [][]string{
		{"lint", broken, "--log-format", "json"},
		{"dance", "--log-format", "json"},
		{"simulate", "fraud", "--runner", "direct", "--days", "2", "--sink", filepath.Join(dir, "t.csv"), "--dead-letters", filepath.Join(dir, "d.jsonl"), "--log-format", "json"},
	} {
		_, _, stderr := call(t, args...)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		for _, line := range lines {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil || m["msg"] == "" || m["level"] == nil {
				t.Errorf("%v: %q is no JSON message: %v", args, line, err)
			}
		}
	}
	if code, _, stderr := call(t, "version", "--log-level", "loud"); code != exitUsage || !strings.Contains(stderr, "choose debug") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if code, _, stderr := call(t, "version", "--log-format", "xml"); code != exitUsage || !strings.Contains(stderr, "choose text or json") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if _, _, stderr := call(t, "simulate", "fraud", "--runner", "direct", "--days", "2", "--sink", filepath.Join(dir, "t.csv"), "--dead-letters", filepath.Join(dir, "d.jsonl"), "--log-level", "warn"); stderr != "" {
		t.Errorf("--log-level warn says %q", stderr)
	}
}

func TestConsole(t *testing.T) {
	var b bytes.Buffer
	c := newConsole(&b)
	c.format = "text"
	if err := c.setUp("info"); err != nil {
		t.Fatal(err)
	}
	c.show("1 event")
	c.show("2 events")
	slog.Warn("a model was refused", "model", "fraud@4")
	c.clear()
	got := regexp.MustCompile(`time=\S+`).ReplaceAllString(b.String(), "time=T")
	want := "\r\x1b[K1 event\r\x1b[K2 events\r\x1b[Ktime=T level=WARN msg=\"a model was refused\" model=fraud@4\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestProgress(t *testing.T) {
	if d := cmp.Diff("1,234,567 events, 90,000 a second; 40 behind; 3 dead letters; 1,000 scored by fraud@3, fraud@4",
		describe(telemetry.Totals{Read: 1234567, Lag: 40, DeadLetters: 3, Scored: 1000}, 90000.4, []string{"fraud@3", "fraud@4"})); d != "" {
		t.Error(d)
	}
	g := gauge{last: time.Unix(0, 0)}
	for i := int64(1); i <= 60; i++ {
		rate := int64(1000)
		if i > 20 {
			rate = 3000
		}
		g.turn(time.Unix(0, 0).Add(time.Duration(i)*liveEvery), g.read+rate/2)
		if i == 20 && (g.rate < 999 || g.rate > 1001) || i == 60 && (g.rate < 2990 || g.rate > 3001) {
			t.Errorf("after turn %d the gauge shows %v", i, g.rate)
		}
	}
	var b bytes.Buffer
	p := newProgress(&b)
	telemetry.Read(5000)
	telemetry.Scored("fraud@3", 4000)
	p.show(p.start.Add(2*time.Second), &gauge{last: p.start}, []string{"fraud@3"}, false)
	lag := telemetry.Snapshot().Lag // of what streams of other tests left
	if want := describe(telemetry.Totals{Read: 5000, Lag: lag, Scored: 4000}, 2500, []string{"fraud@3"}); !strings.HasSuffix(b.String(), "  "+want+"\n") {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// TestMetricsAddress asks for the metrics of a run, from the message that says where they are.
func TestMetricsAddress(t *testing.T) {
	pr, pw := io.Pipe()
	page := make(chan string, 1)
	go func() {
		var seen string
		buf := make([]byte, 4096)
		for {
			n, err := pr.Read(buf)
			seen += string(buf[:n])
			if m := regexp.MustCompile(`http://\S+`).FindString(seen); m != "" && len(page) == 0 {
				r, err := http.Get(m)
				if err != nil {
					page <- err.Error()
					continue
				}
				b, _ := io.ReadAll(r.Body)
				r.Body.Close()
				page <- string(b)
			}
			if err != nil {
				return
			}
		}
	}()
	c := common{runner: "direct", memory: "1GiB", metrics: "127.0.0.1:0"}
	stop, err := c.serveMetrics(t.Context(), newProgress(pw))
	if err != nil {
		t.Fatal(err)
	}
	if got := <-page; !strings.Contains(got, "millrace_events_read_total") {
		t.Errorf("/metrics gave %q", got)
	}
	stop()
	pw.Close()
}
