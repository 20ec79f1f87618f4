package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/retraining"
	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func runCommand(stderr io.Writer) *cobra.Command {
	var c common
	var o scoring.Options
	var st streamFlags
	cmd := &cobra.Command{
		Use:     "run USECASE",
		Short:   "Score events",
		Example: "  millrace run fraud --source transactions.csv.gz --sink scores.jsonl\n  millrace run fraud --source kafka://broker:9092/transactions --sink kafka://broker:9092/scores",
		Args:    exactly(1, "a use case: a built-in name or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.scoreEvents(cmd, stderr, args[0], o, st)
		},
	}
	c.bind(cmd)
	st.bind(cmd)
	f := cmd.Flags()
	f.StringVar(&c.sink, "sink", "", "where scores go: a path, a folder ending in / or a URL (default: the file's sinks)")
	f.StringVar(&o.Registry, "registry", "", "registry of models: a folder or a URL (default: the file's)")
	f.StringVar(&o.Model, "model", "", "version to score with, as NAME@VERSION or NAME@ALIAS (default: the served alias)")
	f.BoolVar(&o.WithFeatures, "features", false, "write the features beside each score")
	f.StringVar(&c.metrics, "metrics-addr", "", "address that serves /metrics, /healthz and /readyz while the job runs, as :9090")
	return cmd
}

// scoreEvents is the verb run.
func (c *common) scoreEvents(cmd *cobra.Command, stderr io.Writer, useCase string, o scoring.Options, st streamFlags) error {
	u, err := c.load(useCase)
	if err != nil {
		return err
	}
	if err := c.options(&o); err != nil {
		return err
	}
	if o.Stream, err = st.options(c, cmd, u); err != nil {
		return err
	}
	if err := c.place(&o); err != nil {
		return err
	}
	p, err := scoring.New(cmd.Context(), u, o)
	if err != nil {
		return optionError(err)
	}
	return c.score(cmd.Context(), stderr, p, u)
}

func featuresCommand(stderr io.Writer) *cobra.Command {
	var c common
	var st streamFlags
	cmd := &cobra.Command{
		Use:     "features USECASE",
		Short:   "Compute features alone: a backfill, a training set",
		Example: "  millrace features fraud --source transactions.csv.gz --sink features.parquet",
		Args:    exactly(1, "a use case: a built-in name or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.load(args[0])
			if err != nil {
				return err
			}
			var o scoring.Options
			if err := c.options(&o); err != nil {
				return err
			}
			if o.Sink == "" {
				o.Sink = "./millrace/features.jsonl"
			}
			if o.Stream, err = st.options(&c, cmd, u); err != nil {
				return err
			}
			if err := c.place(&o); err != nil {
				return err
			}
			p, err := scoring.Features(u, o)
			if err != nil {
				return err
			}
			return c.score(cmd.Context(), stderr, p, u)
		},
	}
	c.bind(cmd)
	st.bind(cmd)
	cmd.Flags().StringVar(&c.sink, "sink", "", "where features go; the ending .jsonl, .csv or .parquet gives the format (default ./millrace/features.jsonl)")
	return cmd
}

// options fills in what the flags say.
func (c *common) options(o *scoring.Options) error {
	o.Sources, o.Sink, o.DeadLetters, o.Local = c.sources, c.sink, c.deadLetters, runner.Local(c.runner)
	var err error
	if o.Memory, err = parseBytes(c.memory); err != nil {
		return err
	}
	runner.Memory(o.Memory)
	return nil
}

func optionError(err error) error {
	if errors.Is(err, scoring.ErrOption) {
		return usageError{err}
	}
	return err
}

