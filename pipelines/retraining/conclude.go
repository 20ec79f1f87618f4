package retraining

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/evaluate"
	"github.com/millrace-ml/millrace/models/profile"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/transforms/event"
)

// concludeFn measures the report folds, judges, publishes and reports. There is one call of it in a
// job; a retried one publishes again, under new versions.
type concludeFn struct{ Params Params }

func (f *concludeFn) ProcessElement(ctx context.Context, _ int64, next func(*Trial) bool, emit func(string)) error {
	p := f.Params
	t, choice, _, err := p.table(next, p.Reporting)
	if err != nil {
		return fmt.Errorf("concluding: %w", err)
	}
	r := &Report{UseCase: p.UseCase, Champion: choice.Champion, Threshold: choice.Threshold}
	r.SelectedBy.Metric = p.Gate.Metric
	r.SelectedBy.Folds = p.Selection.Count
	curves := map[string][]float32{}
	for _, sel := range choice.Results {
		cr := CandidateReport{Name: sel.Name, Kind: sel.Kind, Selection: FoldsReport{flat(sel.Folds), sel.Mean}, Folds: []flatFigures{}, Mean: Metrics{}}
		cand := p.candidate(sel.Name)
		if choice.Best[sel.Group] == sel.Name {
			figures, scores, err := t.measure(choice, cand)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", sel.Name, err)
			}
			curves[sel.Name] = scores[len(scores)-1]
			if sel.Name == choice.Champion {
				r.SelectedBy.Value = sel.Mean[p.Gate.Metric]
				if err := t.publish(ctx, choice, cand, figures, scores, r); err != nil {
					return fmt.Errorf("publishing %s: %w", sel.Name, err)
				}
			}
			cr.Folds, cr.Mean = flat(figures), mean(figures)
		}
		r.Candidates = append(r.Candidates, cr)
	}
	if p.Card != nil {
		for _, tr := range t.truths {
			r.Ceiling = append(r.Ceiling, evaluate.CardCeiling(p.cardRows(tr, tr.labels), p.Card.K, p.Card.Per.Microseconds()).Mean)
		}
	}
	if p.ReportDir != "" {
		if err := r.write(p.ReportDir, p, t.truths[len(t.truths)-1], curves); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	emit(choice.Champion)
	return nil
}

func (p Params) candidate(name string) Candidate {
	for _, c := range p.Candidates {
		if c.Name == name {
			return c
		}
	}
	return Candidate{}
}

// measure gives a candidate's figures and scores on all folds.
func (t *table) measure(choice *Choice, c Candidate) ([]Figures, [][]float32, error) {
	scores := make([][]float32, t.folds.Count)
	for i := range scores {
		members := choice.members(c)
		if len(members) == 1 {
			scores[i] = t.trials[members[0]][i].Scores
			continue
		}
		var err error
		if scores[i], err = t.blend(members, i); err != nil {
			return nil, nil, err
		}
	}
	return t.figures(func(i int) []float32 { return scores[i] }), scores, nil
}

