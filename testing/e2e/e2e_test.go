package e2e_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
)

func TestMain(m *testing.M) {
	flag.Parse()
	beam.Init()
	os.Exit(m.Run())
}

var runners = []string{runner.Direct, runner.Prism}

// randomPayments are few cards and terminals over two months, labels some, ties in time many.
func randomPayments(n int, seed uint64) []payment {
	rng := rand.New(rand.NewPCG(seed, 1))
	start := time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC)
	out := make([]payment, n)
	for i := range out {
		out[i] = payment{
			ID: int64(i), At: start.Add(time.Duration(rng.IntN(60*24)) * time.Hour), Card: fmt.Sprintf("card-%d", rng.IntN(9)),
			Terminal: rng.Int32N(7), Amount: float64(rng.IntN(60_000)) / 100,
		}
		if rng.IntN(8) > 0 {
			fraud := rng.IntN(4) == 0
			out[i].Fraud = &fraud
		}
	}
	return out
}

// line is what the graph writes of a payment.
type line struct {
	ID       int64   `json:"id"`
	Amount   float64 `json:"tx_amount"`
	Weekend  bool    `json:"weekend"`
	Night    bool    `json:"night"`
	Count30  float64 `json:"card_tx_count_30d"`
	Mean1    float64 `json:"card_tx_mean_1d"`
	Mean7    float64 `json:"card_tx_mean_7d"`
	Delayed1 float64 `json:"terminal_tx_count_1d"`
	Risk7    float64 `json:"terminal_risk_7d"`
	Risk30   float64 `json:"terminal_risk_30d"`
	Model    string  `json:"model"`
	Score    float64 `json:"score"`
	Decision string  `json:"decision"`
}

// recount computes a line the slow way.
func recount(all []payment, p payment) line {
	day := 24 * time.Hour
	window := func(same func(payment) bool, delay, length time.Duration) (rows []payment) {
		end := p.At.Add(-delay)
		for _, q := range all {
			if same(q) && !q.At.After(end) && q.At.After(end.Add(-length)) && (q.At.Before(p.At) || q.ID <= p.ID) {
				rows = append(rows, q)
			}
		}
		return rows
	}
	card := func(q payment) bool { return q.Card == p.Card }
	terminal := func(q payment) bool { return q.Terminal == p.Terminal }
	mean := func(rows []payment) float64 {
		cents := 0.0
		for _, q := range rows {
			cents += math.Round(q.Amount * 100)
		}
		return cents / 100 / float64(len(rows))
	}
	risk := func(rows []payment) float64 {
		frauds, known := 0.0, 0.0
		for _, q := range rows {
			if q.Fraud != nil {
				known++
				if *q.Fraud {
					frauds++
				}
			}
		}
		return frauds / max(known, 1)
	}
	l := line{
		ID: p.ID, Amount: p.Amount, Weekend: p.At.Weekday() == time.Saturday || p.At.Weekday() == time.Sunday, Night: p.At.Hour() <= 6,
		Count30: float64(len(window(card, 0, 30*day))), Mean1: mean(window(card, 0, day)), Mean7: mean(window(card, 0, 7*day)),
		Delayed1: float64(len(window(terminal, 7*day, day))), Risk7: risk(window(terminal, 7*day, 7*day)), Risk30: risk(window(terminal, 7*day, 30*day)),
		Model: "mine", Decision: "pass",
	}
	l.Score = float64(float32(l.Amount)/1000 + float32(l.Risk7))
	if l.Score >= 0.5 || l.Weekend && l.Amount > 400 {
		l.Decision = "block"
	}
	return l
}

func near(a, b line) bool {
	close := func(x, y float64) bool { return math.Abs(x-y) <= 1e-12*math.Max(1, math.Abs(y)) }
	same := a.ID == b.ID && a.Weekend == b.Weekend && a.Night == b.Night && a.Model == b.Model && a.Decision == b.Decision
	return same && math.Abs(a.Score-b.Score) < 1e-6 && close(a.Amount, b.Amount) && close(a.Count30, b.Count30) && close(a.Mean1, b.Mean1) &&
		close(a.Mean7, b.Mean7) && close(a.Delayed1, b.Delayed1) && close(a.Risk7, b.Risk7) && close(a.Risk30, b.Risk30)
}

func TestOutside(t *testing.T) {
	all := randomPayments(600, 7)
	var first []string
	for _, name := range runners {
		dir := t.TempDir()
		p, s := beam.NewPipelineWithRoot()
		fraudGraph(s, beam.CreateList(s, all), filepath.Join(dir, "scores.jsonl"), filepath.Join(dir, "dead.jsonl"))
		if _, err := runner.Run(t.Context(), name, p); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "scores.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		slices.Sort(lines)
		seen := map[int64]bool{}
		blocked := 0
		for _, l := range lines {
			var got line
			if err := json.Unmarshal([]byte(l), &got); err != nil {
				t.Fatalf("%s: %v in %s", name, err, l)
			}
			if got.ID < 0 || got.ID >= int64(len(all)) || seen[got.ID] {
				t.Fatalf("%s: line of id %d is one too many", name, got.ID)
			}
			seen[got.ID] = true
			if want := recount(all, all[got.ID]); !near(got, want) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
			}
			if got.Decision == "block" {
				blocked++
			}
		}
		if len(seen) != len(all) {
			t.Errorf("%s: %d lines of %d payments", name, len(seen), len(all))
		}
		if blocked == 0 || blocked == len(all) {
			t.Errorf("%s: %d of %d blocked: nothing decided", name, blocked, len(all))
		}
		if dead, err := os.ReadFile(filepath.Join(dir, "dead.jsonl")); err != nil || len(dead) > 0 {
			t.Errorf("%s: dead letters %q, %v", name, dead, err)
		}
		if first == nil {
			first = lines
		} else if !slices.Equal(first, lines) {
			t.Errorf("%s wrote other lines than %s", name, runners[0])
		}
	}
}

// The promise is that such a graph takes less than 60 lines: from the event's type to the last call,
// blank lines and comments aside.
func TestOutsideIsShort(t *testing.T) {
	text, err := os.ReadFile("outside_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, ok := strings.Cut(string(text), "type payment struct {")
	if !ok {
		t.Fatal("outside_test.go has no payment")
	}
	n := 1
	for l := range strings.Lines(body) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "//") {
			n++
		}
	}
	if n >= 60 {
		t.Errorf("the graph takes %d lines, want less than 60", n)
	}
}
