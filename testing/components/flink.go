package components

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
)

// Flink starts a Flink cluster with Beam's job server, which ends with the test; its folder is the test's.
// It takes some seconds and, with one TaskManager, about 3 GB of memory, the heap that o gives included.
func Flink(t testing.TB, o local.Options) *local.Cluster {
	t.Helper()
	if os.Getenv("MILLRACE_REQUIRE") != "1" && !local.Installed() {
		t.Skip("Flink is not installed; with MILLRACE_REQUIRE=1 the test installs it")
	}
	o.Dir, o.Tied = filepath.Join(t.TempDir(), "flink"), true
	c, err := local.Up(t.Context(), o)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for name := range c.PIDs() {
			if text, err := os.ReadFile(c.Log(name)); err == nil && t.Failed() {
				t.Logf("%s said last:\n%s", name, text[max(0, len(text)-4000):])
			}
		}
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}
