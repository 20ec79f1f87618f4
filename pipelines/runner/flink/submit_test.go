package flink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func init() { register.Function1x1(same) }

func same(b []byte) []byte { return b }

// side is a job server and a cluster that know one job.
type side struct {
	jobpb.UnimplementedJobServiceServer
	jobpb.UnimplementedArtifactStagingServiceServer
	t *testing.T

	endpoint, rest string
	unknown        string // option that the job server doesn't know
	group          string // of the options
	ends           jobpb.JobState_Enum
	says           string // an error, before the end
	refuses        error  // to run

	mu       sync.Mutex
	prepared *jobpb.PrepareJobRequest
	binary   []byte
	ran      bool
	state    string // Flink's
	trace    string // Flink's exception
	marks    float64
	slots    int
	points   int       // completed checkpoints
	ended    int       // those before the job was cancelled
	asked    []string  // requests that change something
	history  []failure // Flink's exceptions, the newest first
	lasts    int       // looks at the job until it is finished; 0: it never is
	deaf     bool      // the cluster cancels nothing
}

func newSide(t *testing.T) *side {
	s := &side{t: t, group: "org.apache.beam.runners.flink.FlinkPipelineOptions", ends: jobpb.JobState_DONE, slots: 2, state: "RUNNING"}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	jobpb.RegisterJobServiceServer(g, s)
	jobpb.RegisterArtifactStagingServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	s.endpoint = l.Addr().String()
	web := httptest.NewServer(http.HandlerFunc(s.serveREST))
	t.Cleanup(web.Close)
	s.rest = web.URL
	return s
}

func (s *side) DescribePipelineOptions(context.Context, *jobpb.DescribePipelineOptionsRequest) (*jobpb.DescribePipelineOptionsResponse, error) {
	r := &jobpb.DescribePipelineOptionsResponse{}
	for name := range (Options{StateBackend: "rocksdb", StoragePath: "x", SavepointPath: "x", Retries: 1, RetryDelay: 1, ObjectReuse: true}).beam(true) {
		if name != s.unknown {
			r.Options = append(r.Options, &jobpb.PipelineOptionDescriptor{Name: name, Group: s.group})
		}
	}
	r.Options = append(r.Options, &jobpb.PipelineOptionDescriptor{Name: "job_name"})
	return r, nil
}

func (s *side) Prepare(_ context.Context, r *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepared = r
	return &jobpb.PrepareJobResponse{PreparationId: "prep", StagingSessionToken: "token", ArtifactStagingEndpoint: &pipepb.ApiServiceDescriptor{Url: s.endpoint}}, nil
}

// ReverseArtifactRetrievalService asks for the worker's binary, as the Java side does.
func (s *side) ReverseArtifactRetrievalService(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer) error {
	first, err := stream.Recv()
	if err != nil || first.GetStagingToken() != "token" {
		return fmt.Errorf("staging token %q, %v", first.GetStagingToken(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, env := range s.prepared.GetPipeline().GetComponents().GetEnvironments() {
		for _, dep := range env.GetDependencies() {
			if err := stream.Send(&jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_GetArtifact{GetArtifact: &jobpb.GetArtifactRequest{Artifact: dep}}}); err != nil {
				return err
			}
			for {
				m, err := stream.Recv()
				if err != nil {
					return err
				}
				s.binary = append(s.binary, m.GetGetArtifactResponse().GetData()...)
				if m.GetIsLast() {
					break
				}
			}
		}
	}
	return nil
}

func (s *side) Run(_ context.Context, r *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.GetPreparationId() != "prep" || r.GetRetrievalToken() != "token" {
		return nil, fmt.Errorf("asked to run %v", r)
	}
	if s.refuses != nil {
		return nil, s.refuses
	}
	s.ran = true
	return &jobpb.RunJobResponse{JobId: "beam-1"}, nil
}

func (s *side) GetMessageStream(_ *jobpb.JobMessagesRequest, to jobpb.JobService_GetMessageStreamServer) error {
	if s.ends == jobpb.JobState_RUNNING { // to be ended from outside
		<-to.Context().Done()
		return nil
	}
	if s.says != "" {
		if err := to.Send(&jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_MessageResponse{MessageResponse: &jobpb.JobMessage{MessageText: s.says, Importance: jobpb.JobMessage_JOB_MESSAGE_ERROR}}}); err != nil {
			return err
		}
	}
	return to.Send(&jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_StateResponse{StateResponse: &jobpb.JobStateEvent{State: s.ends}}})
}

