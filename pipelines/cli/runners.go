package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/runner/dataflow"
	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/scoring"
)

// choose is the runner that the flags ask for.
func (c *common) choose() (runner.Engine, error) {
	e, err := runner.Engine{Name: c.runner}, error(nil)
	switch {
	case len(c.flink) > 0 && c.runner != runner.Flink:
		err = fmt.Errorf("--flink goes with --runner %s", runner.Flink)
	case len(c.dataflow) > 0 && c.runner != runner.Dataflow:
		err = fmt.Errorf("--dataflow goes with --runner %s", runner.Dataflow)
	case c.runner == runner.Flink:
		e.Flink, err = c.flinkOptions()
	case c.runner == runner.Dataflow:
		e.Dataflow, err = c.dataflowOptions()
	}
	if err != nil {
		return runner.Engine{}, usageError{err}
	}
	return e, nil
}

// checked is choose, and refuses options of Flink that a graph can't use, before anything is read. Those of Dataflow
// are checked where its job is described, and by lint.
func (c *common) checked(stream bool) (runner.Engine, error) {
	e, err := c.choose()
	if err == nil && e.Name == runner.Flink {
		if err := e.Flink.Validate(stream); err != nil {
			return e, usageError{err}
		}
	}
	return e, err
}

// elsewhere tells that workers are not this process, and may see another machine.
func (c *common) elsewhere() bool { return !runner.InProcess(c.runner) }

// place checks the runner, and tells a plan's options how it spreads the plan; a process of its own needs nothing.
func (c *common) place(o *scoring.Options) error {
	e, err := c.checked(o.Stream != nil)
	if err != nil {
		return err
	}
	switch e.Name {
	case runner.Flink:
		o.Shards = e.Flink.Shards
		if o.Stream != nil {
			o.Stream.Parallelism, o.Stream.KeyGroups = max(1, e.Flink.Parallelism), e.Flink.MaxParallelism
		}
	case runner.Dataflow:
		if o.Stream != nil {
			o.Shards, o.Stream.Parallelism = e.Dataflow.Shards, max(1, e.Dataflow.NumWorkers, e.Dataflow.MaxNumWorkers)
			o.Stream.Native = dataflow.Native
		}
	}
	return nil
}

// reach makes a plan one for workers elsewhere, or says what they can't reach.
func (c *common) reach(p *scoring.Plan) error {
	if c.runner == runner.Dataflow {
		return remote(*p)
	}
	return far(p)
}

// execute runs a graph where the flags say.
func (c *common) execute(ctx context.Context, pr *progress, p *beam.Pipeline) (runner.Result, error) {
	e, err := c.choose()
	if err != nil {
		return runner.Result{}, err
	}
	switch e.Name {
	case runner.Flink:
		e.Progress = reporter(pr)
	case runner.Dataflow:
		e.Watch = watcher(pr)
	}
	res, err := e.Run(ctx, p)
	if res.Savepoint != "" {
		pr.say("stopped with a savepoint; go on from it with --flink savepoint_path=%s", res.Savepoint)
	}
	if t := e.Dataflow.TemplateLocation; t != "" && err == nil {
		pr.say("wrote the job to %s", t)
	}
	return res, err
}

// over reports that no job goes on, by the error that running it gave, so that what it staged may go.
func (c *common) over(err error) bool {
	switch c.runner {
	case runner.Flink:
		return !errors.Is(err, flink.ErrGoesOn)
	case runner.Dataflow:
		return err == nil || errors.Is(err, dataflow.ErrFailed) || errors.Is(err, dataflow.ErrCancelled)
	}
	return true
}

// workFolder makes a folder of a job's own within --work, where workers elsewhere may be other users of the machine.
func (c *common) workFolder() (string, error) {
	dir, err := os.MkdirTemp(c.work, "millrace-"+c.verb+"-")
	if err == nil && c.elsewhere() {
		err = os.Chmod(dir, 0o777|os.ModeSticky)
	}
	if err != nil {
		return "", fmt.Errorf("making a work folder: %w", err)
	}
	return dir, nil
}

// clear removes the work folder of a job that is over.
func (c *common) clear(pr *progress, work string, err error) {
	if !c.over(err) {
		pr.say("left %s, which the job needs while it goes on", work)
		return
	}
	_ = os.RemoveAll(work)
}
