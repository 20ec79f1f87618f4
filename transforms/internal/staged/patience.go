package staged

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

var retried = beam.NewCounter("staged", "retried")

const (
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
)

// wait sleeps, unless ctx ends first. Tests replace it.
var wait = func(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// persist tries something until it succeeds, or fails for a reason that time does not mend. A stream
// is patient for as long as it says: a runner may end the job, and lose its state, with the first bundle
// that fails. A bounded run, which can be run again, fails at once.
func (t Target) persist(ctx context.Context, try func() error) error {
	waited, told := time.Duration(0), false
	for pause := firstWait; ; pause = min(2*pause, longestWait) {
		err := try()
		if err == nil {
			if told {
				slog.Info("sink can be written again", "sink", connect.Redact(t.URL), "after", waited.Round(time.Second).String())
			}
			return nil
		}
		if t.Stream == nil || !driver.IsTransient(err) {
			return err
		}
		if waited >= t.Stream.patience() {
			return fmt.Errorf("%w (tried again for %v)", err, waited.Round(time.Second))
		}
		if pause >= time.Second && !told {
			told = true
			slog.Warn("sink can't be written: events wait", "sink", connect.Redact(t.URL), "error", connect.Scrub(err, t.URL).Error(), "patience", t.Stream.patience().String())
		}
		retried.Inc(ctx, 1)
		if werr := wait(ctx, pause); werr != nil {
			return errors.Join(err, werr)
		}
		waited += pause
	}
}
