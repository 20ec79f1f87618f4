package flink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// lookForWorkers finds out whether the workers' environment is there, where this process sees what a TaskManager sees;
// elsewhere the job's failure tells.
func (j *Job) lookForWorkers(ctx context.Context) error {
	config := j.options.EnvironmentConfig
	switch {
	case j.options.Environment == External && j.cluster.near(ctx):
		return pool(ctx, config)
	case j.options.Environment == Process && j.cluster.near(ctx) && j.cluster.sameDisk(ctx):
		return boot(command(config))
	}
	return nil
}

// boot finds out whether the program is there. One without a folder is the TaskManager's to find.
func boot(path string) error {
	if !filepath.IsAbs(path) {
		return nil
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking for boot beside a TaskManager: %w: %s", err, bootHint)
	case err == nil && (info.IsDir() || info.Mode()&0o111 == 0):
		return fmt.Errorf("looking for boot beside a TaskManager: %s: permission denied: %s", path, executeHint)
	}
	return nil
}

// pool finds out whether a worker pool answers.
func pool(ctx context.Context, address string) error {
	if err := reachable(ctx, address); err != nil {
		return fmt.Errorf("%s: %w", poolHint(address), err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	// A pool says that it has no such worker; whatever else listens there says something else.
	_, err = fnpb.NewBeamFnExternalWorkerPoolClient(conn).StopWorker(ctx, &fnpb.StopWorkerRequest{WorkerId: "is it a pool"})
	switch status.Code(err) {
	case codes.Unimplemented, codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%s: what answers there is none: %s", poolHint(address), status.Convert(err).Message())
	}
	return nil
}

// near tells whether one of the cluster's TaskManagers runs beside this process: its address is this machine's, and
// it listens here. A container may have an address of the same name, but not what listens there.
func (c *Cluster) near(ctx context.Context) bool {
	var answer struct {
		TaskManagers []struct{ Path string } // pekko.tcp://flink@127.0.0.1:40123/user/rpc/taskmanager_0
	}
	if err := c.call(ctx, http.MethodGet, "/taskmanagers", nil, &answer); err != nil {
		return false
	}
	return slices.ContainsFunc(answer.TaskManagers, func(t struct{ Path string }) bool {
		_, address, _ := strings.Cut(t.Path, "@")
		address, _, _ = strings.Cut(address, "/")
		return own(ctx, address) && reachable(ctx, address) == nil
	})
}

// sameDisk tells whether the cluster's disk is this machine's: it has the folder of a name at random that
// the JobManager has made.
func (c *Cluster) sameDisk(ctx context.Context) bool {
	var settings []struct{ Key, Value string }
	if err := c.call(ctx, http.MethodGet, "/jobmanager/config", nil, &settings); err != nil {
		return false
	}
	for _, s := range settings {
		if s.Key == "web.tmpdir" {
			info, err := os.Stat(s.Value)
			return err == nil && info.IsDir()
		}
	}
	return false
}

// own tells whether an address is one of this machine.
func own(ctx context.Context, address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	hosts, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false
	}
	mine, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(hosts, func(h net.IPAddr) bool {
		return h.IP.IsLoopback() || slices.ContainsFunc(mine, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(h.IP)
		})
	})
}