func (s *side) GetJobMetrics(context.Context, *jobpb.GetJobMetricsRequest) (*jobpb.GetJobMetricsResponse, error) {
	return &jobpb.GetJobMetricsResponse{Metrics: &jobpb.MetricResults{Attempted: []*pipepb.MonitoringInfo{{
		Urn: "beam:metric:user:sum_int64:v1", Type: "beam:metrics:sum_int64:v1", Payload: []byte{7},
		Labels: map[string]string{"NAMESPACE": "source", "NAME": "read", "PTRANSFORM": "e1"},
	}}}}, nil
}

func (s *side) serveREST(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	if r.Method != http.MethodGet {
		body, _ := io.ReadAll(r.Body)
		s.asked = append(s.asked, r.Method+" "+r.URL.String()+" "+string(body))
	}
	type m = map[string]any
	switch path := r.URL.Path; {
	case path == "/overview":
		answer(m{"flink-version": "1.19.3", "slots-total": 2, "slots-available": s.slots})
	case path == "/jobs/overview":
		jobs := []m{{"jid": "old", "name": "fraud", "state": "FINISHED", "start-time": 1}}
		if s.ran {
			jobs = append(jobs, m{"jid": "new", "name": "fraud", "state": s.state, "start-time": 2})
		}
		answer(m{"jobs": jobs})
	case path == "/jobs/new" && r.Method == http.MethodPatch && s.deaf:
		http.Error(w, `{"errors":["no leader"]}`, http.StatusServiceUnavailable)
	case path == "/jobs/new" && r.Method == http.MethodPatch:
		s.state, s.ended = "CANCELED", s.points
	case path == "/jobs/new/stop":
		s.state = "FINISHED"
		answer(m{"request-id": "q"})
	case path == "/jobs/new/savepoints/q":
		answer(m{"status": m{"id": "COMPLETED"}, "operation": m{"location": "s3://b/savepoint-1"}})
	case path == "/jobs/new":
		if s.lasts--; s.lasts == 0 {
			s.state = "FINISHED"
		}
		answer(m{"jid": "new", "name": "fraud", "state": s.state, "vertices": []m{{"id": "v", "name": "[2]{source.Read}", "status": "RUNNING", "metrics": m{"read-records": 3}}}})
	case path == "/jobs/new/vertices/v/subtasks/metrics" && r.URL.RawQuery == "":
		answer([]m{{"id": "currentInputWatermark"}, {"id": "busyTimeMsPerSecond"}, {"id": "[2]{source.Read}.source_read"}})
	case path == "/jobs/new/vertices/v/subtasks/metrics":
		answer([]m{{"id": "currentInputWatermark", "min": s.marks}, {"id": "busyTimeMsPerSecond", "max": "NaN"}, {"id": "[2]{source.Read}.source_read", "sum": 5}})
	case path == "/jobs/new/checkpoints":
		s.points++
		answer(m{"counts": m{"completed": s.points}})
	case path == "/jobs/new/exceptions":
		answer(m{"root-exception": s.trace, "exceptionHistory": m{"entries": s.history}})
	default:
		http.Error(w, `{"errors":["not here"]}`, http.StatusNotFound)
	}
}

func (s *side) options(t *testing.T) Options {
	worker := filepath.Join(t.TempDir(), "worker")
	if err := os.WriteFile(worker, []byte("binary"), 0o700); err != nil {
		t.Fatal(err)
	}
	return Options{Endpoint: s.endpoint, REST: s.rest, Name: "fraud", WorkerBinary: worker, Environment: Process, EnvironmentConfig: "/opt/boot"}
}

func trivial() *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo(s, same, beam.Impulse(s))
	return p
}

