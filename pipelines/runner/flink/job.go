package flink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/metricsx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"
	"google.golang.org/grpc"
)

var (
	// ErrFailed reports a job that failed. The error says why.
	ErrFailed = errors.New("the job failed")
	// ErrCancelled reports a job that somebody else cancelled.
	ErrCancelled = errors.New("the job was cancelled")
	// ErrGoesOn reports that the job may go on though nobody waits for it any more: it needs what was staged for it.
	ErrGoesOn = errors.New("the job may go on")
)

// Job is a job that was submitted. Its methods may be called at once, but Wait only once.
type Job struct {
	options  Options
	stream   bool
	cluster  *Cluster
	version  string // of Flink
	conn     *grpc.ClientConn
	service  jobpb.JobServiceClient
	pipeline *pipepb.Pipeline
	loopback *extworker.Loopback
	empty    string // file that stands for a worker's binary

	id     string          // Beam's
	before map[string]bool // Flink's jobs that were there

	// What Wait knows.
	flink     string // Flink's id
	fault     string // last error among the job server's messages
	said      State  // how the job ended, according to the job server
	ended     State
	worked    bool // it has done something
	stopped   bool // by us
	savepoint string
	last      int  // number of the checkpoint after which a drained stream is done
	complete  bool // it was
	blind     int  // looks in a row that saw nothing
	doubt     doubt
}

// Close gives the connections up. It does not end the job, except in LOOPBACK, whose workers end here.
func (j *Job) Close() {
	if j.conn != nil {
		_ = j.conn.Close()
	}
	if j.loopback != nil {
		_ = j.loopback.Stop(context.Background())
	}
	if j.empty != "" {
		_ = os.Remove(j.empty)
	}
}

// Result is what became of a job that has ended well.
type Result struct {
	// FlinkID is Flink's id of the job.
	FlinkID string
	// Savepoint is where the job was stopped with one.
	Savepoint string
	// Counters are Beam's by "namespace.name". Those of a stream are what Flink knew last.
	Counters map[string]int64
}

// Progress is told of each change of the job's state, and about every second, while it runs, how far it is.
// A nil one is not called.
type Progress func(Detail)

// lookEvery is the time between two looks at a job.
const lookEvery = time.Second

// Wait waits for the end of the job. When ctx ends the job is cancelled, or stopped with a savepoint, as the
// options say. A stream whose sources have all come to their end, which Flink would go on with for ever, is
// cancelled after a last checkpoint. A job that fails in a way that no restart mends is cancelled too,
// and a bounded one that fails again with the same error of a Go worker, unless the options give Retries. [ErrGoesOn] marks what leaves the job to itself.
func (j *Job) Wait(ctx context.Context, tell Progress) (Result, error) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	messages := j.messages(work)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	over := ctx.Done()
	var last Detail
	for {
		select {
		case <-over:
			over = nil // once
			if err := j.stop(work, j.options.OnStop); err != nil {
				return Result{}, err
			}
		case m, ok := <-messages:
			if !ok {
				messages = nil // the job server is gone, or done: the cluster knows
				continue
			}
			j.hear(m)
		case <-look.C:
			d, err := j.look(work)
			if err != nil {
				return Result{}, err
			}
			if d.ID != "" {
				last = d
				if tell != nil {
					tell(d)
				}
			}
		}
		if j.ended != "" {
			return j.end(work, last)
		}
	}
}

