package flink

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
)

// workers is a pool without any.
type workers struct {
	fnpb.UnimplementedBeamFnExternalWorkerPoolServer
}

func (workers) StopWorker(context.Context, *fnpb.StopWorkerRequest) (*fnpb.StopWorkerResponse, error) {
	return &fnpb.StopWorkerResponse{Error: "no such worker"}, nil
}

// serve is the address of a server with some services.
func serve(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	register(g)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return l.Addr().String()
}

// TestPlace: what isn't there for the workers is told where a TaskManager would see the same, and nowhere else.
func TestPlace(t *testing.T) {
	t.Parallel()
	here := serve(t, func(*grpc.Server) {})
	pool := serve(t, func(g *grpc.Server) { fnpb.RegisterBeamFnExternalWorkerPoolServer(g, workers{}) })
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	disk, elsewhere, t0 := t.TempDir(), "/no/such/flink-web-1", []string{here}
	program, text := filepath.Join(disk, "boot"), filepath.Join(disk, "text")
	for name, mode := range map[string]os.FileMode{program: 0o700, text: 0o600} {
		if err := os.WriteFile(name, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		taskManagers []string
		environment  string
		config       string
		want         string
		disk         string
	}{
		"pool":          {t0, External, pool, "", elsewhere},
		"nobody":        {[]string{"192.0.2.1:1", here}, External, "localhost:1", "no worker pool answers the TaskManagers at localhost:1: start `boot --worker_pool`", elsewhere},
		"other service": {t0, External, here, "what answers there is none", disk},
		"other server":  {t0, External, strings.TrimPrefix(web.URL, "http://"), "what answers there is none", disk},
		"elsewhere":     {[]string{"192.0.2.1:1"}, External, "localhost:1", "", disk},
		"in containers": {[]string{"127.0.0.1:1"}, External, "localhost:1", "", disk},
		"none":          {nil, External, "localhost:1", "", disk},
		"boot":          {t0, Process, program, "", disk},
		"no boot":       {t0, Process, `{"command":"/no/such/boot"}`, "/no/such/boot: no such file or directory: PROCESS needs", disk},
		"no program":    {t0, Process, text, text + ": permission denied: the TaskManager may not execute it", disk},
		"other disk":    {t0, Process, "/no/such/boot", "", elsewhere},
		"on its path":   {t0, Process, "boot", "", disk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/jobmanager/config" {
					_ = json.NewEncoder(w).Encode([]map[string]string{{"key": "web.tmpdir", "value": c.disk}})
					return
				}
				all := []map[string]string{}
				for _, at := range c.taskManagers {
					all = append(all, map[string]string{"path": "pekko.tcp://flink@" + at + "/user/rpc/taskmanager_0"})
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"taskmanagers": all})
			}))
			defer rest.Close()
			cluster, err := Open(rest.URL)
			if err != nil {
				t.Fatal(err)
			}
			j := &Job{cluster: cluster, options: Options{Environment: c.environment, EnvironmentConfig: c.config}}
			switch err := j.lookForWorkers(t.Context()); {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestHopelessAtFirst: what isn't there at several starts doesn't come; what was may come back, and one start may fail by
// itself.
func TestHopelessAtFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ environment, trace, want string }{
		{External, "StatusRuntimeException: UNAVAILABLE: io exception\n\tat x\nCaused by: java.net.ConnectException: Connection refused", "no worker pool answers the TaskManagers at pool:1"},
		{External, "StatusRuntimeException: UNAVAILABLE: Unable to resolve host pool", "no worker pool answers"},
		{External, "StatusRuntimeException: UNIMPLEMENTED: unknown service", "no worker pool answers"},
		{Process, "java.lang.IllegalStateException: Process died with exit code 1", "is it Beam's boot?"},
		{Process, "StatusRuntimeException: UNAVAILABLE: io exception", ""},
		{External, "java.lang.Exception: else", ""},
		{Docker, "java.io.IOException: Cannot connect to the Docker daemon at unix:///var/run/docker.sock", "DOCKER needs docker"},
		{Process, `java.io.IOException: Cannot run program "/opt/boot": error=12, Cannot allocate memory`, ""},
	} {
		failures := slices.Repeat([]failure{{Stacktrace: c.trace}}, attempts)
		j := &Job{options: Options{Environment: c.environment, EnvironmentConfig: "pool:1"}}
		if say, ok := j.hopeless(failures); ok != (c.want != "") || !strings.Contains(say, c.want) {
			t.Errorf("%s: %q says %q, want %q", c.environment, c.trace, say, c.want)
		}
		if say, ok := j.hopeless(failures[1:]); ok {
			t.Errorf("%s: %q ends a job at its second start: %s", c.environment, c.trace, say)
		}
		j.worked = true
		if say, ok := j.hopeless(failures); ok {
			t.Errorf("%s: %q ends a job that has worked: %s", c.environment, c.trace, say)
		}
	}
}
