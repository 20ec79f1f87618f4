package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob/memblob"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
)

// toy scores its one input through a fixed logistic curve.
type toy struct {
	Bias float64 `json:"bias"`
}

func init() {
	models.Register(models.Kind{Name: "registry-toy", Load: func(files models.Files) (models.Model, error) {
		var t toy
		if err := json.Unmarshal(files["bias.json"], &t); err != nil {
			return nil, fmt.Errorf("bias.json: %w", models.ErrFiles)
		}
		return &t, nil
	}})
}

func (t *toy) Kind() string { return "registry-toy" }
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

func newBundle(bias float64) *bundle.Bundle {
	return &bundle.Bundle{
		Manifest: bundle.Manifest{Fingerprint: "f"},
		Model:    &toy{bias},
		Golden:   []float32{0, 1, 2},
	}
}

// clock ticks a second a reading.
func clock() func() time.Time {
	var mu sync.Mutex
	at := time.Date(2018, 8, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Second)
		return at
	}
}

// eachStore runs a test over a folder and over memory. again opens the same store once more, as
// another process would.
func eachStore(t *testing.T, f func(t *testing.T, r, again *Registry)) {
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "models", "registry")
		now := clock()
		r, err1 := Open(t.Context(), "file://"+dir, now)
		again, err2 := Open(t.Context(), dir, now)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		f(t, r, again)
		if err := errors.Join(r.Close(), again.Close()); err != nil {
			t.Error(err)
		}
		// No sidecars and no temporary files stay behind.
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".attrs") || strings.HasSuffix(path, ".tmp") {
				t.Errorf("stray file %s", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		bucket := memblob.OpenBucket(nil)
		defer bucket.Close()
		r := New(bucket, clock())
		f(t, r, r)
	})
}

