package cases

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/source"

	_ "github.com/millrace-ml/millrace/transforms/connect/file" // a case's events are read from a file
)

// Mismatch is one thing that did not come out as expected.
type Mismatch struct {
	// Case is the case's name, Event the event as the test file names it.
	Case, Event string
	// What is the feature's name, or score, decision or dead letter.
	What      string
	Want, Got string
	// Why are lines that let a person see it: for an aggregate the rows that were in its window, for an
	// expression what it was made of, for a dead letter its message.
	Why []string
}

// Run runs every case and returns what differs, in the order of the file. registry replaces the use
// case's, unless it is empty; only cases that name a model need one. The caller has called beam.Init.
func Run(ctx context.Context, u *spec.UseCase, tests *spec.Tests, registry string) ([]Mismatch, error) {
	work, err := os.MkdirTemp("", "millrace-test-")
	if err != nil {
		return nil, fmt.Errorf("making a work folder: %w", err)
	}
	defer os.RemoveAll(work)
	var all []Mismatch
	for i := range tests.Cases {
		c := &tests.Cases[i]
		out, err := run(ctx, u, c, registry, filepath.Join(work, fmt.Sprintf("case%d.jsonl", i)))
		if err != nil {
			return all, fmt.Errorf("running case %q: %w", c.Name, err)
		}
		found, err := compare(u, tests, c, out)
		if err != nil {
			return all, fmt.Errorf("comparing case %q: %w", c.Name, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// run passes a case's events through the transforms that serve.
func run(ctx context.Context, u *spec.UseCase, c *spec.Case, registry, file string) (outcome, error) {
	var text bytes.Buffer
	for _, e := range c.Events {
		text.Write(e.Text)
		text.WriteByte('\n')
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return outcome{}, fmt.Errorf("writing its events: %w", err)
	}
	p, err := plan(ctx, u, c, registry, file)
	if err != nil {
		return outcome{}, err
	}
	into, collected := collect()
	pipeline, s := beam.NewPipelineWithRoot()
	rows, lost := scoring.Score(s, p)
	into(s, rows, beam.Flatten(s, lost...))
	if _, err := runner.Run(ctx, runner.Direct, pipeline); err != nil {
		return outcome{}, err
	}
	return collected()
}

// plan is the plan of the scoring graph over one file, with all columns kept for people to see.
func plan(ctx context.Context, u *spec.UseCase, c *spec.Case, registry, file string) (scoring.Plan, error) {
	o := scoring.Options{Sources: []string{file}, Sink: "-", DeadLetters: "-", Shards: 1, Model: c.Model, Registry: registry}
	make := scoring.Features
	if c.Model != "" {
		make = func(u *spec.UseCase, o scoring.Options) (scoring.Plan, error) { return scoring.New(ctx, u, o) }
	}
	p, err := make(u, o)
	if err != nil {
		return p, err
	}
	p.Source.Decode.Format = "json"
	p.Source.Labels = source.Labels{} // a case has events alone
	p.Features.Keep = nil
	if len(c.Scores) > 0 {
		m := predict.Model{Name: u.Models[0].Name, Scorer: given(u.IDColumn(), c.Scores)}
		threshold := float64(float32(c.Threshold)) // as scores are: a score of 0.9 reaches a threshold of 0.9
		m.Threshold = &threshold
		for _, d := range u.Models[0].Decide {
			m.Decide = append(m.Decide, predict.Decision{Name: d.Name, When: d.When})
		}
		p.Predict = predict.Params{UseCase: u.Name, Models: []predict.Model{m}}
	}
	if len(p.Predict.Models) > 1 {
		p.Predict.Models = p.Predict.Models[:1]
	}
	return p, nil
}
