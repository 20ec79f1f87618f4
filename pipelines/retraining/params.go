package retraining

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/label"
	"github.com/millrace-ml/millrace/transforms/source"
)

// Params configures the graph. All times are microseconds since 1970-01-01 UTC.
type Params struct {
	UseCase  string
	Source   source.Params
	Features feature.Params
	// Join finds the events of labels that come as events of their own, by id; nil: they carry what they need.
	Join *label.Params

	// DeadLetters is where rows that can't be used go; empty drops them, counted.
	DeadLetters string
	// Work is a folder for the training set, which is there and which every worker sees.
	Work string
	// ReportDir is the folder for report.json, report.html and plots; empty writes none.
	ReportDir string

	// Registry and Model say where bundles are published, and under which name.
	Registry string
	Model    string

	// Label is the column that is learned; Inputs are the model's columns, in order.
	Label  string
	Inputs []string

	Window    Window
	Selection Folds
	Reporting Folds
	Exclude   *Exclude
	Card      *Card

	Candidates []Candidate
	Gate       Gate
	Seed       uint64

	// Now is the submission's time, for the registry's history.
	Now int64
	// Revision is the code's version, for the manifest.
	Revision string
}

// Window gives the lengths of a fold's parts, and the step from one fold to the next.
type Window struct{ Train, Gap, Test, Step time.Duration }

// Folds are Count folds of which the first starts training at From.
type Folds struct {
	From  int64
	Count int
}

// Exclude leaves out rows of entities that are already known to be positive.
type Exclude struct {
	Entity     string
	KnownAfter time.Duration
	// Align is the grid on which knowledge arrives: a day for daily updates.
	Align time.Duration
}

// Card asks for card precision at K a period.
type Card struct {
	Entity string
	K      int
	Per    time.Duration
}

// Candidate is one configuration to try.
type Candidate struct {
	// Name is unique. Group is the name under which grid points compete; only the best of a group
	// is reported.
	Name, Group, Kind string
	// Params is a JSON object of hyper-parameters; empty means all defaults. It is text because
	// values of any type can't travel in a DoFn.
	Params string
	// Inputs restricts the model's columns; empty means Params.Inputs.
	Inputs []string
	// Calibrate is the method of package calibration that is fitted on the last fifth of the training
	// window, on which the model itself is then not trained; empty for none.
	Calibrate string
	// Of makes this an ensemble: the plain average of the best of these groups.
	Of []string
}

// Gate says what a challenger must show.
type Gate struct {
	// Metric is the one that chooses and judges: auc, average_precision or card_precision_at_K.
	Metric string
	// Gain is the least improvement over the serving model on the same rows.
	Gain float64
	// Confidence is the share of bootstrap replicates in which the challenger must be ahead.
	Confidence float64
}

// Validate reports all that is wrong with p.
func (p Params) Validate() error {
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	want(p.Label != "", "label: missing: a model needs something to learn")
	want(len(p.Inputs) > 0, "inputs: no feature is a model's input")
	want(p.Work != "", "work: missing")
	want(p.Model != "" && p.Registry != "", "model, registry: both are needed to publish")
	want(p.Window.Train > 0 && p.Window.Test > 0 && p.Window.Step > 0 && p.Window.Gap >= 0, "window: train, test and step must be positive")
	want(p.Window.Gap >= p.Features.LabelDelay, "window.gap: %v is shorter than the label's delay, %v", p.Window.Gap, p.Features.LabelDelay)
	want(p.Selection.Count > 0, "select.folds: at least one")
	want(p.Reporting.Count > 0, "report.folds: at least one")
	groups, names := map[string]bool{}, map[string]bool{}
	for _, c := range p.Candidates {
		if len(c.Of) == 0 {
			groups[c.Group] = true
		}
		want(!names[c.Name], "candidates: %q stands twice", c.Name)
		names[c.Name] = true
	}
	want(len(groups) > 0, "candidates: at least one that is no ensemble")
	for _, c := range p.Candidates {
		for _, g := range c.Of {
			want(groups[g], "candidates: %s is made of %q, which is no candidate above", c.Name, g)
		}
	}
	known := p.Gate.Metric == "auc" || p.Gate.Metric == "average_precision" || p.Card != nil && p.Gate.Metric == cardMetric(p.Card.K)
	want(known, "gate.metric: %q is not among auc, average_precision and the card precision asked for", p.Gate.Metric)
	return errors.Join(errs...)
}

func cardMetric(k int) string { return fmt.Sprintf("card_precision_at_%d", k) }

// fold is one split, in microseconds.
type fold struct{ trainFrom, trainTo, testFrom, testTo int64 }

func (p Params) fold(f Folds, i int) fold {
	start := f.From + int64(i)*p.Window.Step.Microseconds()
	a := start + p.Window.Train.Microseconds()
	b := a + p.Window.Gap.Microseconds()
	return fold{start, a, b, b + p.Window.Test.Microseconds()}
}

// span is the range of event times that any fold uses.
func (p Params) span() (from, to int64) {
	for _, f := range []Folds{p.Selection, p.Reporting} {
		first, last := p.fold(f, 0), p.fold(f, f.Count-1)
		if from == 0 || first.trainFrom < from {
			from = first.trainFrom
		}
		to = max(to, last.testTo)
	}
	return from, to
}

// params reads Candidate.Params.
func (c Candidate) params() (map[string]any, error) {
	if c.Params == "" {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(c.Params), &m); err != nil {
		return nil, fmt.Errorf("reading the parameters of %s: %w", c.Name, err)
	}
	return m, nil
}
