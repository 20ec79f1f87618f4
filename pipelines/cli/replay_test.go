package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

const shopUseCase = `name: shop
event:
  id: ID
  time: AT
  fields:
    ID: id
    AT: timestamp
    WHO: id
    SHOP: category
    KIND: {type: category, enum: [card, cash]}
    AMOUNT: {type: decimal, scale: 2, min: 0, max: 900}
    NOTE: string
features:
  - entity: WHO
    windows: [1d, 3n]
    aggregates: {n: count(), mean: mean(AMOUNT), kinds: distinct(KIND)}
  - entity: SHOP
    windows: [2d]
    aggregates: {shop_sum: sum(AMOUNT), late_mean: mean(n_1d)}
  - {name: ratio, expr: AMOUNT / mean_1d}
models:
  - {name: shop, kind: regression, serve: champion, decide: [{name: high, when: score > 30}, {name: low}]}
`

// mended makes good what events lists as bad, but for what is no JSON.
var mended = []string{"--set", "event.fields.KIND.enum=[card, cash, voucher]", "--set", "event.fields.NOTE={type: string, optional: true}", "--set", "event.fields.AMOUNT.max=9000"}

// picky adds up its inputs that aren't null, and can't score where the first is beyond what it takes.
type picky struct {
	Features []models.Feature `json:"features"`
	Most     float32          `json:"most"`
}

func init() {
	models.Register(models.Kind{Name: "picky", Load: func(f models.Files) (models.Model, error) {
		var p picky
		return &p, json.Unmarshal(f["picky.json"], &p)
	}})
}

func (p *picky) Kind() string             { return "picky" }
func (p *picky) Inputs() []models.Feature { return p.Features }
func (p *picky) Outputs() []string        { return []string{"value"} }
func (p *picky) Files() (models.Files, error) {
	b, err := json.Marshal(p)
	return models.Files{"picky.json": b}, err
}

func (p *picky) Score(_ context.Context, x []float32, rows int, out []float32) error {
	for r := range rows {
		out[r] = 0
		for i, v := range x[r*len(p.Features) : (r+1)*len(p.Features)] {
			switch {
			case i == 0 && v > p.Most:
				out[r] = float32(math.NaN())
			case v == v:
				out[r] += v
			}
		}
	}
	return nil
}

// shop is a folder with a use case, a model, and 2,000 events of which some are bad.
type shop struct {
	t      *testing.T
	dir    string
	engine string
	source string // in dir
}

func newShop(t *testing.T, engine, use string, events []string) shop {
	s := shop{t, t.TempDir(), engine, "events.jsonl"}
	write(t, s.path("shop.yaml"), use)
	write(t, s.path("events.jsonl"), strings.Join(events, "\n")+"\n")
	s.publish(1e9)
	return s
}

func (s shop) path(name string) string { return filepath.Join(s.dir, name) }

