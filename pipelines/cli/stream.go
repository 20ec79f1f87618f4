package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/source"
)

// streamFlags are the flags for sources without an end.
type streamFlags struct {
	on          bool
	order       string
	lateness    string
	until       string
	idleTimeout time.Duration
}

func (s *streamFlags) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.on, "stream", false, "read without an end also what could be read to its end; what has none, as a topic, always is")
	f.StringVar(&s.order, "order", "", "arrival or event_time (default: the file's)")
	f.StringVar(&s.lateness, "lateness", "", "how far events may come behind the newest, as 1m (default: the file's)")
	f.StringVar(&s.until, "until", "", "stop reading at a time (RFC 3339), or after a duration, and finish what was read")
	f.DurationVar(&s.idleTimeout, "idle-timeout", 0, "stop reading when nothing came for so long, and finish what was read")
}

// options says whether the run has an end; nil if it does.
func (s *streamFlags) options(c *common, cmd *cobra.Command, u *spec.UseCase) (*scoring.Stream, error) {
	urls := c.sources
	if len(urls) == 0 {
		for _, src := range u.Source {
			if url, err := src.URL.Resolve(); err == nil { // the plan reports it
				urls = append(urls, url)
			}
		}
	}
	on := s.on
	for _, url := range urls {
		on = on || source.Endless(url)
	}
	if !on {
		for _, name := range []string{"order", "lateness", "until", "idle-timeout"} {
			if cmd.Flags().Changed(name) {
				return nil, usageError{fmt.Errorf("--%s has no effect: the source is read to its end (say --stream if it shall not)", name)}
			}
		}
		return nil, nil
	}
	if err := runner.CheckStream(c.runner); err != nil {
		return nil, usageError{err}
	}
	o := &scoring.Stream{Order: s.order, IdleTimeout: s.idleTimeout, InProcess: runner.InProcess(c.runner), Cores: runtime.NumCPU()}
	if s.order != "" && s.order != "arrival" && s.order != "event_time" {
		return nil, usageError{fmt.Errorf("--order %s: choose arrival or event_time", s.order)}
	}
	if s.lateness != "" {
		d, err := spec.ParseDuration(s.lateness)
		if err != nil {
			return nil, usageError{fmt.Errorf("--lateness: %w", err)}
		}
		o.Lateness = &d
	}
	if s.until != "" {
		t, err := time.Parse(time.RFC3339, s.until)
		if err != nil {
			d, derr := spec.ParseDuration(s.until)
			if derr != nil {
				return nil, usageError{fmt.Errorf("--until %s: give a time as 2026-01-31T18:00:00Z, or a duration as 10m", s.until)}
			}
			t = time.Now().Add(d)
		}
		o.Until = t
	}
	return o, nil
}

// draining returns a context for a stream's job: where ctx ends, its sources end, and the job goes on to
// its own end. A second ctrl-C ends the process.
func draining(ctx context.Context, pr *progress, run string) (context.Context, func()) {
	job, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			cancel(context.Cause(ctx))
			return
		}
		pr.say("stopping: what was read is finished; ctrl-C again stops at once")
		source.Drain(run)
	})
	return job, func() { stop(); cancel(nil) }
}
