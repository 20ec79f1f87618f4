package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
)

// toy is a model of one weight.
type toy struct {
	Weight float32 `json:"weight"`
}

func init() {
	models.Register(models.Kind{Name: "conformance-toy", Load: func(files models.Files) (models.Model, error) {
		t := &toy{}
		if err := json.Unmarshal(files["toy.json"], t); err != nil {
			return nil, fmt.Errorf("toy.json: %w", models.ErrFiles)
		}
		return t, nil
	}})
}

func (t *toy) Kind() string             { return "conformance-toy" }
func (t *toy) Inputs() []models.Feature { return []models.Feature{{Name: "x", Type: models.Number}} }
func (t *toy) Outputs() []string        { return []string{"score"} }

func (t *toy) Files() (models.Files, error) {
	b, err := json.Marshal(t)
	return models.Files{"toy.json": b}, err
}

func (t *toy) Score(_ context.Context, x []float32, rows int, out []float32) error {
	if err := models.CheckShape(1, 1, x, rows, out); err != nil {
		return err
	}
	for i := range rows {
		out[i] = t.Weight * x[i]
	}
	return nil
}

func newBundle(weight float32) *bundle.Bundle {
	return &bundle.Bundle{Manifest: bundle.Manifest{Fingerprint: "f"}, Model: &toy{weight}, Golden: []float32{0, 1, 2}}
}

// shelf is a registry's store of its own for a case.
type shelf struct {
	// open opens the registry, each time as another process would.
	open func() (*registry.Registry, error)
	// bucket is the store itself, for faults.
	bucket *blob.Bucket
}

// shelves makes registries in buckets.
func shelves(bucket func(t *testing.T, name string) (bucket, query string)) func(*testing.T, string) shelf {
	return func(t *testing.T, name string) shelf {
		address, query := bucket(t, name)
		b, err := blob.OpenBucket(t.Context(), address+query)
		if err != nil {
			t.Fatal(err)
		}
		return shelf{opens(t, address+"/models"+query), blob.PrefixedBucket(b, "models/")}
	}
}

func opens(t *testing.T, url string) func() (*registry.Registry, error) {
	return func() (*registry.Registry, error) {
		return registry.Open(context.WithoutCancel(t.Context()), url, clock())
	}
}

// clock ticks a second a reading.
func clock() func() time.Time {
	var mu sync.Mutex
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Second)
		return at
	}
}

func testRegistry(t *testing.T, shelf func(t *testing.T, name string) shelf) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *registry.Registry, *registry.Registry, *blob.Bucket)
	}{
		{"Publish", registryPublish}, {"Writers", registryWriters}, {"Aliases", registryAliases},
		{"Rollback", registryRollback}, {"Follow", registryFollow}, {"Corrupt", registryCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shelf(t, strings.ToLower("registry-"+c.name))
			r, err1 := s.open()
			again, err2 := s.open()
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			c.run(t, r, again, s.bucket)
		})
	}
}

func publish(t *testing.T, r *registry.Registry, n int) {
	t.Helper()
	for i := range n {
		if v, err := r.Publish(t.Context(), "fraud", newBundle(float32(i+1))); err != nil || v != i+1 {
			t.Fatalf("published version %d, %v, want %d", v, err, i+1)
		}
	}
}

// registryPublish: what one publishes another loads, by version, alias and latest.
func registryPublish(t *testing.T, r, again *registry.Registry, _ *blob.Bucket) {
	ctx := t.Context()
	if list, err := again.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("an empty registry lists %v, %v", list, err)
	}
	if _, err := again.Get(ctx, "fraud"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("of an empty registry: %v", err)
	}
	publish(t, r, 3)
	if err := r.SetAlias(ctx, "fraud", registry.Champion, 2, "good", 0); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]int{"fraud": 2, "fraud@champion": 2, "fraud@1": 1, "fraud@latest": 3} {
		b, err := again.Get(ctx, spec)
		if err != nil || b.Version != want || b.Model.(*toy).Weight != float32(want) {
			t.Errorf("%s gives %+v, %v, want version %d", spec, b, err, want)
		}
	}
	if _, err := again.Get(ctx, "fraud@4"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a version that isn't there: %v", err)
	}
	list, err := again.List(ctx)
	if err != nil || len(list) != 1 || !slices.Equal(list[0].Versions, []int{1, 2, 3}) || list[0].Aliases[registry.Champion] != 2 {
		t.Errorf("list %+v, %v", list, err)
	}
}

