package source

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// quiet is a follower that says what waits, and remembers what it was told to leave out.
type quiet struct {
	lag    map[string]int64
	paused []string
}

func (q *quiet) Poll(context.Context, time.Duration, int) ([]driver.Chunk, error) { return nil, nil }
func (q *quiet) Pause(names []string)                                             { q.paused = names }
func (q *quiet) Lag() map[string]int64                                            { return q.lag }
func (q *quiet) Close() error                                                     { return nil }

// TestAlignSilent: a partition of a service that never says what waits holds the others back while it has records, and
// not when it is silent; one that is known to have some does.
func TestAlignSilent(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		lag    map[string]int64
		silent time.Duration
		held   bool
	}{
		"never known, records come": {nil, time.Second, true},
		"never known, silent":       {nil, time.Minute, false},
		"some wait":                 {map[string]int64{"labels": 3}, time.Minute, true},
		"none wait":                 {map[string]int64{"labels": 0}, time.Second, false},
		"not at its end":            {map[string]int64{}, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			events := &quiet{lag: map[string]int64{"events": 100}}
			r := reading{
				group: group{Addresses: []string{"events", "labels"}}, followers: []driver.Follower{events, &quiet{lag: c.lag}},
				paused: make([][]string, 2), heard: map[int]time.Time{0: now, 1: now.Add(-c.silent)},
			}
			p := progress{Partitions: []partition{{Name: "events", Newest: 7200e6}, {Address: 1, Name: "labels", Newest: 0}}}
			r.align(Stream{Alignment: time.Minute}, &p, now)
			if held := slices.Contains(events.paused, "events"); held != c.held {
				t.Errorf("the events are held: %t", held)
			}
		})
	}
}

// TestAdvanceIdle: when all partitions are idle the watermark follows the newest event, but not into times to come,
// and not while a partition may have records that wait.
func TestAdvanceIdle(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	us := func(d time.Duration) int64 { return now.Add(d).UnixMicro() }
	for name, c := range map[string]struct {
		newest [2]int64
		lag    map[string]int64
		want   int64
	}{
		"follows the newest":        {[2]int64{us(-2 * time.Hour), us(-time.Hour)}, map[string]int64{"a": 0, "b": 0}, us(-time.Hour)},
		"lags are not known":        {[2]int64{us(-2 * time.Hour), us(-time.Hour)}, nil, us(-time.Hour)},
		"one dated in years":        {[2]int64{us(-2 * time.Hour), us(24 * 365 * time.Hour)}, map[string]int64{"a": 0, "b": 0}, us(0)},
		"all dated in years":        {[2]int64{us(24 * time.Hour), us(48 * time.Hour)}, map[string]int64{"a": 0, "b": 0}, us(24 * time.Hour)},
		"the slower one has more":   {[2]int64{us(-2 * time.Hour), us(-time.Hour)}, map[string]int64{"b": 0}, us(-2 * time.Hour)},
		"the slower one has twelve": {[2]int64{us(-2 * time.Hour), us(-time.Hour)}, map[string]int64{"a": 12, "b": 0}, us(-2 * time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			r := reading{
				group: group{Addresses: []string{"topic"}}, followers: []driver.Follower{&quiet{lag: c.lag}}, paused: make([][]string, 1),
				heard: map[int]time.Time{0: now.Add(-time.Minute), 1: now.Add(-time.Minute)}, last: now,
			}
			p := progress{Watermark: never, Partitions: []partition{{Name: "a", Newest: c.newest[0]}, {Name: "b", Newest: c.newest[1]}}}
			r.advance(Stream{Idle: 10 * time.Second}, &p, now)
			if p.Watermark != c.want {
				t.Errorf("the watermark is %v, want %v", time.UnixMicro(p.Watermark), time.UnixMicro(c.want))
			}
		})
	}
}
