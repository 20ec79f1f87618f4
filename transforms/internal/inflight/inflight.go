package inflight

import (
	"context"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/hooks"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

const hookName = "millrace-inflight"

func init() {
	hooks.RegisterHook(hookName, func([]string) hooks.Hook {
		return hooks.Hook{Resp: func(_ context.Context, req *fnpb.InstructionRequest, _ *fnpb.InstructionResponse) error {
			if req.GetProcessBundle() != nil {
				landed(req.GetInstructionId())
			}
			return nil
		}}
	})
	if err := hooks.EnableHook(hookName); err != nil {
		panic(err)
	}
}

type landing struct {
	run  string
	rows int
}

var (
	mu      sync.Mutex
	counts  = map[string]int{}       // rows under way, by run
	bundles = map[string][]landing{} // what ends with a bundle
	changed = make(chan struct{})    // closed at each landing
)

// Add counts rows in.
func Add(run string, rows int) {
	mu.Lock()
	counts[run] += rows
	mu.Unlock()
}

// Land counts rows out as soon as the bundle that ctx belongs to has ended; outside a bundle, at once.
// A bundle that fails ends them too: the runner starts it again, or ends the job.
func Land(ctx context.Context, run string, rows int) {
	if rows == 0 {
		return
	}
	id := metrics.GetBundleID(ctx)
	mu.Lock()
	defer mu.Unlock()
	if id == "" {
		out(run, rows)
		return
	}
	bundles[id] = append(bundles[id], landing{run, rows})
}

func landed(bundle string) {
	mu.Lock()
	defer mu.Unlock()
	for _, l := range bundles[bundle] {
		out(l.run, l.rows)
	}
	delete(bundles, bundle)
}

func out(run string, rows int) {
	if _, ok := counts[run]; !ok {
		return // the source is in another process
	}
	counts[run] -= rows
	close(changed)
	changed = make(chan struct{})
}

// Rows is how many are under way.
func Rows(run string) int {
	mu.Lock()
	defer mu.Unlock()
	return counts[run]
}

// Wait tells whether fewer than limit rows of the run are under way, and waits for that up to a time.
func Wait(ctx context.Context, run string, limit int, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		mu.Lock()
		free, next := counts[run] < limit, changed
		mu.Unlock()
		if free {
			return true
		}
		select {
		case <-next:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Forget drops a run's count when the run is over.
func Forget(run string) {
	mu.Lock()
	delete(counts, run)
	mu.Unlock()
}
