package cli

import (
	"bytes"
	"strings"
	"testing"
)

func TestFlinkWithoutCluster(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"status", "down"} {
		var stdout, stderr bytes.Buffer
		code := Execute(t.Context(), []string{"flink", verb, "--dir", t.TempDir()}, &stdout, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), "millrace flink up") {
			t.Errorf("flink %s gives %d and %s, which doesn't say how to start a cluster", verb, code, &stderr)
		}
	}
}
