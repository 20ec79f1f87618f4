package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/pipelines/spec/builtin"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// Tests is a use case's own test file, checked against the use case.
type Tests struct {
	File string
	// Tolerance is the relative difference up to which numbers are equal.
	Tolerance float64
	Cases     []Case
}

// Case is a stream of events, from nothing, with what is expected of some of them.
type Case struct {
	Name   string
	Events []TestEvent
	// Model names a version of the registry that scores, as NAME@VERSION or NAME@ALIAS. Scores stand in
	// for a model instead. Without both nothing is scored.
	Model  string
	Scores []GivenScore
	// Threshold is what decisions compare Scores with.
	Threshold float64
	Expect    []Expectation
}

// TestEvent is an event as a source would deliver it.
type TestEvent struct {
	// Text is a line of JSON, right or wrong, without its newline.
	Text []byte
	// ID is what decoding finds in it; empty where it finds none.
	ID string
}

// GivenScore is the score that an event gets.
type GivenScore struct {
	ID    string
	Score float64
}

// Expectation is what should come of an event.
type Expectation struct {
	// ID is the event's id. It is empty for an event named by its place; Place counts from 1, and 0 means
	// every event with the id.
	ID    string
	Place int
	// Features that are not named may be anything.
	Features []ExpectedFeature
	// Score and Decision are of the first model; nil and empty mean anything.
	Score    *float64
	Decision string
	// DeadLetter is the class of the letter that the event becomes; empty means that it becomes none.
	DeadLetter deadletter.Class
}

// Name is how the file names the event.
func (e Expectation) Name() string {
	if e.Place > 0 {
		return "#" + strconv.Itoa(e.Place)
	}
	return e.ID
}

// ExpectedFeature is a feature's value: nil for null, else a float64, bool, string or list of them.
type ExpectedFeature struct {
	Name string
	Want any
}

// LoadTests reads the named test file, or for an empty name the one beside the use case:
// fraud_test.yaml for fraud.yaml, built in for a built-in. See Load for its errors.
func (u *UseCase) LoadTests(file string) (*Tests, error) {
	if file == "" {
		name := strings.TrimSuffix(u.File, filepath.Ext(u.File))
		file = name + "_test.yaml"
		if text, ok := builtin.Tests(name); ok && u.builtIn() {
			return u.ParseTests(file, text)
		}
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("loading tests of %s: %w: there is no file %s; write it, or name others behind the use case", u.Name, ErrNotFound, file)
	}
	if err != nil {
		return nil, fmt.Errorf("loading tests of %s: %w", u.Name, err)
	}
	return u.ParseTests(file, text)
}

// builtIn says whether the use case came with the binary, and not from a file of the same name.
func (u *UseCase) builtIn() bool {
	text, ok := builtin.Text(strings.TrimSuffix(u.File, ".yaml"))
	return ok && bytes.Equal(text, u.Text)
}

// ParseTests reads the text of a test file; file names it in faults.
func (u *UseCase) ParseTests(file string, text []byte) (*Tests, error) {
	d := &decoder{file: file, at: map[string]*yaml.Node{}, origin: map[*yaml.Node]string{}}
	root, ok := d.parse(text)
	if !ok {
		return nil, d.faults
	}
	t := &Tests{File: file}
	testGrammar(t).decode(d, root, "")
	d.checkTests(u, t)
	if len(d.faults) > 0 {
		d.sort()
		return nil, d.faults
	}
	return t, nil
}

func testGrammar(t *Tests) value {
	t.Tolerance = 1e-9
	return object{name: "Test file", doc: "`NAME_test.yaml` beside `NAME.yaml`: events with what is expected of them. `millrace test` runs each case through the graph, from empty windows.", keys: []key{
		{name: "tolerance", value: number(func(v float64) { t.Tolerance = v }, "a number from 0 to 1", 0, 1, false), def: "1e-9",
			doc: "The relative difference up to which numbers are equal. Scores of a `model` are equal up to 1e-6 in any case."},
		{name: "cases", value: list[Case]{dst: &t.Cases, elem: caseObject, least: 1}, required: true,
			doc: "The cases. None sees another's events."},
	}}
}

