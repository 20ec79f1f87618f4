package feature

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
)

func init() {
	beam.RegisterDoFn(&trickleFn{})
}

// trickleFn gives the batches of a run as a source without an end does: some, then a pause, with a
// watermark that lies Late behind the newest event.
type trickleFn struct {
	Run string
	N   int
	// Late is in milliseconds. OneByOne waits until all before has come out.
	Late     int64
	OneByOne bool
}

func (f *trickleFn) CreateInitialRestriction([]byte) offsetrange.Restriction {
	return offsetrange.Restriction{End: int64(f.N)}
}
func (f *trickleFn) SplitRestriction(_ []byte, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}
func (f *trickleFn) RestrictionSize(_ []byte, r offsetrange.Restriction) float64 {
	return float64(r.End - r.Start)
}
func (f *trickleFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}
func (f *trickleFn) InitialWatermarkEstimatorState(beam.EventTime, offsetrange.Restriction, []byte) int64 {
	return int64(mtime.MinTimestamp)
}
func (f *trickleFn) CreateWatermarkEstimator(ms int64) *sdf.ManualWatermarkEstimator {
	return &sdf.ManualWatermarkEstimator{State: mtime.Time(ms).ToTime()}
}
func (f *trickleFn) WatermarkEstimatorState(e *sdf.ManualWatermarkEstimator) int64 {
	return int64(mtime.FromTime(e.State))
}

func (f *trickleFn) ProcessElement(we *sdf.ManualWatermarkEstimator, rt *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, event.Batch)) (sdf.ProcessContinuation, error) {
	store.Lock()
	in, landed := store.in[f.Run], len(store.letters[f.Run])
	for _, b := range store.out[f.Run] {
		landed += b.N
	}
	store.Unlock()
	at := rt.GetRestriction().(offsetrange.Restriction).Start
	given := 0
	for _, b := range in[:at] {
		given += b.N
	}
	if f.OneByOne && landed < given {
		return sdf.ResumeProcessingIn(time.Millisecond), nil
	}
	for range 3 {
		if !rt.TryClaim(at) {
			return sdf.StopProcessing(), nil
		}
		if at == int64(len(in)) {
			return sdf.StopProcessing(), nil
		}
		emit(timestamp(&in[at]), in[at])
		newest := int64(0)
		for _, b := range in[:at+1] {
			newest = max(newest, floor(slices.Max(b.Times()), 1000))
		}
		we.UpdateWatermark(mtime.Time(newest - f.Late).ToTime())
		if at++; f.OneByOne {
			break
		}
	}
	if at == int64(len(in)) {
		rt.TryClaim(at)
		return sdf.StopProcessing(), nil
	}
	return sdf.ResumeProcessingIn(time.Millisecond), nil
}

// runStream runs a stream on Prism, and returns what came out and the counters.
func runStream(t *testing.T, p Params, in []event.Batch, oneByOne bool) ([]event.Batch, []deadletter.Letter, map[string]int64) {
	t.Helper()
	name := t.Name()
	store.Lock()
	store.in[name], store.out[name], store.letters[name] = in, nil, nil
	store.Unlock()
	pipeline, s := beam.NewPipelineWithRoot()
	source := &trickleFn{Run: name, N: len(in), Late: p.Stream.Lateness.Milliseconds(), OneByOne: oneByOne}
	rows, rejected := Compute(s, beam.ParDo(s, source, beam.Impulse(s)), p)
	beam.ParDo(s, &keepFn{name}, rows)
	beam.ParDo(s, &keepLetterFn{name}, rejected)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	result, err := beam.Run(ctx, "prism", pipeline)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, c := range result.Metrics().AllMetrics().Counters() {
		counts[c.Name()] += c.Committed
	}
	store.Lock()
	defer store.Unlock()
	return store.out[name], store.letters[name], counts
}

