package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/skew"
	"github.com/millrace-ml/millrace/pipelines/spec"
)

func skewCommand(stdout, stderr io.Writer) *cobra.Command {
	var c common
	var o skew.Options
	var from, to string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "skew USECASE",
		Short: "Compare logged features with what history gives",
		Long: "Computes the features of the events in a feature log again, from the history that --source names, and\n" +
			"says for each feature in how many rows they differ, by how much at most, and where first.\n" +
			"Exit code 1 if a value differs by more than the tolerance.",
		Example: "  millrace run fraud --source kafka://broker:9092/transactions --set sinks.feature_log=./millrace/log/\n" +
			"  millrace skew fraud --log ./millrace/log/ --source transactions.csv.gz --sample 0.1",
		Args: exactly(1, "a use case: a built-in name or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.load(args[0])
			if err != nil {
				return err
			}
			if _, err := c.checked(false); err != nil {
				return err
			}
			if cmd.Flags().Changed("sample") && !(o.Sample > 0 && o.Sample <= 1) {
				return usageError{fmt.Errorf("--sample %v: give a share above 0 to 1, as 0.1", o.Sample)}
			}
			for _, bound := range []struct {
				flag, text string
				dst        *time.Time
			}{{"from", from, &o.From}, {"to", to, &o.To}} {
				if bound.text == "" {
					continue
				}
				if *bound.dst, err = time.Parse(time.RFC3339, bound.text); err != nil {
					return usageError{fmt.Errorf("--%s %s: give a time as 2026-01-31T18:00:00Z", bound.flag, bound.text)}
				}
			}
			o.Sources, o.Local = c.sources, runner.Local(c.runner)
			if o.Memory, err = parseBytes(c.memory); err != nil {
				return err
			}
			runner.Memory(o.Memory)
			r, err := c.skew(cmd.Context(), stderr, u, o)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(stdout, r)
			} else {
				err = r.Print(stdout)
			}
			if err != nil {
				return err
			}
			if r.Compared == 0 {
				return errors.New("nothing was compared: no event of the log is in the history, by id and time")
			}
			if names := r.Beyond(); len(names) > 0 {
				return fmt.Errorf("%d features differ by more than %g from what history gives: %s", len(names), o.Tolerance, strings.Join(names, ", "))
			}
			return nil
		},
	}
	c.verb = cmd.Name()
	f := cmd.Flags()
	f.StringArrayVar(&o.Logs, "log", nil, "the feature log: a file, a folder or a URL; may be repeated (default: the file's sinks.feature_log)")
	f.StringArrayVar(&c.sources, "source", nil, "the history: a path, a glob or a URL (default: the file's source)")
	f.Float64Var(&o.Sample, "sample", 0, "compare a share of the events, chosen by id, as 0.1 (default: all)")
	f.StringVar(&from, "from", "", "compare events of this time (RFC 3339) or later")
	f.StringVar(&to, "to", "", "compare events before this time (RFC 3339)")
	f.Float64Var(&o.Tolerance, "tolerance", 0, "relative difference that is no fault, as 1e-9")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	f.StringVar(&c.runner, "runner", runner.Prism, "engine: prism, direct or flink")
	f.StringArrayVar(&c.flink, "flink", nil, "option of the runner flink, as endpoint=host:8099; may be repeated; a wrong name lists all")
	f.StringVar(&c.work, "work", "", "folder for the report, which on a cluster all workers must see (default: one for temporary files)")
	f.StringArrayVar(&c.sets, "set", nil, "override a field of the use case, as path=value; may be repeated")
	f.StringVar(&c.memory, "memory", defaultMemory, "memory of the process; what does not fit goes to disk")
	return cmd
}

// skew runs the comparison.
func (c *common) skew(ctx context.Context, stderr io.Writer, u *spec.UseCase, o skew.Options) (_ skew.Report, err error) {
	work, err := c.workFolder()
	if err != nil {
		return skew.Report{}, err
	}
	pr := newProgress(stderr)
	defer func() { c.clear(pr, work, err) }()
	o.Work = work
	p, err := skew.New(u, o)
	if err != nil {
		return skew.Report{}, usageError{err}
	}
	if c.elsewhere() {
		if err := errors.Join(farSource(&p.Log), farSource(&p.History), whole(&p.Options.Work)); err != nil {
			return skew.Report{}, err
		}
	}
	if err := p.Check(ctx); err != nil {
		return skew.Report{}, err
	}
	if p, err = p.Size(ctx); err != nil {
		return skew.Report{}, err
	}
	if c.elsewhere() {
		unbound(&p.Features)
	}
	defer pr.watch(nil)()
	pr.say("%s: comparing %s with %s", u.Name, strings.Join(redacted(p.Log.URLs), ", "), strings.Join(redacted(p.History.URLs), ", "))
	pipeline, scope := beam.NewPipelineWithRoot()
	skew.Build(scope, p)
	if _, err := c.execute(ctx, pr, pipeline); err != nil {
		return skew.Report{}, err
	}
	return p.Report()
}
