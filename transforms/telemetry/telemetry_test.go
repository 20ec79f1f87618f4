package telemetry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// speak lets every function say something once.
func speak() {
	Read(3)
	Bad(2)
	Blank(1)
	Skipped(1)
	Scored("fraud@3", 5)
	Scored("fraud@4", 2)
	Unscored("fraud@3", 1)
	Written("file://scores.jsonl", 7)
	DeadLetters("range", 2)
	DeadLetters("late", 1)
	Lag("topic/0", 40)
	Lag("topic/1", 2)
	Watermark("topic/0", time.Unix(2000, 0))
	Watermark("topic/1", time.Unix(1000, 500_000_000))
	for _, d := range []time.Duration{500 * time.Microsecond, time.Second, 30 * time.Millisecond, 29_999 * time.Microsecond} {
		Latency(d, 1)
	}
	BatchRows("predict", 300)
	StateBytes("customer", 1<<20)
	StateWritten("customer", 640)
	CacheMisses("customer", 1)
	Serving("serve", "fraud@3", time.Unix(500, 0))
	Serving("serve", "fraud@4", time.Unix(900, 0))
	Swapped("fraud")
	Refused("fraud")
}

func get(t *testing.T, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestMetrics(t *testing.T) {
	before := Snapshot()
	speak()
	_, page := get(t, "/metrics")
	for _, want := range []string{
		`millrace_events_scored_total{model="fraud",version="4"} `,
		`millrace_dead_letters_total{class="range"} `,
		`millrace_model_info{model="fraud",role="serve",version="4"} 1`,
		`millrace_model_since_seconds{model="fraud",role="serve"} 900`,
		`millrace_source_watermark_seconds{partition="topic/1"} 1000.5`,
		`go_goroutines `,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if strings.Contains(page, `millrace_model_info{model="fraud",role="serve",version="3"}`) {
		t.Error("the version that was swapped out still stands as serving")
	}
	got := Snapshot().Since(before)
	want := Totals{
		Read: 3, Bad: 2, Blank: 1, Scored: 7, Unscored: 1, Written: 7, DeadLetters: 3, CacheMisses: 1, StateWritten: 640,
		ModelsSwapped: 1, ModelsRefused: 1, Timed: 4, Took: 1_060_499 * time.Microsecond, Lag: 42, Watermark: time.Unix(1000, 500_000_000).UTC(), Serving: []string{"fraud@4"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	DropPartition("topic/1")
	if s := Snapshot(); s.Lag != 40 || s.Watermark.Unix() != 2000 {
		t.Errorf("lag %d, watermark %v after a partition has gone: want 40 and 2000", s.Lag, s.Watermark)
	}
	if problems, err := testutil.GatherAndLint(ours); err != nil || len(problems) > 0 {
		t.Errorf("Prometheus's own rules: %v %v", problems, err)
	}
}

// TestHistogram compares with the counts by hand: 0.5 ms, 29.999 ms, 30 ms and 1 s.
func TestHistogram(t *testing.T) {
	h := &histogram{bounds: []float64{.001, .03, 1}, counts: make([]uint64, 4), desc: latency.desc}
	h.observe(.0005, 1)
	h.observe(1, 1)
	h.observe(.03, 1)
	h.observe(.029999, 1)
	h.observe(2, 1)
	if d := cmp.Diff([]uint64{1, 2, 1, 1}, h.counts); d != "" {
		t.Error(d)
	}
	text := `
# HELP millrace_latency_seconds From when the source took an event in to when the sink had its score.
# TYPE millrace_latency_seconds histogram
millrace_latency_seconds_bucket{le="0.001"} 1
millrace_latency_seconds_bucket{le="0.03"} 3
millrace_latency_seconds_bucket{le="1"} 4
millrace_latency_seconds_bucket{le="+Inf"} 5
millrace_latency_seconds_sum 3.060499
millrace_latency_seconds_count 5
`
	if err := testutil.CollectAndCompare(h, strings.NewReader(text)); err != nil {
		t.Error(err)
	}
}

// TestDocumented holds the list in doc.go to what is served.
func TestDocumented(t *testing.T) {
	speak()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(millrace_\w+)`).FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1])
	}
	families, err := ours.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, f := range families {
		served = append(served, f.GetName())
	}
	slices.Sort(listed)
	if d := cmp.Diff(listed, served); d != "" {
		t.Errorf("doc.go lists other metrics than are served (-doc +served):\n%s", d)
	}
}

func TestReady(t *testing.T) {
	if code, body := get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz of a process without fault: %d %s", code, body)
	}
	SetReady("model fraud", errors.New("loading"))
	SetReady("cache", errors.New("too small for 64 shards"))
	if code, body := get(t, "/readyz"); code != http.StatusServiceUnavailable || body != "cache: too small for 64 shards\nmodel fraud: loading\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if code, _ := get(t, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d, want 200 of a process that is not ready", code)
	}
	SetReady("model fraud", nil)
	SetReady("cache", nil)
	if err := Ready(); err != nil {
		t.Error(err)
	}
}

func TestServe(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	addr, err := Serve(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Get("http://" + addr.String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil || string(body) != "ok\n" {
		t.Errorf("%q %v", body, err)
	}
	if _, err := Serve(ctx, addr.String()); err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("the second on one address: %v", err)
	}
	stop()
	for { // Close runs on a goroutine of its own; the test's own deadline bounds this
		if r, err := http.Get("http://" + addr.String() + "/healthz"); err != nil {
			return
		} else {
			r.Body.Close()
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	for range b.N {
		Read(1000)
		Scored("fraud@3", 1000)
		Latency(20*time.Millisecond, 1000)
	}
}
