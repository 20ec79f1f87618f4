package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/runner/worker"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// Main runs the command of this process's arguments and exits. A process that a runner started as a
// worker serves that runner instead.
func Main() {
	if isWorker(os.Args[1:]) {
		flag.Parse()
		serveWorker(os.Getenv(metricsVariable))
		worker.Run(os.Args[1:], beam.Init) // does not return
	}
	log.SetLogger(beamLog{})
	_ = flag.CommandLine.Parse(nil)
	beam.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	go func() { // the first ctrl-C cancels, a second one stops at once
		<-ctx.Done()
		stop()
	}()
	args := os.Args[1:]
	if isLaunch(args) {
		args = append([]string{"template"}, args...)
	}
	os.Exit(Execute(ctx, args, os.Stdout, os.Stderr))
}

// isWorker tells a runner's call from a person's: the SDK's boot gives --worker and endpoints.
func isWorker(args []string) bool {
	for _, a := range args {
		if a == "--worker" || a == "--worker=true" || a == "-worker" || a == "-worker=true" {
			return true
		}
	}
	return false
}

// metricsVariable is the environment variable that gives a runner's workers the address of their
// metrics, as --metrics-addr gives it to a run.
const metricsVariable = "MILLRACE_METRICS_ADDR"

// serveWorker serves a worker's metrics. A second worker on the machine finds the address taken, and
// works all the same.
func serveWorker(address string) {
	if address == "" {
		return
	}
	if _, err := telemetry.Serve(context.Background(), address); err != nil {
		fmt.Fprintln(os.Stderr, "millrace:", err)
	}
}

// Execute runs one command and returns its exit code.
func Execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := newConsole(stderr)
	root := newRoot(stdout, out)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(out)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var faults spec.Faults
	var usage usageError
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			out.fail(f.Error())
		}
		return exitUsage
	case errors.As(err, &usage), errors.Is(err, spec.ErrNotFound):
		out.fail("millrace: "+err.Error(), "Run 'millrace --help' for the verbs, 'millrace VERB --help' for an example.")
		return exitUsage
	}
	out.fail("millrace: " + cause(err))
	return exitFailed
}

// cause takes the runner's wrapping off an error that one of our own stages returned: what is left
// names the file, the model or the column.
func cause(err error) string {
	msg := err.Error()
	if i := strings.LastIndex(msg, "caused by:\n"); i >= 0 {
		msg = strings.TrimSpace(msg[i+len("caused by:\n"):])
	}
	if first, rest, ok := strings.Cut(msg, "\n"); ok && strings.HasPrefix(first, "DoFn[") {
		msg = rest
	}
	return msg
}

// usageError is an error in how the command was called.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func newRoot(stdout io.Writer, stderr *console) *cobra.Command {
	var level string
	root := &cobra.Command{
		Use:           "millrace",
		Short:         "Score events with windowed features, and keep the model right",
		Long:          "Millrace builds a scoring graph and a retraining graph from one use-case file.\nUSECASE is a built-in name (fraud) or the path of a file.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("no verb %q", args[0])}
			}
			return nil
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return stderr.setUp(level) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&stderr.format, "log-format", "text", "how messages are written: text, or json with one object a line")
	f.StringVar(&level, "log-level", "info", "least level of messages: debug, info, warn or error; debug shows Beam's too")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(runCommand(stderr), featuresCommand(stderr), retrainCommand(stdout, stderr), replayCommand(stdout, stderr), skewCommand(stdout, stderr), simulateCommand(stderr), templateCommand(stderr), lintCommand(stdout), testCommand(stdout), modelsCommand(stdout), jobsCommand(stdout), flinkCommand(stdout, stderr), demoCommand(stdout), versionCommand(stdout))
	return root
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s needs %s", cmd.Name(), what)}
		}
		return nil
	}
}

// defaultMemory is that of a process.
const defaultMemory = "1GiB"

// common are the flags that the verbs share.
type common struct {
	sources     []string
	sink        string
	deadLetters string
	runner      string
	registry    string
	sets        []string
	memory      string
	metrics     string
	work        string
	flink       []string
	dataflow    []string

	verb    string
	stdout  func() io.Writer
	useCase string // its name, once it is loaded
	shards  int    // of the graph's state, once it is planned; 0 if there is none
}

func (c *common) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.sources, "source", nil, "where events come from: a path, a glob or a URL (default: the file's source)")
	f.StringVar(&c.runner, "runner", runner.Prism, "engine: prism, direct, flink or dataflow")
	f.StringArrayVar(&c.flink, "flink", nil, "option of the runner flink, as endpoint=host:8099; may be repeated; a wrong name lists all")
	f.StringArrayVar(&c.dataflow, "dataflow", nil, "option of the runner dataflow, as region=europe-west1; may be repeated; dry_run=true describes the job; a wrong name lists all")
	c.verb, c.stdout = cmd.Name(), cmd.OutOrStdout
	f.StringArrayVar(&c.sets, "set", nil, "override a field of the use case, as path=value; may be repeated")
	f.StringVar(&c.deadLetters, "dead-letters", "", "where events go that can't be used (default: the file's sink)")
	f.StringVar(&c.memory, "memory", defaultMemory, "memory of the process; what does not fit goes to disk")
}

func (c *common) load(ref string) (*spec.UseCase, error) {
	if err := runner.Check(c.runner); err != nil {
		return nil, usageError{err}
	}
	if _, err := c.choose(); err != nil {
		return nil, err
	}
	u, err := spec.Load(ref, c.sets)
	if err == nil {
		c.useCase = u.Name
	}
	return u, err
}

func versionCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  millrace version", Args: exactly(0, "no argument"),
		Run: func(*cobra.Command, []string) { fmt.Fprintln(stdout, "millrace", revision()) },
	}
}

// revision is the commit this binary was built from, or "devel".
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "devel"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, string(b))
	return err
}
