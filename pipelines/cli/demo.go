package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/retraining"
	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	"github.com/millrace-ml/millrace/transforms/deadletter"
)

// The demo's weeks are those of the Fraud Detection Handbook, chapter 3, so that its figures can be
// laid beside published ones: training 2018-07-25 to 07-31, test 08-08 to 08-14. The week after is
// scored with the model that was published.
const (
	demoDir  = "millrace-demo"
	demoWeek = "2018-08-15T00:00:00Z"
	demoEnd  = "2018-08-22T00:00:00Z"
	// demoDays goes from 2018-04-01 to two weeks beyond demoEnd: a stolen card's frauds are drawn from
	// two weeks at once, so that the last fortnight of a shorter table differs from the published one.
	demoDays = 157
)

// published are the handbook's figures for the test week: chapter 3, BaselineModeling, with the
// library's defaults.
var published = []struct {
	model        string
	auc, ap, cp  float64
	reproducedBy string
}{
	{"logistic regression", .871, .606, .291, "lr"},
	{"random forest", .867, .658, .287, ""},
	{"XGBoost", .862, .639, .273, ""},
}

var demoSets = []string{
	"source=simulate://fraud?days=157",
	"registry=./millrace-demo/registry",
	"sinks={scores: {url: ./millrace-demo/scores.jsonl, when: \"TX_DATETIME >= timestamp('" + demoWeek + "') && TX_DATETIME < timestamp('" + demoEnd + "')\"}, dead_letters: ./millrace-demo/dead.jsonl}",
	"training.select={from: 2018-07-11, folds: 2}",
	"training.report={from: 2018-07-25, folds: 1}",
	"training.candidates=[{name: lr, kind: logistic, features: [tx_amount, weekend, night, customer_tx_count_1d, customer_tx_mean_1d, customer_tx_count_7d, customer_tx_mean_7d, customer_tx_count_30d, customer_tx_mean_30d, terminal_tx_count_1d, terminal_risk_1d, terminal_tx_count_7d, terminal_risk_7d, terminal_tx_count_30d, terminal_risk_30d]}, {name: trees, kind: gbdt, params: {trees: 50, depth: 3, rate: 0.3}}, {name: forest, kind: forest, params: {trees: 50, depth: 12}}, {name: blend, kind: ensemble, of: [trees, forest]}]",
}

func demoCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:     "demo",
		Short:   "Show the whole loop on simulated card payments, in under a minute",
		Example: "  millrace demo",
		Args:    exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{w: stdout, start: time.Now()}
			return d.run(cmd.Context())
		},
	}
}

