package flink

import (
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// TestDocker: the job is sent with its image, and with the options as in any other environment.
func TestDocker(t *testing.T) {
	for image, want := range map[string]string{"": "apache/beam_go_sdk:" + core.SdkVersion, "registry.example/scorer:7": "registry.example/scorer:7"} {
		s := newSide(t)
		o := s.options(t)
		o.Environment, o.EnvironmentConfig, o.SDKWorkerParallelism = Docker, image, 2
		j, err := Submit(t.Context(), trivial(), o)
		if err != nil {
			t.Fatal(err)
		}
		j.Close()
		all := s.prepared.GetPipeline().GetComponents().GetEnvironments()
		if len(all) != 1 {
			t.Fatalf("%d environments", len(all))
		}
		for _, env := range all {
			var docker pipepb.DockerPayload
			if err := proto.Unmarshal(env.GetPayload(), &docker); err != nil || env.GetUrn() != graphx.URNEnvDocker || docker.GetContainerImage() != want {
				t.Errorf("%s with image %q, want %q", env.GetUrn(), docker.GetContainerImage(), want)
			}
			if len(env.GetDependencies()) != 1 || env.GetDependencies()[0].GetRoleUrn() != graphx.URNArtifactGoWorkerRole {
				t.Errorf("the container gets %v, want the worker", env.GetDependencies())
			}
		}
		if string(s.binary) != "binary" {
			t.Errorf("the worker that was sent is %q", s.binary)
		}
		sent := s.prepared.GetPipelineOptions().AsMap()
		for name, want := range map[string]any{"sdk_worker_parallelism": 2., "parallelism": 1., "finish_bundle_before_checkpointing": true} {
			if got := sent["beam:option:"+name+":v1"]; got != want {
				t.Errorf("option %s is %v, want %v", name, got, want)
			}
		}
	}
}
