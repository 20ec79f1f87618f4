package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
)

// toy scores its one input through a logistic curve of its own.
type toy struct {
	Bias  float64 `json:"bias"`
	Panic bool    `json:"panic"`
}

func init() {
	models.Register(models.Kind{Name: "live-toy", Load: func(files models.Files) (models.Model, error) {
		var t toy
		if err := json.Unmarshal(files["bias.json"], &t); err != nil {
			return nil, fmt.Errorf("bias.json: %w", models.ErrFiles)
		}
		if t.Panic {
			panic("no such luck")
		}
		return &t, nil
	}})
}

func (t *toy) Kind() string { return "live-toy" }
func (t *toy) Inputs() []models.Feature {
	return []models.Feature{{Name: "amount", Type: models.Number}}
}
func (t *toy) Outputs() []string { return []string{"score"} }

func (t *toy) Files() (models.Files, error) {
	b, err := json.Marshal(t)
	return models.Files{"bias.json": b}, err
}

func (t *toy) Score(_ context.Context, x []float32, rows int, out []float32) error {
	for i, v := range x {
		out[i] = float32(1 / (1 + math.Exp(-t.Bias-float64(v))))
	}
	return models.CheckShape(1, 1, x, rows, out)
}

// world is a registry with a model, and what a poller said about it.
type world struct {
	t     *testing.T
	where string
	store *flaky
	reg   *registry.Registry

	mu     sync.Mutex
	events []Event
	logged strings.Builder
}

func newWorld(t *testing.T) *world {
	host := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	w := &world{t: t, where: "flaky://" + host, store: flakyStore(host)}
	t.Cleanup(func() { forgetStore(host) })
	var err error
	at := time.Date(2018, 8, 1, 0, 0, 0, 0, time.UTC)
	if w.reg, err = registry.Open(t.Context(), w.where, func() time.Time { return at }); err != nil {
		t.Fatal(err)
	}
	return w
}