// demo carries what one step leaves for the next. Every line that it prints is computed in this run.
type demo struct {
	w     io.Writer
	start time.Time
	rows  []simulate.Row
	use   *spec.UseCase
	file  string
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.w, "%6.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) step(title string) { fmt.Fprintf(d.w, "\n%s\n", title) }

func (d *demo) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{d.prepare, d.simulate, d.train, d.score, d.recount, d.alerts, d.broken, d.finish} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare clears what an earlier demo left, by name, and writes the use-case file.
func (d *demo) prepare(context.Context) error {
	if err := os.MkdirAll(demoDir, 0o755); err != nil {
		return fmt.Errorf("making the demo's folder: %w", err)
	}
	for _, name := range []string{"registry", "report", "scores.jsonl", "scores-direct.jsonl", "dead.jsonl", "broken.jsonl", "broken-scores.jsonl", "broken-dead.jsonl", "fraud.yaml"} {
		if err := os.RemoveAll(filepath.Join(demoDir, name)); err != nil {
			return fmt.Errorf("clearing an earlier demo: %w", err)
		}
	}
	whole, err := spec.Load("fraud", nil)
	if err != nil {
		return err
	}
	d.file = filepath.Join(demoDir, "fraud.yaml")
	if err := os.WriteFile(d.file, whole.Text, 0o644); err != nil {
		return fmt.Errorf("writing the use-case file: %w", err)
	}
	d.use, err = spec.Load(d.file, demoSets)
	return err
}

func (d *demo) simulate(context.Context) error {
	d.step("1. Card payments, simulated by the Fraud Detection Handbook's rules")
	frauds := 0
	err := simulate.Fraud(simulate.Params{Days: demoDays}, func(r simulate.Row) error {
		d.rows = append(d.rows, r)
		if r.Fraud {
			frauds++
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("simulating: %w", err)
	}
	d.say("%d payments of %d days, %d of them fraudulent (%.2f %%)", len(d.rows), demoDays, frauds, 100*float64(frauds)/float64(len(d.rows)))
	return nil
}

func (d *demo) common(engine string) *common { return &common{runner: engine, memory: defaultMemory} }

func (d *demo) train(ctx context.Context) error {
	d.step("2. Features, training, gate: the retraining graph, on Prism")
	c := d.common(runner.Prism)
	c.deadLetters = ""
	report := filepath.Join(demoDir, "report")
	if _, err := c.retrain(ctx, newProgress(io.Discard), d.use, report); err != nil {
		return err
	}
	r, err := retraining.ReadReport(report)
	if err != nil {
		return err
	}
	d.say("tested on 2018-08-08 to 08-14, cards already known left out:")
	fmt.Fprintf(d.w, "         %-34s %7s %7s %7s\n", "", "AUC", "AP", "CP@100")
	for _, p := range published {
		fmt.Fprintf(d.w, "         %-34s %7.3f %7.3f %7.3f\n", "published: "+p.model, p.auc, p.ap, p.cp)
	}
	for _, cand := range r.Candidates {
		if len(cand.Folds) == 0 {
			continue
		}
		name := "here: " + cand.Name
		if cand.Name == r.Champion {
			name += " (champion)"
		}
		fmt.Fprintf(d.w, "         %-34s %7.3f %7.3f %7.3f\n", name, cand.Mean["auc"], cand.Mean["average_precision"], cand.Mean["card_precision_at_100"])
		for _, p := range published {
			if p.reproducedBy != cand.Name {
				continue
			}
			for metric, want := range map[string]float64{"auc": p.auc, "average_precision": p.ap, "card_precision_at_100": p.cp} {
				if got := cand.Mean[metric]; math.Abs(got-want) > 0.001 {
					return fmt.Errorf("%s: %s is %.4f here and %.3f as published: the difference is %.4f", p.model, metric, got, want, got-want)
				}
			}
		}
	}
	d.say("logistic regression agrees with the published figures to .001")
	if !r.Gate.Passed {
		return fmt.Errorf("the gate refused the first model: %s", strings.Join(r.Gate.Reasons, "; "))
	}
	d.say("the gate passed (%s); published as %s", strings.Join(r.Gate.Reasons, "; "), r.Published)
	return nil
}

func (d *demo) score(ctx context.Context) error {
	d.step("3. The following week, scored by the scoring graph, twice")
	outputs := map[string][]byte{}
	for _, engine := range []string{runner.Prism, runner.Direct} {
		o := scoring.Options{WithFeatures: true, Memory: 1 << 30, Local: runner.Local(engine)}
		p, err := scoring.New(ctx, d.use, o)
		if err != nil {
			return err
		}
		path := filepath.Join(demoDir, "scores.jsonl")
		if engine == runner.Direct {
			path = filepath.Join(demoDir, "scores-direct.jsonl")
			for i := range p.Sinks {
				p.Sinks[i].URL = path
			}
		}
		before := time.Now()
		if err := d.common(engine).score(ctx, io.Discard, p, d.use); err != nil {
			return err
		}
		secs := time.Since(before).Seconds()
		if outputs[engine], err = sortedLines(path); err != nil {
			return err
		}
		d.say("%s: %d payments read, %d of the week scored, %.1f s (%.0f payments a second, simulation included)", engine, len(d.rows), bytes.Count(outputs[engine], []byte{'\n'}), secs, float64(len(d.rows))/secs)
	}
	if !bytes.Equal(outputs[runner.Prism], outputs[runner.Direct]) {
		return fmt.Errorf("direct and Prism differ: %s", firstDifference(outputs[runner.Prism], outputs[runner.Direct]))
	}
	d.say("direct and Prism gave the same bits, features and scores")
	return nil
}

func sortedLines(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading scores: %w", err)
	}
	lines := bytes.SplitAfter(b, []byte{'\n'})
	slices.SortFunc(lines, bytes.Compare)
	return bytes.Join(lines, nil), nil
}

func firstDifference(a, b []byte) string {
	la, lb := bytes.Split(a, []byte{'\n'}), bytes.Split(b, []byte{'\n'})
	for i := range min(len(la), len(lb)) {
		if !bytes.Equal(la[i], lb[i]) {
			return fmt.Sprintf("%s against %s", la[i], lb[i])
		}
	}
	return fmt.Sprintf("%d lines against %d", len(la), len(lb))
}

// scored is a line of the scores.
type scored struct {
	ID       int64              `json:"id"`
	Time     time.Time          `json:"time"`
	Model    string             `json:"model"`
	Score    float64            `json:"score"`
	Decision string             `json:"decision"`
	Features map[string]float64 `json:"features"`
}

func (d *demo) week() ([]scored, error) {
	f, err := os.Open(filepath.Join(demoDir, "scores.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("reading scores: %w", err)
	}
	defer f.Close()
	var out []scored
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var s scored
		if err := json.Unmarshal(sc.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("reading scores: %w", err)
		}
		out = append(out, s)
	}
	return out, sc.Err()
}

// recount computes the features of some payments again by the plainest means: a look at every payment.
func (d *demo) recount(context.Context) error {
	d.step("4. A naive recount of the features")
	week, err := d.week()
	if err != nil {
		return err
	}
	const sample = 200
	byID := make(map[int64]int, len(d.rows))
	for i, r := range d.rows {
		byID[r.ID] = i
	}
	compared := 0
	for k := 0; k < sample; k++ {
		s := week[k*len(week)/sample]
		want := naive(d.rows, byID[s.ID])
		for name, w := range want {
			compared++
			if got := s.Features[name]; got != w && math.Abs(got-w) > 1e-12*math.Abs(w) {
				return fmt.Errorf("payment %d: %s is %v in the stream and %v recounted", s.ID, name, got, w)
			}
		}
	}
	d.say("%d features of %d payments counted again over all %d payments: no difference", compared, sample, len(d.rows))
	return nil
}

func naive(rows []simulate.Row, i int) map[string]float64 {
	const day = 86400e6
	r := rows[i]
	out := map[string]float64{}
	for _, w := range []int64{1, 7, 30} {
		var n, cents, seen, frauds float64
		for k, o := range rows {
			if o.Customer == r.Customer && o.Time > r.Time-w*day && (o.Time < r.Time || o.Time == r.Time && k <= i) {
				n++
				cents += float64(o.Cents)
			}
			if o.Terminal == r.Terminal && o.Time > r.Time-(7+w)*day && o.Time <= r.Time-7*day {
				seen++
				if o.Fraud {
					frauds++
				}
			}
		}
		suffix := fmt.Sprintf("_%dd", w)
		out["customer_tx_count"+suffix] = n
		out["customer_tx_mean"+suffix] = cents / 100 / n
		out["terminal_tx_count"+suffix] = seen
		out["terminal_risk"+suffix] = 0
		if seen > 0 {
			out["terminal_risk"+suffix] = frauds / seen
		}
	}
	return out
}

// alerts prints the three strongest alerts with a reason each.
func (d *demo) alerts(ctx context.Context) error {
	d.step("5. The three strongest alerts of the week")
	week, err := d.week()
	if err != nil {
		return err
	}
	sort.SliceStable(week, func(i, j int) bool { return week[i].Score > week[j].Score })
	reg, err := registry.Open(ctx, filepath.Join(demoDir, "registry"), nil)
	if err != nil {
		return err
	}
	defer reg.Close()
	b, err := reg.Get(ctx, "fraud")
	if err != nil {
		return err
	}
	byID := map[int64]simulate.Row{}
	for _, r := range d.rows {
		byID[r.ID] = r
	}
	cards := map[int64]bool{}
	for _, s := range week {
		r := byID[s.ID]
		if cards[r.Customer] { // three cards say more than one card three times
			continue
		}
		cards[r.Customer] = true
		why, err := explain(ctx, b, s)
		if err != nil {
			return err
		}
		d.say("%.3f %s: card %d paid %.2f at terminal %d on %s. %s", s.Score, s.Decision, r.Customer, float64(r.Cents)/100, r.Terminal, s.Time.Format("Mon 2 Jan 15:04"), why)
		if len(cards) == 3 {
			break
		}
	}
	return nil
}

// aspects are groups of features that an analyst thinks of as one thing.
var aspects = []struct {
	name     string
	prefixes []string
	say      func(f map[string]float64) string
}{
	{"amount", []string{"tx_amount", "amount_over"}, func(f map[string]float64) string {
		return fmt.Sprintf("the amount is %.1f times the card's mean of 30 days (%.2f)", f["tx_amount"]/f["customer_tx_mean_30d"], f["customer_tx_mean_30d"])
	}},
	{"terminal", []string{"terminal_"}, func(f map[string]float64) string {
		return fmt.Sprintf("of the terminal's %.0f payments in the week whose outcome is known by now %.0f %% were fraud", f["terminal_tx_count_7d"], 100*f["terminal_risk_7d"])
	}},
	{"card", []string{"customer_"}, func(f map[string]float64) string {
		return fmt.Sprintf("the card made %.0f payments in the last day and %.0f in 30 days, of %.2f on average in the last week", f["customer_tx_count_1d"], f["customer_tx_count_30d"], f["customer_tx_mean_7d"])
	}},
	{"hour", []string{"weekend", "night"}, func(f map[string]float64) string { return "the hour is unusual" }},
}

// explain finds what the score rests on: each aspect's features are replaced by the median of the
// reference weeks, and the fall of the score is that aspect's part (occlusion).
func explain(ctx context.Context, b *bundle.Bundle, s scored) (string, error) {
	inputs := b.Model.Inputs()
	x := make([]float32, len(inputs))
	for i, f := range inputs {
		if v, ok := s.Features[f.Name]; ok {
			x[i] = float32(v)
		} else {
			x[i] = float32(math.NaN())
		}
	}
	type part struct {
		fall float64
		text string
	}
	var parts []part
	for _, a := range aspects {
		y := slices.Clone(x)
		for i, f := range inputs {
			for _, p := range a.prefixes {
				if strings.HasPrefix(f.Name, p) {
					y[i] = float32(median(b, f.Name))
				}
			}
		}
		out := make([]float32, 1)
		if err := b.Model.Score(ctx, y, 1, out); err != nil {
			return "", fmt.Errorf("explaining: %w", err)
		}
		parts = append(parts, part{s.Score - float64(out[0]), a.say(s.Features)})
	}
	sort.SliceStable(parts, func(i, j int) bool { return parts[i].fall > parts[j].fall })
	text := fmt.Sprintf("Mostly because %s", parts[0].text)
	if parts[1].fall > 0.1*s.Score {
		text += "; and " + parts[1].text
	}
	return fmt.Sprintf("%s (otherwise the score would be %.3f).", text, s.Score-parts[0].fall), nil
}

func (d *demo) broken(ctx context.Context) error {
	d.step("6. Five broken events among three good ones")
	lines := []string{
		`{"TRANSACTION_ID":1,"TX_DATETIME":"2018-08-22T08:00:00Z","CUSTOMER_ID":1,"TERMINAL_ID":10,"TX_AMOUNT":12.50}`,
		`{"TRANSACTION_ID":2,"TX_DATETIME":"2018-08-22T08:01:00Z","CUSTOMER_ID":2,`,
		`{"TRANSACTION_ID":3,"TX_DATETIME":"2018-02-30T08:02:00Z","CUSTOMER_ID":3,"TERMINAL_ID":10,"TX_AMOUNT":8}`,
		`{"TRANSACTION_ID":4,"TX_DATETIME":"2018-08-22T08:03:00Z","CUSTOMER_ID":4,"TERMINAL_ID":10,"TX_AMOUNT":-3}`,
		`{"TRANSACTION_ID":5,"TX_DATETIME":"2018-08-22T08:04:00Z","CUSTOMER_ID":5,"TERMINAL_ID":10}`,
		`{"TRANSACTION_ID":6,"TX_DATETIME":"2018-08-22T08:05:00Z","CUSTOMER_ID":6,"TERMINAL_ID":10,"TX_AMOUNT":1e999}`,
		`{"TRANSACTION_ID":7,"TX_DATETIME":"2018-08-22T08:06:00Z","CUSTOMER_ID":7,"TERMINAL_ID":11,"TX_AMOUNT":31.10}`,
		`{"TRANSACTION_ID":8,"TX_DATETIME":"2018-08-22T08:07:00Z","CUSTOMER_ID":8,"TERMINAL_ID":12,"TX_AMOUNT":44}`,
	}
	in := filepath.Join(demoDir, "broken.jsonl")
	if err := os.WriteFile(in, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("writing broken events: %w", err)
	}
	dead := filepath.Join(demoDir, "broken-dead.jsonl")
	p, err := scoring.New(ctx, d.use, scoring.Options{Sources: []string{in}, Sink: filepath.Join(demoDir, "broken-scores.jsonl"), DeadLetters: dead, Memory: 1 << 30})
	if err != nil {
		return err
	}
	if err := d.common(runner.Direct).score(ctx, io.Discard, p, d.use); err != nil {
		return err
	}
	good, err := sortedLines(filepath.Join(demoDir, "broken-scores.jsonl"))
	if err != nil {
		return err
	}
	b, err := os.ReadFile(dead)
	if err != nil {
		return fmt.Errorf("reading dead letters: %w", err)
	}
	letters := bytes.Split(bytes.TrimSpace(b), []byte{'\n'})
	for _, raw := range letters {
		l, err := deadletter.Parse(raw)
		if err != nil {
			return fmt.Errorf("reading a dead letter: %w", err)
		}
		d.say("dead letter, %s: %s", l.Class, l.Message)
	}
	if n := bytes.Count(good, []byte{'\n'}); n != 3 || len(letters) != 5 {
		return fmt.Errorf("%d events were scored and %d are dead letters, of 3 good and 5 broken ones", n, len(letters))
	}
	d.say("the 3 good ones were scored")
	return nil
}

func (d *demo) finish(context.Context) error {
	d.step("What is left for you")
	d.say("%s: figures, curves, the gate's verdict", filepath.Join(demoDir, "report", "report.html"))
	d.say("%s: the whole use case; change it and run", d.file)
	fmt.Fprintf(d.w, "\n    go run ./cmd/millrace run %s --source YOUR.csv --registry %s --sink scores.jsonl\n\n", d.file, filepath.Join(demoDir, "registry"))
	return nil
}

// median is the reference weeks' median of a feature.
func median(b *bundle.Bundle, feature string) float64 {
	if b.Reference != nil {
		for _, c := range b.Reference.Columns {
			if c.Name == feature && c.Number != nil {
				return c.Number.Quantile(0.5)
			}
		}
	}
	return 0
}
