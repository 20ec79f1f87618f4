package spec

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/pipelines/spec/builtin"
	"github.com/millrace-ml/millrace/transforms/feature"

	_ "github.com/millrace-ml/millrace/models/ensemble"
	_ "github.com/millrace-ml/millrace/models/forest"
	_ "github.com/millrace-ml/millrace/models/gbdt"
	_ "github.com/millrace-ml/millrace/models/linear"
	_ "github.com/millrace-ml/millrace/models/mlp"
)

// small is a use case without candidates, so that it needs no kind of model.
const small = `name: small
event:
  id: ID
  time: AT
  fields:
    ID: id
    AT: timestamp
    WHO: id
    AMOUNT: {type: decimal, scale: 2}
    BAD: {type: bool, optional: true}
label: {expr: BAD, delay: 7d}
features:
  - {name: amount, expr: AMOUNT}
  - entity: WHO
    windows: [1d, 5n, all]
    aggregates:
      n: count()
      m: {of: mean(AMOUNT), where: AMOUNT > 1, empty: 0}
  - {name: over, expr: AMOUNT / m_1d}
models:
  - {name: small, kind: binary, decide: [{name: block, when: score >= threshold}, {name: pass}]}
sinks:
  scores: out/scores.csv
  alerts: {url: alerts.jsonl, when: decision == 'block' && amount > 10.0}
  dead_letters: dead/
`

func faults(t *testing.T, text string, sets ...string) Faults {
	t.Helper()
	_, err := Parse("x.yaml", []byte(text), sets)
	if err == nil {
		return nil
	}
	var f Faults
	if !errors.As(err, &f) {
		t.Fatalf("error is %T, not Faults: %v", err, err)
	}
	return f
}