// registryWriters: writers side by side get a version each, and lose none.
func registryWriters(t *testing.T, r, again *registry.Registry, _ *blob.Bucket) {
	const writers, each = 4, 3
	var mu sync.Mutex
	wrote := map[int]float32{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				weight := float32(1 + w*each + i)
				v, err := []*registry.Registry{r, again}[w%2].Publish(t.Context(), "fraud", newBundle(weight))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if wrote[v] != 0 {
					t.Errorf("version %d was given twice", v)
				}
				wrote[v] = weight
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for v, weight := range wrote {
		if b, err := again.Load(t.Context(), registry.Ref{Name: "fraud", Version: v}); err != nil || b.Model.(*toy).Weight != weight {
			t.Errorf("version %d holds %+v, %v, want %v", v, b, err, weight)
		}
	}
	if len(wrote) != writers*each {
		t.Errorf("%d versions, want %d", len(wrote), writers*each)
	}
}

// registryAliases: of writers that move an alias from the same place one wins, and the others learn of it.
func registryAliases(t *testing.T, r, again *registry.Registry, _ *blob.Bucket) {
	ctx := t.Context()
	const writers, rounds = 4, 5
	publish(t, r, writers*rounds)
	current := 0
	for round := range rounds {
		won := make([]bool, writers)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for w := range writers {
			wg.Go(func() {
				<-start
				err := []*registry.Registry{r, again}[w%2].SetAlias(ctx, "fraud", registry.Champion, 1+round*writers+w, "", current)
				if won[w] = err == nil; err != nil && !errors.Is(err, registry.ErrConflict) {
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
		for w, ok := range won {
			if ok != (ref.Version == 1+round*writers+w) {
				t.Fatalf("round %d: won %v, and the alias is at %d", round, won, ref.Version)
			}
		}
		current = ref.Version
	}
	history, err := r.History(ctx, "fraud")
	moves, last := 0, 0
	for _, e := range history {
		if e.Alias != "" {
			if moves++; e.Previous != last {
				t.Errorf("move %d comes from %d, want %d", moves, e.Previous, last)
			}
			last = e.Version
		}
	}
	if err != nil || moves != rounds {
		t.Errorf("%d moves in the history, %v, want %d", moves, err, rounds)
	}
}

// registryRollback: rollbacks go back the way the alias came, and the trail says which.
func registryRollback(t *testing.T, r, again *registry.Registry, _ *blob.Bucket) {
	ctx := t.Context()
	publish(t, r, 3)
	for _, v := range []int{1, 2, 3} {
		if err := r.As("alice").SetAlias(ctx, "fraud", registry.Champion, v, "", registry.Any); err != nil {
			t.Fatal(err)
		}
	}
	if trail, err := again.Trail(ctx, "fraud", registry.Champion); err != nil || fmt.Sprint(trail) != "[fraud@3 fraud@2 fraud@1]" {
		t.Errorf("trail %v, %v", trail, err)
	}
	for _, want := range []int{2, 1} {
		if e, err := again.As("bob").Rollback(ctx, "fraud", registry.Champion, "bad"); err != nil || e.Version != want || !e.Rollback || e.Who != "bob" {
			t.Fatalf("rolled back: %+v, %v, want version %d", e, err, want)
		}
		if ref, err := r.Resolve(ctx, "fraud"); err != nil || ref.Version != want {
			t.Errorf("the champion is %v, %v", ref, err)
		}
	}
	if _, err := r.Rollback(ctx, "fraud", registry.Champion, ""); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("beyond the first: %v", err)
	}
}

// registryFollow: one who follows an alias sees its moves, and nothing while there is none.
func registryFollow(t *testing.T, r, again *registry.Registry, _ *blob.Bucket) {
	ctx := t.Context()
	publish(t, r, 2)
	seen := 0
	for i, step := range []struct{ set, version int }{{-1, 0}, {1, 1}, {-1, 0}, {2, 2}, {1, 1}, {0, 0}} {
		if step.set >= 0 {
			if err := r.SetAlias(ctx, "fraud", "canary", step.set, "", registry.Any); err != nil {
				t.Fatal(err)
			}
		}
		ref, now, err := again.Follow(ctx, "fraud", "canary", seen)
		if err != nil || ref.Version != step.version || (now > seen) != (step.set >= 0) {
			t.Fatalf("step %d: %v, move %d after %d, %v", i, ref, now, seen, err)
		}
		seen = now
	}
}

// registryCorrupt: a version of which a byte has changed is refused, and the others go on.
func registryCorrupt(t *testing.T, r, again *registry.Registry, bucket *blob.Bucket) {
	ctx := t.Context()
	publish(t, r, 2)
	var key string
	for it := bucket.List(&blob.ListOptions{Prefix: "fraud/versions/1/"}); ; {
		o, err := it.Next(ctx)
		if err != nil {
			break
		}
		if strings.HasSuffix(o.Key, "toy.json") {
			key = o.Key
		}
	}
	text, err := bucket.ReadAll(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.WriteAll(ctx, key, []byte(strings.Replace(string(text), "1", "7", 1)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Get(ctx, "fraud@1"); !errors.Is(err, bundle.ErrCorrupt) {
		t.Errorf("a changed weight: %v", err)
	}
	if _, err := again.Get(ctx, "fraud@2"); err != nil {
		t.Errorf("the other version: %v", err)
	}
	if err := bucket.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Get(ctx, "fraud@1"); err == nil {
		t.Error("a version without its weights is loaded")
	}
}