// publish makes a model the champion that scores amounts up to most.
func (s shop) publish(most float32) {
	s.t.Helper()
	u, err := spec.Load(s.path("shop.yaml"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := registry.Open(s.t.Context(), s.path("registry"), time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	m := &picky{Most: most}
	for _, name := range []string{"AMOUNT", "n_1d", "mean_3n", "shop_sum_2d"} {
		m.Features = append(m.Features, models.Feature{Name: name, Type: models.Number})
	}
	v, err := r.Publish(s.t.Context(), "shop", &bundle.Bundle{Manifest: bundle.Manifest{Fingerprint: u.Features().Fingerprint()}, Model: m, Golden: []float32{1, 2, 3, 4}})
	if err == nil {
		err = r.SetAlias(s.t.Context(), "shop", "champion", v, "test", registry.Any)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// do runs a verb over the events, with outputs of a name, and returns what it says.
func (s shop) do(verb, name string, more ...string) string {
	s.t.Helper()
	args := []string{verb, s.path("shop.yaml"), "--runner", s.engine, "--source", s.path(s.source), "--registry", s.path("registry"),
		"--features", "--sink", s.path(name + ".jsonl"), "--dead-letters", s.path(name + "-dead.jsonl")}
	code, stdout, stderr := call(s.t, append(args, more...)...)
	if code != exitOK {
		s.t.Fatalf("%s %v: exit code %d\n%s%s", verb, more, code, stdout, stderr)
	}
	return stdout + stderr
}

func (s shop) replay(name, from string, more ...string) string {
	s.t.Helper()
	return s.do("replay", name, append([]string{"--from", s.path(from)}, more...)...)
}

// scores are the lines of an output by id.
func (s shop) scores(name string) map[string]string {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name + ".jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		var l struct{ ID json.Number }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			s.t.Fatal(err)
		}
		if out[l.ID.String()] != "" {
			s.t.Errorf("%s has event %s twice", name, l.ID)
		}
		out[l.ID.String()] = line
	}
	return out
}

func (s shop) letters(name string) []deadletter.Letter {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name + "-dead.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	var out []deadletter.Letter
	for line := range bytes.Lines(text) {
		l, err := deadletter.Parse(line)
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// wants checks that an output has the oracle's lines of exactly these events.
func (s shop) wants(name string, oracle map[string]string, ids map[string]bool) {
	s.t.Helper()
	want := map[string]string{}
	for id := range ids {
		want[id] = oracle[id]
	}
	if d := cmp.Diff(want, s.scores(name)); d != "" {
		s.t.Errorf("%s differs from a run in which all had been good: %s", name, d[:min(len(d), 2000)])
	}
}

// shopEvents are 2,000 events of which some come twice, and the ids of those that mended mends.
func shopEvents() (events []string, bad map[string]bool) {
	rng := rand.New(rand.NewPCG(11, 5))
	start := time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)
	bad = map[string]bool{}
	for i := 0; len(events) < 2000; i++ {
		kind, note, amount := []string{"card", "cash"}[rng.IntN(2)], `,"NOTE":"n"`, fmt.Sprintf("%d.%02d", rng.IntN(80), rng.IntN(100))
		fault := rng.IntN(30)
		switch fault {
		case 0:
			kind = "voucher"
		case 1:
			note = ""
		case 2:
			amount = "1200.5"
		}
		line := fmt.Sprintf(`{"ID":%d,"AT":%q,"WHO":"w%d","SHOP":"s%d","KIND":%q,"AMOUNT":%s%s}`,
			i, start.Add(time.Duration(rng.IntN(20*24*60))*time.Minute).Format(time.RFC3339), rng.IntN(40), rng.IntN(7), kind, amount, note)
		if fault == 3 {
			line = line[:len(line)-1]
		}
		if fault < 3 {
			bad[fmt.Sprint(i)] = true
		}
		events = append(events, line)
		if rng.IntN(15) == 0 {
			events = append(events, line)
		}
	}
	rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	return events, bad
}

func TestReplay(t *testing.T) {
	for _, engine := range []string{"direct", "prism"} {
		t.Run(engine, func(t *testing.T) {
			events, bad := shopEvents()
			s := newShop(t, engine, shopUseCase, events)
			s.do("run", "first")
			s.do("run", "oracle", mended...)
			oracle := s.scores("oracle")

			before, _ := os.ReadDir(s.dir)
			says := s.replay("dry", "first-dead.jsonl", append(mended, "--dry-run")...)
			if after, _ := os.ReadDir(s.dir); len(after) != len(before) {
				t.Errorf("a dry run left %d files of %d", len(after), len(before))
			}
			if !strings.Contains(says, "range") || !strings.Contains(says, "their class has nothing to enter again with") {
				t.Errorf("a dry run says %s", says)
			}

			says = s.replay("again", "first-dead.jsonl", mended...)
			s.wants("again", oracle, bad)
			first, left := s.letters("first"), s.letters("again")
			broken := map[string]string{}
			for _, l := range first {
				if at, ok := broken[l.Digest]; l.Class == deadletter.Decode && (!ok || l.FirstFailure < at) {
					broken[l.Digest] = l.FirstFailure
				}
			}
			if len(left) != len(broken) || len(broken) == 0 {
				t.Errorf("%d letters of %d broken events are left", len(left), len(broken))
			}
			for _, l := range left {
				if l.Attempts != 2 || l.FirstFailure != broken[l.Digest] || l.Class != deadletter.Decode || !strings.HasSuffix(l.Place.Source, "events.jsonl") {
					t.Errorf("failed again: %+v", l)
				}
			}
			if want := fmt.Sprintf("%d replayed (%d from their record, 0 from their features), %d scored, %d written, %d failed again", len(bad), len(bad), len(bad), len(bad), len(broken)); !strings.Contains(says, want) {
				t.Errorf("want %s in %s", want, says)
			}

			text, _ := os.ReadFile(s.path("again.jsonl"))
			s.replay("again", "first-dead.jsonl", mended...)
			if twice, _ := os.ReadFile(s.path("again.jsonl")); !bytes.Equal(text, twice) {
				t.Error("a second replay wrote other bytes")
			}

			says = s.replay("third", "again-dead.jsonl", append(mended, "--max-attempts", "2")...)
			if got := s.letters("third"); len(got) > 0 || len(s.scores("third")) > 0 || !strings.Contains(says, fmt.Sprintf("skipped %d: tried too often", len(broken))) {
				t.Errorf("what was tried twice was tried again: %s", says)
			}
			s.replay("range", "first-dead.jsonl", append(mended, "--class", "range", "--since", "2000-01-01T00:00:00Z")...)
			ranged := map[string]bool{}
			for _, l := range first {
				if l.Class == deadletter.Range {
					ranged[l.ID] = true
				}
			}
			s.wants("range", oracle, ranged)
		})
	}
}

// TestReplayOfRows: rows that no model could score, and that a sink refused, are scored from what they carry.
func TestReplayOfRows(t *testing.T) {
	for _, engine := range []string{"direct", "prism"} {
		t.Run(engine, func(t *testing.T) {
			events, _ := shopEvents()
			s := newShop(t, engine, strings.ReplaceAll(shopUseCase, "900", "9000"), events)
			s.do("run", "oracle")
			oracle := s.scores("oracle")
			s.publish(60)
			s.do("run", "first")
			s.publish(1e9)
			unscored := map[string]bool{}
			lines := "\n"
			for _, l := range s.letters("first") {
				if l.Class != deadletter.Score {
					continue
				}
				unscored[l.ID] = true
				l.Class, l.Stage = deadletter.Sink, "sink" // another letter of the event
				p, err := deadletter.Append(nil, l)
				if err != nil {
					t.Fatal(err)
				}
				lines += string(p)
			}
			if len(unscored) < 100 {
				t.Fatalf("%d events were not scored", len(unscored))
			}
			write(t, s.path("sink-dead.jsonl"), lines)
			// A history that has none of the events: the rows need no state.
			write(t, s.path("events.jsonl"), "")
			s.replay("again", "*-dead.jsonl", "--class", "score,sink", "--dead-letters", s.path("left.txt"), "--rate", "100000")
			for id, line := range oracle { // all but the model's version
				oracle[id] = strings.Replace(line, "shop@1", "shop@3", 1)
			}
			s.wants("again", oracle, unscored)
			if text, err := os.ReadFile(s.path("left.txt")); err != nil || len(text) > 0 {
				t.Errorf("letters are left: %s, %v", text, err)
			}

			s.publish(60)
			s.replay("worse", "first-dead.jsonl")
			left, records := s.letters("worse"), map[string]bool{}
			for _, l := range s.letters("first") {
				if l.Class.Enter() == "decode" {
					records[l.Digest] = true
				}
			}
			if len(left) != len(unscored)+len(records) || len(records) == 0 {
				t.Errorf("%d letters of %d events and %d records that failed again", len(left), len(unscored), len(records))
			}
			for _, l := range left {
				if l.Class == deadletter.Score && (l.Attempts != 2 || l.FirstFailure == "" || l.FirstFailure >= l.LastFailure || bytes.Contains(l.Row, []byte("_history"))) {
					t.Errorf("failed again: %+v", l)
				}
			}
			s.publish(1e9)
			s.replay("better", "worse-dead.jsonl", "--class", "score")
			for id, line := range oracle {
				oracle[id] = strings.Replace(line, "shop@3", "shop@5", 1)
			}
			s.wants("better", oracle, unscored)
		})
	}
}

func TestReplayRefuses(t *testing.T) {
	events, _ := shopEvents()
	s := newShop(t, "direct", shopUseCase+"sinks: {scores: file://./scores.jsonl}\n", events[:50])
	dead := write(t, s.path("dead.jsonl"), "no letter\n")
	base := []string{"replay", s.path("shop.yaml"), "--registry", s.path("registry"), "--source", s.path("events.jsonl")}
	for want, more := range map[string][]string{
		"give them a place with --sink":  {"--from", dead},
		"give another place":             {"--from", dead, "--sink", s.path("out.jsonl"), "--dead-letters", dead},
		"what can be replayed is decode": {"--from", dead, "--class", "duplicate"},
		"with --from":                    {"--sink", s.path("out.jsonl")},
		"--max-attempts at least 1":      {"--from", dead, "--max-attempts", "0"},
		"give a time as":                 {"--from", dead, "--since", "yesterday"},
		"workers on a cluster have no":   {"--from", "-", "--sink", s.path("out.jsonl"), "--runner", "flink"},
	} {
		if code, _, stderr := call(t, slices.Concat(base, more)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit code %d, want %q in %s", more, code, want, stderr)
		}
	}
	says := s.replay("out", "dead.jsonl", "--runner", "direct")
	if left := s.letters("out"); len(left) != 1 || left[0].Stage != "replay" || string(left[0].Original) != "no letter" || !strings.Contains(says, "1 lines are no dead letters") {
		t.Errorf("a line that is no letter: %+v, %s", left, says)
	}
}

// TestReplayOfTables: records of csv need the header of the file that they come from.
func TestReplayOfTables(t *testing.T) {
	events, bad := shopEvents()
	var rows []string
	for _, e := range events {
		var v struct {
			ID        int
			AT        string
			WHO, SHOP string
			KIND      string
			AMOUNT    json.Number
			NOTE      string
		}
		if json.Unmarshal([]byte(e), &v) != nil {
			rows = append(rows, "no,row")
			continue
		}
		rows = append(rows, fmt.Sprintf("%s,%s,%d,%s,%s,%s,%s", v.NOTE, v.KIND, v.ID, v.WHO, v.SHOP, v.AT, v.AMOUNT))
	}
	s := newShop(t, "direct", shopUseCase, nil)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprintln(z, "NOTE,KIND,ID,WHO,SHOP,AT,AMOUNT")
	fmt.Fprintln(z, strings.Join(rows, "\n"))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"events.csv", "moved.csv.gz"} {
		text := packed.String()
		if name == "events.csv" {
			text = "NOTE,KIND,ID,WHO,SHOP,AT,AMOUNT\n" + strings.Join(rows, "\n") + "\n"
		}
		write(t, s.path(name), text)
	}
	s.source = "events.csv"
	s.do("run", "first")
	s.do("run", "oracle", mended...)
	s.source = "moved.csv.gz" // not where the letters are from
	s.replay("again", "first-dead.jsonl", mended...)
	s.wants("again", s.scores("oracle"), bad)
}

// TestReplayOfLate: late events are let in on demand, as the rows that they were.
func TestReplayOfLate(t *testing.T) {
	events, _ := shopEvents()
	use := strings.Replace(shopUseCase, "AT: timestamp", "AT: {type: timestamp, format: unix_s, path: when.at}", 1)
	for i, e := range events {
		at := regexp.MustCompile(`"AT":("[^"]*")`).FindStringSubmatch(e)
		var when time.Time
		if err := json.Unmarshal([]byte(at[1]), &when); err != nil {
			t.Fatal(err)
		}
		events[i] = strings.Replace(e, at[0], fmt.Sprintf(`"when":{"at":%d}`, when.Unix()), 1)
	}
	s := newShop(t, "direct", use, events)
	s.do("run", "oracle")
	oracle := s.scores("oracle")
	// As if an event in ten had come late.
	u, err := spec.Load(s.path("shop.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := u.Decode()
	p.Format = "json"
	d, err := decode.New(p)
	if err != nil {
		t.Fatal(err)
	}
	var letters []byte
	late, rest := map[string]bool{}, []string{}
	for _, e := range events {
		n := 0
		if _, err := d.Records("", []driver.Record{{Value: []byte(e)}}, func(b event.Batch) error {
			if id := b.IDs().Ints[0]; id%10 == 3 {
				n++
				l := deadletter.FromRow(deadletter.Late, &b, 0)
				l.Stage, l.FirstFailure = "source", "2026-01-01T00:00:00Z"
				late[fmt.Sprint(id)] = true
				letters, err = deadletter.Append(letters, l)
			}
			return err
		}, func(deadletter.Letter) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			rest = append(rest, e)
		}
	}
	write(t, s.path("events.jsonl"), strings.Join(rest, "\n")+"\n")
	write(t, s.path("late.jsonl"), string(letters))
	if says := s.replay("again", "late.jsonl"); len(s.scores("again")) > 0 || !strings.Contains(says, "--accept-late") {
		t.Errorf("late events were replayed unasked: %s", says)
	}
	s.replay("again", "late.jsonl", "--accept-late")
	s.wants("again", oracle, late)

	// What is of another kind now fails again, and stays late.
	s.replay("worse", "late.jsonl", "--accept-late", "--set", "event.fields.AMOUNT.max=0")
	left := s.letters("worse")
	if len(left) < len(late)*9/10 {
		t.Errorf("%d letters of %d", len(left), len(late))
	}
	for _, l := range left {
		if l.Class != deadletter.Late || l.Attempts != 2 || l.FirstFailure != "2026-01-01T00:00:00Z" || l.LastFailure == l.FirstFailure || !strings.Contains(l.Message, "AMOUNT") {
			t.Errorf("failed again: %+v", l)
		}
	}
}

// TestReplayOfTwins: an event that another one of its id and time comes before is a dead letter again, and
// what befalls the history is not.
func TestReplayOfTwins(t *testing.T) {
	const good = `{"ID":1,"AT":"2025-03-01T00:00:00Z","WHO":"w","SHOP":"s","KIND":"card","AMOUNT":1,"NOTE":"n"}`
	s := newShop(t, "direct", shopUseCase, []string{good, good, strings.Replace(good, `"card"`, `"voucher"`, 1)})
	s.do("run", "first")
	s.replay("again", "first-dead.jsonl", mended...)
	left := s.letters("again")
	if len(s.scores("again")) > 0 || len(left) != 1 || left[0].Class != deadletter.Duplicate || left[0].Attempts != 2 || !strings.Contains(string(left[0].Original), "voucher") ||
		strings.Contains(string(left[0].Original), "_history") {
		t.Errorf("%v, letters %+v", s.scores("again"), left)
	}
}

// TestReplayWithoutWindows: there is no state, and the events are the replayed ones alone all the same.
func TestReplayWithoutWindows(t *testing.T) {
	events, bad := shopEvents()
	before, rest, _ := strings.Cut(shopUseCase, "features:\n")
	_, rest, _ = strings.Cut(rest, "models:\n")
	const entries = "features:\n  - {name: n_1d, expr: AMOUNT}\n  - {name: mean_3n, expr: AMOUNT * 2}\n  - {name: shop_sum_2d, expr: AMOUNT}\n"
	s := newShop(t, "direct", before+entries+"models:\n"+rest, events)
	s.do("run", "first")
	s.do("run", "oracle", mended...)
	oracle := map[string]string{}
	text, err := os.ReadFile(s.path("oracle.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) { // without windows a run lets copies through
		var l struct{ ID json.Number }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		oracle[l.ID.String()] = line
	}
	s.replay("again", "first-dead.jsonl", mended...)
	s.wants("again", oracle, bad)
}
