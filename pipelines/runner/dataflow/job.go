package dataflow

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed" // names.json
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/hooks"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/dataflow/dataflowlib"
	df "google.golang.org/api/dataflow/v1b3"
	"google.golang.org/protobuf/proto"

	"github.com/millrace-ml/millrace/pipelines/runner/names"
)

// Job is a job's description, as Dataflow would be asked to run it.
type Job struct {
	Name             string            `json:"name"`
	Project          string            `json:"project"`
	Region           string            `json:"region"`
	Streaming        bool              `json:"streaming"`
	TempLocation     string            `json:"temp_location"`
	Model            string            `json:"model"`  // where the graph is staged
	Worker           string            `json:"worker"` // where the worker's binary is staged
	WorkerSHA256     string            `json:"worker_sha256"`
	WorkerImage      string            `json:"worker_image"`
	MachineType      string            `json:"machine_type,omitempty"`
	NumWorkers       int               `json:"num_workers,omitempty"`
	MaxNumWorkers    int               `json:"max_num_workers,omitempty"`
	Autoscaling      string            `json:"autoscaling,omitempty"`
	WorkerThreads    int               `json:"worker_threads,omitempty"`
	DiskSizeGB       int               `json:"disk_size_gb,omitempty"`
	WorkerZone       string            `json:"worker_zone,omitempty"`
	ServiceAccount   string            `json:"service_account,omitempty"`
	Network          string            `json:"network,omitempty"`
	Subnetwork       string            `json:"subnetwork,omitempty"`
	PrivateAddresses bool              `json:"private_addresses,omitempty"`
	KMSKey           string            `json:"kms_key,omitempty"`
	Experiments      []string          `json:"experiments"`
	ServiceOptions   []string          `json:"service_options,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
	// Renamed maps names of the running job's transforms to those of this one.
	Renamed map[string]string `json:"renamed,omitempty"`
	// Steps are the transforms that do something, by their names.
	Steps []Step `json:"steps"`
	// Windowings are the graph's, each once.
	Windowings []string `json:"windowings"`
}

// Step is a transform.
type Step struct {
	Name string `json:"name"`
	// Kind is what it is to Beam, as pardo or group_by_key.
	Kind string `json:"kind"`
	// Stateful and Splittable tell what a pardo needs from the runner.
	Stateful   bool `json:"stateful,omitempty"`
	Splittable bool `json:"splittable,omitempty"`
	// Subscription is what Dataflow itself reads, and the attributes are where it finds a message's time and id.
	Subscription  string `json:"subscription,omitempty"`
	TimeAttribute string `json:"time_attribute,omitempty"`
	IDAttribute   string `json:"id_attribute,omitempty"`
}

// Native are the transforms by which Dataflow itself reads, by their URNs; see source.Stream.
var Native = []string{pubsubRead}

const pubsubRead = "beam:transform:pubsub_read:v1"

// Describe gives the description of the job that Run would start. It contacts nothing and needs no credentials.
func Describe(ctx context.Context, p *beam.Pipeline, o Options) (Job, error) {
	r, err := prepare(ctx, p, o)
	if err != nil {
		return Job{}, err
	}
	text, err := r.job.MarshalJSON()
	if err != nil {
		return Job{}, fmt.Errorf("writing the job's description: %w", err)
	}
	return parse(text, r.pipeline)
}

// request is all that Dataflow is asked for.
type request struct {
	options           Options
	job               *df.Job
	pipeline          *pipepb.Pipeline
	model             []byte // the pipeline, as it is staged
	binary            string // path of what workers run
	modelURL, workURL string
}

// prepare makes the request after it has looked at the options.
func prepare(ctx context.Context, p *beam.Pipeline, o Options) (request, error) {
	edges, nodes, err := p.Build()
	if err != nil {
		return request{}, fmt.Errorf("building the graph: %w", err)
	}
	stream := !graph.Bounded(nodes)
	if err := o.Validate(stream); err != nil {
		return request{}, err
	}
	o = o.withDefaults()
	r := request{options: o}
	env, err := graphx.CreateEnvironment(ctx, graphx.URNEnvDocker, func(context.Context) string { return o.WorkerImage })
	if err != nil {
		return request{}, fmt.Errorf("describing where workers run: %w", err)
	}
	if r.pipeline, err = graphx.Marshal(edges, &graphx.Options{Environment: env}); err != nil {
		return request{}, fmt.Errorf("translating the graph: %w", err)
	}
	names.Settle(r.pipeline)
	if r.binary, err = o.binary(); err != nil {
		return request{}, fmt.Errorf("finding the worker: %w", err)
	}
	workerHash, err := fileHash(r.binary)
	if err != nil {
		return request{}, fmt.Errorf("reading the worker: %w", err)
	}
	staging := strings.TrimSuffix(o.StagingLocation, "/")
	r.workURL = staging + "/" + workerHash[:16] + "/worker" // workers look for that name
	artifact, err := proto.Marshal(&pipepb.ArtifactUrlPayload{Url: r.workURL, Sha256: workerHash})
	if err != nil {
		return request{}, err
	}
	if err := graphx.UpdateDefaultEnvWorkerType(graphx.URNArtifactURLType, artifact, r.pipeline); err != nil {
		return request{}, fmt.Errorf("naming the worker: %w", err)
	}
	if r.model, err = (proto.MarshalOptions{Deterministic: true}).Marshal(r.pipeline); err != nil {
		return request{}, fmt.Errorf("writing the graph: %w", err)
	}
	sum := sha256.Sum256(r.model)
	hash := hex.EncodeToString(sum[:])
	r.modelURL = staging + "/" + hash[:16] + "/model"
	if r.job, err = dataflowlib.Translate(ctx, r.pipeline, r.jobOptions(stream, workerHash), r.workURL, r.modelURL, hash); err != nil {
		return request{}, fmt.Errorf("describing the job: %w", err)
	}
	return r, nil
}

// jobOptions are the options as the SDK's library takes them.
func (r request) jobOptions(stream bool, workerHash string) *dataflowlib.JobOptions {
	o := r.options
	hooks.SerializeHooksToOptions()
	worker := beam.PipelineOptions.Export()
	worker.Options["temp_location"] = o.TempLocation // where boot leaves the heap of a worker that failed
	var renamed map[string]string
	if o.Update {
		renamed = renames(r.pipeline, o.TransformNames)
	}
	return &dataflowlib.JobOptions{
		Name: o.JobName, Project: o.Project, Region: o.Region, TempLocation: o.TempLocation, Labels: o.Labels, Streaming: stream,
		MachineType: o.MachineType, NumWorkers: int64(o.NumWorkers), MaxNumWorkers: int64(o.MaxNumWorkers), Algorithm: o.AutoscalingAlgorithm,
		WorkerHarnessThreads: int64(o.WorkerThreads), DiskSizeGb: int64(o.DiskSizeGB), WorkerZone: o.WorkerZone,
		ServiceAccountEmail: o.ServiceAccount, Network: o.Network, Subnetwork: o.Subnetwork, NoUsePublicIPs: o.NoPublicIPs, KmsKey: o.KMSKey,
		ContainerImage: o.WorkerImage, WorkerHash: workerHash, Options: worker,
		Experiments: append(slices.Clone(o.Experiments), always(stream)...), DataflowServiceOptions: o.ServiceOptions,
		Update: o.Update, TransformNameMapping: renamed,
	}
}

// known are the names that transforms once had, and those that they have now.
//
//go:embed names.json
var known []byte

// renames are the renamed transforms that a graph has; what is given goes before what is known.
func renames(p *pipepb.Pipeline, given map[string]string) map[string]string {
	all := map[string]string{}
	if err := json.Unmarshal(known, &all); err != nil {
		panic(err) // a test reads it
	}
	maps.DeleteFunc(all, func(_, now string) bool {
		_, has := slices.BinarySearch(names.All(p), now)
		return !has
	})
	maps.Copy(all, given)
	if len(all) == 0 {
		return nil
	}
	return all
}

func fileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// parse reads a job as it goes to Dataflow, with its graph.
func parse(text []byte, p *pipepb.Pipeline) (Job, error) {
	var in df.Job
	if err := json.Unmarshal(text, &in); err != nil {
		return Job{}, fmt.Errorf("reading the job's description: %w", err)
	}
	var sdk struct {
		Options struct {
			Region      string `json:"region"`
			PipelineURL string `json:"pipelineUrl"`
		} `json:"options"`
	}
	e := in.Environment
	if e == nil || len(e.WorkerPools) != 1 {
		return Job{}, fmt.Errorf("reading the job's description: it has no pool of workers")
	}
	if err := json.Unmarshal(e.SdkPipelineOptions, &sdk); err != nil {
		return Job{}, fmt.Errorf("reading the job's options: %w", err)
	}
	pool := e.WorkerPools[0]
	j := Job{
		Name: in.Name, Project: in.ProjectId, Region: sdk.Options.Region, Streaming: in.Type == "JOB_TYPE_STREAMING",
		TempLocation: e.TempStoragePrefix, Model: sdk.Options.PipelineURL, WorkerImage: pool.WorkerHarnessContainerImage,
		MachineType: pool.MachineType, NumWorkers: int(pool.NumWorkers), WorkerThreads: int(pool.NumThreadsPerWorker), DiskSizeGB: int(pool.DiskSizeGb),
		WorkerZone: e.WorkerZone, ServiceAccount: e.ServiceAccountEmail, Network: pool.Network, Subnetwork: pool.Subnetwork,
		PrivateAddresses: pool.IpConfiguration == "WORKER_IP_PRIVATE", KMSKey: e.ServiceKmsKeyName,
		Experiments: e.Experiments, ServiceOptions: e.ServiceOptions, Labels: in.Labels, Renamed: in.TransformNameMapping,
	}
	if a := pool.AutoscalingSettings; a != nil {
		j.MaxNumWorkers, j.Autoscaling = int(a.MaxNumWorkers), a.Algorithm
	}
	for _, k := range pool.Packages {
		if k.Name == "worker" {
			j.Worker, j.WorkerSHA256 = k.Location, k.Sha256
		}
	}
	for id, t := range p.GetComponents().GetTransforms() {
		if len(t.GetSubtransforms()) > 0 {
			continue
		}
		s := Step{Name: t.GetUniqueName(), Kind: kind(t.GetSpec().GetUrn())}
		if s.Kind == "pardo" {
			var do pipepb.ParDoPayload
			if err := proto.Unmarshal(t.GetSpec().GetPayload(), &do); err != nil {
				return Job{}, fmt.Errorf("reading the transform %s (%s): %w", s.Name, id, err)
			}
			s.Stateful, s.Splittable = len(do.GetStateSpecs())+len(do.GetTimerFamilySpecs()) > 0, do.GetRestrictionCoderId() != ""
		}
		if t.GetSpec().GetUrn() == pubsubRead {
			var read pipepb.PubSubReadPayload
			if err := proto.Unmarshal(t.GetSpec().GetPayload(), &read); err != nil {
				return Job{}, fmt.Errorf("reading the transform %s (%s): %w", s.Name, id, err)
			}
			s.Subscription, s.TimeAttribute, s.IDAttribute = read.GetSubscription(), read.GetTimestampAttribute(), read.GetIdAttribute()
		}
		j.Steps = append(j.Steps, s)
	}
	slices.SortFunc(j.Steps, func(a, b Step) int { return cmp.Compare(a.Name, b.Name) })
	for _, w := range p.GetComponents().GetWindowingStrategies() {
		j.Windowings = append(j.Windowings, kind(w.GetWindowFn().GetUrn()))
	}
	slices.Sort(j.Windowings)
	j.Windowings = slices.Compact(j.Windowings)
	return j, nil
}

// kind is the middle of a URN: pardo of beam:transform:pardo:v1.
func kind(urn string) string {
	parts := strings.Split(urn, ":")
	if len(parts) < 2 {
		return urn
	}
	return parts[len(parts)-2]
}
