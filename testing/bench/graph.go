package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/feature"
)

// useCase is the built-in fraud with the handbook's fifteen inputs alone, and without decisions, which
// the bare loop doesn't make.
func useCase() (*spec.UseCase, error) {
	u, err := spec.Load("fraud", nil)
	if err != nil {
		return nil, err
	}
	u.Entries = slices.DeleteFunc(u.Entries, func(f feature.Feature) bool {
		return f.Entity == "" && !slices.Contains([]string{"tx_amount", "weekend", "night"}, f.Name)
	})
	for i := range u.Models {
		u.Models[i].Decide = nil
	}
	if n := len(u.Features().Names()); n != inputs {
		return nil, fmt.Errorf("the built-in fraud has %d of the handbook's features, the bench expects %d", n, inputs)
	}
	return u, nil
}

// graph runs the scoring graph on a runner.
func graph(ctx context.Context, name, in, out, reg string) error {
	runner.Memory(1 << 30) // the command's default
	u, err := useCase()
	if err != nil {
		return err
	}
	plan, err := scoring.New(ctx, u, scoring.Options{Sources: []string{in}, Sink: out, DeadLetters: out + ".dead.jsonl", Registry: reg, Local: runner.Local(name)})
	if err != nil {
		return err
	}
	p, s := beam.NewPipelineWithRoot()
	scoring.Build(s, plan)
	_, err = runner.Run(ctx, name, p)
	return err
}
