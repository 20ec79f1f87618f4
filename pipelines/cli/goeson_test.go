package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refusing is a cluster and its job server, which takes a job and answers with an error when it is to run.
type refusing struct {
	jobpb.UnimplementedJobServiceServer
	jobpb.UnimplementedArtifactStagingServiceServer
	endpoint, rest string
	code           codes.Code
	asked          int // to run
}

func newRefusing(t *testing.T, code codes.Code) *refusing {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &refusing{code: code, endpoint: l.Addr().String()}
	g := grpc.NewServer()
	jobpb.RegisterJobServiceServer(g, s)
	jobpb.RegisterArtifactStagingServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/overview":
			fmt.Fprint(w, `{"flink-version": "1.19.3", "slots-total": 2, "slots-available": 2}`)
		case "/jobs/overview":
			fmt.Fprint(w, `{"jobs": []}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(web.Close)
	s.rest = web.URL
	return s
}

func (s *refusing) DescribePipelineOptions(context.Context, *jobpb.DescribePipelineOptionsRequest) (*jobpb.DescribePipelineOptionsResponse, error) {
	r := &jobpb.DescribePipelineOptionsResponse{}
	for _, name := range []string{"job_name", "streaming", "parallelism", "max_parallelism", "sdk_worker_parallelism", "finish_bundle_before_checkpointing"} {
		r.Options = append(r.Options, &jobpb.PipelineOptionDescriptor{Name: name, Group: "org.apache.beam.runners.flink.FlinkPipelineOptions"})
	}
	return r, nil
}

func (s *refusing) Prepare(context.Context, *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	return &jobpb.PrepareJobResponse{PreparationId: "p", StagingSessionToken: "t", ArtifactStagingEndpoint: &pipepb.ApiServiceDescriptor{Url: s.endpoint}}, nil
}

// ReverseArtifactRetrievalService wants no worker.
func (s *refusing) ReverseArtifactRetrievalService(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer) error {
	_, err := stream.Recv()
	return err
}

func (s *refusing) Run(context.Context, *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	s.asked++
	return nil, status.Error(s.code, "no")
}

// TestGoesOn: what a job staged, and the folder in which it works, are kept while it may go on, and are gone once it
// can't.
func TestGoesOn(t *testing.T) {
	events, _ := shopEvents()
	s := newShop(t, "direct", shopUseCase, events[:50])
	s.do("run", "first")
	history(t, s.path("history.csv"), 1<<62)
	write(t, s.path("log.csv"), "")
	out := []string{"--sink", s.path("out.jsonl"), "--dead-letters", s.path("dead.jsonl")}
	for _, code := range []codes.Code{codes.Unavailable, codes.Internal} {
		goesOn := code == codes.Unavailable // nobody knows whether the job began
		for _, args := range [][]string{
			append([]string{"run", s.path("shop.yaml"), "--registry", s.path("registry"), "--source", s.path("events.jsonl")}, out...),
			append([]string{"replay", s.path("shop.yaml"), "--registry", s.path("registry"), "--source", s.path("events.jsonl"), "--from", s.path("first-dead.jsonl")}, out...),
			{"retrain", "fraud", "--source", s.path("history.csv"), "--registry", s.path("models"), "--report", s.path("report"), "--work", s.dir},
			{"skew", "fraud", "--log", s.path("log.csv"), "--source", s.path("history.csv"), "--work", s.dir},
		} {
			name := fmt.Sprintf("%s, %s", args[0], code)
			staged := s.path("_staging/out.jsonl/1/chunk")
			if err := os.MkdirAll(filepath.Dir(staged), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, staged, "x")
			cluster := newRefusing(t, code)
			exit, _, stderr := call(t, append(slices.Clone(args), "--runner", "flink", "--flink", "environment=LOOPBACK",
				"--flink", "endpoint="+cluster.endpoint, "--flink", "rest="+cluster.rest)...)
			if exit != exitFailed || cluster.asked != 1 || strings.Contains(stderr, "the job may go on") != goesOn {
				t.Errorf("%s: exit code %d, asked %d times, %s", name, exit, cluster.asked, stderr)
			}
			left, err := filepath.Glob(s.path("millrace-*"))
			if err != nil {
				t.Fatal(err)
			}
			if args[0] == "run" || args[0] == "replay" {
				left, _ = filepath.Glob(staged)
			}
			if kept := len(left) == 1; kept != goesOn {
				t.Errorf("%s: kept %v, want %v: %s", name, left, goesOn, stderr)
			}
			for _, dir := range left {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
