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
	Filter Filter
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
	if len(p.From) == 0 {
		return out, fmt.Errorf("%w: there is nothing to replay from: give the dead letters with --from", ErrAddress)
	}
	for _, address := range s.Source.URLs {
		if source.Endless(address) {
			return out, fmt.Errorf("%w: the history %s has no end: give files of it with --source", ErrAddress, connect.Redact(address))
		}
	}
	var err error
	if out.letters, err = source.Partitions(ctx, p.From...); err != nil {
		return out, err
	}
	for _, part := range out.letters {
		if !source.Endless(part.URL) && inside(part.URL, s.DeadLetters) { // a topic keeps what it has
			return out, fmt.Errorf("%w: dead letters would be written over %s, which is replayed: give another place with --dead-letters", ErrAddress, part.Name)
		}
	}
	if out.headers, err = source.Headers(ctx, s.Source); err != nil {
		return out, err
	}
	f := &out.Scoring.Features
	f.Fields = append(f.Fields[:len(f.Fields):len(f.Fields)], marks...)
	if len(f.Keep) > 0 {
		for _, m := range marks {
			f.Keep = append(f.Keep[:len(f.Keep):len(f.Keep)], m.Name)
		}
	}
	_, err = out.entrance()
	return out, err
}

func (p Plan) entrance() (*entrance, error) {
	return newEntrance(p.Params.Filter, p.Scoring.Source.Decode, p.Scoring.Features, p.headers)
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
	history, _ := source.Read(s, sp.Source) // its bad records have letters already
	events, rows, failed := letters(s, p)
	events = beam.Flatten(s, beam.ParDo(s, &markFn{Decode: sp.Source.Decode}, history), events)
	lost := []beam.PCollection{failed}
	again := func(letters beam.PCollection) { lost = append(lost, beam.ParDo(s, againFn, letters)) }
	computed, rejected := feature.Compute(s, events, sp.Features)
	again(rejected)
	rows = beam.Flatten(s, beam.ParDo(s, pickFn, computed), rows)
	rows = beam.ParDo(s, &orderFn{Rate: p.Params.Rate}, beam.GroupByKey(s, beam.ParDo(s, together, rows)))
	scored, unscored := predict.Score(s, rows, sp.Predict)
	again(unscored)
	for _, out := range sp.Sinks {
		again(sink.Write(s, scored, out))
	}
	deadletter.Write(s, deadletter.Params{URL: sp.DeadLetters}, lost...)
}

// letters are the events that the letters hold, rows with their features, and letters of what failed again.
func letters(s beam.Scope, p Plan) (events, rows, failed beam.PCollection) {
	s = s.Scope("replay.Letters")
	if len(p.letters) == 0 {
		panic("replay: a plan is made by New")
	}
	parts := beam.Reshuffle(s, beam.CreateList(s, p.letters))
	keyed, unreadable := beam.ParDo2(s, &readFn{Filter: p.Params.Filter}, parts)
	events, rows, failed = beam.ParDo3(s, &enterFn{
		Filter: p.Params.Filter, Decode: p.Scoring.Source.Decode, Features: p.Scoring.Features, Headers: p.headers,
	}, beam.GroupByKey(s, keyed))
	return events, rows, beam.Flatten(s, unreadable, failed)
}
