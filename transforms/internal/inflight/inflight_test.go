package inflight

import (
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/telemetry"
)

// TestLatency: rows that end are timed from when those began that came in first, each once.
func TestLatency(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &transit{rows: 7, began: []began{{3, start}, {2, time.Time{}}, {2, start.Add(time.Second)}}}
	before := telemetry.Snapshot()
	w.observe(2, start.Add(2*time.Second)) // 2 of the first: 2 s each
	w.observe(4, start.Add(3*time.Second)) // 1 of the first: 3 s, 2 of nobody knows, 1 of the last: 2 s
	w.observe(5, start.Add(4*time.Second)) // 1 of the last: 3 s; the others never came in
	got := telemetry.Snapshot().Since(before)
	if got.Timed != 5 || got.Took != 12*time.Second {
		t.Errorf("%d rows took %s, want 5 and 12s", got.Timed, got.Took)
	}
	if len(w.began) != 0 {
		t.Errorf("%d are left", len(w.began))
	}
}
