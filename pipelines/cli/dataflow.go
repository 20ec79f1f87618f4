package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/runner/dataflow"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
)

// onDataflow are the verbs whose graphs need nothing of this machine.
var onDataflow = []string{"run", "features", "simulate", "template"}

// dataflowOptions are those that the flags ask for.
func (c *common) dataflowOptions() (dataflow.Options, error) {
	if !slices.Contains(onDataflow, c.verb) {
		return dataflow.Options{}, fmt.Errorf("--runner %s: %s works in folders of this machine: choose %s, %s or %s", c.runner, c.verb, runner.Prism, runner.Direct, runner.Flink)
	}
	if c.metrics != "" {
		return dataflow.Options{}, errors.New("--metrics-addr has no effect: the workers of Dataflow tell their counters to Cloud Monitoring")
	}
	return dataflow.Parse(c.dataflow)
}

// watcher says how a job on Dataflow goes on.
func watcher(pr *progress) dataflow.Progress {
	started := false
	return func(s dataflow.State) {
		if !started {
			pr.say("job %s is on Dataflow: %s", s.ID, s.Console)
			started = true
		}
		pr.say("the job is %s", strings.ToLower(strings.TrimPrefix(s.State, "JOB_STATE_")))
	}
}

// describe writes the description of the job that would be started, and contacts nothing.
func (c *common) describe(ctx context.Context, p scoring.Plan, e runner.Engine) (err error) {
	pipeline, scope := beam.NewPipelineWithRoot()
	defer func() {
		if fault := recover(); fault != nil { // Build does so with a plan that Plan.Check would refuse, had it been asked
			err = usageError{fmt.Errorf("building the graph: %v", fault)}
		}
	}()
	scoring.Build(scope, p)
	j, err := dataflow.Describe(ctx, pipeline, e.Dataflow)
	if err != nil {
		return usageError{err}
	}
	return printJSON(c.stdout(), j)
}

// remote reports all addresses of a plan that are of this machine.
func remote(p scoring.Plan) error {
	var errs []error
	check := func(what, address string) {
		switch connect.Scheme(address) {
		case "file":
			if address != "" {
				errs = append(errs, fmt.Errorf("%s %s: workers on Dataflow don't see this machine's files: give an address as gs://bucket/name", what, connect.Redact(address)))
			}
		case "-", "stdin":
			errs = append(errs, fmt.Errorf("%s -: workers on Dataflow have neither input nor output of yours: give an address as gs://bucket/name", what))
		}
	}
	for _, a := range slices.Concat(p.Source.URLs, p.Source.Labels.URLs, p.Source.Replay) {
		if why := source.LocalOnly(a); why != "" && !source.ByRunner(a, dataflow.Native) {
			errs = append(errs, fmt.Errorf("source %s: %s", connect.Redact(a), why))
			continue
		}
		check("source", a)
	}
	for _, s := range p.Sinks {
		check("sink", s.URL)
	}
	if p.Log != nil {
		check("feature log", p.Log.Sink.URL)
	}
	check("dead letters", p.DeadLetters)
	for _, m := range p.Predict.Models {
		check("registry", m.Registry)
	}
	if len(errs) == 0 {
		return nil
	}
	return usageError{errors.Join(errs...)}
}

// isLaunch tells the call of a flex template's launcher, which knows no verbs, from a person's.
func isLaunch(args []string) bool {
	return len(args) > 0 && strings.HasPrefix(args[0], "--") && slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--template_location=") })
}

// templateParameters are those of a flex template, beside the runner's options.
func templateParameters(cmd *cobra.Command, c *common, o *scoring.Options, st *streamFlags, useCase *string) {
	f := cmd.Flags()
	f.StringVar(useCase, "use_case", "", "the use case: a built-in name, or a file in the image")
	f.StringArrayVar(&c.sources, "source", nil, "where events come from, as gs://bucket/transactions-*.jsonl or kafka://broker:9092/transactions (default: the file's source)")
	f.StringVar(&c.sink, "sink", "", "where scores go, as gs://bucket/scores/ or kafka://broker:9092/scores (default: the file's sinks)")
	f.StringVar(&c.deadLetters, "dead_letters", "", "where events go that can't be used (default: the file's sink)")
	f.StringVar(&o.Registry, "registry", "", "registry of models, as gs://bucket/registry (default: the file's)")
	f.StringVar(&o.Model, "model", "", "version to score with, as NAME@VERSION or NAME@ALIAS (default: the served alias)")
	f.BoolVar(&o.WithFeatures, "features", false, "write the features beside each score")
	f.StringVar(&st.order, "order", "", "of a stream: arrival or event_time (default: the file's)")
	f.StringVar(&st.lateness, "lateness", "", "of a stream: how far events may come behind the newest, as 1m (default: the file's)")
}

// templateCommand is run, called as the launcher of a flex template does: with everything in flags whose names
// are those of the SDK.
func templateCommand(stderr io.Writer) *cobra.Command {
	var c common
	var o scoring.Options
	var st streamFlags
	var useCase, engine string
	cmd := &cobra.Command{
		Use: "template", Short: "Score events on Dataflow, called by the launcher of a flex template", Hidden: true,
		Example: "  millrace template --use_case=fraud --source=gs://b/in.jsonl --sink=gs://b/scores/ --project=p --region=europe-west1 --staging_location=gs://b/staging",
		Args:    exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if useCase == "" {
				return usageError{errors.New("--use_case is missing: a built-in name, or a file in the image")}
			}
			for _, name := range dataflow.Names() {
				if f := cmd.Flags().Lookup(name); f.Changed {
					c.dataflow = append(c.dataflow, name+"="+f.Value.String())
				}
			}
			c.verb, c.stdout, c.runner, c.memory = cmd.Name(), cmd.OutOrStdout, runner.Dataflow, defaultMemory
			return c.scoreEvents(cmd, stderr, useCase, o, st)
		},
	}
	templateParameters(cmd, &c, &o, &st, &useCase)
	f := cmd.Flags()
	for _, name := range dataflow.Names() {
		f.String(name, "", "Dataflow's")
		f.Lookup(name).NoOptDefVal = "true" // of those that are true or false
	}
	f.StringVar(&engine, "runner", "", "Dataflow's: the launcher gives it")
	return cmd
}
