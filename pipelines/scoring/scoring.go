package scoring

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/featurelog"
	"github.com/millrace-ml/millrace/transforms/label"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

// Plan is everything a scoring graph is made of.
type Plan struct {
	Source   source.Params
	Features feature.Params
	// Join finds the events of labels that come as events of their own, by id; nil: they carry what they need.
	Join *label.Params
	// Predict scores; without models the rows go to the sinks as they are, features and all.
	Predict predict.Params
	// Sinks each receive all rows that their condition lets through.
	Sinks []sink.Params
	// Log keeps what was served; nil for none.
	Log *featurelog.Params
	// DeadLetters is the URL of what could not go on.
	DeadLetters string
	// Run and Roll are set where the source has no end: the run's name, and how files are cut.
	Run  string
	Roll *sink.Stream
}

// Build adds the scoring graph to s. It panics if the plan is not valid.
func Build(s beam.Scope, p Plan) {
	p = p.counted()
	if len(p.Source.Replay) > 0 {
		buildReplaying(s, p)
		return
	}
	rows, lost := Score(s, p)
	for _, out := range p.Sinks {
		lost = append(lost, sink.Write(s, rows, out))
	}
	if p.Log != nil {
		lost = append(lost, featurelog.Write(s, rows, *p.Log))
	}
	deadletter.Write(s, p.letters(), lost...)
}

// Score adds what comes before the sinks: it gives PCollection<event.Batch>, the rows with features and
// scores, and PCollections<deadletter.Letter>, what could not go on.
func Score(s beam.Scope, p Plan) (rows beam.PCollection, lost []beam.PCollection) {
	in := source.ReadAll(s, p.Source)
	rows, lost = in.Events, []beam.PCollection{in.Bad}
	if len(p.Features.Features) > 0 {
		labels, orphans := p.Labels(s, in)
		var rejected beam.PCollection
		rows, rejected = feature.ComputeLabeled(s, in.Events, labels, p.Features)
		lost = append(append(lost, rejected), orphans...)
	}
	if len(p.Predict.Models) > 0 {
		var unscored beam.PCollection
		rows, unscored = predict.Score(s, rows, p.Predict)
		lost = append(lost, unscored)
	}
	return rows, lost
}

// Labels are those that come as events of their own as features need them, and the letters of those that found
// no event, if any are looked for.
func (p Plan) Labels(s beam.Scope, in source.Streams) (labels beam.PCollection, orphans []beam.PCollection) {
	if p.Join == nil || !in.Labels.IsValid() || len(p.Source.Labels.URLs) == 0 {
		return in.Labels, nil
	}
	labels, lost := label.Join(s, in.Events, in.Labels, *p.Join)
	return labels, []beam.PCollection{lost}
}

func (p Plan) letters() deadletter.Params {
	return deadletter.Params{URL: p.DeadLetters, Stream: p.Roll}
}

// tables are the sinks and the log.
func (p Plan) tables() []sink.Params {
	if p.Log == nil {
		return p.Sinks
	}
	return append(slices.Clone(p.Sinks), p.Log.Table())
}

// Check looks, before anything starts, for sources that are not there and targets that can't be
// written.
func (p Plan) Check(ctx context.Context) error {
	errs := []error{source.Check(ctx, p.Source), deadletter.Check(ctx, p.letters())}
	for _, s := range p.tables() {
		errs = append(errs, sink.Check(ctx, s))
	}
	return errors.Join(errs...)
}

// Size sets the number of shards by the size of the source and the memory, in a stream the number of
// readers by the partitions. The result of a run does not depend on it.
func (p Plan) Size(ctx context.Context) (Plan, error) {
	if p.Source.Stream != nil { // state keeps its number of shards
		return p.spread(ctx)
	}
	n, err := source.Estimate(ctx, p.Source)
	if err != nil {
		return p, fmt.Errorf("sizing the shuffles: %w", err)
	}
	if p.Features.Shards == 0 {
		p.Features.Shards = Shards(n, 4*p.Features.Memory)
	}
	return p, nil
}

// Sweep removes what a failed job has staged and not published.
func (p Plan) Sweep(ctx context.Context) error {
	errs := []error{deadletter.Sweep(ctx, p.letters())}
	for _, s := range p.tables() {
		errs = append(errs, sink.Sweep(ctx, s))
	}
	return errors.Join(errs...)
}