// boundedBits is the bounded run's rows, in their bits.
func boundedBits(t *testing.T, p Params, rs []record) map[string]string {
	p.Stream = nil
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.first.apply(toBatch(t, p, rs))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.stages {
		if b, _, err = s.newShard().apply(b.Gather(order(&b))); err != nil {
			t.Fatal(err)
		}
	}
	return bitsOf(t, []event.Batch{b})
}

func checkBits(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for id, w := range want {
		if got[id] != w {
			t.Fatalf("event %s has other features than a bounded run gives", id)
		}
	}
}

// TestArrival: rows that come in order, a batch at a time, have the features of a bounded run.
func TestArrival(t *testing.T) {
	for _, c := range []struct {
		name         string
		stages, size int
		rows         int
	}{{"one stage", 1, 50, 1000}, {"two stages", 2, 1, 60}} {
		t.Run(c.name, func(t *testing.T) {
			p := twoEntities()
			if c.stages == 1 {
				p.Features = p.Features[:3]
			}
			p.Stream = &Stream{Lateness: time.Minute}
			rs := randomRecords(c.rows, 7)
			slices.SortFunc(rs, before)
			want := boundedBits(t, p, rs)
			again := rs[len(rs)-20:] // within the lateness
			out, letters, counts := runStream(t, p, append(batchesOf(t, p, rs, c.size), batchesOf(t, p, again, 7)...), true)
			checkBits(t, bitsOf(t, out), want)
			if len(letters) != len(again) || letters[0].Class != deadletter.Duplicate || counts["duplicate"] != int64(len(again)) || counts["duplicate_conflict"] != 0 {
				t.Errorf("%d duplicates, want %d; counters %v", len(letters), len(again), counts)
			}
		})
	}
}

// TestEventTime: rows that come in any order have the features of a bounded run.
func TestEventTime(t *testing.T) {
	for _, c := range []struct{ shards, size int }{{1, 400}, {3, 7}, {8, 100}} {
		t.Run(fmt.Sprint(c.shards, " shards, batches of ", c.size), func(t *testing.T) {
			p := twoEntities()
			p.Shards, p.Stream = c.shards, &Stream{Order: EventTime, Lateness: 60 * time.Second}
			rs := randomRecords(800, 8) // 3 every 0.7 s
			slices.SortFunc(rs, before)
			want := boundedBits(t, p, rs)
			r := rand.New(rand.NewPCG(3, 3))
			for from := 0; from < len(rs); from += 100 { // 23 s
				part := rs[from:min(from+100, len(rs))]
				r.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
			}
			again := rs[len(rs)-50:]
			out, letters, counts := runStream(t, p, append(batchesOf(t, p, rs, c.size), batchesOf(t, p, again, c.size)...), false)
			checkBits(t, bitsOf(t, out), want)
			// Prism's counters may lack what its last bundles counted, so that the letters are what counts.
			if len(letters) != len(again) || counts["duplicate"] > int64(len(again)) || counts["frontier_violation"] != 0 {
				t.Errorf("%d duplicates, want %d; counters %v", len(letters), len(again), counts)
			}
		})
	}
}

// TestFingerprintOfWaiting: rows that wait for the watermark have the columns of the features before them, so that
// where those are others a stage can't go on with its state; rows that are scored on arrival wait for nothing.
func TestFingerprintOfWaiting(t *testing.T) {
	t.Parallel()
	for order, same := range map[string]bool{Arrival: true, EventTime: false} {
		var prints []string
		for _, more := range []bool{false, true} {
			p := handbook()
			p.Shards, p.Stream = 8, &Stream{Order: order, Lateness: time.Minute}
			if more {
				customer := &p.Features[2]
				customer.Aggregates = append(customer.Aggregates, Aggregate{Name: "customer_max", Func: "max", Arg: "amount"})
			}
			c, err := compile(p)
			if err != nil {
				t.Fatal(err)
			}
			prints = append(prints, c.stages[1].label(p))
		}
		if (prints[0] == prints[1]) != same {
			t.Errorf("%s: the terminals' state is %s, and with a feature more of the customers %s", order, prints[0], prints[1])
		}
	}
}
