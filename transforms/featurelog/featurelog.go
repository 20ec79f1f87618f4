package featurelog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
)

func init() {
	beam.RegisterDoFn(&stampFn{})
	register.Emitter1[event.Batch]()
}

// The columns of a log that are no fields and no features.
const (
	IDColumn          = "id"
	TimeColumn        = "time"
	ModelColumn       = predict.ModelColumn
	FingerprintColumn = "fingerprint"
	ScoreColumn       = predict.ScoreColumn
	ClassColumn       = predict.ClassColumn
	DecisionColumn    = predict.DecisionColumn
)

var own = []string{IDColumn, TimeColumn, ModelColumn, FingerprintColumn, ScoreColumn, ClassColumn, DecisionColumn}

// stamp is the column of the fingerprint inside the graph: no field has such a name.
const stamp = "$fingerprint"

// Params says where a log goes and what is in it.
type Params struct {
	// Sink is the place: its URL, a file or a folder; When; Stream; Run. Format and Outs are the log's.
	Sink sink.Params
	// Features are those that were served.
	Features feature.Params
}

// Table is the log's sink in full.
func (p Params) Table() sink.Params {
	out := p.Sink
	out.Format, out.Outs = "parquet", outs(p.Features)
	return out
}

// Columns are the fields and features that the log takes from the rows.
func (p Params) Columns() []string {
	names := []string{p.Features.ID, p.Features.Time}
	for _, o := range content(p.Features) {
		names = append(names, o.Column)
	}
	return names
}

// Validate reports all that is wrong.
func (p Params) Validate() error {
	var errs []error
	for _, name := range Clashes(p.Features) {
		errs = append(errs, fmt.Errorf("feature log: %s is a column of its own: the field or feature needs another name", name))
	}
	return errors.Join(append(errs, p.Table().Validate())...)
}

// Clashes are the entities, labels and features whose names are those of other columns of a log.
func Clashes(f feature.Params) []string {
	var names []string
	for _, o := range content(f) {
		if slices.Contains(own, o.Name) && !(o.Name == IDColumn && f.ID == IDColumn) {
			names = append(names, o.Name)
		}
	}
	return names
}

// content are the columns that have names of the user's, each once.
func content(f feature.Params) []format.Out {
	var names []string
	for _, e := range f.Features {
		if e.Entity != "" {
			names = append(names, e.Entity)
		}
	}
	if f.Label != "" {
		names = append(names, f.Label)
	}
	names = append(names, f.Names()...)
	var all []format.Out
	for i, n := range names {
		if !slices.Contains(names[:i], n) && !(n == f.ID && n == IDColumn) {
			all = append(all, format.Out{Name: n, Column: n, Number: true})
		}
	}
	return all
}

func outs(f feature.Params) []format.Out {
	all := []format.Out{
		{Name: IDColumn, Column: f.ID}, {Name: TimeColumn, Column: f.Time},
		{Name: ModelColumn, Column: ModelColumn}, {Name: FingerprintColumn, Column: stamp},
	}
	all = append(all, content(f)...)
	return append(all, format.Out{Name: ScoreColumn, Column: ScoreColumn}, format.Out{Name: ClassColumn, Column: ClassColumn}, format.Out{Name: DecisionColumn, Column: DecisionColumn})
}

// Write logs scored rows, a PCollection<event.Batch>, and returns what the target refused, a
// PCollection<deadletter.Letter>. It panics on bad params.
func Write(s beam.Scope, scored beam.PCollection, p Params) beam.PCollection {
	if err := p.Validate(); err != nil {
		panic(err)
	}
	s = s.Scope("featurelog.Write")
	f := &stampFn{Fingerprint: p.Features.Fingerprint()}
	if p.Sink.When == "" {
		for _, o := range outs(p.Features) {
			f.Columns = append(f.Columns, o.Column)
		}
	}
	return sink.Write(s, beam.ParDo(s, f, scored), p.Table())
}

// stampFn adds the fingerprint, and nulls for what a model does not say.
type stampFn struct {
	Fingerprint string
	// Columns are those that go on, so that rows of all models are alike; all where a condition may name
	// any.
	Columns []string

	in, more, out *event.Schema
	absent        int // columns that the model does not give
}

func (f *stampFn) ProcessElement(rows event.Batch, emit func(event.Batch)) error {
	if f.in != rows.Schema {
		more := []event.Field{{Name: stamp, Kind: event.Category}}
		for _, name := range []string{ClassColumn, DecisionColumn} {
			if rows.Schema.Index(name) < 0 {
				more = append(more, event.Field{Name: name, Kind: event.Category})
			}
		}
		with, err := rows.Schema.With(more...)
		out := with
		if err == nil && len(f.Columns) > 0 {
			out, err = with.Only(f.Columns...)
		}
		if err != nil {
			return fmt.Errorf("logging features: %w", err)
		}
		if out.Equal(f.out) {
			out = f.out
		}
		f.in, f.more, f.out, f.absent = rows.Schema, with, out, len(more)-1
	}
	cols := make([]event.Column, 1, 1+f.absent)
	for range rows.N {
		cols[0].AppendRaw([]byte(f.Fingerprint))
	}
	for range f.absent {
		c := event.Column{Ends: make([]uint32, rows.N)}
		for i := range rows.N {
			c.SetNull(i, rows.N)
		}
		cols = append(cols, c)
	}
	logged, err := rows.With(f.more, cols...).Only(f.out)
	if err != nil {
		return fmt.Errorf("logging features: %w", err)
	}
	emit(logged)
	return nil
}

// Decode says how a log of these features is read. Every column has the log's own name.
func Decode(f feature.Params) (decode.Params, error) {
	computed, err := f.Output()
	if err != nil {
		return decode.Params{}, err
	}
	kinds := map[string]event.Field{
		stamp: {Kind: event.Category}, ModelColumn: {Kind: event.Category}, ScoreColumn: {Kind: event.Float},
		ClassColumn: {Kind: event.Category}, DecisionColumn: {Kind: event.Category},
	}
	for _, field := range slices.Concat(f.Fields, computed.Fields) {
		kinds[field.Name] = field
	}
	p := decode.Params{Format: "parquet", ID: []string{IDColumn}, Time: TimeColumn}
	for _, o := range outs(f) {
		k := kinds[o.Column]
		p.Fields = append(p.Fields, decode.Field{
			Name: o.Name, Kind: k.Kind, Scale: k.Scale, Elem: k.Elem, Path: o.Name,
			Optional: !slices.Contains([]string{IDColumn, TimeColumn, ModelColumn, FingerprintColumn}, o.Name),
		})
	}
	return p, nil
}
