package flink

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cluster is a Flink cluster, by its REST interface. Its methods may be called at once.
type Cluster struct {
	url  string
	http *http.Client
}

// answerTime is for how long a cluster may take to answer.
const answerTime = 5 * time.Second

// Open returns the cluster at an address, a URL or host:port. It does not connect.
func Open(address string) (*Cluster, error) {
	u, err := restURL(address)
	if err != nil {
		return nil, fmt.Errorf("opening Flink at %q: %w: give a URL as http://localhost:8081", address, err)
	}
	return &Cluster{url: u, http: &http.Client{Timeout: answerTime}}, nil
}

func restURL(address string) (string, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("no address of a web server")
	}
	return strings.TrimSuffix(address, "/"), nil
}

// ErrNoJob reports a job that the cluster doesn't know.
var ErrNoJob = errors.New("no such job")

// call makes a request and reads the answer into out.
func (c *Cluster) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking Flink at %s: %w: %s", redact(c.url), scrub(err, c.url), restHint)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("asking Flink at %s: %w", redact(c.url), err)
	}
	if resp.StatusCode >= 300 {
		var fault struct{ Errors []string }
		_ = json.Unmarshal(text, &fault)
		said := Cause(strings.Join(fault.Errors, "\n"))
		if resp.StatusCode == http.StatusNotFound && strings.HasPrefix(path, "/jobs/") {
			return fmt.Errorf("%w: %s", ErrNoJob, cmp.Or(said, path))
		}
		return fmt.Errorf("asking Flink at %s: %s: %s", redact(c.url), resp.Status, cmp.Or(said, restHint))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("asking Flink at %s: what answers is another web server (%w): %s", redact(c.url), err, restHint)
	}
	return nil
}

const restHint = "is that the address of its REST interface? Start the cluster, or give the address of its dashboard as rest"

// Overview is what a cluster has.
type Overview struct {
	Version      string `json:"flink-version"`
	TaskManagers int    `json:"taskmanagers"`
	Slots        int    `json:"slots-total"`
	FreeSlots    int    `json:"slots-available"`
}

// Overview asks for it.
func (c *Cluster) Overview(ctx context.Context) (o Overview, err error) {
	if err = c.call(ctx, http.MethodGet, "/overview", nil, &o); err == nil && o.Version == "" {
		err = fmt.Errorf("asking Flink at %s: it doesn't say its version: %s", redact(c.url), restHint)
	}
	return o, err
}

// State of a job, as Flink names it: RUNNING, RESTARTING, FINISHED, FAILED, CANCELED and others.
type State string

// Ended tells the states that nothing follows.
func (s State) Ended() bool {
	return s == "FINISHED" || s == "FAILED" || s == "CANCELED" || s == "SUSPENDED"
}

// Status is a line of a list of jobs.
type Status struct {
	ID    string
	Name  string
	State State
	Start time.Time
	// Duration is for how long the job has run, or ran.
	Duration time.Duration
}

type statusAnswer struct {
	ID       string `json:"jid"`
	Name     string `json:"name"`
	State    State  `json:"state"`
	Start    int64  `json:"start-time"`
	Duration int64  `json:"duration"`
}

func (s statusAnswer) public() Status {
	return Status{s.ID, s.Name, s.State, time.UnixMilli(s.Start), time.Duration(s.Duration) * time.Millisecond}
}

// Jobs lists the jobs that the cluster remembers, the newest first.
func (c *Cluster) Jobs(ctx context.Context) ([]Status, error) {
	var answer struct{ Jobs []statusAnswer }
	if err := c.call(ctx, http.MethodGet, "/jobs/overview", nil, &answer); err != nil {
		return nil, err
	}
	var jobs []Status
	for _, j := range answer.Jobs {
		jobs = append(jobs, j.public())
	}
	slices.SortFunc(jobs, func(a, b Status) int { return cmp.Or(b.Start.Compare(a.Start), strings.Compare(a.ID, b.ID)) })
	return jobs, nil
}

// Find returns the job of an id, of the beginning of one, or of a name that one job alone has among those
// that have not ended, or among all.
func (c *Cluster) Find(ctx context.Context, ref string) (Status, error) {
	jobs, err := c.Jobs(ctx)
	if err != nil {
		return Status{}, err
	}
	var found []Status
	for _, j := range jobs {
		if j.ID == ref || j.Name == ref || len(ref) >= 4 && strings.HasPrefix(j.ID, ref) {
			found = append(found, j)
		}
	}
	if len(found) > 1 {
		if live := slices.DeleteFunc(slices.Clone(found), func(s Status) bool { return s.State.Ended() }); len(live) > 0 {
			found = live
		}
	}
	switch len(found) {
	case 0:
		return Status{}, fmt.Errorf("%w: %s: look at `millrace jobs list`", ErrNoJob, ref)
	case 1:
		return found[0], nil
	}
	return Status{}, fmt.Errorf("%d jobs are called %s: give the id of one, as %s", len(found), ref, found[0].ID)
}

