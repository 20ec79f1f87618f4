package scoring

import (
	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/featurelog"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/reentry"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

// replaying makes a plan of a stream one that also scores the dead letters of an address.
func (p Plan) replaying(address string) Plan {
	p.Source.Replay = []string{address}
	p.Features = reentry.WithMarks(p.Features)
	stream := *p.Features.Stream
	stream.Fresh = reentry.FreshColumn
	p.Features.Stream = &stream
	return p
}

// buildReplaying is Build for such a plan: letters enter as events before the features, or as rows
// before the models.
func buildReplaying(s beam.Scope, p Plan) {
	in := source.ReadAll(s, p.Source)
	entered, rows, failed := reentry.Follow(s, in.Letters, reentry.Params{
		Filter: reentry.Filter{AcceptLate: true}, Decode: p.Source.Decode, Features: p.Features, Credit: p.Source.Stream.Credit > 0,
		Models: p.Source.Stream.Models, Sinks: p.Source.Stream.Sinks,
	})
	in.Events = beam.Flatten(s, reentry.Mark(s, in.Events, p.Source.Decode), entered)
	labels, orphans := p.Labels(s, in)
	computed, rejected := feature.ComputeLabeled(s, in.Events, labels, p.Features)
	scored, unscored := predict.Score(s, beam.Flatten(s, computed, rows), p.Predict)
	lost := []beam.PCollection{in.Bad, failed, reentry.Again(s, rejected, true), reentry.Again(s, unscored, true)}
	for _, out := range p.Sinks {
		lost = append(lost, reentry.Again(s, sink.Write(s, scored, out), true))
	}
	if p.Log != nil {
		lost = append(lost, reentry.Again(s, featurelog.Write(s, scored, *p.Log), true))
	}
	deadletter.Write(s, p.letters(), append(lost, orphans...)...)
}