// publish stores the champion of every report fold, judges the last, and writes each version's name
// into figures.
func (t *table) publish(ctx context.Context, choice *Choice, c Candidate, figures []Figures, scores [][]float32, r *Report) error {
	p := t.p
	now := time.UnixMicro(p.Now).UTC()
	reg, err := registry.Open(ctx, p.Registry, func() time.Time { return now })
	if err != nil {
		return err
	}
	defer reg.Close()
	members := choice.members(c)
	for i := range t.folds.Count {
		m, err := t.model(members, i)
		if err != nil {
			return err
		}
		b, rows, err := t.bundle(m, c, i, choice.Threshold, figures[i], scores[i])
		if err != nil {
			return err
		}
		last := i == t.folds.Count-1
		if last {
			serving, err := reg.Resolve(ctx, p.Model+"@"+registry.Champion)
			if err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
			if b.Gate, err = t.judge(ctx, reg, serving, rows, scores[i], i); err != nil {
				return err
			}
			b.Parent = serving.Version
			r.Gate = *b.Gate
		}
		version, err := reg.Publish(ctx, p.Model, b)
		if err != nil {
			return err
		}
		figures[i].Model = fmt.Sprintf("%s@%d", p.Model, version)
		if last {
			r.Published = figures[i].Model
			if b.Gate.Passed {
				if err := reg.SetAlias(ctx, p.Model, registry.Champion, version, "passed the gate", b.Parent); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t *table) bundle(m models.Model, c Candidate, fold int, threshold float64, f Figures, scores []float32) (*bundle.Bundle, []int32, error) {
	p := t.p
	fd := p.fold(t.folds, fold)
	lo, hi := t.set.rowsIn(fd.trainFrom, fd.trainTo)
	learned := t.set.trainRows(lo, hi, fd.testFrom)
	trained := t.set.labels(p.Label, learned)
	bounds := [4]int64{fd.trainFrom, fd.trainTo, fd.testFrom, fd.testTo}
	rows := t.set.testRows(bounds, p.Label, p.Exclude)
	x := t.set.matrix(m.Inputs(), rows)
	params, err := c.params()
	if err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256(event.Append(nil, t.set.Gather(learned)))
	b := &bundle.Bundle{
		Manifest: bundle.Manifest{
			Name: p.Model, Fingerprint: p.Features.Fingerprint(), Calibration: cmp.Or(c.Calibrate, "none"), Threshold: &threshold,
			Params: params, Seed: p.Seed, CodeRevision: p.Revision,
			Training: bundle.Training{
				From: rfc3339(fd.trainFrom), To: rfc3339(fd.trainTo), Rows: len(learned), Positives: count(trained), DataDigest: hex.EncodeToString(digest[:]),
			},
		},
		Model: m, Golden: bundle.PickGolden(x, len(m.Inputs()), scores),
	}
	ref, err := profile.Of(models.Dataset{Features: m.Inputs(), X: x, Y: t.truths[fold].labels}, m.Outputs(), scores)
	if err != nil {
		return nil, nil, err
	}
	b.Reference = ref
	tr := t.truths[fold]
	interval := evaluate.Bootstrap{Replicates: 200, Seed: p.Seed}.Interval(p.statistic(tr, scores))
	for _, name := range sortedNames(f.Metrics) {
		metric := bundle.Metric{Name: name, Value: f.Metrics[name], Rows: len(rows)}
		if name == p.Gate.Metric {
			metric.Low, metric.High, metric.Confidence = interval.Low, interval.High, 0.95
		}
		b.Metrics = append(b.Metrics, metric)
	}
	return b, rows, nil
}

func rfc3339(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339) }

// judge compares the challenger with the serving model on the same rows of the last fold.
func (t *table) judge(ctx context.Context, reg *registry.Registry, serving registry.Ref, rows []int32, challenger []float32, fold int) (*bundle.Gate, error) {
	p := t.p
	g := &bundle.Gate{Passed: true}
	say := func(ok bool, format string, args ...any) {
		g.Passed = g.Passed && ok
		g.Reasons = append(g.Reasons, fmt.Sprintf(format, args...))
	}
	lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
	finite := true
	sum, positives := 0.0, 0.0
	for i, s := range challenger {
		finite = finite && s-s == 0
		lo, hi = min(lo, s), max(hi, s)
		sum, positives = sum+float64(s), positives+float64(t.truths[fold].labels[i])
	}
	say(finite, "all scores are finite: %v", finite)
	say(lo < hi, "scores range from %.4g to %.4g", lo, hi)
	ratio := sum / positives
	say(ratio > 0.2 && ratio < 5, "the scores expect %.0f positives, there were %.0f", sum, positives)
	if serving.Version == 0 {
		say(true, "no model serves yet")
		return g, nil
	}
	g.Against = serving.String()
	old, err := reg.Load(ctx, serving)
	if err != nil {
		return nil, fmt.Errorf("loading the serving model: %w", err)
	}
	if err := old.CheckFingerprint(p.Features.Fingerprint()); err != nil {
		say(true, "%s was trained on other features and can't be compared", serving)
		return g, nil
	}
	champion := make([]float32, len(rows))
	if err := old.Model.Score(ctx, t.set.matrix(old.Model.Inputs(), rows), len(rows), champion); err != nil {
		return nil, err
	}
	tr := t.truths[fold]
	d := evaluate.Bootstrap{Replicates: 500, Confidence: p.Gate.Confidence, Seed: p.Seed}.Difference(p.statistic(tr, challenger), p.statistic(tr, champion))
	say(d.Value >= p.Gate.Gain, "%s: %+.4f against %s, asked for %+.4f", p.Gate.Metric, d.Value, serving, p.Gate.Gain)
	say(d.Above(0) >= p.Gate.Confidence, "ahead in %.1f %% of resamples, asked for %.1f %%", 100*d.Above(0), 100*p.Gate.Confidence)
	return g, nil
}
