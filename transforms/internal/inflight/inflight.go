package inflight

import (
	"context"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/metrics"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/hooks"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"

	"github.com/millrace-ml/millrace/transforms/telemetry"
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

// transit is what a run has under way.
type transit struct {
	rows  int
	began []began // of these rows, those that came in first in front
	// ahead is how many rows were added of each slot of event time that the watermark has not passed, waiting
	// their sum.
	ahead   map[int64]int
	waiting int
}

// slot is how finely waiting rows are counted, in microseconds.
const slot = 10_000_000

func slotOf(micros int64) int64 {
	n := micros / slot
	if micros%slot < 0 {
		n--
	}
	return n
}

type began struct {
	rows int
	at   time.Time
}

var (
	mu       sync.Mutex
	transits = map[string]*transit{}
	bundles  = map[string][]landing{} // what ends with a bundle
	changed  = make(chan struct{})    // closed at each landing
)

// Add counts rows in, which began at a time; the zero time where that is not known.
func Add(run string, rows int, at time.Time) {
	mu.Lock()
	defer mu.Unlock()
	w := of(run)
	w.rows += rows
	w.began = append(w.began, began{rows, at})
}

func of(run string) *transit {
	w := transits[run]
	if w == nil {
		w = &transit{ahead: map[int64]int{}}
		transits[run] = w
	}
	return w
}

// Await says of rows that were added that they may stay where they are until the watermark has passed their
// times, in microseconds: so long reading doesn't wait for them, or the watermark would not move.
func Await(run string, times []int64) {
	mu.Lock()
	defer mu.Unlock()
	w := of(run)
	for _, t := range times {
		w.ahead[slotOf(t)]++
	}
	w.waiting += len(times)
}

// Passed says that the watermark has come to a time: rows before it have to move.
func Passed(run string, watermark int64) {
	mu.Lock()
	defer mu.Unlock()
	w := of(run)
	for at, rows := range w.ahead {
		if (at+1)*slot <= watermark {
			w.waiting -= rows
			delete(w.ahead, at)
		}
	}
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
	w := transits[run]
	if w == nil {
		return // the source is in another process
	}
	w.rows -= rows
	w.observe(rows, time.Now())
	close(changed)
	changed = make(chan struct{})
}

// observe takes those that ended for those that came in first: where rows overtake each other the mean
// is right all the same.
func (w *transit) observe(rows int, now time.Time) {
	done := 0
	for ; done < len(w.began) && rows > 0; done++ {
		b := &w.began[done]
		n := min(rows, b.rows)
		if !b.at.IsZero() {
			telemetry.Latency(now.Sub(b.at), n)
		}
		rows -= n
		if b.rows -= n; b.rows > 0 {
			break
		}
	}
	w.began = append(w.began[:0], w.began[done:]...)
}

// Rows is how many are under way.
func Rows(run string) int {
	mu.Lock()
	defer mu.Unlock()
	return under(run)
}

func under(run string) int {
	if w := transits[run]; w != nil {
		return w.rows
	}
	return 0
}

// moving is about how many rows are under way and need not wait for the watermark. Rows that wait and have
// landed all the same, as in the state of a shard, are counted out twice, so that it may be less than 0.
func moving(run string) int {
	if w := transits[run]; w != nil {
		return w.rows - w.waiting
	}
	return 0
}

// Wait tells whether fewer than limit rows of the run are under way and have to move, and waits for that up to a
// time.
func Wait(ctx context.Context, run string, limit int, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		mu.Lock()
		free, next := moving(run) < limit, changed
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
	delete(transits, run)
	mu.Unlock()
}
