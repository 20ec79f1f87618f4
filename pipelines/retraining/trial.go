package retraining

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/calibration"
	"github.com/millrace-ml/millrace/models/ensemble"
	"github.com/millrace-ml/millrace/models/evaluate"
)

// trainFn trains one candidate on one fold and scores the fold's test rows.
type trainFn struct{}

func (f *trainFn) ProcessElement(ctx context.Context, t Task) (Trial, error) {
	trial, err := run(ctx, t)
	if err != nil {
		return Trial{}, fmt.Errorf("training %s on the fold from %s: %w", t.Candidate.Name, day(t.Bounds[0]), err)
	}
	return trial, nil
}

func run(ctx context.Context, t Task) (Trial, error) {
	s, err := openSet(t.Set)
	if err != nil {
		return Trial{}, err
	}
	kind, err := models.Lookup(t.Candidate.Kind)
	if err != nil {
		return Trial{}, err
	}
	given, err := t.Candidate.params()
	if err != nil {
		return Trial{}, err
	}
	params, err := kind.Complete(given)
	if err != nil {
		return Trial{}, err
	}
	lo, hi := s.rowsIn(t.Bounds[0], t.Bounds[1])
	cut := hi
	if t.Candidate.Calibrate != "" {
		cut, _ = s.rowsIn(t.Bounds[1]-(t.Bounds[1]-t.Bounds[0])/5, t.Bounds[1])
	}
	rows, held, test := s.trainRows(lo, cut, t.Bounds[2]), s.trainRows(cut, hi, t.Bounds[2]), s.testRows(t.Bounds, t.Label, t.Exclude)
	features, err := s.features(t.Inputs, lo, cut)
	if err != nil {
		return Trial{}, err
	}
	d := models.Dataset{Features: features, X: s.matrix(features, rows), Y: s.labels(t.Label, rows)}
	if positives := count(d.Y); positives == 0 || positives == len(rows) {
		return Trial{}, fmt.Errorf("%d training rows of which %d are positive: the history is too short for this fold", len(rows), positives)
	}
	model, err := kind.Train(ctx, models.Training{Train: d, Params: params, Seed: t.Seed})
	if err != nil {
		return Trial{}, err
	}
	if t.Candidate.Calibrate != "" {
		if model, err = calibrate(ctx, t.Candidate.Calibrate, model, s.matrix(features, held), s.labels(t.Label, held)); err != nil {
			return Trial{}, err
		}
	}
	out := make([]float32, len(test))
	if err := model.Score(ctx, s.matrix(features, test), len(test), out); err != nil {
		return Trial{}, err
	}
	files, err := model.Files()
	if err != nil {
		return Trial{}, err
	}
	return Trial{Task: t, Scores: out, Kind: model.Kind(), Files: files}, nil
}

// calibrate puts a calibration on a model, by rows that it was not trained on.
func calibrate(ctx context.Context, method string, m models.Model, x, y []float32) (models.Model, error) {
	scores := make([]float32, len(y))
	if err := m.Score(ctx, x, len(y), scores); err != nil {
		return nil, err
	}
	c, err := calibration.Fit(method, scores, y, nil)
	if err != nil {
		return nil, err
	}
	return calibration.Wrap(m, c)
}

func count(y []float32) (positives int) {
	for _, v := range y {
		if v > 0 {
			positives++
		}
	}
	return positives
}

func day(us int64) string { return time.UnixMicro(us).UTC().Format(time.DateOnly) }

// Choice is what the selection folds decided.
type Choice struct {
	// Results of all candidates and ensembles, best first.
	Results []Selected
	// Best maps a group to its best candidate.
	Best map[string]string
	// Champion is the name of the best of all; Threshold is where it alerts.
	Champion  string
	Threshold float64
}

// Selected is a candidate's record on the selection folds.
type Selected struct {
	Name, Kind, Group string
	Folds             []Figures
	Mean              Metrics
}

// Metrics are figures by name.
type Metrics map[string]float64

// Figures are the metrics of a fold.
type Figures struct {
	TrainStart, TestStart string
	Model                 string
	Metrics               Metrics
}

// truth is what a fold's test rows were.
type truth struct {
	times    []int64 // microseconds
	labels   []float32
	entities []string
	ids      []string
}