// Vertex is a stage of a running job.
type Vertex struct {
	ID          string
	Name        string
	State       string
	Parallelism int
	// In and Out are records from and to other vertices; a record is a batch of events.
	In, Out int64
	// Watermark is the least of the subtasks; zero if it isn't known.
	Watermark time.Time
	// Busy is the part of the time, 0 to 1, in which the busiest subtask works, BackPressured that in which
	// one waits for the next stage.
	Busy, BackPressured float64

	marked, end bool // there is a watermark, and it is at the end of time
}

// Detail is a job with its stages and what it counts.
type Detail struct {
	Status
	Vertices []Vertex
	// Counters are Beam's by "namespace.name", summed over the stages. They begin again when a job starts
	// again, and count what is replayed.
	Counters map[string]int64
	// Checkpoints and FailedCheckpoints count those of this job; LastCheckpoint was triggered last of those
	// that completed.
	Checkpoints, FailedCheckpoints int
	LastCheckpoint                 time.Time
	// Failure is, while a job that is waited for doesn't run, why it failed last.
	Failure string
	// Trouble is why the checkpoints of a job that is waited for fail, and what to do; empty if they don't.
	Trouble string
}

// endOfTime is less than what Beam and Flink give as watermark when there is nothing more, in milliseconds.
const endOfTime = 9_000_000_000_000_000

// Job looks at a job.
func (c *Cluster) Job(ctx context.Context, id string) (Detail, error) {
	var answer struct {
		statusAnswer
		Vertices []struct {
			ID, Name, Status string
			Parallelism      int
			Metrics          struct {
				In   int64 `json:"read-records"`
				Out  int64 `json:"write-records"`
				Busy any   `json:"accumulated-busy-time"`
			}
		}
	}
	if err := c.call(ctx, http.MethodGet, "/jobs/"+id, nil, &answer); err != nil {
		return Detail{}, err
	}
	d := Detail{Status: answer.public(), Counters: map[string]int64{}}
	for _, v := range answer.Vertices {
		vertex := Vertex{ID: v.ID, Name: v.Name, State: v.Status, Parallelism: v.Parallelism, In: v.Metrics.In, Out: v.Metrics.Out}
		if err := c.measure(ctx, id, &vertex, d.Counters); err != nil {
			return Detail{}, err
		}
		d.Vertices = append(d.Vertices, vertex)
	}
	return d, c.checkpoints(ctx, &d)
}

// measure fills in what the metrics of a vertex say.
func (c *Cluster) measure(ctx context.Context, job string, v *Vertex, counters map[string]int64) error {
	path := fmt.Sprintf("/jobs/%s/vertices/%s/subtasks/metrics", job, v.ID)
	var names []struct{ ID string }
	if err := c.call(ctx, http.MethodGet, path, nil, &names); err != nil {
		return err
	}
	wanted := map[string]string{} // metric -> counter
	var get []string
	for _, n := range names {
		switch name := counter(n.ID); {
		case name != "":
			wanted[n.ID] = name
		case n.ID == "currentInputWatermark", n.ID == "busyTimeMsPerSecond", n.ID == "backPressuredTimeMsPerSecond":
		default:
			continue
		}
		get = append(get, n.ID)
	}
	if len(get) == 0 {
		return nil
	}
	var values []struct {
		ID            string
		Min, Max, Sum figure
	}
	if err := c.call(ctx, http.MethodGet, path+"?get="+url.QueryEscape(strings.Join(get, ",")), nil, &values); err != nil {
		return err
	}
	for _, m := range values {
		switch {
		case wanted[m.ID] != "":
			counters[wanted[m.ID]] += int64(m.Sum)
		case m.ID == "currentInputWatermark":
			v.marked, v.end = !math.IsNaN(float64(m.Min)), m.Min >= endOfTime
			if m.Min > 0 && !v.end {
				v.Watermark = time.UnixMilli(int64(m.Min))
			}
		case math.IsNaN(float64(m.Max)): // a source of Flink's own says nothing
		case m.ID == "busyTimeMsPerSecond":
			v.Busy = float64(m.Max) / 1000
		case m.ID == "backPressuredTimeMsPerSecond":
			v.BackPressured = float64(m.Max) / 1000
		}
	}
	return nil
}

// figure is a number, or NaN, which Flink writes as text.
type figure float64

// UnmarshalJSON reads either.
func (f *figure) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseFloat(strings.Trim(string(text), `"`), 64)
	*f = figure(v)
	return err
}

// counterSpaces are the namespaces of our counters.
var counterSpaces = []string{
	"source", "decode", "features", "labels", "predict", "monitor", "sink", "staged", "deadletter", "replay", "kafka", "kinesis", "pubsub", "intake",
}