func TestSubmit(t *testing.T) {
	s := newSide(t)
	j, err := Submit(t.Context(), trivial(), s.options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	res, err := j.Wait(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Counters["source.read"] != 7 {
		t.Errorf("counters %v", res.Counters)
	}
	if string(s.binary) != "binary" {
		t.Errorf("the worker that was sent is %q", s.binary)
	}
	if s.prepared.GetJobName() != "fraud" {
		t.Errorf("the job's name is %q", s.prepared.GetJobName())
	}
	sent := s.prepared.GetPipelineOptions().AsMap()
	for name, want := range map[string]any{"parallelism": 1., "streaming": false, "finish_bundle_before_checkpointing": true, "job_name": "fraud"} {
		if got := sent["beam:option:"+name+":v1"]; got != want {
			t.Errorf("option %s is %v, want %v", name, got, want)
		}
	}
	if _, ok := sent["beam:option:checkpointing_interval:v1"]; ok {
		t.Error("a bounded job was sent a checkpoint interval")
	}
	for _, env := range s.prepared.GetPipeline().GetComponents().GetEnvironments() {
		var process pipepb.ProcessPayload
		if err := proto.Unmarshal(env.GetPayload(), &process); err != nil || env.GetUrn() != graphx.URNEnvProcess || process.GetCommand() != "/opt/boot" {
			t.Errorf("environment %v", env)
		}
	}
}

func TestSubmitRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*side, *Options)
		want   string
	}{
		"nobody":        {func(_ *side, o *Options) { o.Endpoint = "localhost:1" }, "reaching the job server"},
		"REST there":    {func(s *side, o *Options) { o.Endpoint = strings.TrimPrefix(s.rest, "http://") }, "is that Beam's Flink job server?"},
		"nobody's REST": {func(_ *side, o *Options) { o.REST = "localhost:1" }, "is that the address of its REST interface?"},
		"gRPC there":    {func(s *side, o *Options) { o.REST = s.endpoint }, "is that the address of its REST interface?"},
		"slots":         {func(_ *side, o *Options) { o.Parallelism = 3 }, "2 of 2 slots free, and the job takes 3"},
		"older":         {func(s *side, _ *Options) { s.unknown = "sdk_worker_parallelism" }, "knows no option sdk_worker_parallelism"},
		"Spark":         {func(s *side, _ *Options) { s.group = "Spark" }, "is not that of Flink"},
		"options":       {func(_ *side, o *Options) { o.CheckpointInterval = 1e9 }, "checkpoint_interval is for streams"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t)
			o := s.options(t)
			c.change(s, &o)
			_, err := Submit(t.Context(), trivial(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if s.ran || s.prepared != nil {
				t.Error("something was started")
			}
		})
	}
}

// waitFor submits a graph and waits, to the end that the sides have.
func waitFor(t *testing.T, ctx context.Context, s *side, stream bool, change func(*Options)) (Result, error) {
	t.Helper()
	o := s.options(t)
	if change != nil {
		change(&o)
	}
	o = o.withDefaults(stream)
	c, err := Open(s.rest)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(ctx, s.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	j := &Job{options: o, stream: stream, cluster: c, conn: conn, service: jobpb.NewJobServiceClient(conn), id: "beam-1"}
	defer j.Close()
	s.ran = true
	j.before = map[string]bool{"old": true}
	return j.Wait(ctx, nil)
}

func TestFailure(t *testing.T) {
	s := newSide(t)
	s.ends, s.says, s.state = jobpb.JobState_FAILED, "java.lang.Exception: from the job server", "FAILED"
	_, err := waitFor(t, t.Context(), s, true, nil)
	if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "from the job server") {
		t.Errorf("error %v", err)
	}
}

// TestHopeless: state of another stage is not restarted for ever.
func TestHopeless(t *testing.T) {
	for name, c := range map[string]struct {
		trace, want string
		change      func(*Options)
	}{
		"state": {trace: "java.lang.Exception: process bundle failed for instruction 1\n\tcaused by:\nshardstate: foreign state: x\n\tat y", want: "shardstate: foreign state"},
		"boot":  {trace: `java.io.IOException: Cannot run program "/opt/boot": error=2`, want: "PROCESS needs Beam's boot"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t)
			s.ends, s.trace = jobpb.JobState_RUNNING, c.trace
			_, err := waitFor(t, t.Context(), s, true, c.change)
			if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if s.state != "CANCELED" {
				t.Errorf("the job is %s", s.state)
			}
		})
	}
}

// failed is a failure by what a stage of ours said.
func failed(execution, said string) failure {
	return failure{
		Stacktrace: "java.lang.RuntimeException: process bundle failed for instruction " + execution + " using plan S[3]\n\tcaused by:\n" + said + "\n\tat org.apache.beam.A.b(A.java:5)",
		TaskName:   "fold (1/2) - execution #" + execution,
	}
}