// score runs a scoring graph and says what came of it.
func (c *common) score(ctx context.Context, stderr io.Writer, p scoring.Plan, u *spec.UseCase) error {
	near := !c.elsewhere()
	if !near {
		if err := c.reach(&p); err != nil {
			return err
		}
	}
	if e, err := c.choose(); err != nil {
		return err
	} else if e.Dataflow.DryRun {
		return c.describe(ctx, p, e)
	}
	if err := p.Check(ctx); err != nil {
		return err
	}
	p, err := p.Size(ctx)
	if err != nil {
		return err
	}
	if !near {
		unbound(&p.Features)
	}
	pr := newProgress(stderr)
	unserve, err := c.serveMetrics(ctx, pr)
	if err != nil {
		return err
	}
	defer unserve()
	defer pr.watch(versions(p))()
	pr.say("%s: reading %s", u.Name, strings.Join(redacted(p.Source.URLs), ", "))
	for _, m := range p.Predict.Models {
		if m.Alias != "" {
			pr.say("scoring with what %s@%s names, looking every %s", m.Name, m.Alias, m.Poll)
			continue
		}
		pr.say("scoring with %s@%d", m.Name, m.Version)
	}
	pipeline, scope := beam.NewPipelineWithRoot()
	scoring.Build(scope, p)
	stream := p.Source.Stream != nil
	if stream {
		runner.Memory(0)
		c.shards = p.Features.Shards
	}
	if stream && near {
		var done func()
		ctx, done = draining(ctx, pr, p.Run)
		defer done()
	}
	res, err := c.execute(ctx, pr, pipeline)
	if near && (err != nil || stream) || err != nil && !stream && c.over(err) { // a stream elsewhere may be restored, and needs what it staged
		err = errors.Join(err, p.Sweep(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return err
	}
	pr.counts(res)
	for _, s := range p.Sinks {
		pr.say("wrote %s", connect.Redact(s.URL))
	}
	return nil
}

// versions are those that a plan scores with, as far as it knows.
func versions(p scoring.Plan) []string {
	var names []string
	for _, m := range p.Predict.Models {
		if m.Version > 0 { // else the job finds it out, and telemetry says it
			names = append(names, fmt.Sprintf("%s@%d", m.Name, m.Version))
		}
	}
	return names
}

// serveMetrics serves the process's metrics until stop is called, if the flags ask for it.
func (c *common) serveMetrics(ctx context.Context, pr *progress) (stop func(), err error) {
	if c.metrics == "" {
		return func() {}, nil
	}
	ctx, stop = context.WithCancel(ctx)
	at, err := telemetry.Serve(ctx, c.metrics)
	if err != nil {
		stop()
		return nil, err
	}
	pr.say("metrics on http://%s/metrics", at)
	return stop, nil
}

func redacted(urls []string) []string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = connect.Redact(u)
	}
	return out
}

func retrainCommand(stdout, stderr io.Writer) *cobra.Command {
	var c common
	var report string
	cmd := &cobra.Command{
		Use:     "retrain USECASE",
		Short:   "Train candidates, choose, judge and publish",
		Example: "  millrace retrain fraud --source transactions.csv.gz --report ./report",
		Args:    exactly(1, "a use case: a built-in name or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.load(args[0])
			if err != nil {
				return err
			}
			pr := newProgress(stderr)
			_, err = c.retrain(cmd.Context(), pr, u, report)
			if err != nil {
				return err
			}
			r, err := retraining.ReadReport(report)
			if err != nil {
				return err
			}
			return r.Print(stdout)
		},
	}
	c.bind(cmd)
	f := cmd.Flags()
	f.StringVar(&c.registry, "registry", "", "registry of models: a folder or a URL (default: the file's)")
	f.StringVar(&report, "report", "./millrace/report", "folder for report.json, report.html and plots")
	f.StringVar(&c.work, "work", "", "folder for what passes between steps, which on a cluster all workers must see (default: one for temporary files)")
	return cmd
}

func (c *common) retrain(ctx context.Context, pr *progress, u *spec.UseCase, report string) (p retraining.Params, err error) {
	o := retraining.Options{DeadLetters: c.deadLetters, Registry: c.registry, ReportDir: report, Local: runner.Local(c.runner), Now: time.Now(), Revision: revision()}
	if o.Memory, err = parseBytes(c.memory); err != nil {
		return p, err
	}
	if o.Source, err = scoring.Source(u, c.sources); err != nil {
		return p, err
	}
	for _, address := range append(o.Source.URLs, o.Source.Labels.URLs...) {
		if source.Endless(address) {
			return p, usageError{fmt.Errorf("%s has no end, and a training set does: give files of it with --source", connect.Redact(address))}
		}
	}
	if o.Registry == "" {
		if o.Registry, err = u.Registry.Resolve(); err != nil {
			return p, fmt.Errorf("registry: %w", err)
		}
	}
	if _, err := c.checked(false); err != nil {
		return p, err
	}
	if o.Work, err = c.workFolder(); err != nil {
		return p, err
	}
	defer func() { c.clear(pr, o.Work, err) }()
	if c.elsewhere() {
		if report != "" {
			o.ReportDir = filepath.Join(o.Work, "report") // the one folder that all see
		}
		if err := errors.Join(farSource(&o.Source), whole(&o.DeadLetters, &o.Registry, &o.Work, &o.ReportDir)); err != nil {
			return p, err
		}
	}
	if err := source.Check(ctx, o.Source); err != nil {
		return p, err
	}
	if p, err = retraining.New(u, o); err != nil {
		return p, err
	}
	if c.elsewhere() {
		unbound(&p.Features)
	}
	pr.say("%s: reading %s", u.Name, strings.Join(redacted(o.Source.URLs), ", "))
	pipeline, scope := beam.NewPipelineWithRoot()
	retraining.Build(scope, p)
	defer pr.watch(nil)()
	res, err := c.execute(ctx, pr, pipeline)
	if err != nil {
		return p, err
	}
	if report != "" && c.elsewhere() {
		if err := fetch(o.ReportDir, report); err != nil {
			return p, fmt.Errorf("fetching the report: %w", err)
		}
	}
	where := ""
	if report != "" {
		where = "; report in " + report
	}
	pr.say("%d events read%s", res.Counters["source.read"], where)
	return p, nil
}

