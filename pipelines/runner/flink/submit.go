package flink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/container/tools"
	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph"
	beamruntime "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/hooks"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/runnerlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/millrace-ml/millrace/pipelines/runner/names"
)

// Submit sends a graph to the cluster, after it has looked at the options, the cluster, the workers where they run
// beside this process, and the job server.
// It returns as soon as the job server has taken the job over. Close the job when you are done with it. The
// caller has called beam.Init.
func Submit(ctx context.Context, p *beam.Pipeline, o Options) (_ *Job, err error) {
	edges, nodes, err := p.Build()
	if err != nil {
		return nil, fmt.Errorf("building the graph: %w", err)
	}
	stream := slices.ContainsFunc(nodes, func(n *graph.Node) bool { return !n.Bounded() })
	if err := o.Validate(stream); err != nil {
		return nil, err
	}
	o = o.withDefaults(stream)
	options, err := pipelineOptions(o, stream)
	if err != nil {
		return nil, err
	}
	j := &Job{options: o, stream: stream}
	defer func() {
		if err != nil {
			j.Close()
		}
	}()
	if j.cluster, err = Open(o.REST); err != nil {
		return nil, err
	}
	if err := j.ready(ctx); err != nil {
		return nil, err
	}
	if err := j.lookForWorkers(ctx); err != nil {
		return nil, err
	}
	if j.conn, err = dial(ctx, o.Endpoint); err != nil {
		return nil, err
	}
	j.service = jobpb.NewJobServiceClient(j.conn)
	if err := know(ctx, j.service, o.Endpoint, options); err != nil {
		return nil, err
	}
	worker, env, err := j.environment(ctx)
	if err != nil {
		return nil, err
	}
	if j.pipeline, err = graphx.Marshal(edges, &graphx.Options{Environment: env, PipelineResourceHints: jobopts.GetPipelineResourceHints()}); err != nil {
		return nil, fmt.Errorf("translating the graph: %w", err)
	}
	settle(j.pipeline)
	if err := runnerlib.UpdateGoEnvironmentWorker(worker, j.pipeline); err != nil {
		return nil, fmt.Errorf("naming the worker: %w", err)
	}
	if err := j.compareState(); err != nil {
		return nil, err
	}
	options.Fields[optionURN("app_name")] = structpb.NewStringValue(j.appName())
	return j, j.run(ctx, worker, options)
}

// settle gives transforms and collections names that are the same in the next build: Flink finds state by them.
func settle(p *pipepb.Pipeline) {
	names.Settle(p)
	nameCollections(p)
}

// run is the protocol: prepare, send the worker's binary, start.
func (j *Job) run(ctx context.Context, worker string, options *structpb.Struct) error {
	before, err := j.cluster.Jobs(ctx)
	if err != nil {
		return err
	}
	j.before = map[string]bool{}
	for _, s := range before {
		j.before[s.ID] = true
	}
	prepared, err := j.service.Prepare(ctx, &jobpb.PrepareJobRequest{Pipeline: j.pipeline, PipelineOptions: options, JobName: j.options.Name})
	if err != nil {
		return j.refusal("preparing the job", err)
	}
	staging := prepared.GetArtifactStagingEndpoint().GetUrl()
	if err := reachable(ctx, staging); err != nil {
		return fmt.Errorf("sending the worker: the job server takes it at %s: %w: start it with a --job-host that this machine can reach", staging, err)
	}
	token, err := runnerlib.Stage(ctx, prepared.GetPreparationId(), staging, worker, prepared.GetStagingSessionToken())
	if err != nil {
		return fmt.Errorf("sending the worker to %s: %w", staging, err)
	}
	started, err := j.service.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId(), RetrievalToken: token})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled: // the answer is lost, and not the request, perhaps
		return fmt.Errorf("%w: %w: look at `millrace jobs list`", j.refusal("starting the job", err), ErrGoesOn)
	default:
		return j.refusal("starting the job", err)
	}
	j.id = started.GetJobId()
	return nil
}

// refusal explains why a job server did not take a job.
func (j *Job) refusal(doing string, err error) error {
	said := Cause(status.Convert(err).Message())
	hint := ""
	if strings.Contains(said, "URN") || status.Code(err) == codes.Unimplemented {
		hint = fmt.Sprintf(": is it of the version of this SDK, %s?", core.SdkVersion)
	}
	return fmt.Errorf("%s: the job server at %s: %s%s", doing, j.options.Endpoint, said, hint)
}

