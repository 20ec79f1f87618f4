package components

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// PubSub starts Google's emulator of Pub/Sub; clients find it with PUBSUB_EMULATOR_HOST set to its
// address. It keeps everything in memory: after a restart there is nothing. It ignores filters and
// dead-letter policies, and gives no order.
//
// It comes with the Google Cloud SDK only, and no test installs that.
func PubSub(t testing.TB) *Server {
	t.Helper()
	jar, err := pubsubJar()
	if err == nil {
		_, err = exec.LookPath("java")
	}
	if err == nil && !supported {
		err = errors.ErrUnsupported
	}
	if err != nil && os.Getenv("MILLRACE_REQUIRE") == "1" {
		t.Fatalf("the Pub/Sub emulator is needed: %v", err)
	} else if err != nil {
		t.Skipf("the Pub/Sub emulator can't run here: %v", err)
	}
	s := spec{name: "pubsub-emulator", ports: 1, ready: httpReady("/", http.StatusOK)}
	s.command = func(program, _ string, ports []int) (*exec.Cmd, error) {
		return exec.Command("java", "-Xmx256m", "-XX:+UseSerialGC", "-jar", program, "--host=127.0.0.1", fmt.Sprintf("--port=%d", ports[0])), nil
	}
	return start(t, s, jar)
}

// pubsubJar finds the emulator beside gcloud.
func pubsubJar() (string, error) {
	gcloud, err := exec.LookPath("gcloud")
	if err == nil {
		gcloud, err = filepath.EvalSymlinks(gcloud)
	}
	if err != nil {
		return "", fmt.Errorf("finding the Google Cloud SDK: %w", err)
	}
	sdk := filepath.Dir(filepath.Dir(gcloud))
	jars, err := filepath.Glob(filepath.Join(sdk, "platform", "pubsub-emulator", "lib", "cloud-pubsub-emulator-*.jar"))
	if err == nil && len(jars) == 0 {
		err = fmt.Errorf("%s has no emulator: gcloud components install pubsub-emulator, or the package google-cloud-cli-pubsub-emulator", sdk)
	}
	if err != nil {
		return "", err
	}
	return jars[len(jars)-1], nil
}