func TestLifeOfAModel(t *testing.T) {
	eachStore(t, func(t *testing.T, r, again *Registry) {
		ctx := t.Context()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3 {
			version, err := r.Publish(ctx, "fraud", newBundle(float64(i)))
			must(err)
			if version != i+1 {
				t.Fatalf("published version %d, want %d", version, i+1)
			}
		}
		_, err := again.Publish(ctx, "demand", newBundle(9))
		must(err)
		must(r.SetAlias(ctx, "fraud", Champion, 1, "first", 0))
		must(r.SetAlias(ctx, "fraud", Champion, 3, "gains 0.01", 1))
		must(r.SetAlias(ctx, "fraud", "shadow", 2, "", Any))
		must(again.SetAlias(ctx, "fraud", Champion, 1, "rolled back", 3))
		must(again.SetAlias(ctx, "fraud", "shadow", 0, "done", 2))

		for spec, want := range map[string]int{"fraud": 1, "fraud@champion": 1, "fraud@2": 2, "fraud@latest": 3} {
			ref, err := again.Resolve(ctx, spec)
			must(err)
			m, err := again.Manifest(ctx, ref)
			must(err)
			if ref.Name != "fraud" || ref.Version != want || ref.Digest != m.Digest || len(m.Digest) != 64 {
				t.Errorf("%s is %+v, want version %d with the manifest's digest", spec, ref, want)
			}
			b, err := again.Get(ctx, spec)
			must(err)
			if b.Version != want || b.Name != "fraud" || b.Model.(*toy).Bias != float64(want-1) {
				t.Errorf("%s loads %s version %d, %+v", spec, b.Name, b.Version, b.Model)
			}
			_, err = again.Verify(ctx, spec)
			must(err)
		}
		list, err := again.List(ctx)
		must(err)
		if diff := cmp.Diff([]Model{
			{Name: "demand", Versions: []int{1}, Aliases: map[string]int{}},
			{Name: "fraud", Versions: []int{1, 2, 3}, Aliases: map[string]int{Champion: 1}},
		}, list); diff != "" {
			t.Error(diff)
		}
		history, err := again.History(ctx, "fraud")
		must(err)
		var got []string
		for i, e := range history {
			got = append(got, e.String())
			if i > 0 && e.Time.Before(history[i-1].Time) {
				t.Errorf("entry %d is before its predecessor", i)
			}
		}
		if diff := cmp.Diff([]string{
			"version 1 published", "version 2 published", "version 3 published",
			"champion set to version 1: first",
			"champion moved from version 1 to 3: gains 0.01",
			"shadow set to version 2",
			"champion moved from version 3 to 1: rolled back",
			"shadow removed from version 2: done",
		}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	eachStore(t, func(t *testing.T, r, _ *Registry) {
		ctx := t.Context()
		check := func(err, want error, says string) {
			t.Helper()
			if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want %v saying %q", err, want, says)
			}
		}
		for _, spec := range []string{"fraud", "fraud@1", "fraud@latest"} {
			_, err := r.Get(ctx, spec)
			check(err, ErrNotFound, "no model fraud in the registry")
			check(err, ErrNotFound, "run retrain first")
		}
		if _, err := r.Publish(ctx, "fraud", newBundle(0)); err != nil {
			t.Fatal(err)
		}
		_, err := r.Resolve(ctx, "fraud")
		check(err, ErrNotFound, "fraud has no champion; promote one of its versions [1]")
		_, err = r.Resolve(ctx, "fraud@2")
		check(err, ErrNotFound, "no version 2, its versions are [1]")
		_, err = r.Resolve(ctx, "demand")
		check(err, ErrNotFound, "it holds fraud")
		_, err = r.History(ctx, "demand")
		check(err, ErrNotFound, "retrain")
		check(r.SetAlias(ctx, "fraud", Champion, 2, "", 0), ErrNotFound, "no version 2")
		check(r.SetAlias(ctx, "fraud", Champion, 1, "", 5), ErrConflict, "at version 0, not 5")
		for _, name := range []string{"", "../x", "a/b", ".", "a b", "-a", "a."} {
			if _, err := r.Publish(ctx, name, newBundle(0)); err == nil {
				t.Errorf("published %q", name)
			}
			if _, err := r.Resolve(ctx, name+"@1"); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("resolving %q: %v", name, err)
			}
		}
		for _, name := range []string{"", "7", "latest", "../x", "a/b"} {
			if err := r.SetAlias(ctx, "fraud", name, 1, "", Any); err == nil {
				t.Errorf("set alias %q", name)
			}
		}
		reader := &Registry{store: r.store}
		_, err = reader.Publish(ctx, "fraud", newBundle(0))
		check(err, ErrReadOnly, "reading only")
		check(reader.SetAlias(ctx, "fraud", Champion, 1, "", Any), ErrReadOnly, "reading only")
		// A bundle that can't be stored takes no number.
		broken := newBundle(0)
		broken.Fingerprint = ""
		if _, err := r.Publish(ctx, "fraud", broken); err == nil {
			t.Error("published a bundle without fingerprint")
		}
		if v, err := r.Publish(ctx, "fraud", newBundle(0)); v != 2 || err != nil {
			t.Errorf("published version %d, %v, want 2", v, err)
		}
	})
}

// TestKilledWriter leaves behind what a writer killed at each moment leaves.
func TestKilledWriter(t *testing.T) {
	eachStore(t, func(t *testing.T, r, _ *Registry) {
		ctx := t.Context()
		if _, err := r.Publish(ctx, "fraud", newBundle(0)); err != nil {
			t.Fatal(err)
		}
		err := errors.Join(
			r.store.create(ctx, "fraud/claims/"+recordName(2), []byte(`{"version":2}`)),
			r.store.create(ctx, "fraud/claims/"+recordName(3), []byte(`{"version":3}`)),
			r.store.create(ctx, "fraud/versions/3/model/bias.json", []byte(`{`)),
			r.store.create(ctx, "new/claims/"+recordName(1), []byte(`{"version":1}`)),
		)
		if err != nil {
			t.Fatal(err)
		}
		if r.store.dir != "" {
			// A temporary file whose writer died is not a record.
			name := filepath.Join(r.store.dir, "fraud", "claims", ".new-1.tmp")
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(name)
		}
		for _, spec := range []string{"fraud@2", "fraud@3"} {
			if _, err := r.Resolve(ctx, spec); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", spec, err)
			}
		}
		if ref, err := r.Resolve(ctx, "fraud@latest"); ref.Version != 1 || err != nil {
			t.Errorf("latest is %v, %v", ref, err)
		}
		list, err := r.List(ctx)
		if err != nil || len(list) != 1 || !slices.Equal(list[0].Versions, []int{1}) {
			t.Errorf("list is %+v, %v", list, err)
		}
		if events, err := r.History(ctx, "fraud"); len(events) != 1 || err != nil {
			t.Errorf("history is %v, %v", events, err)
		}
		if v, err := r.Publish(ctx, "fraud", newBundle(0)); v != 4 || err != nil {
			t.Errorf("published version %d, %v, want 4", v, err)
		}
		if v, err := r.Publish(ctx, "new", newBundle(0)); v != 2 || err != nil {
			t.Errorf("published version %d, %v, want 2", v, err)
		}
	})
}

