package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/spec"
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
		beam.Init() // serves the runner and does not return
		return
	}
	log.SetLogger(quiet{})
	_ = flag.CommandLine.Parse(nil)
	beam.Init()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // after Init, which sets a handler of its own
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	go func() { // the first ctrl-C cancels, a second one stops at once
		<-ctx.Done()
		stop()
	}()
	os.Exit(Execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
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

// quiet drops the SDK's log but for errors: what a job has to say stands in its error.
type quiet struct{}

func (quiet) Log(context.Context, log.Severity, int, string) {}

// Execute runs one command and returns its exit code.
func Execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var faults spec.Faults
	var usage usageError
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			fmt.Fprintln(stderr, f.Error())
		}
		return exitUsage
	case errors.As(err, &usage), errors.Is(err, spec.ErrNotFound):
		fmt.Fprintln(stderr, "millrace:", err)
		fmt.Fprintln(stderr, "Run 'millrace --help' for the verbs, 'millrace VERB --help' for an example.")
		return exitUsage
	}
	fmt.Fprintln(stderr, "millrace:", cause(err))
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

func newRoot(stdout, stderr io.Writer) *cobra.Command {
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
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(runCommand(stderr), featuresCommand(stderr), retrainCommand(stdout, stderr), simulateCommand(stderr), lintCommand(stdout), testCommand(stdout), modelsCommand(stdout), demoCommand(stdout), versionCommand(stdout))
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

// common are the flags that the verbs share.
type common struct {
	sources     []string
	sink        string
	deadLetters string
	runner      string
	registry    string
	sets        []string
	memory      string
}

func (c *common) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.sources, "source", nil, "where events come from: a path, a glob or a URL (default: the file's source)")
	f.StringVar(&c.runner, "runner", runner.Prism, "engine: prism or direct")
	f.StringArrayVar(&c.sets, "set", nil, "override a field of the use case, as path=value; may be repeated")
	f.StringVar(&c.deadLetters, "dead-letters", "", "where events go that can't be used (default: the file's sink)")
	f.StringVar(&c.memory, "memory", "1GiB", "memory of the process; what does not fit goes to disk")
}

func (c *common) load(ref string) (*spec.UseCase, error) {
	if err := runner.Check(c.runner); err != nil {
		return nil, usageError{err}
	}
	return spec.Load(ref, c.sets)
}

// progress prints a line when something is reached, with the time since the start.
type progress struct {
	w     io.Writer
	start time.Time
}

func newProgress(w io.Writer) *progress { return &progress{w, time.Now()} }

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p.w, "%7.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// counts says what a job did with its events.
func (p *progress) counts(res runner.Result) {
	read := res.Counters["source.read"]
	secs := time.Since(p.start).Seconds()
	p.say("%d events, %.0f a second; %d dead letters, %d written", read, float64(read)/secs, res.Counters["deadletter.written"], res.Counters["sink.written"])
	if n := res.Counters["source.blank"]; n > 0 {
		p.say("%d blank lines skipped", n)
	}
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