func (p Params) truth(s *set, bounds [4]int64) truth {
	rows := s.testRows(bounds, p.Label, p.Exclude)
	t := truth{labels: s.labels(p.Label, rows)}
	ids := s.IDs()
	for _, r := range rows {
		t.times = append(t.times, s.times[r])
		t.ids = append(t.ids, string(ids.AppendID(nil, int(r))))
		if p.Card != nil {
			t.entities = append(t.entities, string(s.Col(p.Card.Entity).AppendID(nil, int(r))))
		}
	}
	return t
}

func (p Params) cardRows(t truth, scores []float32) evaluate.CardRows[string, float32] {
	return evaluate.CardRows[string, float32]{Time: t.times, Entity: t.entities, Score: scores, Label: t.labels}
}

func (p Params) metrics(t truth, scores []float32) Metrics {
	m := Metrics{
		"auc":               evaluate.AUC(scores, t.labels),
		"average_precision": evaluate.AveragePrecision(scores, t.labels),
		"log_loss":          evaluate.LogLoss(scores, t.labels),
		"brier":             evaluate.Brier(scores, t.labels),
		"calibration_error": evaluate.CalibrationError(scores, t.labels, 10),
	}
	if p.Card != nil {
		m[cardMetric(p.Card.K)] = evaluate.CardPrecision(p.cardRows(t, scores), p.Card.K, p.Card.Per.Microseconds()).Mean
	}
	return m
}

func (p Params) statistic(t truth, scores []float32) evaluate.Statistic {
	switch p.Gate.Metric {
	case "auc":
		return evaluate.AUCStatistic(scores, t.labels)
	case "average_precision":
		return evaluate.AveragePrecisionStatistic(scores, t.labels)
	}
	return evaluate.CardPrecisionStatistic(p.cardRows(t, scores), p.Card.K, p.Card.Per.Microseconds())
}

func mean(folds []Figures) Metrics {
	m := Metrics{}
	for _, f := range folds {
		for k, v := range f.Metrics {
			m[k] += v / float64(len(folds))
		}
	}
	return m
}

// table holds the trials of one set of folds by candidate.
type table struct {
	p      Params
	set    *set
	folds  Folds
	truths []truth
	trials map[string][]Trial // by candidate name, in order of folds
}

func (p Params) table(next func(*Trial) bool, folds Folds) (*table, *Choice, string, error) {
	t := &table{p: p, folds: folds, trials: map[string][]Trial{}}
	var path string
	var choice *Choice
	var trial Trial
	for next(&trial) {
		name := trial.Task.Candidate.Name
		t.trials[name] = append(t.trials[name], trial)
		path, choice = trial.Task.Set, trial.Task.Choice
		trial = Trial{}
	}
	for _, trials := range t.trials {
		sort.Slice(trials, func(i, j int) bool { return trials[i].Task.Fold < trials[j].Task.Fold })
	}
	s, err := openSet(path)
	if err != nil {
		return nil, nil, "", err
	}
	t.set = s
	for i := range folds.Count {
		fd := p.fold(folds, i)
		tr := p.truth(s, [4]int64{fd.trainFrom, fd.trainTo, fd.testFrom, fd.testTo})
		if n := count(tr.labels); n == 0 || n == len(tr.labels) {
			return nil, nil, "", fmt.Errorf("the test week from %s has %d rows of which %d are positive: nothing can be measured on it", day(fd.testFrom), len(tr.labels), n)
		}
		t.truths = append(t.truths, tr)
	}
	return t, choice, path, nil
}

// figures are a candidate's metrics on each fold.
func (t *table) figures(scores func(fold int) []float32) []Figures {
	var out []Figures
	for i := range t.folds.Count {
		fd := t.p.fold(t.folds, i)
		out = append(out, Figures{
			TrainStart: day(fd.trainFrom), TestStart: day(fd.testFrom), Metrics: t.p.metrics(t.truths[i], scores(i)),
		})
	}
	return out
}

// blend averages the members' scores as the ensemble does that is published.
func (t *table) blend(members []string, fold int) ([]float32, error) {
	m, err := t.model(members, fold)
	if err != nil {
		return nil, err
	}
	rows := t.set.testRows(t.trials[members[0]][fold].Task.Bounds, t.p.Label, t.p.Exclude)
	out := make([]float32, len(rows))
	return out, m.Score(context.Background(), t.set.matrix(m.Inputs(), rows), len(rows), out)
}