func TestReplacedVersionIsRefused(t *testing.T) {
	eachStore(t, func(t *testing.T, r, _ *Registry) {
		ctx := t.Context()
		for i := range 2 {
			if _, err := r.Publish(ctx, "fraud", newBundle(float64(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.SetAlias(ctx, "fraud", Champion, 1, "", 0); err != nil {
			t.Fatal(err)
		}
		pinned, err := r.Resolve(ctx, "fraud")
		if err != nil {
			t.Fatal(err)
		}
		// Version 1 is written anew with other weights, whole and consistent.
		if err := r.store.Delete(ctx, "fraud/versions/1/manifest.json"); err != nil {
			t.Fatal(err)
		}
		other := newBundle(5)
		other.Name, other.Version = "fraud", 1
		if err := bundle.Write(ctx, r.store.Bucket, "fraud/versions/1", other); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Load(ctx, Ref{Name: "fraud", Version: 1}); err != nil {
			t.Errorf("without a digest: %v", err)
		}
		if _, err := r.Load(ctx, pinned); !errors.Is(err, bundle.ErrCorrupt) {
			t.Errorf("pinned: %v, want ErrCorrupt", err)
		}
		if _, err := r.Get(ctx, "fraud"); !errors.Is(err, bundle.ErrCorrupt) {
			t.Errorf("by alias: %v, want ErrCorrupt", err)
		}
		// Version 2's manifest copied to version 1's place.
		m, err := r.store.ReadAll(ctx, "fraud/versions/2/manifest.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.store.WriteAll(ctx, "fraud/versions/1/manifest.json", m, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(ctx, "fraud@1"); !errors.Is(err, bundle.ErrCorrupt) || !strings.Contains(err.Error(), "holds fraud version 2") {
			t.Errorf("misplaced: %v", err)
		}
	})
}

func TestConcurrentPublish(t *testing.T) {
	eachStore(t, func(t *testing.T, r, again *Registry) {
		const writers, each = 8, 4
		versions := make([][]int, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				from := []*Registry{r, again}[w%2]
				for i := range each {
					v, err := from.Publish(t.Context(), "fraud", newBundle(float64(w*each+i)))
					if err != nil {
						t.Error(err)
						return
					}
					versions[w] = append(versions[w], v)
				}
			})
		}
		wg.Wait()
		for w, list := range versions {
			for i, v := range list {
				// What the writer published is what the version holds.
				b, err := again.Load(t.Context(), Ref{Name: "fraud", Version: v})
				if err != nil {
					t.Error(err)
				} else if got := b.Model.(*toy).Bias; got != float64(w*each+i) {
					t.Errorf("version %d holds the bundle %v, want %d", v, got, w*each+i)
				}
			}
		}
		m, err := r.Model(t.Context(), "fraud")
		if err != nil || len(m.Versions) != writers*each {
			t.Errorf("%d versions, %v, want %d", len(m.Versions), err, writers*each)
		}
		all := slices.Sorted(slices.Values(slices.Concat(versions...)))
		if !slices.Equal(all, m.Versions) {
			t.Errorf("writers got %v", all)
		}
	})
}

func TestConcurrentAlias(t *testing.T) {
	eachStore(t, func(t *testing.T, r, again *Registry) {
		ctx := t.Context()
		const writers, rounds = 8, 20
		for i := range writers {
			if _, err := r.Publish(ctx, "fraud", newBundle(float64(i))); err != nil {
				t.Fatal(err)
			}
		}
		current := 0
		for round := range rounds {
			won := make([]bool, writers)
			var wg sync.WaitGroup
			start := make(chan struct{})
			for w := range writers {
				wg.Go(func() {
					<-start
					err := []*Registry{r, again}[w%2].SetAlias(ctx, "fraud", Champion, w+1, fmt.Sprint(round), current)
					won[w] = err == nil
					if err != nil && !errors.Is(err, ErrConflict) {
						t.Error(err)
					}
				})
			}
			close(start)
			wg.Wait()
			ref, err := again.Resolve(ctx, "fraud")
			if err != nil {
				t.Fatal(err)
			}
			// A move to where it already is leaves the others' expectation true, so more than one
			// may win then; elsewhere exactly one does.
			winners := 0
			for w, ok := range won {
				if ok && w+1 != current {
					winners++
				}
			}
			if winners > 1 || !won[ref.Version-1] {
				t.Fatalf("round %d: winners %v, alias at %d", round, won, ref.Version)
			}
			current = ref.Version
		}
		// Nothing is lost with Any: every move is in the history and follows the one before.
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for range 4 {
					if err := []*Registry{r, again}[w%2].SetAlias(ctx, "fraud", "shadow", w+1, "", Any); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		history, err := r.History(ctx, "fraud")
		if err != nil {
			t.Fatal(err)
		}
		moves, last := 0, 0
		for _, e := range history {
			if e.Alias == "shadow" {
				moves++
				if e.Previous != last {
					t.Errorf("move %d comes from version %d, want %d", moves, e.Previous, last)
				}
				last = e.Version
			}
		}
		if moves != writers*4 {
			t.Errorf("%d moves in the history, want %d", moves, writers*4)
		}
	})
}

func TestOpenURL(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for where, want := range map[string]string{
		"file://./a/b":                  "a/b",
		"file://" + dir + "/c":          "c",
		"d/e":                           "d/e",
		dir + "/f":                      "f",
		"file://localhost" + dir + "/g": "g",
	} {
		r, err := Open(t.Context(), where, nil)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, want)); err != nil || !info.IsDir() {
			t.Errorf("%s made no folder %s: %v", where, want, err)
		}
		if _, err := r.Resolve(t.Context(), "fraud"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v", where, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	for where, says := range map[string]string{
		"file://a/b":                "file://./a/b",
		"file://./a?create_dir=1":   "parameters",
		"":                          "empty",
		"nothere://x":               "nothere",
		"file://./\x00":             "opening registry",
		"file://" + dir + "/file/x": "not a directory",
	} {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := Open(t.Context(), where, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v %v, want an error saying %q", where, r, err, says)
		}
	}
	r, err := Open(t.Context(), "mem://", clock())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Publish(t.Context(), "fraud", newBundle(0)); v != 1 || err != nil {
		t.Errorf("published %d, %v", v, err)
	}
}

func TestCreateNeverReplaces(t *testing.T) {
	eachStore(t, func(t *testing.T, r, again *Registry) {
		if err := r.store.create(t.Context(), "a/b", []byte("first")); err != nil {
			t.Fatal(err)
		}
		if err := again.store.create(t.Context(), "a/b", []byte("second")); !errors.Is(err, errTaken) {
			t.Errorf("second create: %v, want errTaken", err)
		}
		if b, err := r.store.ReadAll(t.Context(), "a/b"); string(b) != "first" || err != nil {
			t.Errorf("holds %q, %v", b, err)
		}
	})
}

func TestHistoryKeepsTheOrderOfMoves(t *testing.T) {
	// Each writer's clock is an hour behind the one before.
	at := time.Date(2018, 8, 1, 12, 0, 0, 0, time.UTC)
	r := New(memblob.OpenBucket(nil), func() time.Time {
		at = at.Add(-time.Hour)
		return at
	})
	defer r.Close()
	if _, err := r.Publish(t.Context(), "fraud", newBundle(0)); err != nil {
		t.Fatal(err)
	}
	for i, version := range []int{1, 0, 1} {
		if err := r.SetAlias(t.Context(), "fraud", Champion, version, fmt.Sprint(i), Any); err != nil {
			t.Fatal(err)
		}
	}
	history, err := r.History(t.Context(), "fraud")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range history {
		if e.Alias != "" {
			got = append(got, e.Why)
		}
	}
	if !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("moves read as %v", got)
	}
}
