package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/replay"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/reentry"
	"github.com/millrace-ml/millrace/transforms/source"
)

func replayCommand(stdout, stderr io.Writer) *cobra.Command {
	var c common
	var o scoring.Options
	var r replay.Params
	var classes []string
	var since string
	var dry bool
	cmd := &cobra.Command{
		Use:   "replay USECASE",
		Short: "Score dead letters again, once what was wrong is mended",
		Long: "Reads the history and the dead letters together, and scores the letters' events with the features that\n" +
			"they would have had. Only those events are written; letters of what fails again count one attempt more.\n" +
			"Where the use case has a replay topic or folder, the letters are sent to it, and the stream that runs scores them.",
		Example: "  millrace replay fraud --from ./millrace/dead/ --dry-run\n" +
			"  millrace replay fraud --from ./millrace/dead/ --class schema,range --sink mended.jsonl --dead-letters again.jsonl",
		Args: exactly(1, "a use case: a built-in name or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.load(args[0])
			if err != nil {
				return err
			}
			if err := c.options(&o); err != nil {
				return err
			}
			if r.Filter.Classes, err = parseClasses(classes); err != nil {
				return err
			}
			if since != "" {
				if r.Filter.Since, err = time.Parse(time.RFC3339, since); err != nil {
					return usageError{fmt.Errorf("--since %s: give a time as 2026-01-31T18:00:00Z", since)}
				}
			}
			if r.Rate < 0 || r.Filter.MaxAttempts < 1 {
				return usageError{errors.New("--rate is not negative, and --max-attempts at least 1")}
			}
			if _, err := c.checked(false); err != nil {
				return err
			}
			if c.elsewhere() {
				if err := farReads(r.From); err != nil {
					return err
				}
			}
			if u.Replay != "" && !dry {
				for _, name := range []string{"source", "dead-letters", "features", "registry"} {
					if cmd.Flags().Changed(name) {
						return usageError{fmt.Errorf("--%s has no effect: the letters go to the stream that reads the use case's replay", name)}
					}
				}
				return c.send(cmd.Context(), stderr, u, r)
			}
			if o.Sink == "" && !dry {
				if err := keepsSinks(u); err != nil {
					return err
				}
			}
			s, err := scoring.New(cmd.Context(), u, o)
			if err != nil {
				return optionError(err)
			}
			if c.elsewhere() {
				if err := far(&s); err != nil {
					return err
				}
			}
			p, err := replay.New(cmd.Context(), s, r)
			if errors.Is(err, replay.ErrAddress) {
				return usageError{err}
			}
			if err != nil {
				return err
			}
			if dry {
				survey, err := p.Survey(cmd.Context())
				if err != nil {
					return err
				}
				return survey.Print(stdout)
			}
			return c.replay(cmd.Context(), stderr, p, u)
		},
	}
	c.bind(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&r.From, "from", nil, "the dead letters: a file, a folder or a glob; may be repeated")
	f.StringSliceVar(&classes, "class", nil, "replay these classes alone, as schema,range")
	f.StringVar(&r.Filter.Stage, "stage", "", "replay letters of this stage alone: decode, source, predict or sink")
	f.StringVar(&since, "since", "", "replay what failed last at this time (RFC 3339) or later")
	f.Float64Var(&r.Rate, "rate", 0, "score at most so many replayed events a second (default: no bound)")
	f.BoolVar(&dry, "dry-run", false, "say what would be replayed and whether it can be read now; write nothing")
	f.IntVar(&r.Filter.MaxAttempts, "max-attempts", replay.DefaultMaxAttempts, "skip what was tried so often")
	f.BoolVar(&r.Filter.AcceptLate, "accept-late", false, "replay late events too")
	f.StringVar(&c.sink, "sink", "", "where scores of replayed events go (default: the file's sinks, if they take records); with a stream, where\nletters are sent, if the file's replay is an address to read alone, as a subscription of Pub/Sub")
	f.StringVar(&o.Registry, "registry", "", "registry of models: a folder or a URL (default: the file's)")
	f.BoolVar(&o.WithFeatures, "features", false, "write the features beside each score")
	return cmd
}

func parseClasses(names []string) ([]deadletter.Class, error) {
	known := []deadletter.Class{deadletter.Decode, deadletter.Schema, deadletter.Range, deadletter.Late, deadletter.Score, deadletter.Remote, deadletter.Sink}
	var out []deadletter.Class
	for _, name := range names {
		c := deadletter.Class(name)
		var texts []string
		found := false
		for _, k := range known {
			found, texts = found || k == c, append(texts, string(k))
		}
		if !found {
			return nil, usageError{fmt.Errorf("--class %s: what can be replayed is %s", name, strings.Join(texts, ", "))}
		}
		out = append(out, c)
	}
	return out, nil
}

// keepsSinks refuses a use case whose scores are files: a bounded run writes them anew, and would leave the
// replayed events alone in them.
func keepsSinks(u *spec.UseCase) error {
	for _, s := range u.Sinks {
		url, err := s.URL.Resolve()
		if err != nil {
			continue // the plan reports it
		}
		if source.ReadsToEnd(url) {
			return usageError{fmt.Errorf("sinks.%s: %s would be replaced by the replayed events: give them a place with --sink", s.Name, connect.Redact(url))}
		}
	}
	return nil
}

// send hands the letters to the stream of the use case.
func (c *common) send(ctx context.Context, stderr io.Writer, u *spec.UseCase, r replay.Params) error {
	to, err := u.Replay.Resolve()
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	to = cmp.Or(c.sink, to)
	if c.elsewhere() {
		if err := whole(&to); err != nil {
			return err
		}
	}
	p, err := replay.NewSending(ctx, to, r)
	if errors.Is(err, replay.ErrAddress) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	if err := p.Check(ctx); err != nil {
		if c.sink == "" {
			err = fmt.Errorf("%w (if this is an address to read alone, give the one to write with --sink)", err)
		}
		return err
	}
	pr := newProgress(stderr)
	pipeline, scope := beam.NewPipelineWithRoot()
	replay.BuildSending(scope, p)
	res, err := c.execute(ctx, pr, pipeline)
	if err != nil {
		return err
	}
	o := reentry.Count(res.Counters)
	pr.unwatch()
	pr.say("%d letters: %d sent to %s%s", o.Letters, o.Sent, connect.Redact(to), reentry.Skips(o.Unreadable, o.Skipped))
	return nil
}

// replay runs the graph and says what came of it.
func (c *common) replay(ctx context.Context, stderr io.Writer, p replay.Plan, u *spec.UseCase) error {
	if err := p.Check(ctx); err != nil {
		return err
	}
	var err error
	if p.Scoring, err = p.Scoring.Size(ctx); err != nil {
		return err
	}
	if c.elsewhere() {
		unbound(&p.Scoring.Features)
	}
	pr := newProgress(stderr)
	defer pr.watch(versions(p.Scoring))()
	pr.say("%s: replaying %s over %s", u.Name, strings.Join(redacted(p.Params.From), ", "), strings.Join(redacted(p.Scoring.Source.URLs), ", "))
	pipeline, scope := beam.NewPipelineWithRoot()
	replay.Build(scope, p)
	res, err := c.execute(ctx, pr, pipeline)
	if err != nil {
		if c.over(err) {
			err = errors.Join(err, p.Scoring.Sweep(context.WithoutCancel(ctx)))
		}
		return err
	}
	pr.unwatch()
	pr.say("%s", reentry.Count(res.Counters))
	for _, s := range p.Scoring.Sinks {
		pr.say("wrote %s", connect.Redact(s.URL))
	}
	return nil
}