func caseObject(c *Case) value {
	c.Threshold = 0.5
	return object{name: "Case", doc: "A stream of events. Give `scores` or a `model` to test decisions; features need neither.", keys: []key{
		{name: "name", value: text(&c.Name), required: true, example: "a card in haste", doc: "What is tested."},
		{name: "events", value: list[TestEvent]{dst: &c.Events, elem: func(e *TestEvent) value { return testEvent{e} }, least: 1}, required: true, example: "[{ID: 1, AT: 2018-08-01T10:00:00Z, AMOUNT: 12.50}]",
			doc: "The events: mappings by field, or texts that are taken as lines of JSON as they are, broken ones too. Where the source is a database's changes they are rows, with what paths behind `$.` name under the key `$`: `{id: 1, $: {op: c}}`."},
		{name: "scores", value: dict[GivenScore]{dst: &c.Scores, free: true, elem: func(id string, s *GivenScore) value {
			s.ID = id
			return number(func(v float64) { s.Score = v }, "a number", -1e308, 1e308, false)
		}}, example: "{6: 0.97}", doc: "Scores by event id, which stand in for the model's."},
		{name: "threshold", value: number(func(v float64) { c.Threshold = v }, "a number", -1e308, 1e308, false), def: "0.5",
			doc: "The `threshold` that decisions compare `scores` with. A `model` brings its own."},
		{name: "model", value: text(&c.Model), example: "fraud@3", doc: "The version in the registry that scores, as NAME@VERSION or NAME@ALIAS."},
		{name: "expect", value: dict[Expectation]{dst: &c.Expect, free: true, elem: expectationObject, least: 1}, required: true, example: "{6: {decision: block}}",
			doc: "What is expected, by event id; `\"#2\"` is the second event, whose id may be unreadable."},
	}}
}

func expectationObject(id string, e *Expectation) value {
	e.ID = id
	var class string
	return object{name: "Expectation", doc: "What should come of an event. What is left out may be anything.", keys: []key{
		{name: "features", value: dict[ExpectedFeature]{dst: &e.Features, least: 1, elem: func(name string, f *ExpectedFeature) value {
			f.Name = name
			return featureResult{&f.Want}
		}}, example: "{customer_tx_count_1d: 3, customer_tx_mean_1d: null}", doc: "Values by feature; `null` where there is none."},
		{name: "score", value: optionalNumber(&e.Score), example: "0.97", doc: "The score."},
		{name: "decision", value: name(&e.Decision), example: "block", doc: "The decision."},
		{name: "dead_letter", value: then(enum(&class, classes()...), func() { e.DeadLetter = deadletter.Class(class) }), example: "range",
			doc: "The class of the dead letter that the event becomes."},
	}}
}

func classes() []string {
	var out []string
	for _, c := range []deadletter.Class{deadletter.Decode, deadletter.Schema, deadletter.Range, deadletter.Duplicate, deadletter.Score} {
		out = append(out, string(c))
	}
	return out
}

// testEvent is a mapping, which becomes a line of JSON, or a line as it is.
type testEvent struct{ dst *TestEvent }

func (e testEvent) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	switch {
	case n.Kind == yaml.MappingNode:
		e.dst.Text = d.json(nil, n, path)
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		e.dst.Text = []byte(strings.TrimSuffix(n.Value, "\n"))
		if bytes.IndexByte(e.dst.Text, '\n') >= 0 {
			d.fault(n, path, "is several lines, wants one event each")
		} else if len(bytes.TrimSpace(e.dst.Text)) == 0 {
			d.fault(n, path, "is a blank line, which is skipped and not an event")
		}
	default:
		d.wrong(n, path, "a mapping of fields, or a text")
	}
}

func (e testEvent) describe() description {
	return description{text: "an event", schema: map[string]any{"type": []string{"object", "string"}}}
}

// json appends a node as JSON. Numbers stay as they are written: 12.50 is exact.
func (d *decoder) json(dst []byte, n *yaml.Node, path string) []byte {
	n = follow(n)
	switch n.Kind {
	case yaml.MappingNode:
		dst = append(dst, '{')
		first := len(dst)
		d.pairs(n, path, func(k, v *yaml.Node, p string) {
			if len(dst) > first {
				dst = append(dst, ',')
			}
			d.at[p] = v
			dst = append(format.AppendJSON(dst, []byte(k.Value)), ':')
			dst = d.json(dst, v, p)
		})
		return append(dst, '}')
	case yaml.SequenceNode:
		dst = append(dst, '[')
		for i, e := range n.Content {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = d.json(dst, e, path)
		}
		return append(dst, ']')
	}
	switch n.ShortTag() {
	case "!!null":
		return append(dst, "null"...)
	case "!!bool", "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return append(dst, n.Value...)
		}
		d.fault(n, path, "%s is no value of JSON; to test what becomes of it give the whole event as a text", n.Value)
	}
	return format.AppendJSON(dst, []byte(n.Value))
}

// featureResult is what a feature may be.
type featureResult struct{ dst *any }

func (f featureResult) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	var v any
	if err := n.Decode(&v); err != nil || n.Kind == yaml.MappingNode {
		d.wrong(n, path, "a number, null, true, false, a text or a list")
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		v = n.Value
	}
	*f.dst = floats(v)
}