// publish stores a version with a bias of its own, so that versions differ in every score.
func (w *world) publish(fingerprint string, panics bool) int {
	w.t.Helper()
	m, err := w.reg.Model(context.Background(), "fraud")
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		w.t.Fatal(err)
	}
	bias := float64(len(m.Versions)+1) / 8
	v, err := w.reg.Publish(context.Background(), "fraud", &bundle.Bundle{
		Manifest: bundle.Manifest{Fingerprint: fingerprint, Threshold: &bias},
		Model:    &toy{bias, panics},
		Golden:   []float32{0, 1, 2},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// corrupt makes version v one whose weights are not those that were written, of the same length.
func (w *world) corrupt(v int) {
	w.t.Helper()
	key := fmt.Sprintf("fraud/versions/%d/model/bias.json", v)
	b, err := w.store.bucket.ReadAll(context.Background(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	b[slices.Index(b, ':')+1] ^= 1 // another digit
	if err := w.store.bucket.WriteAll(context.Background(), key, b, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) promote(v int) {
	w.t.Helper()
	if err := w.reg.SetAlias(context.Background(), "fraud", registry.Champion, v, "", registry.Any); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) params() Params {
	return Params{Registry: w.where, Name: "fraud", Alias: registry.Champion, Fingerprint: "f"}
}

func (w *world) notify(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// said returns the events since the last call as "what version".
func (w *world) said() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, e := range w.events {
		out = append(out, strings.TrimSuffix(fmt.Sprintf("%s %d", e.What, e.Ref.Version), " 0"))
	}
	w.events = nil
	return out
}

func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logged.Write(b)
}

func (w *world) options() *Options {
	return &Options{Log: slog.New(slog.NewTextHandler(w, nil)), Notify: w.notify, Rand: func() float64 { return 0.5 }}
}

func (w *world) open(p Params) *Handle {
	w.t.Helper()
	h, err := Open(context.Background(), p, w.options())
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) want(h *Handle, version int, said ...string) {
	w.t.Helper()
	got := 0
	if v := h.Acquire(); v != nil {
		got = v.Number
	}
	if got != version {
		w.t.Errorf("version %d serves, want %d", got, version)
	}
	if d := cmp.Diff(said, w.said()); d != "" {
		w.t.Error(d)
	}
}

func pollers() int {
	followersMu.Lock()
	defer followersMu.Unlock()
	return len(followers)
}

// TestSwapsUnderLoad moves the champion fifty times while goroutines score without a pause, with a
// corrupt bundle and one of other features in between.
func TestSwapsUnderLoad(t *testing.T) {
	const swaps, scorers, rows = 50, 4, 32
	w := newWorld(t)
	oracle := map[int]models.Scorer{} // each version as the registry has it, loaded by another way
	for range swaps {
		v := w.publish("f", false)
		b, err := w.reg.Load(t.Context(), registry.Ref{Name: "fraud", Version: v})
		if err != nil {
			t.Fatal(err)
		}
		oracle[v] = b.Model
	}
	corrupt, foreign := w.publish("f", false), w.publish("other", false)
	w.corrupt(corrupt)
	w.promote(1)

	ticks := make(chan time.Time)
	o := w.options()
	o.After = func(d time.Duration) <-chan time.Time {
		if d == 0 {
			now := make(chan time.Time, 1)
			now <- time.Time{}
			return now
		}
		return ticks
	}
	h, err := Open(t.Context(), w.params(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()

	var (
		wg                sync.WaitGroup
		stop              atomic.Bool
		asked, answered   [scorers]int
		slowest, idle     [scorers]time.Duration
		over              [scorers]int
		served            [scorers]map[int]int
		newest            [scorers]atomic.Int64
		inOrder, bitEqual atomic.Bool
	)
	inOrder.Store(true)
	bitEqual.Store(true)
	for s := range scorers {
		wg.Go(func() {
			served[s] = map[int]int{}
			x, y, want := make([]float32, rows), make([]float32, rows), make([]float32, rows)
			for last := 0; !stop.Load(); {
				for i := range x {
					x[i] = float32(asked[s]%97+i)/16 - 4
				}
				asked[s] += rows
				before := time.Now()
				v := h.Acquire()
				took := time.Since(before)
				slowest[s] = max(slowest[s], took)
				if took > time.Millisecond {
					over[s]++
				}
				before = time.Now() // what the machine takes away from a goroutine that does nothing
				idle[s] = max(idle[s], time.Since(before))
				err := errors.Join(v.Scorer.Score(t.Context(), x, rows, y), oracle[v.Number].Score(t.Context(), x, rows, want))
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.Equal(y, want) {
					bitEqual.Store(false)
				}
				if v.Number < last {
					inOrder.Store(false)
				}
				last = v.Number
				served[s][v.Number] += rows
				answered[s] += rows
				newest[s].Store(int64(v.Number))
			}
		})
	}
	// Both bad ones come in the middle; each promotion waits until all score with what it brought.
	everyoneOn := func(v int) {
		for s := range scorers {
			for newest[s].Load() != int64(v) && !t.Failed() {
				time.Sleep(50 * time.Microsecond)
			}
		}
	}
	everyoneOn(1)
	for v := 2; v <= swaps; v++ {
		for _, bad := range []struct{ after, version int }{{20, corrupt}, {30, foreign}} {
			if v == bad.after {
				w.promote(bad.version)
				ticks <- time.Time{}
				ticks <- time.Time{} // nothing moved: it is not tried again
			}
		}
		w.promote(v)
		ticks <- time.Time{}
		everyoneOn(v)
	}
	stop.Store(true)
	wg.Wait()

	total := 0
	versions := map[int]int{}
	for s := range scorers {
		if asked[s] != answered[s] {
			t.Errorf("scorer %d asked for %d predictions and got %d", s, asked[s], answered[s])
		}
		total += answered[s]
		for v, n := range served[s] {
			versions[v] += n
		}
	}
	if len(versions) != swaps {
		t.Errorf("%d versions served, want %d: %v", len(versions), swaps, versions)
	}
	if !inOrder.Load() {
		t.Error("an older version served after a newer one")
	}
	if !bitEqual.Load() {
		t.Error("a prediction is not that of the version it names")
	}
	var refused []string
	for _, e := range w.events {
		if e.What == Refused {
			refused = append(refused, e.Ref.String())
			want := map[int]error{corrupt: bundle.ErrCorrupt, foreign: bundle.ErrFingerprint}[e.Ref.Version]
			if !errors.Is(e.Err, want) {
				t.Errorf("%s is refused for %v, want %v", e.Ref, e.Err, want)
			}
		}
	}
	if d := cmp.Diff([]string{fmt.Sprintf("fraud@%d", corrupt), fmt.Sprintf("fraud@%d", foreign)}, refused); d != "" {
		t.Error(d)
	}
	if got, want := h.Take(), (Counts{Swapped: swaps, Refused: 2}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	if n := strings.Count(w.logged.String(), "model refused"); n != 2 {
		t.Errorf("%d refusals in the log:\n%s", n, w.logged.String())
	}
	long := 0
	for _, n := range over {
		long += n
	}
	t.Logf("%d predictions in %d batches by %d goroutines over %d swaps; longest Acquire %v, %d above 1 ms; longest pause while doing nothing %v",
		total, total/rows, scorers, swaps, slices.Max(slowest[:]), long, slices.Max(idle[:]))
}

func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.publish("f", false)
		w.publish("f", false)
		w.promote(1)
		began := time.Now()
		h := w.open(w.params())
		defer h.Close()
		w.want(h, 1, "swapped 1")
		v := h.Acquire()
		if v.String() != "fraud@1" || v.Alias != registry.Champion || !v.LoadedAt.Equal(began) || *v.Threshold != 0.125 || len(v.Digest) != 64 {
			t.Errorf("version is %+v", v)
		}
		// Nothing moves: each poll is one request, ten seconds after the other.
		w.store.requests.Store(0)
		time.Sleep(100*time.Second + time.Millisecond)
		synctest.Wait()
		if n := w.store.requests.Load(); n != 10 {
			t.Errorf("%d requests in 10 polls", n)
		}
		w.promote(2)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		w.want(h, 1)
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(h, 2, "swapped 2")
		if at := h.Acquire().LoadedAt.Sub(began); at != 110*time.Second {
			t.Errorf("loaded after %v, want at the eleventh poll", at)
		}
		// Moved to itself: nothing to load.
		w.promote(2)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 2)
		// A champion that is removed goes on serving.
		w.promote(0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 2, "removed 2")
	})
}

func TestSpread(t *testing.T) {
	for number, want := range map[float64]time.Duration{0: 15 * time.Second, 0.5: 20 * time.Second, 0.999: 24990 * time.Millisecond} {
		f := &follower{Params: Params{Poll: 20 * time.Second}, Options: Options{Rand: func() float64 { return number }}}
		if got := f.pause(); got != want {
			t.Errorf("%v waits %v, want %v", number, got, want)
		}
	}
}

func TestRefusedOnceUntilItMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.publish("f", false)
		bad := w.publish("f", false)
		w.promote(1)
		h := w.open(w.params())
		defer h.Close()
		w.want(h, 1, "swapped 1")
		whole, err := w.store.bucket.ReadAll(context.Background(), "fraud/versions/2/model/bias.json")
		if err != nil {
			t.Fatal(err)
		}
		w.corrupt(bad)
		w.promote(bad)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.want(h, 1, "refused 2")
		// Mended, it is looked at once the alias moves again.
		if err := w.store.bucket.WriteAll(context.Background(), "fraud/versions/2/model/bias.json", whole, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		w.want(h, 1)
		w.promote(bad)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 2, "swapped 2")
		// A kind that panics over a bundle does not take the process with it.
		w.promote(w.publish("f", true))
		time.Sleep(time.Minute)
		synctest.Wait()
		w.want(h, 2, "refused 3")
		if got, want := h.Take(), (Counts{Swapped: 2, Refused: 2}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
		if h.Take() != (Counts{}) {
			t.Error("counts were taken twice")
		}
	})
}

func TestRegistryOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.publish("f", false)
		w.publish("f", false)
		w.promote(1)
		w.store.down.Store(true)
		if _, err := Open(t.Context(), w.params(), w.options()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("opened while the registry is down: %v", err)
		}
		w.store.down.Store(false)
		h := w.open(w.params())
		defer h.Close()
		w.want(h, 1, "swapped 1")
		w.promote(2)
		w.store.down.Store(true)
		time.Sleep(35 * time.Second)
		synctest.Wait()
		w.want(h, 1, "unreachable", "unreachable", "unreachable")
		if n := strings.Count(w.logged.String(), "connection refused"); n != 1 {
			t.Errorf("an outage is logged %d times, want once:\n%s", n, w.logged.String())
		}
		w.store.down.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 2, "swapped 2", "reachable")
		if got, want := h.Take(), (Counts{Swapped: 2, Unreachable: 3}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
	})
}

