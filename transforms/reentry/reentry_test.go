package reentry

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
)

// params are those of events with an amount, which is a feature.
func params() Params {
	return Params{
		Filter: Filter{MaxAttempts: 3},
		Decode: decode.Params{ID: []string{"id"}, Time: "at", Fields: []decode.Field{
			{Name: "id", Kind: event.ID}, {Name: "at", Kind: event.Timestamp}, {Name: "amount", Kind: event.Float},
		}},
		Features: WithMarks(feature.Params{
			Fields: []event.Field{{Name: "id", Kind: event.ID}, {Name: "at", Kind: event.Timestamp}, {Name: "amount", Kind: event.Float}},
			ID:     "id", Time: "at", Features: []feature.Feature{{Name: "double", Expr: "amount * 2.0"}},
		}),
		Models: 2, Sinks: 3,
	}
}

func record(id int) []byte {
	return fmt.Appendf(nil, `{"id":%d,"at":"2026-03-01T10:00:00Z","amount":1.5}`, id)
}

func row(id int) json.RawMessage {
	return fmt.Appendf(nil, `{"id":%d,"at":"2026-03-01T10:00:00Z","amount":1.5,"double":3}`, id)
}

const firstFailure, lastFailure = "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"

func TestSkip(t *testing.T) {
	e, err := newEntrance(params())
	if err != nil {
		t.Fatal(err)
	}
	since, _ := time.Parse(time.RFC3339, lastFailure)
	for _, c := range []struct {
		name   string
		filter Filter
		letter deadletter.Letter
		want   string
	}{
		{"a record", Filter{}, deadletter.Letter{Class: deadletter.Schema, Original: record(1)}, ""},
		{"a row", Filter{}, deadletter.Letter{Class: deadletter.Sink, Row: row(1)}, ""},
		{"of another class", Filter{Classes: []deadletter.Class{deadletter.Range}}, deadletter.Letter{Class: deadletter.Schema, Original: record(1)}, byFilter},
		{"of another stage", Filter{Stage: "sink"}, deadletter.Letter{Class: deadletter.Schema, Stage: "decode", Original: record(1)}, byFilter},
		{"of that time", Filter{Since: since}, deadletter.Letter{Class: deadletter.Schema, LastFailure: lastFailure, Original: record(1)}, ""},
		{"from before it", Filter{Since: since}, deadletter.Letter{Class: deadletter.Schema, LastFailure: firstFailure, Original: record(1)}, byFilter},
		{"late", Filter{}, deadletter.Letter{Class: deadletter.Late, Original: record(1)}, late},
		{"late, and let in", Filter{AcceptLate: true}, deadletter.Letter{Class: deadletter.Late, Original: record(1)}, ""},
		{"a duplicate", Filter{}, deadletter.Letter{Class: deadletter.Duplicate, Original: record(1)}, never},
		{"a label", Filter{}, deadletter.Letter{Class: deadletter.LabelOrphan, Original: record(1)}, never},
		{"tried too often", Filter{}, deadletter.Letter{Class: deadletter.Schema, Attempts: 3, Original: record(1)}, attempts},
		{"cut", Filter{}, deadletter.Letter{Class: deadletter.Schema, Digest: "0", Original: record(1)}, cut},
		{"without its record", Filter{}, deadletter.Letter{Class: deadletter.Schema}, cut},
		{"of other features", Filter{}, deadletter.Letter{Class: deadletter.Score, Fingerprint: "other", Row: row(1)}, features},
		{"without a feature", Filter{}, deadletter.Letter{Class: deadletter.Score, Row: json.RawMessage(record(1))}, features},
	} {
		why := c.filter.skip(&c.letter)
		if why == "" {
			why = e.skip(&c.letter)
		}
		if why != c.want {
			t.Errorf("%s: skipped as %q, want %q", c.name, why, c.want)
		}
	}
}

// TestMerge: of the letters of a record the newest attempt counts, with the first failure, whatever the order.
func TestMerge(t *testing.T) {
	a := deadletter.Letter{Class: deadletter.Schema, Original: record(1), Attempts: 1, FirstFailure: firstFailure, LastFailure: firstFailure}
	b := deadletter.Letter{Class: deadletter.Range, Original: record(1), Attempts: 2, FirstFailure: lastFailure, LastFailure: lastFailure}
	if identity(&a) != identity(&b) {
		t.Error("letters of one record differ")
	}
	for _, m := range []deadletter.Letter{merge(a, b), merge(b, a)} {
		if m.Class != deadletter.Range || m.Attempts != 2 || m.FirstFailure != firstFailure {
			t.Errorf("merged to %+v", m)
		}
	}
	row1, row2 := deadletter.Letter{Class: deadletter.Score, ID: "1", Row: row(1)}, deadletter.Letter{Class: deadletter.Sink, ID: "2", Row: row(2)}
	if identity(&row1) == identity(&row2) {
		t.Error("letters of two events are one")
	}
}

