package dataflow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/dataflow/dataflowlib"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/util/gcsx"
	df "google.golang.org/api/dataflow/v1b3"
	"google.golang.org/api/googleapi"
)

var (
	// ErrFailed reports a job that Dataflow gave up; it is wrapped with what the job said.
	ErrFailed = errors.New("the job failed")
	// ErrCancelled reports a job that somebody ended.
	ErrCancelled = errors.New("the job was cancelled")
)

// poll is the time between two looks at a job.
var poll = 10 * time.Second

// silences are looks in a row that may fail.
const silences = 30

// State says how far a job is.
type State struct {
	// ID is Dataflow's, and Console the page that shows the job.
	ID, Console string
	// State is Dataflow's, as JOB_STATE_RUNNING.
	State string
}

// Progress is told the states of a job. It may be nil.
type Progress func(State)

// Run starts a job and waits for its end; it gives the job's counters by "namespace.name". With a
// TemplateLocation it writes the job there and starts none. The caller has called beam.Init.
func Run(ctx context.Context, p *beam.Pipeline, o Options, tell Progress) (map[string]int64, error) {
	if o.DryRun {
		return nil, errors.New("dataflow: dry_run describes the job, and runs none: call Describe")
	}
	r, err := prepare(ctx, p, o)
	if err != nil {
		return nil, err
	}
	if err := r.stage(ctx); err != nil || o.TemplateLocation != "" {
		return nil, err
	}
	client, err := dataflowlib.NewClient(ctx, o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("connecting to Dataflow: %w", err)
	}
	started, err := dataflowlib.Submit(ctx, client, o.Project, o.Region, r.job, o.Update)
	if err != nil {
		return nil, fmt.Errorf("starting the job %s: %w", r.job.Name, err)
	}
	j := running{jobs: client.Projects.Locations.Jobs, options: r.options, id: started.Id}
	if tell == nil {
		tell = func(State) {}
	}
	if err = j.wait(ctx, tell); err != nil && !ended(err) {
		return nil, err
	}
	counters, cerr := j.counters(context.WithoutCancel(ctx))
	return counters, errors.Join(err, cerr)
}

// ended tells an error of a job that has ended from one behind which it may go on.
func ended(err error) bool { return errors.Is(err, ErrFailed) || errors.Is(err, ErrCancelled) }

// stage writes what workers, or the launcher of a template, fetch.
func (r request) stage(ctx context.Context) error {
	client, err := gcsx.NewClient(ctx, storage.ScopeReadWrite)
	if err != nil {
		return fmt.Errorf("connecting to Cloud Storage: %w", err)
	}
	defer client.Close()
	put := func(url string, content io.Reader) error {
		bucket, object, err := gcsx.ParseObject(url)
		if err == nil {
			err = gcsx.WriteObject(ctx, client, bucket, object, content)
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", url, err)
		}
		return nil
	}
	f, err := os.Open(r.binary)
	if err != nil {
		return fmt.Errorf("opening the worker: %w", err)
	}
	defer f.Close()
	if err := put(r.workURL, f); err != nil {
		return err
	}
	if err := put(r.modelURL, bytes.NewReader(r.model)); err != nil || r.options.TemplateLocation == "" {
		return err
	}
	text, err := r.job.MarshalJSON()
	if err != nil {
		return fmt.Errorf("writing the job's description: %w", err)
	}
	return put(r.options.TemplateLocation, bytes.NewReader(text))
}

// running is a job that was started.
type running struct {
	jobs    *df.ProjectsLocationsJobsService
	options Options
	id      string
}

// wait returns when the job has ended, or when ctx has and the job was told so.
func (j running) wait(ctx context.Context, tell Progress) error {
	o := j.options
	s := State{ID: j.id, Console: fmt.Sprintf("https://console.cloud.google.com/dataflow/jobs/%s/%s?project=%s", o.Region, j.id, o.Project)}
	for silent := 0; ; {
		job, err := j.jobs.Get(o.Project, o.Region, j.id).Context(ctx).Do()
		switch {
		case ctx.Err() != nil:
			return j.stop(ctx, tell, s)
		case err != nil:
			if silent++; silent > silences || refusal(err) {
				return fmt.Errorf("looking at the job, which may go on: %w: see %s", err, s.Console)
			}
		default:
			silent = 0
			if job.CurrentState != s.State {
				s.State = job.CurrentState
				tell(s)
			}
			switch job.CurrentState {
			case "JOB_STATE_DONE", "JOB_STATE_DRAINED", "JOB_STATE_UPDATED":
				return nil
			case "JOB_STATE_CANCELLED":
				return ErrCancelled
			case "JOB_STATE_FAILED":
				return fmt.Errorf("%w: %s", ErrFailed, j.cause(ctx))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(poll):
		}
	}
}

// refusal tells an answer that won't change from a service that is away for a moment.
func refusal(err error) bool {
	var e *googleapi.Error
	return errors.As(err, &e) && e.Code < http.StatusInternalServerError && e.Code != http.StatusTooManyRequests
}

// stop does what the options say when the context ends, and waits until it is done: cancelling takes a minute,
// draining as long as what was read.
func (j running) stop(ctx context.Context, tell Progress, s State) error {
	o := j.options
	want := map[string]string{StopCancel: "JOB_STATE_CANCELLED", StopDrain: "JOB_STATE_DRAINED"}[o.OnStop]
	if want == "" {
		return context.Cause(ctx)
	}
	on := context.WithoutCancel(ctx)
	if _, err := j.jobs.Update(o.Project, o.Region, j.id, &df.Job{RequestedState: want}).Context(on).Do(); err != nil {
		return fmt.Errorf("stopping the job, which goes on: %w: see %s", err, s.Console)
	}
	err := j.wait(on, tell)
	if errors.Is(err, ErrCancelled) {
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return err
}

// cause is what a job that failed said last.
func (j running) cause(ctx context.Context) string {
	o := j.options
	said, err := j.jobs.Messages.List(o.Project, o.Region, j.id).MinimumImportance("JOB_MESSAGE_ERROR").Context(ctx).Do()
	if err != nil || len(said.JobMessages) == 0 {
		return "it doesn't say why: see the logs of job " + j.id
	}
	return strings.TrimSpace(said.JobMessages[len(said.JobMessages)-1].MessageText)
}

// counters sums the job's counters over its steps. Dataflow tells each as attempted, and where it can as
// committed, which is the better one.
func (j running) counters(ctx context.Context) (map[string]int64, error) {
	m, err := j.jobs.GetMetrics(j.options.Project, j.options.Region, j.id).Context(ctx).Do()
	if err != nil {
		return nil, fmt.Errorf("reading the job's counters: %w", err)
	}
	attempted, committed := map[string]int64{}, map[string]int64{}
	for _, u := range m.Metrics {
		n, ok := u.Scalar.(float64)
		if !ok || u.Name == nil || u.Name.Context["namespace"] == "" { // the rest are Dataflow's own
			continue
		}
		sums := committed
		if u.Name.Context["tentative"] == "true" {
			sums = attempted
		}
		sums[u.Name.Context["namespace"]+"."+u.Name.Name] += int64(n)
	}
	maps.Copy(attempted, committed)
	return attempted, nil
}