func TestCalibrate(t *testing.T) {
	u, err := Load("fraud", []string{"training.candidates[forest].calibrate=isotonic"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range u.Candidates() {
		if (c.Calibrate == "isotonic") != (c.Name == "forest") {
			t.Errorf("%s has calibration %q", c.Name, c.Calibrate)
		}
	}
	for set, want := range map[string]string{
		"training.candidates[blend].calibrate=platt": "means nothing for an ensemble",
		"training.candidates[forest].calibrate=plat": "did you mean platt?",
	} {
		if _, err := Load("fraud", []string{set}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", set, err)
		}
	}
}

func TestFraud(t *testing.T) {
	u, err := Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]int{}
	for _, c := range u.Candidates() {
		groups[c.Group]++
		if (c.Kind == "ensemble") != slices.Equal(c.Of, []string{"trees", "forest", "mlp"}) {
			t.Errorf("candidate %+v", c)
		}
	}
	if d := cmp.Diff(map[string]int{"lr": 1, "trees": 8, "forest": 1, "mlp": 1, "blend": 1}, groups); d != "" {
		t.Error(d)
	}
	if u, err = Load("fraud", []string{"training.candidates=[{name: trees, kind: gbdt, grid: {depth: [3, 6], rate: [0.1, 0.3]}}]"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"tx_amount", "weekend", "night",
		"customer_tx_count_1d", "customer_tx_count_7d", "customer_tx_count_30d",
		"customer_tx_mean_1d", "customer_tx_mean_7d", "customer_tx_mean_30d",
		"terminal_tx_count_1d", "terminal_tx_count_7d", "terminal_tx_count_30d",
		"terminal_risk_1d", "terminal_risk_7d", "terminal_risk_30d"}
	names := u.Features().Names()
	if len(names) < len(want) || !slices.Equal(names[:len(want)], want) {
		t.Errorf("features %v, want first %v", names, want)
	}
	if len(u.Warnings) > 0 {
		t.Errorf("warnings: %v", u.Warnings)
	}
	p := u.Decode()
	p.Format = "json"
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if p.Time != "TX_DATETIME" || !slices.Equal(p.ID, []string{"TRANSACTION_ID"}) || p.MaxEvent != 1<<20 {
		t.Errorf("decode %+v", p)
	}
	if err := u.Features().Validate(); err != nil {
		t.Error(err)
	}
	week := 7 * 24 * time.Hour
	if u.Training.Window != (Split{week, week, week, week}) || u.Label.Delay != week {
		t.Errorf("training %+v", u.Training)
	}
	var got []string
	for _, c := range u.Candidates() {
		got = append(got, c.Name)
		if c.Group != "trees" || len(c.Params) != 2 || !slices.Equal(c.Features, names) {
			t.Errorf("candidate %+v", c)
		}
	}
	if want := []string{"trees-3-0.1", "trees-3-0.3", "trees-6-0.1", "trees-6-0.3"}; !slices.Equal(got, want) {
		t.Errorf("candidates %v, want %v", got, want)
	}
	if got := u.Training.Metrics[2].String(); got != "card_precision_at_100" {
		t.Errorf("metric %s", got)
	}
}

func TestTypes(t *testing.T) {
	u, err := Parse("x.yaml", []byte(small), nil)
	if err != nil {
		t.Fatal(err)
	}
	zero := 0.0
	want := []feature.Feature{
		{Name: "amount", Expr: "AMOUNT"},
		{Entity: "WHO", Windows: []feature.Window{{Duration: 24 * time.Hour}, {Last: 5}, {All: true}},
			Aggregates: []feature.Aggregate{{Name: "n", Func: "count"}, {Name: "m", Func: "mean", Arg: "AMOUNT", Where: "AMOUNT > 1", Empty: &zero}}},
		{Name: "over", Expr: "AMOUNT / m_1d"},
	}
	if d := cmp.Diff(want, u.Entries); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Sink{{Name: "scores", URL: "out/scores.csv"}, {Name: "alerts", URL: "alerts.jsonl", When: "decision == 'block' && amount > 10.0"}}, u.Sinks); d != "" {
		t.Error(d)
	}
	if u.DeadLetters != "dead/" {
		t.Errorf("dead letters %q", u.DeadLetters)
	}
}

// TestTenFaults is the promise: ten faults, ten messages, each in its place.
func TestTenFaults(t *testing.T) {
	text := strings.NewReplacer(
		"AT: timestamp", "AT: timestmp", // 1: type
		"scale: 2", "scale: 99", // 2: bounds
		"label: {expr: BAD, delay: 7d}", "label: {expr: BADD, delay: 7d}", // 3: field
		"expr: AMOUNT}", "expr: AMOUNT +}", // 4: syntax
		"windows: [1d, 5n, all]", "windows: [1y, 5n, 1d]", // 5: window
		"n: count()", "n: cuont()", // 6: aggregate
		"empty: 0", "emtpy: 0", // 7: unknown key
		"kind: binary", "kind: 3", // 8: type of value
		"when: score >= threshold", "when: score", // 9: type of expression
		"dead_letters: dead/", "dead_letters: [dead]", // 10: form
	).Replace(small)
	got := faults(t, text)
	want := []struct{ path, message string }{
		{"event.fields.AT", "did you mean timestamp?"},
		{"event.fields.AMOUNT.scale", "from 0 to 18"},
		{"label.expr", "did you mean BAD?"},
		{"features[0].expr", ""},
		{"features[1].windows[0]", "1y"},
		{"features[1].aggregates.n", "did you mean count?"},
		{"features[1].aggregates.m.emtpy", "did you mean empty?"},
		{"models[0].kind", "the number 3"},
		{"models[0].decide[0].when", "wants a bool"},
		{"sinks.dead_letters", "wants a URL or path, or a mapping, not a list"},
	}
	if len(got) != len(want) {
		t.Errorf("%d faults, want %d", len(got), len(want))
	}
	lines := strings.Split(text, "\n")
	for i, f := range got {
		t.Log(f)
		if i < len(want) && (f.Path != want[i].path || !strings.Contains(f.Message, want[i].message)) {
			t.Errorf("fault %d is %v, want %v", i, f, want[i])
		}
		if f.File != "x.yaml" || f.Line < 1 || f.Col < 1 || f.Line > len(lines) || f.Col > len(lines[f.Line-1]) {
			t.Errorf("%v has no place", f)
		}
	}
}

// TestOneFault changes one thing and wants one fault at the right path.
func TestOneFault(t *testing.T) {
	training := "\ntraining:\n  window: {train: 7d, gap: 7d, test: 7d}\n  select: {from: 2018-06-20, folds: 4}\n  report: {from: 2018-07-25, folds: 4}\n" +
		"  metrics: [auc]\n  gate: {metric: auc}\n  candidates:\n    - {name: a, kind: gbdt, grid: {depth: [3, 6]}}\n    - {name: b, kind: forest}\n"
	if f := faults(t, small+training); f != nil {
		t.Fatal(f)
	}
	for _, c := range []struct{ old, new, path, message string }{
		{"name: small\nevent", "event", "name", "is missing"},
		{"name: small\nevent", "name: small\nname: small\nevent", "name", "stands twice"},
		{"name: small\nevent", "name: 3 x\nevent", "name", "is not a name"},
		{"name: small\nevent", "name:\nevent", "name", "has no value"},
		{"id: ID", "id: IDD", "event.id", "did you mean ID"},
		{"id: ID", "id: [ID, ID]", "event.id[1]", "twice"},
		{"id: ID", "id: AT", "event.id", "wants id"},
		{"time: AT", "time: ID", "event.time", "wants timestamp"},
		{"WHO: id", "WHO: {type: id, min: 3}", "event.fields.WHO.min", "means nothing"},
		{"WHO: id", "WHO: {type: id, zone: Mars/Base}", "event.fields.WHO.zone", "time zone"},
		{"scale: 2", "scale: 2, min: 3, max: 2", "event.fields.AMOUNT.min", "above max"},
		{"delay: 7d", "delay: 7dd", "label.delay", "not a duration"},
		{"{name: amount, expr: AMOUNT}", "{name: amount, expr: n_1d}", "features[0].expr", "n_1d"},
		{"name: over", "name: m_5n", "features[2].name", "taken"},
		{"mean(AMOUNT)", "mean(AMOUNT", "features[1].aggregates.m.of", "in quotes"},
		{"name: amount, expr: AMOUNT}", "name: amount, expr: 'BAD ? 1.0 : 0.0'}", "features[0].expr", "label"},
		{"name: amount, expr: AMOUNT}", "name: amount}", "features[0].expr", "missing"},
		{"entity: WHO", "entity: WHOM", "features[1].entity", "did you mean WHO"},
		{"[1d, 5n, all]", "[1d, 5n, 1d]", "features[1].windows[2]", "twice"},
		{"windows: [1d, 5n, all]", "resolution: 7h\n    windows: [1d, all]", "features[1].windows[0]", "multiple"},
		{"mean(AMOUNT)", "'mean(AMOUNT, 3)'", "features[1].aggregates.m.of", "write mean(X)"},
		{"mean(AMOUNT)", "'quantile(AMOUNT, 3)'", "features[1].aggregates.m.of", "from 0 to 1"},
		{"mean(AMOUNT)", "mean(AMOUNTS)", "features[1].aggregates.m.of", "AMOUNTS"},
		{"where: AMOUNT > 1", "where: AMOUNT", "features[1].aggregates.m.where", "wants a bool"},
		{", {name: pass}", ", {name: pass}, {name: never}", "models[0].decide[1]", "always holds"},
		{"decision == 'block'", "decison == 'block'", "sinks.alerts.when", "decison"},
		{"dead_letters: dead/", "dead_letters: {url: dead/, when: 'true'}", "sinks.dead_letters.when", "means nothing"},
		{"scores: out/scores.csv", "scores: '${evn:X}'", "sinks.scores", "not a reference"},
		{"gap: 7d", "gap: 6d", "training.window.gap", "shorter than label.delay"},
		{"2018-07-25", "2018-07-11", "training.report.from", "chosen on what is reported"},
		{"2018-07-25", "2018-13-25", "training.report.from", "not a date"},
		{"metrics: [auc]", "metrics: [acu]", "training.metrics[0]", "did you mean auc"},
		{"gate: {metric: auc}", "gate: {metric: rmse}", "training.gate.metric", "not among"},
		{"depth: [3, 6]", "depht: [3, 6]", "training.candidates[0].grid.depht[0]", "did you mean depth"},
		{"depth: [3, 6]", "depth: [3, 600]", "training.candidates[0].grid.depth[1]", "outside"},
		{"kind: forest", "kind: forrest", "training.candidates[1].kind", "did you mean forest"},
		{"kind: forest", "kind: forest, features: [amuont]", "training.candidates[1].features[0]", "did you mean amount"},
		{"kind: forest", "kind: forest, of: [a]", "training.candidates[1]", "ensemble"},
		{"kind: forest}", "kind: forest}\n    - {name: c, kind: ensemble, of: [a, bb]}", "training.candidates[2].of[1]", "did you mean"},
		{"kind: forest}", "kind: forest, features: [amount]}\n    - {name: c, kind: ensemble, of: [a, b]}", "training.candidates[2].of[1]", "share their inputs"},
		{"grid: {depth: [3, 6]}", "grid: {depth: [" + strings.Repeat("3, ", 1001) + "3]}", "training.candidates[0].grid", "more than 1000"},
		{"WHO: id", "WHO: id\n    class: string", "event.fields.class", "scoring gives"},
		{"when: score >= threshold", "when: BAD", "models[0].decide[0].when", "label"},
		{"sinks:", "source: [a.csv, {url: b.csv, format: csv}]\nsinks:", "source[1]", "one format"},
		{"name: b, kind", "name: a, kind", "training.candidates[1].name", "twice"},
	} {
		text := strings.Replace(small+training, c.old, c.new, 1)
		got := faults(t, text)
		// A wrong key of a grid is asked once a value.
		if len(got) == 0 || (len(got) != 1 && !strings.Contains(c.new, "depht")) || got[0].Path != c.path || !strings.Contains(got[0].Message, c.message) {
			t.Errorf("%s: faults are\n%v\nwant %s: ...%s", c.new, got, c.path, c.message)
		}
	}
}

func TestNotYAML(t *testing.T) {
	for text, line := range map[string]int{"name: [": 1, "a: 1\nb: {c: ]\n": 2, "": 1, "# nothing": 1, "name: x\n---\nname: y": 0} {
		got := faults(t, text)
		if len(got) == 0 || (line > 0 && (got[0].Line < 1 || len(got) != 1)) {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestSet(t *testing.T) {
	u, err := Parse("x.yaml", []byte(small), []string{
		"source=data/*.csv.gz?x=y", "label.delay=1d12h", "features[1].windows[0]=2d", "features[amount].expr=AMOUNT * 2.0",
		"models[small].serve=challenger", "sinks.alerts.when=score > 0.5", "sinks.more.url=more.parquet", "features[2].expr=AMOUNT / m_2d",
	})
	if err != nil {
		t.Fatal(err)
	}
	if u.Source[0].URL != "data/*.csv.gz?x=y" || u.Decode().Format != "" {
		t.Errorf("source %+v", u.Source)
	}
	if u.Label.Delay != 36*time.Hour || u.Entries[1].Windows[0].Duration != 48*time.Hour || u.Entries[0].Expr != "AMOUNT * 2.0" || u.Models[0].Serve != "challenger" {
		t.Errorf("%+v", u)
	}
	if u.Sinks[1].When != "score > 0.5" || u.Sinks[2] != (Sink{Name: "more", URL: "more.parquet"}) {
		t.Errorf("sinks %+v", u.Sinks)
	}
	for set, message := range map[string]string{
		"nonsense": "path=value", "nmae=x": "did you mean name", "features[9].expr=1": "outside a list of 3", "features[x].expr=1": "no element",
		"name.x=1": "has no keys", "label.delay=soon": "not a duration", "features[0].expr=[": "not YAML", "[0]=1": "not a",
	} {
		got := faults(t, small, set)
		path, _, _ := strings.Cut(set, "=")
		if len(got) != 1 || !strings.Contains(got[0].Message, message) || got[0].File != "--set "+path || got[0].Line != 0 {
			t.Errorf("--set %s: %v, want %s", set, got, message)
		}
	}
}

// TestSecret holds that a secret shows nowhere but in Resolve, not even in faults around it.
func TestSecret(t *testing.T) {
	t.Setenv("MILLRACE_TEST_SECRET", "hunter2")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(small, "out/scores.csv", "kafka://u:${env:MILLRACE_TEST_SECRET}@h/${file:"+file+"}/${env:MILLRACE_TEST_NONE:-d:-e}", 1)
	u, err := Parse("x.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	ref := u.Sinks[0].URL
	if s := string(ref); strings.Contains(s, "hunter2") || strings.Contains(s, "s3cret") {
		t.Errorf("the reference shows the secret: %s", s)
	}
	got, err := ref.Resolve()
	if want := "kafka://u:hunter2@h/s3cret/d:-e"; err != nil || got != want {
		t.Errorf("resolved %q, %v, want %q", got, err, want)
	}
	for _, r := range []Ref{"${env:MILLRACE_TEST_NONE}", "${file:/nowhere/at/all}"} {
		if got, err := r.Resolve(); err == nil || got != "" {
			t.Errorf("%s resolved to %q, %v", r, got, err)
		}
	}
	if f := faults(t, small, "sinks.scores=[\"${env:MILLRACE_TEST_SECRET}\"]"); len(f) != 1 || strings.Contains(f.Error(), "hunter2") {
		t.Errorf("%v", f)
	}
}

func TestNotFound(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("mine.yaml", []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load("fruad", nil)
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "fraud") || !strings.Contains(err.Error(), "mine.yaml") {
		t.Errorf("error is %v", err)
	}
	if _, err := Load("mine.yaml", nil); err != nil {
		t.Error(err)
	}
}

func TestWarnsOfLateLabels(t *testing.T) {
	for delay, want := range map[string]int{"": 1, "\n    delay: 6d": 1, "\n    delay: 7d": 0} {
		text := strings.Replace(strings.Replace(small, "mean(AMOUNT)", "mean(BAD)", 1), "entity: WHO", "entity: WHO"+delay, 1)
		u, err := Parse("x.yaml", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Warnings) != want {
			t.Errorf("delay %q: %v", delay, u.Warnings)
		}
	}
}

func TestAggregateArguments(t *testing.T) {
	for text, want := range map[string]feature.Aggregate{
		"count()":                         {Func: "count"},
		" mean( X ) ":                     {Func: "mean", Arg: "X"},
		"quantile(x, 0.9)":                {Func: "quantile", Arg: "x", Args: []float64{0.9}},
		"ewma(a * (b + 1.0), 1h)":         {Func: "ewma", Arg: "a * (b + 1.0)", Args: []float64{3600}},
		`sum(c in ["a,b", 'x)'] ? d : e)`: {Func: "sum", Arg: `c in ["a,b", 'x)'] ? d : e`},
		"sequence(item, 20)":              {Func: "sequence", Arg: "item", Args: []float64{20}},
		"time_since_last()":               {Func: "time_since_last"},
		"top_k(f(a, b), 3)":               {Func: "top_k", Arg: "f(a, b)", Args: []float64{3}},
	} {
		var a feature.Aggregate
		if err := parseAggregate(text, &a); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if d := cmp.Diff(want, a); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
	for _, text := range []string{"", "mean", "mean(", "mean()", "mean(a))", "mean(a,)", "quantile(x)", "sequence(x, 1.5)", "ewma(x, 5)", "mean('a)", "no(x)"} {
		if err := parseAggregate(text, new(feature.Aggregate)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30m": 30 * time.Minute, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0": 0, "250ms": 250 * time.Millisecond, "1w": 168 * time.Hour, "1.5h": 90 * time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "7", "d", "-1d", "1y", "1d ", "7 d", "99999999999999999999d", "1e3s"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is accepted as %v", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		want := time.Duration(rapid.Int64Range(0, 1<<52).Draw(t, "us")) * time.Microsecond
		got, err := ParseDuration(FormatDuration(want))
		if err != nil || got != want {
			t.Fatalf("%v became %s, %v, %v", want, FormatDuration(want), got, err)
		}
	})
}

// FuzzParse holds that no file makes Parse panic, and that whatever it accepts converts.
func FuzzParse(f *testing.F) {
	f.Add(small, "label.delay=1d")
	fraud, _ := builtin.Text("fraud")
	f.Add(string(fraud), "source=x.csv")
	f.Add("a: &a [*a]", "a[0]=1")
	f.Add("name: &n x\nevent: {id: *n, time: [], fields: {a: }}", "event.fields.a={}")
	f.Fuzz(func(t *testing.T, text, set string) {
		u, err := Parse("x.yaml", []byte(text), []string{set})
		if err != nil {
			return
		}
		u.Decode()
		u.Candidates()
		for _, m := range u.Models {
			u.Outputs(m, true)
		}
	})
}

// labels is small with labels that come as events of their own.
var labels = strings.NewReplacer("    BAD: {type: bool, optional: true}\n", "", "label: {expr: BAD, delay: 7d}\n", `label:
  source: [labels.jsonl, more.jsonl]
  expr: BAD
  time: SAID
  id: CASE
  fields: {ID: id, AT: timestamp, WHO: id, SAID: timestamp, CASE: id, BAD: bool}
`, "      n: count()\n", "      n: count()\n      bad: {of: mean(BAD), empty: 0}\n      lost: {of: sum(AMOUNT), where: BAD}\n").Replace(small)

func TestLabels(t *testing.T) {
	u, err := Parse("x.yaml", []byte(labels), nil)
	if err != nil {
		t.Fatal(err)
	}
	p, d := u.Features(), u.Labels()
	if err := p.Validate(); err != nil || !u.HasLabels() || p.Labels == nil || p.Labels.Time != "SAID" || p.Labels.ID != "CASE" || !slices.Equal(p.Uses(), []string{"WHO"}) {
		t.Errorf("features %+v: %v", p.Labels, err)
	}
	if d.Time != "SAID" || !slices.Equal(d.ID, []string{"ID"}) || len(u.Label.Source) != 2 {
		t.Errorf("labels are read as %+v", d)
	}
	for name, c := range map[string]struct{ text, path, want string }{
		"no entity":          {strings.Replace(labels, "WHO: id, SAID", "SAID", 1), "label.fields.WHO", "bad counts labels by it, and a label must tell whose it is"},
		"no event's time":    {strings.Replace(labels, "AT: timestamp, WHO", "WHO", 1), "label.fields.AT", "is missing: a label needs the time of its event, or a join"},
		"no event's id":      {strings.Replace(labels, "{ID: id, AT", "{AT", 1), "label.fields.ID", "is missing: a label needs the id of its event"},
		"no time":            {strings.Replace(labels, "  time: SAID\n", "", 1), "label.time", "is missing"},
		"no such time":       {strings.Replace(labels, "time: SAID", "time: SAD", 1), "label.time", "did you mean SAID?"},
		"a delay":            {strings.Replace(labels, "  time: SAID\n", "  time: SAID\n  delay: 7d\n", 1), "label.delay", "means nothing with source"},
		"a field of both":    {strings.Replace(labels, "    WHO: id\n", "    WHO: id\n    BAD: bool\n", 1), "label.expr", "is a field of the event too"},
		"the event's time":   {strings.Replace(labels, "time: SAID", "time: AT", 1), "label.time", "is the time of the event that a label is of"},
		"another type":       {strings.Replace(labels, "AT: timestamp, WHO: id", "AT: timestamp, WHO: string", 1), "label.fields.WHO", "is of type string, and of type id in events"},
		"label and event":    {strings.Replace(labels, "where: BAD}", "where: BAD && AMOUNT > 1}", 1), "features[1]", "joins the label BAD with fields of the event"},
		"the event's own":    {strings.Replace(labels, "expr: AMOUNT}", "expr: BAD}", 1), "features[0].expr", "which is not known when the event is scored"},
		"without a source":   {strings.Replace(labels, "  source: [labels.jsonl, more.jsonl]\n", "", 1), "label.fields", "means nothing without source"},
		"a large join":       {strings.Replace(labels, "  id: CASE\n", "  id: CASE\n  join: {horizon: 14d, rate: 100}\n", 1), "label.join", "would keep 5.4 GiB: 100 events/s for 14d"},
		"a join of nothing":  {strings.Replace(small, "delay: 7d}", "join: {horizon: 14d, rate: 100}}", 1), "label.join", "means nothing without source"},
		"two formats":        {strings.Replace(labels, "more.jsonl]", "{url: more, format: csv}]", 1), "label.source[1]", "all sources have one format"},
		"a key misspelt":     {strings.Replace(labels, "  time: SAID", "  times: SAID", 1), "label.times", "unknown key"},
		"a faulty field":     {strings.Replace(labels, "CASE: id, BAD: bool", "CASE: id, BAD: {type: bool, min: 0}", 1), "label.fields.BAD.min", "means nothing for a bool"},
		"an optional id":     {strings.Replace(labels, "{ID: id, AT", "{ID: {type: id, optional: true}, AT", 1), "label.fields", "optional"},
		"several at once, 1": {strings.Replace(strings.Replace(labels, "WHO: id, SAID", "SAID", 1), "  id: CASE", "  id: CAES", 1), "label.id", "did you mean CASE?"},
		"several at once, 2": {strings.Replace(strings.Replace(labels, "WHO: id, SAID", "SAID", 1), "  id: CASE", "  id: CAES", 1), "label.fields.WHO", "a label must tell whose it is"},
	} {
		if c.text == labels {
			t.Fatalf("%s: nothing was changed", name)
		}
		all := faults(t, c.text)
		if !slices.ContainsFunc(all, func(f Fault) bool { return f.Path == c.path && strings.Contains(f.Message, c.want) }) {
			t.Errorf("%s: %v, want %s: %s", name, all, c.path, c.want)
		}
	}
}

// TestLabelJoin: with a join labels need neither the time nor the entities of their events.
func TestLabelJoin(t *testing.T) {
	text := strings.Replace(labels, "{ID: id, AT: timestamp, WHO: id, SAID", "{ID: id, SAID", 1)
	text = strings.Replace(text, "  id: CASE\n", "  id: CASE\n  join: {horizon: 14d, rate: 20}\n", 1)
	u, err := Parse("x.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	j := u.LabelJoin()
	if j == nil || j.Horizon != 14*24*time.Hour || !slices.Equal(j.Keys, []string{"WHO"}) || j.Validate() != nil {
		t.Fatalf("%+v: %v", j, j.Validate())
	}
	out, err := j.Output()
	if err != nil {
		t.Fatal(err)
	}
	if p := u.Features(); p.Validate() != nil || !slices.Equal(p.Labels.Fields, out.Fields) {
		t.Errorf("features want %v of labels, and the join gives %v: %v", p.Labels.Fields, out, p.Validate())
	}
	if lines := strings.Join(u.Explain(), "\n"); !strings.Contains(lines, "keeps 14d of ids, times and entities: 1.08 GiB at 20 events/s") {
		t.Error(lines)
	}
}
