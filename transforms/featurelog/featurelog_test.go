package featurelog

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/sink"
)

func features() feature.Params {
	return feature.Params{
		Fields: []event.Field{
			{Name: "ID", Kind: event.ID}, {Name: "AT", Kind: event.Timestamp}, {Name: "WHO", Kind: event.ID},
			{Name: "AMOUNT", Kind: event.Decimal, Scale: 2}, {Name: "BAD", Kind: event.Bool},
		},
		ID: "ID", Time: "AT", Label: "BAD",
		Features: []feature.Feature{
			{Name: "large", Expr: "AMOUNT > 100.0"},
			{Entity: "WHO", Windows: []feature.Window{{Duration: time.Hour}}, Aggregates: []feature.Aggregate{{Name: "n", Func: "count"}, {Name: "last", Func: "sequence", Arg: "AMOUNT"}}},
		},
	}
}

func TestColumns(t *testing.T) {
	table := Params{Sink: sink.Params{URL: "log/"}, Features: features()}.Table()
	var names []string
	for _, o := range table.Outs {
		names = append(names, o.Name)
	}
	want := []string{"id", "time", "model", "fingerprint", "WHO", "BAD", "large", "n_1h", "last_1h", "score", "class", "decision"}
	if d := cmp.Diff(want, names); d != "" || table.Format != "parquet" {
		t.Error(d, table.Format)
	}
	p, err := Decode(features())
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	var read []string
	kinds := map[string]decode.Field{}
	for _, f := range p.Fields {
		read = append(read, f.Name)
		kinds[f.Name] = f
	}
	if d := cmp.Diff(want, read); d != "" {
		t.Error(d)
	}
	if f := kinds["last_1h"]; f.Kind != event.List || kinds["large"].Kind != event.Bool || kinds["fingerprint"].Optional || !kinds["n_1h"].Optional {
		t.Errorf("%+v", kinds)
	}
}

func TestClashes(t *testing.T) {
	f := features()
	if got := Clashes(f); len(got) > 0 {
		t.Errorf("clashes %v", got)
	}
	f.Features[0].Name = "score"
	f.Features[1].Entity = "fingerprint"
	if d := cmp.Diff([]string{"fingerprint", "score"}, Clashes(f)); d != "" {
		t.Error(d)
	}
	if err := (Params{Sink: sink.Params{URL: "log/"}, Features: f}).Validate(); err == nil || !strings.Contains(err.Error(), "score is a column of its own") {
		t.Error(err)
	}
}

// TestStamp: rows of models that say more or less become alike.
func TestStamp(t *testing.T) {
	var got []event.Batch
	f := &stampFn{Fingerprint: "abc"}
	for _, o := range outs(features()) {
		f.Columns = append(f.Columns, o.Column)
	}
	for _, more := range [][]event.Field{nil, {{Name: DecisionColumn, Kind: event.Category}}, {{Name: ClassColumn, Kind: event.Category}}} {
		fields := append(features().Fields, event.Field{Name: "large", Kind: event.Bool}, event.Field{Name: "n_1h", Kind: event.Int},
			event.Field{Name: "last_1h", Kind: event.List, Elem: event.Decimal}, event.Field{Name: ModelColumn, Kind: event.Category}, event.Field{Name: ScoreColumn, Kind: event.Float})
		s, err := event.NewSchema(append(fields, more...), "ID", "AT")
		if err != nil {
			t.Fatal(err)
		}
		b := event.New(s, 2)
		b.N = 2
		for i, field := range s.Fields {
			for range 2 {
				switch field.Kind {
				case event.Float:
					b.Cols[i].Floats = append(b.Cols[i].Floats, 1)
				case event.Category:
					b.Cols[i].AppendRaw([]byte("said"))
				case event.List:
					b.Cols[i].Ends = append(b.Cols[i].Ends, 0)
				default:
					b.Cols[i].Ints = append(b.Cols[i].Ints, 1)
				}
			}
		}
		if err := f.ProcessElement(b, func(b event.Batch) { got = append(got, b) }); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range got {
		if !b.Schema.Equal(got[0].Schema) || b.N != 2 || string(b.Col(stamp).Raw(1)) != "abc" {
			t.Errorf("batch %d: %v", i, b.Schema)
		}
		decision, class := b.Col(DecisionColumn), b.Col(ClassColumn)
		if decision.Null(1) != (i != 1) || class.Null(0) != (i != 2) {
			t.Errorf("batch %d: decision null %v, class null %v", i, decision.Null(1), class.Null(0))
		}
	}
	if _, err := event.Concat(got); err != nil {
		t.Error(err)
	}
}
