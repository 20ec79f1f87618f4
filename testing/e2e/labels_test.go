package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/pipelines/spec/builtin"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
)

// labeledFraud is the built-in use case with labels that come as events of their own, and carry what they need
// or are joined to their events.
func labeledFraud(t *testing.T, source string, join bool) *spec.UseCase {
	t.Helper()
	text, ok := builtin.Text("fraud")
	if !ok {
		t.Fatal("there is no built-in fraud")
	}
	yaml := regexp.MustCompile(`(?m)^    TX_FRAUD: .*\n`).ReplaceAllString(string(text), "")
	yaml = regexp.MustCompile(`(?m)^label: .*$`).ReplaceAllString(yaml, `label:
  source: `+source+`
  expr: TX_FRAUD
  time: REPORTED_AT
  id: REPORT_ID
  fields:
    REPORT_ID: id
    TRANSACTION_ID: id
    TX_DATETIME: timestamp
    TERMINAL_ID: id
    REPORTED_AT: timestamp
    TX_FRAUD: bool
`)
	if join {
		yaml = strings.Replace(yaml, "    TX_DATETIME: timestamp\n    TERMINAL_ID: id\n    REPORTED_AT", "    REPORTED_AT", 1)
		yaml = strings.Replace(yaml, "  id: REPORT_ID\n", "  id: REPORT_ID\n  join: {horizon: 14d, rate: 10}\n", 1)
	}
	u, err := spec.Parse("labeled.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func runLabeled(t *testing.T, name string, u *spec.UseCase, o scoring.Options) map[string]int64 {
	t.Helper()
	plan, err := scoring.Features(u, o)
	if err != nil {
		t.Fatal(err)
	}
	p, s := beam.NewPipelineWithRoot()
	scoring.Build(s, plan)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	res, err := runner.Run(ctx, name, p)
	if err != nil {
		t.Fatal(err)
	}
	return res.Counters
}

// countOrphans counts the dead letters of labels; there shall be no others.
func countOrphans(t *testing.T, files ...string) (n int) {
	t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if !strings.Contains(line, `"class":"label_orphan"`) || !strings.Contains(line, `"id":"1000000`) {
				t.Errorf("in %s: %s", f, line)
			}
			n++
		}
	}
	return n
}

