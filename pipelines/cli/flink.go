package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/transforms/connect"
)

// engine is the runner that the flags ask for.
func (c *common) engine() (runner.Engine, error) {
	if c.runner != runner.Flink {
		if len(c.flink) > 0 {
			return runner.Engine{}, usageError{fmt.Errorf("--flink goes with --runner %s", runner.Flink)}
		}
		return runner.Engine{Name: c.runner}, nil
	}
	o, err := flink.Parse(c.flink)
	if err != nil {
		return runner.Engine{}, usageError{err}
	}
	return runner.Engine{Name: c.runner, Flink: o}, nil
}

// run runs a graph where the flags say.
func (c *common) run(ctx context.Context, pr *progress, p *beam.Pipeline) (runner.Result, error) {
	e, err := c.engine()
	if err != nil {
		return runner.Result{}, err
	}
	if !runner.InProcess(e.Name) {
		e.Progress = reporter(pr)
	}
	res, err := e.Run(ctx, p)
	if res.Savepoint != "" {
		pr.say("stopped with a savepoint; go on from it with --flink savepoint_path=%s", res.Savepoint)
	}
	return res, err
}

// reporter says how a job on a cluster goes on.
func reporter(pr *progress) flink.Progress {
	var once sync.Once
	var state flink.State
	return func(d flink.Detail) {
		once.Do(func() { pr.say("job %s is Flink's %s", d.Name, d.ID) })
		if d.State != state {
			state = d.State
			pr.say("the job is %s", state)
		}
	}
}

// far makes the paths of a plan whole for workers elsewhere, which have other folders to start from, and
// refuses what only this process has.
func far(p *scoring.Plan) error {
	for _, a := range p.Source.URLs {
		if s := connect.Scheme(a); s == "-" || s == "stdin" {
			return usageError{fmt.Errorf("source %s: workers on a cluster have no standard input: give a file or a topic that they can reach", a)}
		}
	}
	addresses := []*string{&p.DeadLetters}
	for i := range p.Source.URLs {
		addresses = append(addresses, &p.Source.URLs[i])
	}
	for i := range p.Sinks {
		if connect.Scheme(p.Sinks[i].URL) == "-" {
			return usageError{fmt.Errorf("sink -: workers on a cluster have no standard output of yours: give a file or a topic that they can reach")}
		}
		addresses = append(addresses, &p.Sinks[i].URL)
	}
	for i := range p.Predict.Models {
		addresses = append(addresses, &p.Predict.Models[i].Registry)
	}
	for _, a := range addresses {
		if *a == "" || connect.Scheme(*a) != "file" || filepath.IsAbs(*a) || len(*a) > 7 && (*a)[:7] == "file://" {
			continue
		}
		whole, err := filepath.Abs(*a)
		if err != nil {
			return err
		}
		if (*a)[len(*a)-1] == '/' { // a folder
			whole += "/"
		}
		*a = whole
	}
	return nil
}