func TestFirstLoad(t *testing.T) {
	w := newWorld(t)
	fails := func(want error, says string) {
		t.Helper()
		h, err := Open(t.Context(), w.params(), w.options())
		if err == nil {
			h.Close()
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %v saying %q", err, want, says)
		}
	}
	fails(registry.ErrNotFound, "run retrain first")
	w.publish("f", false)
	fails(registry.ErrNotFound, "has no champion")
	w.corrupt(1)
	w.promote(1)
	fails(bundle.ErrCorrupt, "bias.json")
	w.said()

	// With a good version before bad ones, it serves what a worker that was there all along serves.
	good, rolledBack := w.publish("f", false), w.publish("f", false)
	w.promote(good)
	w.promote(rolledBack)
	if _, err := w.reg.Rollback(t.Context(), "fraud", registry.Champion, ""); err != nil {
		t.Fatal(err)
	}
	corrupt, foreign := w.publish("f", false), w.publish("other", false)
	w.corrupt(corrupt)
	w.promote(corrupt)
	w.promote(foreign)
	h := w.open(w.params())
	w.want(h, good, "refused 5", "refused 4", "swapped 2")
	h.Close()

	if _, err := Open(t.Context(), Params{Poll: -1}, nil); err == nil || !strings.Contains(err.Error(), "registry: missing") || !strings.Contains(err.Error(), "negative") {
		t.Errorf("bad params: %v", err)
	}
	if n := pollers(); n != 0 {
		t.Errorf("%d pollers are left", n)
	}
}