// messages are what the job server says, until the job has ended or the server is lost.
func (j *Job) messages(ctx context.Context) <-chan *jobpb.JobMessagesResponse {
	to := make(chan *jobpb.JobMessagesResponse)
	go func() {
		defer close(to)
		from, err := j.service.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: j.id})
		for err == nil {
			var m *jobpb.JobMessagesResponse
			if m, err = from.Recv(); err != nil {
				return
			}
			select {
			case to <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// hear takes in what the job server says.
func (j *Job) hear(m *jobpb.JobMessagesResponse) {
	if r := m.GetMessageResponse(); r.GetImportance() >= jobpb.JobMessage_JOB_MESSAGE_ERROR {
		j.fault = r.GetMessageText()
	}
	switch m.GetStateResponse().GetState() {
	case jobpb.JobState_DONE:
		j.ended = "FINISHED"
	case jobpb.JobState_FAILED:
		j.said = "FAILED"
	case jobpb.JobState_CANCELLED:
		j.said = "CANCELED"
	}
}

// patience is how many looks may fail in a row: a JobManager that starts again is away for a while.
const patience = 60

// look asks the cluster how the job is, and ends it where it can't go on or has nothing more to do.
func (j *Job) look(ctx context.Context) (Detail, error) {
	d, err := j.detail(ctx)
	if j.said != "" && (err == nil && d.ID == "" || errors.Is(err, ErrNoJob)) { // the cluster knows nothing of it
		j.ended = j.said
		return Detail{}, nil
	}
	if err != nil {
		if j.blind++; j.blind > patience {
			return d, fmt.Errorf("losing sight of the job: %w: %w", ErrGoesOn, err)
		}
		return Detail{}, nil
	}
	j.blind = 0
	if d.ID == "" {
		return d, nil
	}
	j.worked = j.worked || d.Checkpoints > 0 || len(d.Counters) > 0
	if d.State.Ended() {
		j.ended = d.State
		return d, nil
	}
	why, err := j.despair(ctx)
	if err != nil {
		return d, err
	}
	if d.State != "RUNNING" {
		d.Failure = why
	}
	d.Trouble = j.trouble(ctx, d)
	if j.stream && !j.stopped && drained(d) {
		switch {
		case j.last == 0: // one may run already: the second from now begins after all was done
			j.last = d.Checkpoints + 2
		case d.Checkpoints >= j.last:
			j.complete = true
			return d, j.stop(ctx, StopCancel)
		}
	}
	return d, nil
}

func (j *Job) detail(ctx context.Context) (Detail, error) {
	if j.flink == "" {
		jobs, err := j.cluster.Jobs(ctx)
		if err != nil {
			return Detail{}, err
		}
		for _, s := range jobs {
			if s.Name == j.options.Name && !j.before[s.ID] {
				j.flink = s.ID
			}
		}
		if j.flink == "" {
			return Detail{}, nil
		}
	}
	return j.cluster.Job(ctx, j.flink)
}

// Watermark is how far all stages are that are not at the end of time; zero if one of them doesn't say it yet.
func (d Detail) Watermark() (least time.Time) {
	for _, v := range d.Vertices {
		switch {
		case !v.marked || v.end:
		case v.Watermark.IsZero():
			return time.Time{}
		case least.IsZero() || v.Watermark.Before(least):
			least = v.Watermark
		}
	}
	return least
}

// drained tells whether all stages have seen the end of time.
func drained(d Detail) bool {
	marks := 0
	for _, v := range d.Vertices {
		if v.marked && !v.end {
			return false
		}
		if v.marked {
			marks++
		}
	}
	return marks > 0
}

// despair cancels a job that fails in a way that a restart doesn't mend, and tells why one failed last.
func (j *Job) despair(ctx context.Context) (short string, err error) {
	failures, err := j.cluster.failures(ctx, j.flink)
	if err != nil || len(failures) == 0 {
		return "", nil // the next look tells
	}
	short = Cause(failures[0].Stacktrace)
	say, ok := j.hopeless(failures)
	// A stream waits for what is away, however long, and whoever says how often to try again has it so.
	if !ok && !j.stream && j.options.Retries == 0 && again(failures) {
		say, ok = "it failed so again when Flink had started it again", true
	}
	if !ok {
		return short, nil
	}
	err = fmt.Errorf("%w: %s", ErrFailed, short)
	if say != "" {
		err = fmt.Errorf("%w: %s", err, say)
	}
	if cerr := j.stop(ctx, StopCancel); cerr != nil {
		err = errors.Join(err, cerr)
	}
	return short, err
}

// attempts is how many starts may fail in a way that may pass before a job that never worked is given up.
const attempts = 3

func (j *Job) hopeless(failures []failure) (say string, ok bool) {
	for _, h := range hopeless {
		if h.cause.MatchString(failures[0].Stacktrace) {
			return h.say, true
		}
	}
	// A pool that was there comes back, perhaps; one that never was doesn't.
	first := hopelessAtFirst[j.options.Environment]
	if j.worked || first == nil || len(failures) < attempts || slices.ContainsFunc(failures[:attempts], func(f failure) bool { return !first.MatchString(f.Stacktrace) }) {
		return "", false
	}
	switch j.options.Environment {
	case External:
		return poolHint(j.options.EnvironmentConfig), true
	case Docker:
		return dockerHint, true
	}
	return "what environment_config names has ended at once: is it Beam's boot? What it and the worker said is in the TaskManager's log", true
}

// stop ends the job.
func (j *Job) stop(ctx context.Context, how string) (err error) {
	switch {
	case j.flink == "":
		_, err = j.service.Cancel(ctx, &jobpb.CancelJobRequest{JobId: j.id})
	case how == StopSavepoint:
		j.savepoint, err = j.cluster.Stop(ctx, j.flink, j.options.SavepointDir)
		if err == nil {
			err = j.note()
		}
	default:
		err = j.cluster.Cancel(ctx, j.flink)
	}
	if err != nil {
		return fmt.Errorf("stopping the job: %w: %w: try `millrace jobs cancel %s`", ErrGoesOn, err, j.options.Name)
	}
	j.stopped = true
	return nil
}

// end makes the result of a job that has ended.
func (j *Job) end(ctx context.Context, last Detail) (Result, error) {
	r := Result{FlinkID: j.flink, Savepoint: j.savepoint, Counters: last.Counters}
	switch {
	case j.ended == "FINISHED", j.complete:
		if !j.stream {
			if c := j.counters(ctx); len(c) > 0 {
				r.Counters = c
			}
		}
		return r, nil
	case j.ended == "CANCELED" && j.stopped && j.stream:
		return r, nil
	case j.ended == "CANCELED" && j.stopped: // what it was to write isn't there
		return r, fmt.Errorf("%w before its end", ErrCancelled)
	case j.ended == "CANCELED":
		return r, fmt.Errorf("%w by somebody else", ErrCancelled)
	}
	why := Cause(j.fault)
	if j.flink != "" {
		if short, err := j.cluster.Failure(ctx, j.flink); err == nil && short != "" {
			why = short
		}
	}
	if strings.Contains(why, "Cannot map checkpoint/savepoint state for operator") {
		return r, fmt.Errorf("%w: %w: the graph lacks a stage that the savepoint has, or %s; go on with the graph that wrote it, with its number as shards=N if parallelism has changed since, or give fresh_state=true, which drops that state (Flink says: %s)", ErrFailed, ErrState, changed, why)
	}
	return r, fmt.Errorf("%w: %s", ErrFailed, why)
}

// counters are those that the job server knows once a job has ended, which it learns a little after the
// cluster.
func (j *Job) counters(ctx context.Context) map[string]int64 {
	for range 50 {
		state, err := j.service.GetState(ctx, &jobpb.GetJobStateRequest{JobId: j.id})
		if err != nil || ctx.Err() != nil || state.GetState() == jobpb.JobState_DONE {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	answer, err := j.service.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: j.id})
	if err != nil {
		return nil
	}
	out := map[string]int64{}
	m := metricsx.FromMonitoringInfos(j.pipeline, answer.GetMetrics().GetAttempted(), answer.GetMetrics().GetCommitted())
	for _, c := range m.AllMetrics().Counters() {
		out[c.Key.Namespace+"."+c.Key.Name] += c.Result()
	}
	return out
}
