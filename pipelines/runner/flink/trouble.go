package flink

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"
)

// checkpoint asks for a checkpoint of a job and waits until it is complete. The error says at its root why it
// failed, which the history of checkpoints doesn't. Flink does it from version 1.17 on.
func (c *Cluster) checkpoint(ctx context.Context, id string) error {
	path := "/jobs/" + id + "/checkpoints"
	var trigger struct {
		ID string `json:"request-id"`
	}
	if err := c.call(ctx, http.MethodPost, path, map[string]string{"checkpointType": "CONFIGURED"}, &trigger); err != nil {
		return fmt.Errorf("asking for a checkpoint: %w", err)
	}
	for {
		var answer struct {
			Status    struct{ ID string }
			Operation struct {
				Failure *struct {
					Stack string `json:"stack-trace"`
				} `json:"failureCause"`
			}
		}
		if err := c.call(ctx, http.MethodGet, path+"/"+trigger.ID, nil, &answer); err != nil {
			return fmt.Errorf("waiting for a checkpoint: %w", err)
		}
		if f := answer.Operation.Failure; f != nil {
			return fmt.Errorf("writing a checkpoint: %w", flinkError(f.Stack))
		}
		if answer.Status.ID == "COMPLETED" {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("waiting for a checkpoint: %w", context.Cause(ctx))
		}
	}
}

// flinkError is a stack trace of Flink's, and reads as its cause.
type flinkError string

func (e flinkError) Error() string { return Cause(string(e)) }

// doubt is what a job knows of checkpoints that fail.
type doubt struct {
	complete, failed int        // those that were counted when one was last seen to complete
	asked            chan error // how the one goes that was asked for to learn why they fail
	why              string
}

// trouble says why checkpoints of a job fail, and what to do; it is empty if they don't. The first look at a
// failure asks for one more checkpoint, whose answer tells; a later look takes it.
func (j *Job) trouble(ctx context.Context, d Detail) string {
	if d.Checkpoints != j.doubt.complete || d.FailedCheckpoints < j.doubt.failed {
		j.doubt.complete, j.doubt.failed, j.doubt.why = d.Checkpoints, d.FailedCheckpoints, ""
	}
	select {
	case err := <-j.doubt.asked:
		j.doubt.asked = nil
		if d.FailedCheckpoints > j.doubt.failed {
			j.doubt.why = explain(err)
		}
	default:
	}
	if runs(d) && d.FailedCheckpoints > j.doubt.failed && j.doubt.why == "" && j.doubt.asked == nil {
		asked := make(chan error, 1)
		j.doubt.asked = asked
		go func() { asked <- j.cluster.checkpoint(ctx, d.ID) }()
	}
	return j.doubt.why
}

// runs tells whether all stages of a job run: while some still start, no checkpoint can be.
func runs(d Detail) bool {
	return d.State == "RUNNING" && !slices.ContainsFunc(d.Vertices, func(v Vertex) bool { return v.State != "RUNNING" })
}

// passing are causes that come with a job's start and its failures, and are gone when it runs.
var passing = regexp.MustCompile(`(?i)not all required tasks|suspend|not ready|is closing|task has failed|shutdown|no such job`)

// obstacles are what keeps checkpoints from being written, and what to do.
var obstacles = []struct {
	cause *regexp.Regexp
	say   string
}{
	{regexp.MustCompile(`(?i)no space left|quota exceeded`), "make room where they are kept (storage_path, or the cluster's state.checkpoints.dir)"},
	{regexp.MustCompile(`(?i)permission denied|access ?denied|read-only file system|forbidden`), "let the JobManager and the TaskManagers write where they are kept (storage_path, or the cluster's state.checkpoints.dir)"},
	{regexp.MustCompile(`(?i)expired before completing`), "raise checkpoint_timeout, or give unaligned=true"},
}

// explain is why a checkpoint failed, and what to do; empty for what passes by itself.
func explain(err error) string {
	if err == nil || passing.MatchString(err.Error()) {
		return ""
	}
	text, what := err.Error(), "look at the JobManager's log"
	var f flinkError
	if errors.As(err, &f) {
		text = f.Error()
	}
	for _, o := range obstacles {
		if o.cause.MatchString(text) {
			what = o.say
			break
		}
	}
	return fmt.Sprintf("checkpoints fail: %s: %s; the job goes on, and checkpoints with it once that is mended: a failure before would take it back to the last complete one", text, what)
}
