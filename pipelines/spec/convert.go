package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/label"
)

// decodeParams is Decode before the features are known.
func (u *UseCase) decodeParams() decode.Params {
	p := decode.Params{
		Fields:        slices.Clone(u.Event.Fields),
		ID:            slices.Clone(u.Event.ID),
		Time:          u.Event.Time,
		RejectUnknown: u.Event.RejectUnknown,
		MaxEvent:      u.Event.MaxEvent,
		UseCase:       u.Name,
	}
	if len(u.Source) > 0 {
		p.Format, p.Changes = u.Source[0].written()
	}
	return p
}

// written is how a source's events are written.
func (s Source) written() (string, decode.Changes) {
	return s.Format, decode.Changes{Ops: slices.Clone(s.Ops), Decimals: s.Decimals}
}

// Decode is how events are read. Its Format is empty unless the file says it, and then the endings of
// the sources' names tell.
func (u *UseCase) Decode() decode.Params {
	p := u.decodeParams()
	p.Fingerprint = u.Features().Fingerprint()
	return p
}

// Schema is the columns of an event: its fields, and for a compound id the column id.
func (u *UseCase) Schema() (*event.Schema, error) { return u.decodeParams().Schema() }

// IDColumn is the column that identifies an event.
func (u *UseCase) IDColumn() string {
	if len(u.Event.ID) == 1 {
		return u.Event.ID[0]
	}
	return "id"
}

// Features is the features section. It panics if the use case did not come from Load or Parse.
func (u *UseCase) Features() feature.Params {
	s, err := u.Schema()
	if err != nil {
		panic(fmt.Sprintf("spec: use case was not checked: %v", err))
	}
	return u.featureParams(s.Fields, slices.Clone(u.Entries))
}

func (u *UseCase) featureParams(fields []event.Field, entries []feature.Feature) feature.Params {
	p := feature.Params{Features: entries, Fields: fields, ID: u.IDColumn(), Time: u.Event.Time}
	if u.Label != nil {
		p.Label, p.LabelDelay = u.Label.Field, u.Label.Delay
	}
	if u.HasLabels() {
		p.Labels = &feature.Labels{Time: u.Label.Time, ID: u.Label.ID}
		if s, err := u.labelParams().Schema(); err == nil {
			p.Labels.Fields = s.Fields
		}
		if j := u.LabelJoin(); j != nil {
			if s, err := j.Output(); err == nil {
				p.Labels.Fields = s.Fields
			}
		}
	}
	return p
}

// LabelJoin is how labels find their events; nil: they carry what they need.
func (u *UseCase) LabelJoin() *label.Params {
	if !u.HasLabels() || u.Label.Join == nil {
		return nil
	}
	p := &label.Params{ID: u.IDColumn(), Time: u.Event.Time, Known: u.Label.Time, Horizon: u.Label.Join.Horizon}
	if s, err := u.Schema(); err == nil {
		p.Fields = s.Fields
		for _, e := range u.Entries {
			if e.Entity != "" && s.Index(e.Entity) >= 0 && !slices.Contains(p.Keys, e.Entity) {
				p.Keys = append(p.Keys, e.Entity)
			}
		}
	}
	if s, err := u.labelParams().Schema(); err == nil {
		p.Labels = s.Fields
	}
	return p
}

// HasLabels tells whether labels come as events of their own.
func (u *UseCase) HasLabels() bool { return u.Label != nil && len(u.Label.Source) > 0 }

// Labels is how labels are read that come as events of their own: by the id of the event that they are of, at
// the time from which they are known.
func (u *UseCase) Labels() decode.Params {
	p := u.labelParams()
	p.Fingerprint = u.Features().Fingerprint()
	return p
}

// labelParams is Labels before the features are known.
func (u *UseCase) labelParams() decode.Params {
	l := u.Label
	p := decode.Params{Fields: slices.Clone(l.Fields), ID: slices.Clone(u.Event.ID), Time: l.Time, MaxEvent: u.Event.MaxEvent, UseCase: u.Name}
	if len(l.Source) > 0 {
		p.Format, p.Changes = l.Source[0].written()
	}
	return p
}

// Outputs is a line of scores: id, time, model, then by the model's kind score, value or class and score, the decision
// where the model decides, and with withFeatures the features by name. Columns behind them are those
// of the scored batches: model, class, score, decision.
func (u *UseCase) Outputs(m Model, withFeatures bool) []format.Out {
	outs := []format.Out{{Name: "id", Column: u.IDColumn()}, {Name: "time", Column: u.Event.Time}, {Name: "model", Column: "model"}}
	switch m.Kind {
	case "regression":
		outs = append(outs, format.Out{Name: "value", Column: "score"})
	case "multiclass":
		outs = append(outs, format.Out{Name: "class", Column: "class"}, format.Out{Name: "score", Column: "score"})
	default:
		outs = append(outs, format.Out{Name: "score", Column: "score"})
	}
	if len(m.Decide) > 0 {
		outs = append(outs, format.Out{Name: "decision", Column: "decision"})
	}
	if withFeatures {
		for _, name := range u.Features().Names() {
			outs = append(outs, format.Out{Name: name, Column: name, Object: "features", Number: true})
		}
	}
	return outs
}

// Candidate is one model to train.
type Candidate struct {
	// Name is unique: the entry's, with a grid's values behind it, as trees-50-3-0.1.
	Name, Kind string
	// Params are ints, float64s, bools, strings and lists of them, not yet checked against the kind.
	Params map[string]any
	// Of names the entries whose best models an ensemble joins.
	Of []string
	// Group is the entry's name.
	Group string
	// Features are the inputs, in order.
	Features []string
	// Calibrate is the method that turns scores into probabilities; empty for none.
	Calibrate string
}

// Candidates lists every model to train, in the file's order; the last axis of a grid varies fastest.
func (u *UseCase) Candidates() []Candidate {
	if u.Training == nil {
		return nil
	}
	all := u.Features().Names()
	var out []Candidate
	for _, e := range u.Training.Candidates {
		base := Candidate{Name: e.Name, Group: e.Name, Kind: e.Kind, Calibrate: e.Calibrate, Of: slices.Clone(e.Of), Features: slices.Clone(e.Features), Params: map[string]any{}}
		if len(base.Features) == 0 {
			base.Features = slices.Clone(all)
		}
		for _, p := range e.Params {
			base.Params[p.Name] = p.Value
		}
		group := []Candidate{base}
		for _, axis := range e.Grid {
			var next []Candidate
			for _, c := range group {
				for _, v := range axis.Values {
					n := c
					n.Name += "-" + valueName(v)
					n.Params = maps.Clone(c.Params)
					n.Params[axis.Name] = v
					next = append(next, n)
				}
			}
			group = next
		}
		out = append(out, group...)
	}
	return out
}

// valueName writes a parameter for a name: a list of layers as 64x32.
func valueName(v any) string {
	if l, ok := v.([]any); ok {
		parts := make([]string, len(l))
		for i, e := range l {
			parts[i] = valueName(e)
		}
		return strings.Join(parts, "x")
	}
	return fmt.Sprint(v)
}

// MetricOf finds a metric by its String.
func (t *Training) MetricOf(name string) (Metric, bool) {
	for _, m := range t.Metrics {
		if m.String() == name {
			return m, true
		}
	}
	return Metric{}, false
}