// model loads the trained model of a fold: a single candidate, or an ensemble of several.
func (t *table) model(names []string, fold int) (models.Model, error) {
	var members []ensemble.Named
	for _, name := range names {
		trial := t.trials[name][fold]
		kind, err := models.Lookup(trial.Kind)
		if err != nil {
			return nil, err
		}
		m, err := kind.Load(trial.Files)
		if err != nil {
			return nil, fmt.Errorf("loading %s of fold %d: %w", name, fold, err)
		}
		if len(names) == 1 {
			return m, nil
		}
		members = append(members, ensemble.Named{Name: trial.Task.Candidate.Group, Model: m})
	}
	return ensemble.Blend(members, nil)
}

func (c *Choice) members(cand Candidate) []string {
	if len(cand.Of) == 0 {
		return []string{cand.Name}
	}
	var names []string
	for _, g := range cand.Of {
		names = append(names, c.Best[g])
	}
	return names
}

// chooseFn ranks the candidates on the selection folds and asks for the best of each group, and what
// ensembles need, on the report folds.
type chooseFn struct{ Params Params }

func (f *chooseFn) ProcessElement(_ context.Context, _ int64, next func(*Trial) bool, emit func(Task)) error {
	p := f.Params
	t, _, path, err := p.table(next, p.Selection)
	if err != nil {
		return fmt.Errorf("choosing a champion: %w", err)
	}
	choice, err := t.choose()
	if err != nil {
		return fmt.Errorf("choosing a champion: %w", err)
	}
	for _, c := range p.Candidates {
		if len(c.Of) > 0 || choice.Best[c.Group] != c.Name {
			continue
		}
		for i := range p.Reporting.Count {
			task := p.task(path, c, p.Reporting, i)
			task.Choice = choice
			emit(task)
		}
	}
	return nil
}

func (t *table) choose() (*Choice, error) {
	metric := t.p.Gate.Metric
	choice := &Choice{Best: map[string]string{}}
	bestOf := map[string]float64{}
	scores := map[string][][]float32{}
	for _, ensembles := range []bool{false, true} { // an ensemble is made of the best members
		for _, c := range t.p.Candidates {
			if (len(c.Of) > 0) != ensembles {
				continue
			}
			for i := range t.folds.Count {
				members := choice.members(c)
				var s []float32
				if ensembles {
					var err error
					if s, err = t.blend(members, i); err != nil {
						return nil, fmt.Errorf("blending %s: %w", c.Name, err)
					}
				} else {
					if len(t.trials[c.Name]) != t.folds.Count {
						return nil, errors.New("trials are missing for " + c.Name)
					}
					s = t.trials[c.Name][i].Scores
				}
				scores[c.Name] = append(scores[c.Name], s)
			}
			figures := t.figures(func(i int) []float32 { return scores[c.Name][i] })
			sel := Selected{Name: c.Name, Kind: c.Kind, Group: c.Group, Folds: figures, Mean: mean(figures)}
			choice.Results = append(choice.Results, sel)
			if best, ok := bestOf[c.Group]; !ok || sel.Mean[metric] > best {
				bestOf[c.Group], choice.Best[c.Group] = sel.Mean[metric], c.Name
			}
		}
	}
	slices.SortStableFunc(choice.Results, func(a, b Selected) int {
		switch {
		case a.Mean[metric] > b.Mean[metric]:
			return -1
		case a.Mean[metric] < b.Mean[metric]:
			return 1
		}
		return 0
	})
	choice.Champion = choice.Results[0].Name
	choice.Threshold = t.threshold(scores[choice.Champion])
	return choice, nil
}

// threshold is where the champion alerts: with card precision at k, so that about k rows a period
// alert; else where F1 is largest. It is the mean over the selection folds, whose rows the models of
// the folds had not seen.
func (t *table) threshold(scores [][]float32) float64 {
	sum := 0.0
	for i, s := range scores {
		if t.p.Card == nil {
			th, _ := evaluate.BestF(s, t.truths[i].labels, 1)
			sum += th
			continue
		}
		alerts := t.p.Card.K * int(max(1, t.p.Window.Test/t.p.Card.Per))
		sum += evaluate.TopThreshold(s, min(alerts, len(s)))
	}
	return sum / float64(len(scores))
}
