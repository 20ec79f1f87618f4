package flink

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestTrouble: checkpoints that fail are looked into once, and forgotten when one completes.
func TestTrouble(t *testing.T) {
	t.Parallel()
	starting := []Vertex{{State: "RUNNING"}, {State: "INITIALIZING"}}
	for name, c := range map[string]struct {
		trace string // of the checkpoint that is asked for
		state State
		want  string // "" for nothing to say
		asks  int64  // at least
		parts []Vertex
	}{
		"full":     {"org.apache.flink.X: Asynchronous task checkpoint failed.\n\tat a\nCaused by: java.io.IOException: No space left on device\n\tat b", "RUNNING", "checkpoints fail: No space left on device: make room where they are kept", 1, nil},
		"locked":   {"X: y\nCaused by: java.io.FileNotFoundException: /c/chk-3 (Permission denied)", "RUNNING", "let the JobManager and the TaskManagers write", 1, nil},
		"slow":     {"org.apache.flink.CheckpointException: Checkpoint expired before completing.", "RUNNING", "raise checkpoint_timeout, or give unaligned=true", 1, nil},
		"else":     {"java.io.IOException: x", "RUNNING", "checkpoints fail: x: look at the JobManager's log", 1, nil},
		"well":     {"", "RUNNING", "", 2, nil},
		"passing":  {"X: Checkpoint triggering task Source of job 1 is not being executed at the moment. Aborting checkpoint. Failure reason: Not all required tasks are currently running.", "RUNNING", "", 2, nil},
		"away":     {"java.io.IOException: x", "RESTARTING", "", 0, nil},
		"starting": {"java.io.IOException: x", "RUNNING", "", 0, starting},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asks atomic.Int64
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				type m = map[string]any
				switch {
				case r.Method == http.MethodPost && r.URL.Path == "/jobs/a/checkpoints":
					asks.Add(1)
					_ = json.NewEncoder(w).Encode(m{"request-id": "q"})
				case c.trace == "":
					_ = json.NewEncoder(w).Encode(m{"status": m{"id": "COMPLETED"}, "operation": m{"checkpointId": 3}})
				default:
					_ = json.NewEncoder(w).Encode(m{"status": m{"id": "COMPLETED"}, "operation": m{"failureCause": m{"stack-trace": c.trace}}})
				}
			}))
			defer web.Close()
			cluster, err := Open(web.URL)
			if err != nil {
				t.Fatal(err)
			}
			j := &Job{cluster: cluster}
			look := func(complete, failed int) string {
				return j.trouble(t.Context(), Detail{Status: Status{ID: "a", State: c.state}, Vertices: c.parts, Checkpoints: complete, FailedCheckpoints: failed})
			}
			if said := look(1, 1); said != "" {
				t.Errorf("before one failed: %s", said)
			}
			said := ""
			for range 200 {
				if said = look(1, 2); said != "" || c.want == "" && asks.Load() > c.asks {
					break
				}
				if c.asks == 0 && asks.Load() > 0 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if c.want == "" && said != "" || !strings.Contains(said, c.want) {
				t.Errorf("it says %q, want %q", said, c.want)
			}
			if n := asks.Load(); n < c.asks || c.asks == 0 && n > 0 || c.want != "" && n != 1 {
				t.Errorf("asked %d times", n)
			}
			if said := look(2, 2); said != "" {
				t.Errorf("after one is complete: %s", said)
			}
		})
	}
}
