package retraining

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/source"
)

// Options are what a run may say beside its use case.
type Options struct {
	Source      source.Params
	DeadLetters string
	Registry    string
	ReportDir   string
	Work        string
	Memory      int64
	Local       bool // the workers share this machine's disk; see feature.Params
	// Now is the submission's time: folds without a date count back from it.
	Now      time.Time
	Revision string
}

// New plans the retraining of the use case's first model.
func New(u *spec.UseCase, o Options) (Params, error) {
	switch {
	case u.Training == nil:
		return Params{}, fmt.Errorf("use case %s has no training section", u.Name)
	case u.Label == nil:
		return Params{}, fmt.Errorf("use case %s has no label to learn from", u.Name)
	case len(u.Models) == 0:
		return Params{}, fmt.Errorf("use case %s has no models section, which names what is published", u.Name)
	}
	t := u.Training
	p := Params{
		UseCase: u.Name, Source: o.Source, Features: u.Features(), Join: u.LabelJoin(), DeadLetters: o.DeadLetters, Work: o.Work, ReportDir: o.ReportDir,
		Registry: o.Registry, Model: u.Models[0].Name, Label: u.Label.Field, Window: Window(t.Window),
		Gate: Gate(t.Gate), Seed: t.Seed, Now: o.Now.UnixMicro(), Revision: o.Revision,
	}
	p.Features.Memory, p.Features.Local = o.Memory, o.Local
	p.Inputs = p.Features.Names()
	// Without dates the report ends today, and the selection ends where the report begins to test.
	today := o.Now.Truncate(24 * time.Hour)
	p.Reporting = p.anchored(t.Report, today)
	p.Selection = p.anchored(t.Select, time.UnixMicro(p.fold(p.Reporting, 0).testFrom))
	if x := t.Exclude; x != nil {
		if x.PositiveSince != "train" && x.PositiveSince != "" {
			return Params{}, fmt.Errorf("training.exclude.positive_since: only train is possible, not %s", x.PositiveSince)
		}
		p.Exclude = &Exclude{Entity: x.Entity, KnownAfter: x.KnownAfter, Align: x.Align}
	}
	for _, m := range t.Metrics {
		if m.Name == "card_precision" {
			p.Card = &Card{Entity: m.Entity, K: m.K, Per: m.Per}
		}
	}
	for _, c := range u.Candidates() {
		params, err := json.Marshal(c.Params)
		if err != nil {
			return Params{}, fmt.Errorf("training.candidates: %s: %w", c.Name, err)
		}
		p.Candidates = append(p.Candidates, Candidate{Name: c.Name, Group: c.Group, Kind: c.Kind, Params: string(params), Of: c.Of, Inputs: c.Features, Calibrate: c.Calibrate})
	}
	p.Features.Keep = p.columns()
	return p, p.Validate()
}

func (p Params) anchored(f spec.Folds, end time.Time) Folds {
	out := Folds{From: f.From.UnixMicro(), Count: f.Count}
	if f.From.IsZero() {
		w := p.Window
		length := w.Train + w.Gap + w.Test + time.Duration(f.Count-1)*w.Step
		out.From = end.Add(-length).UnixMicro()
	}
	return out
}