// pipelineOptions are what the SDK's own runner sends, and the Java runner's options beside them.
func pipelineOptions(o Options, stream bool) (*structpb.Struct, error) {
	hooks.SerializeHooksToOptions()
	beam.PipelineOptions.LoadOptionsFromFlags(nil)
	s, err := tools.OptionsToProto(beamruntime.RawOptionsWrapper{
		Options: beam.PipelineOptions.Export(), AppName: o.Name, Experiments: append(jobopts.GetExperiments(), "beam_fn_api"),
	})
	if err != nil {
		return nil, fmt.Errorf("writing the pipeline's options: %w", err)
	}
	s.Fields[optionURN("job_name")] = structpb.NewStringValue(o.Name) // else the runner makes one up
	for name, v := range o.beam(stream) {
		s.Fields[optionURN(name)] = v
	}
	return s, nil
}

func optionURN(name string) string { return "beam:option:" + name + ":v1" }

// reachTime is for how long an address may take to be connected.
const reachTime = 3 * time.Second

func reachable(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: reachTime}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

func dial(ctx context.Context, endpoint string) (*grpc.ClientConn, error) {
	if err := reachable(ctx, endpoint); err != nil {
		return nil, fmt.Errorf("reaching the job server: %w: start Beam's Flink job server, or give its address as endpoint", err)
	}
	return grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// know finds out whether the other side is a job server for Flink that knows the options.
func know(ctx context.Context, s jobpb.JobServiceClient, endpoint string, options *structpb.Struct) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	answer, err := s.DescribePipelineOptions(ctx, &jobpb.DescribePipelineOptionsRequest{})
	if err != nil {
		return fmt.Errorf("asking the job server at %s for its options: %s: is that Beam's Flink job server? Flink's REST interface is another address, and the versions of Beam may differ (this is %s)",
			endpoint, status.Convert(err).Message(), core.SdkVersion)
	}
	known, flink := map[string]bool{}, false
	for _, d := range answer.GetOptions() {
		known[d.GetName()] = true
		flink = flink || strings.Contains(d.GetGroup(), "FlinkPipelineOptions")
	}
	if !flink {
		return fmt.Errorf("the job server at %s is not that of Flink: start beam-runners-flink-<version>-job-server", endpoint)
	}
	var errs []error
	for name := range options.Fields {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "beam:option:"), ":v1")
		switch name {
		case "go_options", "app_name", "runner", "experiments", "retain_docker_containers": // the SDK's own
		default:
			if !known[name] {
				errs = append(errs, fmt.Errorf("the job server at %s knows no option %s and would ignore it: it is of another version of Beam than this SDK, %s", endpoint, name, core.SdkVersion))
			}
		}
	}
	return errors.Join(errs...)
}

// ready finds out whether the cluster is there, and has room.
func (j *Job) ready(ctx context.Context) error {
	have, err := j.cluster.Overview(ctx)
	if err != nil {
		return err
	}
	if have.FreeSlots < j.options.Parallelism {
		return fmt.Errorf("the cluster has %d of %d slots free, and the job takes %d: lower parallelism, end other jobs (`millrace jobs list`), or start TaskManagers",
			have.FreeSlots, have.Slots, j.options.Parallelism)
	}
	j.version = have.Version
	return nil
}

// environment is where workers run, and the binary that they do.
func (j *Job) environment(ctx context.Context) (worker string, env *pipepb.Environment, err error) {
	urn, config := graphx.URNEnvExternal, j.options.EnvironmentConfig
	switch j.options.Environment {
	case Process:
		urn = graphx.URNEnvProcess
		if !strings.HasPrefix(config, "{") {
			text, err := json.Marshal(map[string]string{"command": config})
			if err != nil {
				return "", nil, err
			}
			config = string(text)
		}
	case Docker:
		urn = graphx.URNEnvDocker
		if config == "" {
			config = "apache/beam_go_sdk:" + core.SdkVersion
		}
	case Loopback:
		if j.loopback, err = extworker.StartLoopback(context.WithoutCancel(ctx), 0); err != nil {
			return "", nil, fmt.Errorf("serving workers in this process: %w", err)
		}
		config = j.loopback.EnvironmentConfig(ctx)
	}
	if env, err = graphx.CreateEnvironment(ctx, urn, func(context.Context) string { return config }); err != nil {
		return "", nil, fmt.Errorf("describing where workers run: %w", err)
	}
	switch {
	case j.loopback != nil: // something has to be sent
		f, err := os.CreateTemp("", "millrace-loopback-")
		if err != nil {
			return "", nil, err
		}
		j.empty = f.Name()
		return j.empty, env, f.Close()
	case j.options.WorkerBinary != "":
		return j.options.WorkerBinary, env, nil
	}
	worker, err = os.Executable()
	return worker, env, err
}