// TestLabelsOfTheirOwn: transactions without their labels, and labels that are reported seven days later, some
// of them first wrong and then corrected, give the features of transactions that hold their labels and of
// which it is said that these are known after seven days: bounded from files, and in a stream whatever the order
// within the lateness, where labels carry the time and the terminal of their transactions, and where they are
// joined to them.
func TestLabelsOfTheirOwn(t *testing.T) {
	rows, text := transactions(t, 60, 80)
	want := bounded(t, text)
	label := regexp.MustCompile(`"TX_FRAUD":[01],`)
	bare := regexp.MustCompile(`,"TX_FRAUD":(true|false)`)
	for id, line := range want {
		want[id] = label.ReplaceAllString(line, "")
	}
	var events, labels []string
	var known []simulate.Row // when labels come
	for i, r := range rows {
		events = append(events, bare.ReplaceAllString(text[i], ""))
		report := func(n int, after time.Duration, fraud bool) {
			at := r
			at.Time += after.Microseconds()
			known = append(known, at)
			labels = append(labels, fmt.Sprintf(`{"REPORT_ID":%d,"TRANSACTION_ID":%d,"TX_DATETIME":%q,"TERMINAL_ID":%d,"REPORTED_AT":%q,"TX_FRAUD":%t}`,
				2*r.ID+int64(n), r.ID, time.UnixMicro(r.Time).UTC().Format(time.RFC3339), r.Terminal, time.UnixMicro(at.Time).UTC().Format(time.RFC3339), fraud))
		}
		if i%5 == 0 {
			report(0, 24*time.Hour, !r.Fraud)
		}
		report(1, 7*24*time.Hour, r.Fraud)
	}
	const ghosts = 7 // labels of no transaction
	for i := range ghosts {
		at := rows[i*100]
		at.Time += int64(time.Hour / time.Microsecond)
		known = append(known, at)
		labels = append(labels, fmt.Sprintf(`{"REPORT_ID":%d,"TRANSACTION_ID":%d,"TX_DATETIME":%q,"TERMINAL_ID":%d,"REPORTED_AT":%q,"TX_FRAUD":true}`,
			10_000_000+i, 10_000_000+i, time.UnixMicro(rows[i*100].Time).UTC().Format(time.RFC3339), at.Terminal, time.UnixMicro(at.Time).UTC().Format(time.RFC3339)))
	}
	keys := regexp.MustCompile(`"TX_DATETIME":"[^"]*","TERMINAL_ID":\d+,`)
	without := make([]string, len(labels))
	for i, l := range labels {
		without[i] = keys.ReplaceAllString(l, "")
	}
	reports := func(join bool) []string {
		if join {
			return without
		}
		return labels
	}
	bounded := func(t *testing.T, join bool) {
		dir := t.TempDir()
		write := func(name string, lines []string) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		const out = "memory://labeledout"
		delete(sent, out)
		runLabeled(t, runner.Prism, labeledFraud(t, write("labels.jsonl", reports(join)), join), scoring.Options{
			Sources: []string{write("events.jsonl", events)}, Sink: out, DeadLetters: filepath.Join(dir, "dead.jsonl"),
		})
		compare(t, out, want)
		if n := countOrphans(t, filepath.Join(dir, "dead.jsonl")); n != ghosts {
			t.Errorf("%d labels are told to have no transaction, want %d", n, ghosts)
		}
	}
	t.Run("bounded", func(t *testing.T) { bounded(t, false) })
	t.Run("bounded, joined", func(t *testing.T) { bounded(t, true) })
	for i, c := range []struct {
		partitions, shards, batch int
		lateness                  time.Duration
		join                      bool
	}{{1, 8, 1000, 0, false}, {2, 3, 100, 6 * time.Hour, false}, {2, 3, 100, 6 * time.Hour, true}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			in, beside, out := fmt.Sprintf("memory://labeled%d", i), fmt.Sprintf("memory://labels%d", i), fmt.Sprintf("memory://labeledout%d", i)
			delete(sent, out)
			rng := rand.New(rand.NewPCG(4, uint64(i)))
			lines[in], lines[beside], perPoll = spread(rows, events, c.partitions, c.lateness, rng), spread(known, reports(c.join), c.partitions, c.lateness, rng), c.batch
			dead := t.TempDir()
			counters := runLabeled(t, runner.Prism, labeledFraud(t, beside, c.join), scoring.Options{
				Sources: []string{in}, Sink: out, DeadLetters: dead + "/", Shards: c.shards,
				Stream: &scoring.Stream{Order: "event_time", Lateness: &c.lateness, InProcess: true, Cores: 2},
			})
			compare(t, out, want)
			if counters["features.frontier_violation"]+counters["source.late"] > 0 {
				t.Error("late, or behind the watermark:", counters)
			}
			all, err := filepath.Glob(filepath.Join(dead, "[^_]*"))
			if err != nil {
				t.Fatal(err)
			}
			// Where labels are joined all wait for the watermark, which passes everything at the end; else the
			// windows of the last rows may reach one.
			if n := countOrphans(t, all...); n > ghosts || n < ghosts && c.join || n == 0 {
				t.Errorf("%d labels are told to have no transaction, want %d", n, ghosts)
			}
			t.Log(counters)
		})
	}
}

// TestLabelsOnArrival: on arrival every transaction comes out once, labels are joined, and none is left over.
func TestLabelsOnArrival(t *testing.T) {
	rows, text := transactions(t, 50, 80)
	bare := regexp.MustCompile(`,"TX_FRAUD":(true|false)`)
	var events, labels []string
	for i, r := range rows {
		events = append(events, bare.ReplaceAllString(text[i], ""))
		labels = append(labels, fmt.Sprintf(`{"REPORT_ID":%d,"TRANSACTION_ID":%d,"REPORTED_AT":%q,"TX_FRAUD":%t}`,
			r.ID, r.ID, time.UnixMicro(r.Time+int64(time.Hour/time.Microsecond)).UTC().Format(time.RFC3339), r.Fraud))
	}
	const in, beside, out = "memory://arriving", "memory://arrivinglabels", "memory://arrivedlabeled"
	delete(sent, out)
	lateness := time.Duration(0)
	rng := rand.New(rand.NewPCG(5, 5))
	lines[in], lines[beside], perPoll = spread(rows, events, 1, 0, rng), spread(rows, labels, 1, 0, rng), 100
	counters := runLabeled(t, runner.Prism, labeledFraud(t, beside, true), scoring.Options{
		Sources: []string{in}, Sink: out, DeadLetters: t.TempDir() + "/",
		Stream: &scoring.Stream{Order: "arrival", Lateness: &lateness, InProcess: true, Cores: 2},
	})
	for id, values := range sent[out] {
		if len(values) != 1 {
			t.Fatalf("event %s was sent %d times", id, len(values))
		}
	}
	if n := counters["labels.joined"]; len(sent[out]) != len(rows) || counters["deadletter.written"] > 0 || n == 0 {
		t.Errorf("%d events of %d were sent, %d labels joined: %v", len(sent[out]), len(rows), n, counters)
	}
	t.Log(counters)
}
