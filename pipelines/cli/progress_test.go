package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
)

// TestProgressOfCluster: a cluster's counts move every ten seconds, and a job that starts again counts from nothing;
// the speed is that of the last move.
func TestProgressOfCluster(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := newProgress(&b)
	g := gauge{last: p.start}
	read := map[int]int64{20: 40_000, 30: 90_000, 40: 10_000, 50: 60_000}
	want := map[int]string{
		20: "40,000 events, 4,000 a second; 2 dead letters; 39,000 scored; 38,000 written\n",
		29: "40,000 events, 4,000 a second;",
		30: "90,000 events, 5,000 a second;",
		40: "10,000 events, 5,000 a second;",
		50: "60,000 events, 5,000 a second;",
		64: "60,000 events, 5,000 a second;",
		65: "60,000 events, 0 a second;",
	}
	counters := map[string]int64{}
	for second := 10; second <= 65; second++ {
		if n := read[second]; n > 0 {
			counters = map[string]int64{"source.read": n, "predict.scored": n - 1000, "sink.written": n - 2000, "deadletter.written": 2}
		}
		now := p.start.Add(time.Duration(second) * time.Second)
		p.hear(flink.Detail{Counters: counters}, now)
		b.Reset()
		p.show(now, &g, nil, false)
		if !strings.Contains(b.String(), want[second]) {
			t.Errorf("second %d: %q, want %q", second, b.String(), want[second])
		}
	}
}

func TestBehind(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, mark := range map[string]time.Time{
		"":                                 {},
		"; watermark 1m5s ago":             now.Add(-65 * time.Second),
		"; watermark 2018-04-01T00:00:00Z": time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC),
		"; watermark 2030-01-02T03:05:05Z": now.Add(time.Minute),
	} {
		if got := behind(mark, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
