package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/reentry"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// DefaultMaxAttempts is how often an event is tried unless Filter says otherwise.
const DefaultMaxAttempts = 5

// Params are the letters and what of them is replayed.
type Params struct {
	// From are the addresses of envelopes: files, folders, globs, and topics, which are read to the end that
	// they have when reading begins.
	From   []string
	Filter reentry.Filter
	// Rate bounds the replayed events that are scored, in events a second; 0: no bound.
	Rate float64
}

// Plan is everything a replay is made of.
type Plan struct {
	// Scoring is the graph of a bounded run over the history; its sinks receive replayed events alone.
	Scoring scoring.Plan
	Params  Params

	letters []driver.Partition
	headers map[string][]byte
}

// ErrAddress reports an address that a replay must not write to or can't read from.
var ErrAddress = errors.New("unusable address")

// New plans the replay of letters over what s reads.
func New(ctx context.Context, s scoring.Plan, p Params) (Plan, error) {
	p.Filter.MaxAttempts = cmp.Or(p.Filter.MaxAttempts, DefaultMaxAttempts)
	out := Plan{Scoring: s, Params: p}
	for _, address := range s.Source.URLs {
		if source.Endless(address) {
			return out, fmt.Errorf("%w: the history %s has no end: give files of it with --source", ErrAddress, connect.Redact(address))
		}
	}
	var err error
	if out.letters, err = lettersOf(ctx, p.From, s.DeadLetters); err != nil {
		return out, err
	}
	if out.headers, err = source.Headers(ctx, s.Source); err != nil {
		return out, err
	}
	out.Scoring.Features = reentry.WithMarks(out.Scoring.Features)
	return out, out.entrance().Validate()
}

// Survey reads the letters and decodes them, and neither computes nor writes anything.
func (p Plan) Survey(ctx context.Context) (reentry.Survey, error) {
	return reentry.Examine(ctx, p.letters, p.entrance())
}

func (p Plan) entrance() reentry.Params {
	return reentry.Params{Filter: p.Params.Filter, Decode: p.Scoring.Source.Decode, Features: p.Scoring.Features, Headers: p.headers}
}

// inside reports whether a file is the target, or of its folder.
func inside(file, target string) bool {
	plain := func(address string) string {
		if connect.Scheme(address) != "file" {
			return address
		}
		path, err := filepath.Abs(strings.TrimPrefix(address, "file://"))
		if err != nil {
			return address
		}
		if strings.HasSuffix(address, "/") {
			path += "/"
		}
		return path
	}
	file, target = plain(file), plain(target)
	return file == target || strings.HasSuffix(target, "/") && strings.HasPrefix(file, target)
}

// Check looks, before anything starts, for sources that are not there and targets that can't be written.
func (p Plan) Check(ctx context.Context) error { return p.Scoring.Check(ctx) }

// Build adds the replay to s. It panics if the plan is not valid.
func Build(s beam.Scope, p Plan) {
	sp := p.Scoring
	in := source.ReadAll(s, sp.Source) // the history's bad records have letters already
	entered, rows, failed := reentry.Read(s, p.letters, p.entrance())
	in.Events = beam.Flatten(s, reentry.Mark(s, in.Events, sp.Source.Decode), entered)
	labels, _ := sp.Labels(s, in)
	computed, rejected := feature.ComputeLabeled(s, in.Events, labels, sp.Features)
	rows = reentry.Order(s, beam.Flatten(s, reentry.Pick(s, computed), rows), p.Params.Rate)
	scored, unscored := predict.Score(s, rows, sp.Predict)
	lost := []beam.PCollection{failed, reentry.Again(s, rejected, false), reentry.Again(s, unscored, false)}
	for _, out := range sp.Sinks {
		lost = append(lost, reentry.Again(s, sink.Write(s, scored, out), false))
	}
	deadletter.Write(s, deadletter.Params{URL: sp.DeadLetters}, lost...)
}
