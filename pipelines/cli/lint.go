package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/featurelog"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

func lintCommand(stdout io.Writer) *cobra.Command {
	c := common{verb: "run"}
	var explain bool
	cmd := &cobra.Command{
		Use:     "lint USECASE",
		Short:   "Check a use-case file",
		Example: "  millrace lint fraud.yaml\n  millrace lint fraud --explain\n  millrace lint fraud.yaml --runner flink --flink parallelism=4",
		Args:    exactly(1, "a use case: a built-in name or a file"),
		RunE: func(_ *cobra.Command, args []string) error {
			u, err := c.load(args[0])
			if err != nil {
				return err
			}
			for _, w := range u.Warnings {
				fmt.Fprintln(stdout, "warning:", w.String())
			}
			if c.runner != "" {
				if err := c.suits(u); err != nil {
					return usageError{err}
				}
			}
			fmt.Fprintf(stdout, "%s is well formed: %d features, fingerprint %s\n", u.File, len(u.Features().Names()), u.Features().Fingerprint())
			if c.runner != "" {
				fmt.Fprintf(stdout, "%s can score its events\n", c.runner)
			}
			if explain {
				for _, line := range u.Explain() {
					fmt.Fprintln(stdout, line)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&explain, "explain", false, "say which sections which verb reads, what features keep in memory, and their order")
	f.StringArrayVar(&c.sets, "set", nil, "override a field, as path=value; may be repeated")
	f.StringVar(&c.runner, "runner", "", "check too that this engine can score the use case's events: prism, direct, flink or dataflow")
	f.StringArrayVar(&c.flink, "flink", nil, "option of the runner flink to check, as parallelism=4; may be repeated")
	f.StringArrayVar(&c.dataflow, "dataflow", nil, "option of the runner dataflow to check, as region=europe-west1; may be repeated")
	return cmd
}

// suits reports all that keeps the runner from scoring the use case's events, and asks nobody. What this
// machine can't resolve, it can't know.
func (c *common) suits(u *spec.UseCase) error {
	known := func(r spec.Ref) string {
		address, err := r.Resolve()
		if err != nil {
			return ""
		}
		return address
	}
	var p scoring.Plan
	add := func(urls *[]string, r spec.Ref) {
		if address := known(r); address != "" {
			*urls = append(*urls, address)
		}
	}
	for _, s := range u.Source {
		add(&p.Source.URLs, s.URL)
	}
	if u.HasLabels() {
		for _, s := range u.Label.Source {
			add(&p.Source.Labels.URLs, s.URL)
		}
	}
	stream := slices.ContainsFunc(append(p.Source.URLs, p.Source.Labels.URLs...), source.Endless)
	var errs []error
	if stream {
		add(&p.Source.Replay, u.Replay)
		p.Roll = &sink.Stream{Roll: u.Stream.Roll}
		errs = append(errs, runner.CheckStream(c.runner))
	}
	for _, s := range u.Sinks {
		if address := known(s.URL); address != "" {
			p.Sinks = append(p.Sinks, sink.Params{Name: s.Name, URL: address, Format: s.Format, Stream: p.Roll})
			errs = append(errs, p.Sinks[len(p.Sinks)-1].Validate())
		}
	}
	if address := known(u.FeatureLog.URL); address != "" {
		p.Log = &featurelog.Params{Sink: sink.Params{URL: address}}
	}
	p.DeadLetters = known(u.DeadLetters)
	if len(u.Models) > 0 {
		p.Predict.Models = []predict.Model{{Registry: known(u.Registry)}}
	}
	if c.elsewhere() {
		errs = append(errs, c.reach(&p))
	}
	e, err := c.checked(stream)
	errs = append(errs, err)
	if err == nil && len(c.dataflow) > 0 { // without any they are not yet known
		errs = append(errs, e.Dataflow.Validate(stream))
	}
	return errors.Join(errs...)
}