// fetch copies the files of a folder into another one.
func fetch(from, to string) error {
	files, err := os.ReadDir(from)
	if err == nil {
		err = os.MkdirAll(to, 0o755)
	}
	for _, f := range files {
		if err != nil {
			break
		}
		var text []byte
		if text, err = os.ReadFile(filepath.Join(from, f.Name())); err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), text, 0o644)
		}
	}
	return err
}

func simulateCommand(stderr io.Writer) *cobra.Command {
	var c common
	var days, customers, terminals int
	var seed int64
	cmd := &cobra.Command{
		Use:     "simulate USECASE",
		Short:   "Write simulated events of a built-in use case",
		Example: "  millrace simulate fraud --days 60 --sink transactions.csv.gz",
		Args:    exactly(1, "a built-in use case"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.load(args[0])
			if err != nil {
				return err
			}
			if u.Name != "fraud" {
				return usageError{fmt.Errorf("there is a simulator of fraud only, not of %s", u.Name)}
			}
			o := scoring.Options{}
			_, err = c.checked(false)
			if err := errors.Join(c.options(&o), err); err != nil {
				return err
			}
			o.Sources = []string{fmt.Sprintf("simulate://fraud?days=%d&customers=%d&terminals=%d&seed=%d", days, customers, terminals, seed)}
			p, err := scoring.Raw(u, o)
			if err != nil {
				return err
			}
			return c.score(cmd.Context(), stderr, p, u)
		},
	}
	c.bind(cmd)
	f := cmd.Flags()
	f.StringVar(&c.sink, "sink", "./millrace/transactions.csv.gz", "where events go")
	f.IntVar(&days, "days", 183, "days from 2018-04-01")
	f.IntVar(&customers, "customers", 5000, "customers")
	f.IntVar(&terminals, "terminals", 10000, "terminals")
	f.Int64Var(&seed, "seed", 0, "0 gives the Fraud Detection Handbook's own table")
	return cmd
}

func modelsCommand(stdout io.Writer) *cobra.Command {
	var where string
	cmd := &cobra.Command{Use: "models", Short: "Look at the registry of models, move aliases", Example: "  millrace models list"}
	cmd.PersistentFlags().StringVar(&where, "registry", "./millrace/registry", "registry of models: a folder or a URL")
	open := func(ctx context.Context) (*registry.Registry, error) { return registry.Open(ctx, where, time.Now) }
	list := &cobra.Command{
		Use: "list", Short: "List models, versions and aliases", Example: "  millrace models list", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			all, err := r.List(cmd.Context())
			if err != nil {
				return err
			}
			for _, m := range all {
				fmt.Fprintf(stdout, "%s  versions %v", m.Name, m.Versions)
				for _, a := range sortedKeys(m.Aliases) {
					fmt.Fprintf(stdout, "  %s=%d", a, m.Aliases[a])
				}
				fmt.Fprintln(stdout)
			}
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show NAME[@VERSION]", Short: "Show a version's manifest", Example: "  millrace models show fraud@champion", Args: exactly(1, "a model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			ref, err := r.Resolve(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			m, err := r.Manifest(cmd.Context(), ref)
			if err != nil {
				return err
			}
			return printJSON(stdout, m)
		},
	}
	verify := &cobra.Command{
		Use: "verify NAME[@VERSION]", Short: "Check a version's digests and golden scores", Example: "  millrace models verify fraud@3", Args: exactly(1, "a model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			ref, err := r.Verify(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%s is whole: digests and golden scores agree\n", ref)
			return nil
		},
	}
	cmd.AddCommand(list, show, verify, promoteCommand(stdout, open), rollbackCommand(stdout, open))
	return cmd
}

// parseBytes reads sizes such as 512MiB, 1GiB or 1000000.
func parseBytes(s string) (int64, error) {
	units := []struct {
		suffix string
		factor int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"B", 1}, {"", 1}}
	for _, u := range units {
		if body, ok := strings.CutSuffix(s, u.suffix); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(body), 64)
			if err != nil || n <= 0 {
				break
			}
			return int64(n * float64(u.factor)), nil
		}
	}
	return 0, usageError{fmt.Errorf("--memory %q is no size: write 512MiB or 2GiB", s)}
}
