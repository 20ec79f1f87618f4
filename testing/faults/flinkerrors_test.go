package faults

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
)

// TestFlinkErrors runs the command against a Flink of real processes that it can't work with, or not at once: what
// it says tells what to do.
func TestFlinkErrors(t *testing.T) {
	t.Setenv(asCommand, "1") // to what the TaskManagers start too
	cluster := components.Flink(t, local.Options{TaskManagers: 2, Slots: 1, Heap: 512 << 20, Settings: watchful})
	t.Run("Messages", func(t *testing.T) { testFlinkMessages(t, cluster) })
	t.Run("DiskFull", func(t *testing.T) {
		alone(t, cluster)
		testFlinkDiskFull(t, newBed(t, components.Kafka(t)), cluster, newPayments(t, min(*flinkEvents, 60_000)))
	})
}

func testFlinkMessages(t *testing.T, cluster *local.Cluster) {
	dir := t.TempDir()
	registry, in := filepath.Join(dir, "registry"), filepath.Join(dir, "in.jsonl")
	publish(t, registry)
	check(t, os.WriteFile(in, append(newPayments(t, 1).lines[0], '\n'), 0o644))
	const nobody = "127.0.0.1:1"
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>welcome</html>")
	}))
	t.Cleanup(web.Close)
	missing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(missing.Close)
	locked := filepath.Join(dir, "locked")
	check(t, os.WriteFile(locked, []byte("#!/bin/sh\n"), 0o600))
	boot := func(path string) place { return place{"environment": "PROCESS", "environment_config": path} }
	pool := func(address string) place { return place{"environment": "EXTERNAL", "environment_config": address} }
	const restHint = "give the address of its dashboard as rest"
	for _, c := range []struct {
		name  string
		other place
		code  int
		says  []string
	}{
		{"JobServer/Nobody", place{"endpoint": nobody}, 1, []string{"reaching the job server", nobody, "give its address as endpoint"}},
		{"JobServer/Unknown", place{"endpoint": "no-such-host.invalid:8099"}, 1, []string{"reaching the job server", "no-such-host.invalid", "give its address as endpoint"}},
		{"JobServer/Silent", place{"endpoint": silent(t)}, 1, []string{"is that Beam's Flink job server?"}},
		{"JobServer/REST", place{"endpoint": cluster.REST()}, 1, []string{"is that Beam's Flink job server?", "REST interface is another address"}},
		{"JobServer/Other", place{"endpoint": older(t, cluster, func(d *jobpb.PipelineOptionDescriptor) bool { return strings.Contains(d.GetGroup(), "Flink") })}, 1, []string{"is not that of Flink", "job-server"}},
		{"JobServer/Older", place{"endpoint": older(t, cluster, func(d *jobpb.PipelineOptionDescriptor) bool { return d.GetName() == "sdk_worker_parallelism" })}, 1, []string{"knows no option sdk_worker_parallelism", "another version of Beam than this SDK"}},
		{"REST/Nobody", place{"rest": nobody}, 1, []string{"asking Flink at http://" + nobody, restHint}},
		{"REST/Silent", place{"rest": silent(t)}, 1, []string{"asking Flink at", restHint}},
		{"REST/OtherServer", place{"rest": web.URL}, 1, []string{"another web server", restHint}},
		{"REST/NotThere", place{"rest": missing.URL}, 1, []string{"404", restHint}},
		{"REST/JobServer", place{"rest": cluster.JobServer()}, 1, []string{"asking Flink at", restHint}},
		{"Pool/Nobody", pool(nobody), 1, []string{"no worker pool answers", nobody, "boot --worker_pool", "environment_config"}},
		{"Pool/OtherServer", pool(cluster.REST()), 1, []string{"no worker pool answers", "what answers there is none", "boot --worker_pool"}},
		{"Boot/NotThere", boot("/no/such/boot"), 1, []string{"/no/such/boot", "PROCESS needs Beam's boot", "environment_config"}},
		{"Boot/NoPermission", boot(locked), 1, []string{locked, "chmod +x"}},
		{"Boot/OtherProgram", boot("/bin/true"), 1, []string{"ended at once", "is it Beam's boot?"}},
		{"Boot/NotOnPath", boot("no-such-boot"), 1, []string{`Cannot run program "no-such-boot"`, "PROCESS needs Beam's boot", "environment_config"}},
		{"Docker", place{"environment": "DOCKER", "environment_config": "registry.invalid/scorer:1"}, 1, []string{"DOCKER needs docker on each TaskManager's machine, and its engine", "EXTERNAL or PROCESS"}},
		{"Slots", place{"parallelism": "3"}, 1, []string{"2 of 2 slots free, and the job takes 3", "start TaskManagers"}},
		{"Option/Unknown", place{"paralelism": "3"}, 2, []string{"paralelism: unknown; there are endpoint, rest"}},
		{"Option/Refused", place{"tolerable_checkpoint_failure_number": "7"}, 2, []string{"can't be set"}},
		{"Option/ForStreams", place{"checkpoint_interval": "1s"}, 2, []string{"checkpoint_interval is for streams", "leave it out"}},
		{"Option/NoSuchWorker", place{"worker_binary": "/no/such/worker"}, 2, []string{"worker_binary", "/no/such/worker"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "Docker" && exec.Command("docker", "info").Run() == nil {
				t.Skip("docker is there")
			}
			alone(t, cluster)
			begun := time.Now()
			run := start(t, append([]string{"run", "fraud", "--source", in, "--sink", filepath.Join(t.TempDir(), "out.jsonl"), "--registry", registry}, at(cluster, c.other).flags()...)...)
			code := run.exit(5 * time.Minute)
			t.Logf("after %.1f s: %s", time.Since(begun).Seconds(), lastLine(run.says()))
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, text := range c.says {
				if !strings.Contains(run.says(), text) {
					t.Errorf("it doesn't say %q", text)
				}
			}
		})
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// silent is an address of a server that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// less is the cluster's job server, as one of another version or for another runner: it leaves options out.
type less struct {
	jobpb.UnimplementedJobServiceServer
	from jobpb.JobServiceClient
	out  func(*jobpb.PipelineOptionDescriptor) bool
}

func (l less) DescribePipelineOptions(ctx context.Context, r *jobpb.DescribePipelineOptionsRequest) (*jobpb.DescribePipelineOptionsResponse, error) {
	all, err := l.from.DescribePipelineOptions(ctx, r)
	if err != nil {
		return nil, err
	}
	return &jobpb.DescribePipelineOptionsResponse{Options: slices.DeleteFunc(all.GetOptions(), l.out)}, nil
}

func older(t *testing.T, cluster *local.Cluster, out func(*jobpb.PipelineOptionDescriptor) bool) string {
	t.Helper()
	conn, err := grpc.NewClient(cluster.JobServer(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := grpc.NewServer()
	jobpb.RegisterJobServiceServer(server, less{from: jobpb.NewJobServiceClient(conn), out: out})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// testFlinkDiskFull: there is no room for checkpoints for a while. Scoring goes on, the command says what is wrong and
// what to do, and nothing is lost, not even with a TaskManager that is killed meanwhile.
func testFlinkDiskFull(t *testing.T, b bed, cluster *local.Cluster, in events) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	want := in.bounded(t, b.registry)
	options := place{"state_backend": "hashmap", "storage_path": "file://" + disk}
	c := b.run(t, slices.Concat(ordered, at(cluster, spread(2)).and(options).flags())...)
	c.await("start of the job", 1, c.told("the job is RUNNING"))
	w := watch(t, b)
	in.send(t, b, 0, len(in.lines)/3) // two days: the first is complete with the second
	c.await("scored", len(in.lines)/10, w.ids)
	job := jobID(t, cluster, "fraud")
	complete := func() int {
		all, err := checkpointsOf(t.Context(), cluster, job)
		check(t, err)
		return all.Counts.Completed
	}
	c.await("checkpoint", 1, complete)
	ballast := fill(t, disk)
	c.await("message", 1, c.told("checkpoints fail"))
	for _, text := range []string{"No space left on device", "make room where they are kept (storage_path", "the job goes on"} {
		if !strings.Contains(c.says(), text) {
			t.Errorf("it doesn't say %q", text)
		}
	}
	in.send(t, b, len(in.lines)/3, len(in.lines))
	c.await("scored", len(in.lines)/2, w.ids)
	check(t, cluster.KillTaskManager(1))
	check(t, cluster.StartTaskManager(t.Context(), 1))
	c.await("scored", len(in.lines)*3/4, w.ids)
	before := complete()
	check(t, os.Remove(ballast))
	c.await("checkpoint with room", before+1, complete)
	c.await("message", 1, c.told("checkpoints complete again"))
	c.await("scored", len(in.lines), w.ids)
	c.drain()
	w.equal(t, want)
}

// fill leaves no room on a file system, and returns the file that takes it.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	check(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	return f.Name()
}