// TestEnter: letters enter where their class says, marked, and what fails again has one attempt more.
func TestEnter(t *testing.T) {
	e, err := newEntrance(params())
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.enter([]deadletter.Letter{
		{Class: deadletter.Schema, Original: []byte(`{"id":1}`), Attempts: 1, FirstFailure: firstFailure, Place: deadletter.Place{Source: "there", Offset: 7}},
		{Class: deadletter.Schema, Original: record(2), Attempts: 2, FirstFailure: firstFailure, LastFailure: lastFailure},
		{Class: deadletter.Late, Original: record(3), Attempts: 1},
		{Class: deadletter.Sink, Row: row(4), Attempts: 1, FirstFailure: firstFailure},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.failed) != 1 || out.failed[0].Attempts != 2 || out.failed[0].FirstFailure != firstFailure || out.failed[0].Place.Offset != 7 {
		t.Errorf("failed again: %+v", out.failed)
	}
	events, err := event.Concat(out.events)
	if err != nil {
		t.Fatal(err)
	}
	if got := events.IDs().Ints; events.N != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("events %v entered", got)
	}
	if events.Col(FreshColumn).Ints[0] != 0 || events.Col(attemptsColumn).Ints[0] != 2 {
		t.Error("a replayed event is not marked")
	}
	if len(out.rows) != 1 || out.rows[0].N != 1 || out.rows[0].IDs().Ints[0] != 4 || out.rows[0].Col("double") == nil {
		t.Errorf("rows %v entered", out.rows)
	}
}

// TestUnmark: a letter that the graph makes of a marked row is as of one that has no marks.
func TestUnmark(t *testing.T) {
	e, err := newEntrance(params())
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.enter([]deadletter.Letter{{Class: deadletter.Schema, Original: record(2), Attempts: 2, FirstFailure: firstFailure}})
	if err != nil {
		t.Fatal(err)
	}
	l := deadletter.FromRow(deadletter.Duplicate, &out.events[0], 0)
	if !unmark(&l) || l.Attempts != 3 || !strings.HasPrefix(l.FirstFailure, "2026-03-02") || strings.Contains(string(l.Original), historyColumn) {
		t.Errorf("unmarked to %+v, %s", l, l.Original)
	}
	plain, err := e.records.Schema().With(marks...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := out.events[0].Only(e.records.Schema())
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := mark(b, nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	l = deadletter.FromRow(deadletter.Duplicate, &fresh, 0)
	if unmark(&l) || strings.Contains(string(l.Original), historyColumn) || l.Digest == "" {
		t.Errorf("the letter of an event that came by itself: %+v", l)
	}
}

// TestForego: a letter that can't enter is acknowledged once its own letter is written, though no model and no
// sink has seen it.
func TestForego(t *testing.T) {
	t.Cleanup(inflight.Abandon)
	p := params()
	p.Filter.AcceptLate = true
	for class, share := range map[deadletter.Class]inflight.Share{deadletter.Score: inflight.ByModel, deadletter.Sink: inflight.BySink, deadletter.Duplicate: inflight.Whole} {
		f := &followFn{Params: p}
		if err := f.Setup(); err != nil {
			t.Fatal(err)
		}
		l := deadletter.Letter{Class: class, ID: "9", Row: row(9), Fingerprint: "other", Attempts: 1}
		key, landed := inflight.LetterOf(l.ID, l.Digest, l.Original), false
		inflight.Expect([]inflight.Key{key}, inflight.Ways{Models: p.Models, Sinks: p.Sinks}, func() { landed = true })
		none := func(beam.EventTime, event.Batch) { t.Errorf("class %s has entered", class) }
		rejected := 0
		f.StartBundle(none, none, nil)
		if err := f.ProcessElement(t.Context(), l, none, none, func(deadletter.Letter) { rejected++ }); err != nil || rejected != 1 {
			t.Fatalf("class %s: %d letters, %v", class, rejected, err)
		}
		if landed {
			t.Errorf("class %s: acknowledged before its letter is written", class)
		}
		inflight.Ended(inflight.End{Key: key, Share: share}) // as package deadletter says
		if !landed {
			t.Errorf("class %s is never acknowledged", class)
		}
	}
}
