package components

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The credentials of [S3].
const (
	S3Key    = "millrace"
	S3Secret = "millrace-secret"
)

// GCS starts a fake-gcs-server, which speaks Google Cloud Storage over http; clients find it with
// STORAGE_EMULATOR_HOST set to its address.
func GCS(t testing.TB) *Server {
	t.Helper()
	s := spec{name: "fake-gcs-server-v1.56.1", ports: 1, ready: httpReady("/storage/v1/b?project=p", http.StatusOK)}
	s.command = func(program, data string, ports []int) (*exec.Cmd, error) {
		addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
		root := filepath.Join(data, "buckets")
		return exec.Command(filepath.Join(program, "fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", fmt.Sprint(ports[0]),
			"-public-host", addr, "-backend", "filesystem", "-filesystem-root", root), os.MkdirAll(root, 0o755)
	}
	return start(t, s, program(t, s.name, func(dir string) error {
		return goInstall(dir, "github.com/fsouza/fake-gcs-server@v1.56.1")
	}))
}

// S3 starts a Versity gateway, an S3 server on a folder, with the credentials S3Key and S3Secret; clients
// find it with AWS_ENDPOINT_URL set to http:// and its address, and use paths, not hosts, for buckets.
func S3(t testing.TB) *Server {
	t.Helper()
	s := spec{name: "versitygw-v1.8.0", ports: 1, ready: httpReady("/", http.StatusForbidden)} // who doesn't sign is refused
	s.command = func(program, data string, ports []int) (*exec.Cmd, error) {
		root := filepath.Join(data, "buckets")
		cmd := exec.Command(filepath.Join(program, "versitygw"), "--port", fmt.Sprintf("127.0.0.1:%d", ports[0]), "posix", root)
		cmd.Env = append(cmd.Environ(), "ROOT_ACCESS_KEY="+S3Key, "ROOT_SECRET_KEY="+S3Secret)
		return cmd, os.MkdirAll(root, 0o755)
	}
	return start(t, s, program(t, s.name, func(dir string) error {
		return goInstall(dir, "github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	}))
}

// httpReady asks for a path until it is answered with a status.
func httpReady(path string, status int) func(context.Context, string) error {
	return func(ctx context.Context, addr string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != status {
			return fmt.Errorf("it answers %s to GET %s", answer.Status, path)
		}
		return nil
	}
}