// counter is the "namespace.name" of a Beam counter that Flink calls <operator>.<namespace>_<name>, or empty.
func counter(metric string) string {
	name := metric[strings.LastIndexByte(metric, '.')+1:]
	for _, space := range counterSpaces {
		if rest, ok := strings.CutPrefix(name, space+"_"); ok && name != metric {
			return space + "." + rest
		}
	}
	return ""
}

func (c *Cluster) checkpoints(ctx context.Context, d *Detail) error {
	var answer struct {
		Counts struct{ Completed, Failed int }
		Latest struct {
			Completed *struct {
				Triggered int64 `json:"trigger_timestamp"`
			}
		}
	}
	err := c.call(ctx, http.MethodGet, "/jobs/"+d.ID+"/checkpoints", nil, &answer)
	if errors.Is(err, ErrNoJob) { // a bounded job has none
		return nil
	}
	d.Checkpoints, d.FailedCheckpoints = answer.Counts.Completed, answer.Counts.Failed
	if last := answer.Latest.Completed; last != nil {
		d.LastCheckpoint = time.UnixMilli(last.Triggered)
	}
	return err
}

// Failure is why a job failed last, in short; it is empty if it has not failed.
func (c *Cluster) Failure(ctx context.Context, id string) (string, error) {
	all, err := c.failures(ctx, id)
	if err != nil || len(all) == 0 {
		return "", err
	}
	return Cause(all[0].Stacktrace), nil
}

// failure is what made a job fail once.
type failure struct {
	Stacktrace string
	TaskName   string // with the number of its execution
}

// failures are the last ones of a job, the newest first.
func (c *Cluster) failures(ctx context.Context, id string) ([]failure, error) {
	var answer struct {
		Root    string                      `json:"root-exception"`
		History struct{ Entries []failure } `json:"exceptionHistory"`
	}
	if err := c.call(ctx, http.MethodGet, "/jobs/"+id+"/exceptions", nil, &answer); err != nil {
		return nil, err
	}
	if len(answer.History.Entries) == 0 && answer.Root != "" {
		return []failure{{Stacktrace: answer.Root}}, nil
	}
	return answer.History.Entries, nil
}

// Cancel ends a job without a savepoint.
func (c *Cluster) Cancel(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPatch, "/jobs/"+id+"?mode=cancel", nil, nil)
}

// Savepoint writes one to a folder, or to the cluster's own if dir is empty, and returns where it is. The
// job goes on.
func (c *Cluster) Savepoint(ctx context.Context, id, dir string) (path string, err error) {
	in := map[string]any{"cancel-job": false}
	if dir != "" {
		in["target-directory"] = dir
	}
	return c.saved(ctx, id, "/savepoints", in)
}

// Stop stops a job with a savepoint, from which another job can go on, and returns where it is.
func (c *Cluster) Stop(ctx context.Context, id, dir string) (path string, err error) {
	in := map[string]any{"drain": false}
	if dir != "" {
		in["targetDirectory"] = dir
	}
	return c.saved(ctx, id, "/stop", in)
}

func (c *Cluster) saved(ctx context.Context, id, how string, in any) (string, error) {
	var trigger struct {
		ID string `json:"request-id"`
	}
	if err := c.call(ctx, http.MethodPost, "/jobs/"+id+how, in, &trigger); err != nil {
		return "", fmt.Errorf("asking for a savepoint: %w", err)
	}
	for {
		var answer struct {
			Status    struct{ ID string }
			Operation struct {
				Location string
				Failure  *struct {
					Stack string `json:"stack-trace"`
				} `json:"failure-cause"`
			}
		}
		if err := c.call(ctx, http.MethodGet, "/jobs/"+id+"/savepoints/"+trigger.ID, nil, &answer); err != nil {
			return "", fmt.Errorf("waiting for a savepoint: %w", err)
		}
		if f := answer.Operation.Failure; f != nil {
			return "", fmt.Errorf("writing a savepoint: %s", Cause(f.Stack))
		}
		if answer.Status.ID == "COMPLETED" {
			return answer.Operation.Location, nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for a savepoint: %w: it may still be written", context.Cause(ctx))
		}
	}
}

// String is the vertex in a line.
func (v Vertex) String() string {
	mark := ""
	switch {
	case v.end:
		mark = ", at the end of time"
	case !v.Watermark.IsZero():
		mark = ", watermark " + v.Watermark.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s x%d %s: %s in, %s out, busy %.0f %%, held back %.0f %%%s",
		v.Name, v.Parallelism, v.State, strconv.FormatInt(v.In, 10), strconv.FormatInt(v.Out, 10), 100*v.Busy, 100*v.BackPressured, mark)
}