func TestOptional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.params()
		p.Optional = true
		w.store.down.Store(true)
		h := w.open(p)
		defer h.Close()
		w.want(h, 0, "unreachable")
		w.store.down.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 0, "reachable")
		w.promote(w.publish("f", false))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 1, "swapped 1")
		w.promote(0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 0, "removed 1")
		w.promote(w.publish("other", false))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 0, "refused 2")
		w.promote(1)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 1, "swapped 1")
	})
}

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.publish("f", false)
		w.publish("f", false)
		w.promote(1)
		var handles []*Handle
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				h := w.open(w.params())
				mu.Lock()
				defer mu.Unlock()
				handles = append(handles, h)
			})
		}
		wg.Wait()
		other := w.params()
		other.Run = "another"
		apart := w.open(other)
		w.want(apart, 1, "swapped 1", "swapped 1") // once for the eight, once for the other run
		if handles[0].Acquire() != handles[7].Acquire() || handles[0].Acquire() == apart.Acquire() {
			t.Error("handles of one run share a version, others have theirs")
		}
		apart.Close()
		for _, h := range handles[:7] {
			h.Close()
			h.Close()
		}
		w.promote(2)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(handles[7], 2, "swapped 2")
		handles[7].Close()
		w.store.requests.Store(0)
		time.Sleep(time.Hour)
		if n := w.store.requests.Load(); n != 0 || pollers() != 0 {
			t.Errorf("%d requests, %d pollers after the last handle was closed", n, pollers())
		}
		if v := handles[7].Acquire(); v.Number != 2 {
			t.Errorf("a closed handle has version %d", v.Number)
		}
	})
}

func TestEndsWithoutUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.publish("f", false)
		w.publish("f", false)
		w.promote(1)
		h := w.open(w.params())
		w.want(h, 1, "swapped 1")
		w.store.requests.Store(0)
		for range 3 { // used every now and then it polls on
			time.Sleep(50 * time.Minute)
			w.want(h, 1)
		}
		synctest.Wait()
		if n := w.store.requests.Load(); n != 3*50*6 {
			t.Errorf("%d requests in 150 minutes, want one every ten seconds", n)
		}
		time.Sleep(61 * time.Minute)
		w.store.requests.Store(0)
		w.promote(2)
		asked := w.store.requests.Load()
		time.Sleep(time.Hour)
		if n := w.store.requests.Load(); n != asked || pollers() != 0 {
			t.Errorf("%d requests of a poller that nobody uses, %d pollers", n-asked, pollers())
		}
		h.Acquire() // wakes it
		time.Sleep(time.Millisecond)
		synctest.Wait()
		w.want(h, 2, "swapped 2")
		w.promote(1)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.want(h, 1, "swapped 1")
		h.Close()
	})
}