func (f featureResult) describe() description {
	return description{text: "a value", schema: map[string]any{"type": []string{"number", "null", "boolean", "string", "array"}}}
}

// floats makes every number a float64.
func floats(v any) any {
	switch v := v.(type) {
	case int:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	}
	return v
}

func (d *decoder) checkTests(u *UseCase, t *Tests) {
	ids := u.reader()
	names := u.Features().Names()
	var decisions []string
	if len(u.Models) > 0 {
		for _, x := range u.Models[0].Decide {
			decisions = append(decisions, x.Name)
		}
	}
	titles := map[string]bool{}
	for i := range t.Cases {
		c, path := &t.Cases[i], fmt.Sprintf("cases[%d]", i)
		if titles[c.Name] && c.Name != "" {
			d.faultAt(path+".name", "another case has this name")
		}
		titles[c.Name] = true
		var known []string
		for j := range c.Events {
			at := fmt.Sprintf("%s.events[%d]", path, j)
			if !d.bad(at) {
				c.Events[j].ID = ids(c.Events[j].Text)
				d.checkFields(u, at)
			}
			if id := c.Events[j].ID; id != "" {
				known = append(known, id)
			}
		}
		missing := func(id, at string) {
			if !slices.Contains(known, id) && !d.bad(path+".events") {
				d.faultAt(at, "no event of the case has this id%s", hint(id, known))
			}
		}
		scored := map[string]bool{}
		for _, s := range c.Scores {
			missing(s.ID, path+".scores."+s.ID)
			scored[s.ID] = true
		}
		switch {
		case c.Model != "" && len(c.Scores) > 0:
			d.faultAt(path+".scores", "stand in for a model, and the case names a model too; leave one out")
		case (c.Model != "" || len(c.Scores) > 0) && len(u.Models) == 0:
			d.faultAt(path, "the use case has no model")
		case d.has(path+".threshold") && len(c.Scores) == 0:
			d.faultAt(path+".threshold", "means nothing without scores")
		}
		for j := range c.Expect {
			e := &c.Expect[j]
			at := path + ".expect." + e.ID
			if place, ok := strings.CutPrefix(e.ID, "#"); ok {
				n, err := strconv.Atoi(place)
				if err != nil || n < 1 || n > len(c.Events) {
					d.faultAt(at, "the case has events #1 to #%d", len(c.Events))
					continue
				}
				e.Place, e.ID = n, c.Events[n-1].ID
			} else {
				missing(e.ID, at)
			}
			for _, f := range e.Features {
				if !slices.Contains(names, f.Name) {
					d.faultAt(at+".features."+f.Name, "no feature of this name%s", suggestion(f.Name, names))
				}
			}
			if e.Decision != "" && !slices.Contains(decisions, e.Decision) && len(u.Models) > 0 {
				d.faultAt(at+".decision", "the model decides nothing of this name%s", hint(e.Decision, decisions))
			}
			if e.Decision == "" && e.Score == nil {
				continue
			}
			what := at + ".decision"
			if e.Decision == "" {
				what = at + ".score"
			}
			switch {
			case c.Model == "" && len(c.Scores) == 0:
				d.faultAt(what, "nothing scores in this case; give it scores or a model")
			case c.Model == "" && !scored[e.ID]:
				d.faultAt(what, "scores has no score of event %s", e.ID)
			case e.Score != nil && c.Model == "":
				d.faultAt(at+".score", "is given by scores, and so no test")
			}
		}
	}
}

// checkFields finds misspelt fields, which a stream would ignore in silence.
func (d *decoder) checkFields(u *UseCase, path string) {
	n := follow(d.at[path])
	if n.Kind != yaml.MappingNode || u.Event.RejectUnknown {
		return
	}
	var known []string
	for _, f := range u.Event.Fields {
		head, _, _ := strings.Cut(f.Path, ".")
		known = append(known, f.Name, head)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains(known, k.Value) {
			d.fault(k, path+"."+k.Value, "no field of the use case%s; to test that it is ignored give the whole event as a text", suggestion(k.Value, known))
		}
	}
}

// reader finds an event's id as a source would.
func (u *UseCase) reader() func(line []byte) string {
	p := u.decodeParams()
	p.Format = "json"
	r, err := decode.New(p)
	if err != nil {
		panic(fmt.Sprintf("spec: use case was not checked: %v", err))
	}
	return func(line []byte) (id string) {
		_, err := r.Read(bytes.NewReader(append(line, '\n')), decode.Source{End: -1}, func(b event.Batch) error {
			id = string(b.IDs().AppendID(nil, 0))
			return nil
		}, func(l deadletter.Letter) error {
			id = l.ID
			return nil
		})
		if err != nil {
			return ""
		}
		return id
	}
}