// TestAgain: a bounded job that fails with the same error after a restart is not started again and again. Another
// one is: what is away may come back, and so may a worker.
func TestAgain(t *testing.T) {
	t.Parallel()
	twice := []failure{failed("1", "the history is too short"), failed("0", "the history is too short")}
	killed := failure{Stacktrace: "java.lang.RuntimeException: UNAVAILABLE: lost", TaskName: "fold (1/2) - execution #1"}
	for name, c := range map[string]struct {
		history []failure
		stream  bool
		change  func(*Options)
		gives   bool
	}{
		"twice":        {history: twice, gives: true},
		"once":         {history: twice[1:]},
		"other errors": {history: []failure{twice[0], failed("0", "the disk is full")}},
		"one between":  {history: []failure{failed("2", "the history is too short"), killed, twice[1]}},
		"side by side": {history: []failure{failed("1", "the history is too short"), twice[0]}},
		"workers lost": {history: []failure{killed, {killed.Stacktrace, "fold (1/2) - execution #0"}}},
		"a stream":     {history: twice, stream: true},
		"as asked":     {history: twice, change: func(o *Options) { o.Retries = 9 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t)
			s.ends, s.history, s.lasts = jobpb.JobState_RUNNING, c.history, 3
			_, err := waitFor(t, t.Context(), s, c.stream, c.change)
			if !c.gives {
				if err != nil || s.state != "FINISHED" {
					t.Errorf("the job is %s, error %v", s.state, err)
				}
				return
			}
			if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "the history is too short") || errors.Is(err, ErrGoesOn) || s.state != "CANCELED" {
				t.Errorf("the job is %s, error %v", s.state, err)
			}
		})
	}
}

// TestGoesOn: an error tells that the job may go on, be it that it can't be ended or that nobody knows whether it began.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	t.Run("deaf", func(t *testing.T) {
		t.Parallel()
		s := newSide(t)
		s.ends, s.deaf = jobpb.JobState_RUNNING, true
		s.history = []failure{failed("1", "the history is too short"), failed("0", "the history is too short")}
		if _, err := waitFor(t, t.Context(), s, false, nil); !errors.Is(err, ErrGoesOn) || !strings.Contains(err.Error(), "the history is too short") {
			t.Errorf("error %v", err)
		}
	})
	for code, goesOn := range map[codes.Code]bool{codes.Unavailable: true, codes.Internal: false} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			s := newSide(t)
			s.refuses = status.Error(code, "no")
			if _, err := Submit(t.Context(), trivial(), s.options(t)); err == nil || errors.Is(err, ErrGoesOn) != goesOn {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestStop(t *testing.T) {
	for how, want := range map[string]string{
		StopCancel:    "PATCH /jobs/new?mode=cancel ",
		StopSavepoint: `POST /jobs/new/stop {"drain":false,"targetDirectory":"s3://b"}`,
	} {
		t.Run(how, func(t *testing.T) {
			s := newSide(t)
			s.ends = jobpb.JobState_RUNNING
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s.marks = 1
			o := s.options(t)
			o.OnStop = how
			if how == StopSavepoint {
				o.SavepointDir = "s3://b"
			}
			c, _ := Open(s.rest)
			conn, err := dial(ctx, s.endpoint)
			if err != nil {
				t.Fatal(err)
			}
			j := &Job{options: o.withDefaults(true), stream: true, cluster: c, conn: conn, service: jobpb.NewJobServiceClient(conn), id: "beam-1", before: map[string]bool{"old": true}}
			defer j.Close()
			s.mu.Lock()
			s.ran = true
			s.mu.Unlock()
			res, err := j.Wait(ctx, func(Detail) { cancel() }) // once the job is known
			if err != nil {
				t.Fatal(err)
			}
			if len(s.asked) != 1 || s.asked[0] != want {
				t.Errorf("asked %q, want %q", s.asked, want)
			}
			if how == StopSavepoint && res.Savepoint != "s3://b/savepoint-1" {
				t.Errorf("savepoint %q", res.Savepoint)
			}
			if res.Counters["source.read"] != 5 {
				t.Errorf("counters %v", res.Counters)
			}
		})
	}
}

// TestDrained: a stream whose watermarks are at the end of time is done after two more checkpoints.
func TestDrained(t *testing.T) {
	s := newSide(t)
	s.ends, s.marks = jobpb.JobState_RUNNING, 9223371950454775
	_, err := waitFor(t, t.Context(), s, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.ended != 3 || s.state != "CANCELED" {
		t.Errorf("%s after %d checkpoints, want it cancelled after 3", s.state, s.ended)
	}
}

// TestMistakenJobServer: what the job server says of a failure is not believed while the job runs.
func TestMistakenJobServer(t *testing.T) {
	s := newSide(t)
	s.ends, s.marks = jobpb.JobState_FAILED, 9223371950454775
	if _, err := waitFor(t, t.Context(), s, true, nil); err != nil {
		t.Fatal(err)
	}
}

func TestCancelledByOthers(t *testing.T) {
	s := newSide(t)
	s.ends, s.state = jobpb.JobState_RUNNING, "CANCELED"
	if _, err := waitFor(t, t.Context(), s, true, nil); !errors.Is(err, ErrCancelled) {
		t.Errorf("error %v", err)
	}
}
