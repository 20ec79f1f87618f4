package spec

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func tests(t *testing.T, text string) (*Tests, Faults) {
	t.Helper()
	u, err := Parse("small.yaml", []byte(small), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.ParseTests("small_test.yaml", []byte(text))
	var f Faults
	if err != nil && !errors.As(err, &f) {
		t.Fatal(err)
	}
	return got, f
}

func TestTests(t *testing.T) {
	got, faults := tests(t, `cases:
  - name: one
    events:
      - {ID: 1, AT: 2018-06-01T10:00:00Z, WHO: w, AMOUNT: 12.50}
      - '{"ID": 2,'
    scores: {1: 0.25}
    expect:
      1: {features: {amount: 12.5, n_1d: 1, over: null}, decision: block}
      "#2": {dead_letter: decode}
`)
	if faults != nil {
		t.Fatal(faults)
	}
	want := &Tests{File: "small_test.yaml", Tolerance: 1e-9, Cases: []Case{{
		Name: "one", Threshold: 0.5, Scores: []GivenScore{{"1", 0.25}},
		Events: []TestEvent{
			{[]byte(`{"ID":1,"AT":"2018-06-01T10:00:00Z","WHO":"w","AMOUNT":12.50}`), "1"},
			{[]byte(`{"ID": 2,`), ""},
		},
		Expect: []Expectation{
			{ID: "1", Features: []ExpectedFeature{{"amount", 12.5}, {"n_1d", 1.0}, {"over", nil}}, Decision: "block"},
			{Place: 2, DeadLetter: "decode"},
		},
	}}}
	// Decoding finds the id before the line breaks off.
	want.Cases[0].Events[1].ID, want.Cases[0].Expect[1].ID = got.Cases[0].Events[1].ID, got.Cases[0].Expect[1].ID
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTestFaults(t *testing.T) {
	_, faults := tests(t, `tolerence: 1
cases:
  - name: one
    events:
      - {ID: 1, AT: 2018-06-01T10:00:00Z, WHO: w, AMONT: 12.50}
      - {ID: 2, AT: 2018-06-01T10:00:00Z, WHO: w, AMOUNT: .nan}
      - 7
    expect: {1: {decision: block}, 2: {features: {n_2d: 1}}}
  - name: one
    events: [{ID: 1, AT: 2018-06-01T10:00:00Z, WHO: w, AMOUNT: 1}]
    scores: {1: 0.5, 9: 1}
    threshold: x
    expect:
      1: {decision: blok, score: 0.5}
      "#2": {dead_letter: decode}
      3: {dead_letter: sink}
  - {name: two, events: [""], threshold: 1, model: small@1, scores: {}, expect: {}}
`)
	var got []string
	for _, f := range faults {
		got = append(got, f.String())
	}
	for _, want := range []string{
		"small_test.yaml:1:1: tolerence: unknown key; did you mean tolerance?",
		"small_test.yaml:5:51: cases[0].events[0].AMONT: no field of the use case; did you mean AMOUNT?",
		"cases[0].events[1].AMOUNT: .nan is no value of JSON",
		"cases[0].events[2]: wants a mapping of fields, or a text",
		"cases[0].expect.1.decision: nothing scores in this case",
		"cases[0].expect.2.features.n_2d: no feature of this name; did you mean n_1d?",
		"cases[1].name: another case has this name",
		"cases[1].scores.9: no event of the case has this id",
		"cases[1].threshold: wants a number",
		"cases[1].expect.1.decision: the model decides nothing of this name; did you mean block?",
		"cases[1].expect.1.score: is given by scores, and so no test",
		"cases[1].expect.#2: the case has events #1 to #1",
		"cases[1].expect.3.dead_letter: \"sink\" is not one of",
		"cases[2].events[0]: is a blank line",
		"cases[2].expect: is empty",
	} {
		found := false
		for _, g := range got {
			found = found || strings.Contains(g, want)
		}
		if !found {
			t.Errorf("no fault %q", want)
		}
	}
	for _, f := range faults {
		if f.Line == 0 {
			t.Errorf("%v has no line", f)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(got, "\n"))
	}
}

func TestExplain(t *testing.T) {
	u, err := Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(u.Explain(), "\n")
	for _, want := range []string{
		"  run       training", "  retrain   sinks (but for dead_letters)",
		"  CUSTOMER_ID those of the last 30d", "  TERMINAL_ID those of the last 37d",
		"    0 tx_amount\n", "   17 pace_1d_over_30d",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
