package predict

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/registry"
)

// loaded is a scorer that is ready, as all DoFn instances of the process share it.
type loaded struct {
	name      string // name@version
	scorer    models.Scorer
	threshold float64
}

var (
	scorersMu sync.Mutex
	scorers   = map[string]func(context.Context) (models.Scorer, error){}

	cache sync.Map // cacheKey -> *loading
)

// RegisterScorer makes a scorer of the user's own known under a name, from init, so that every worker
// has it. open is called once a process; the scorer is shared.
func RegisterScorer(name string, open func(context.Context) (models.Scorer, error)) {
	scorersMu.Lock()
	defer scorersMu.Unlock()
	if _, ok := scorers[name]; ok {
		panic("predict: scorer " + name + " registered twice")
	}
	scorers[name] = open
}

// loading is one version's place in the cache: a second instance waits for the first one's loading.
type loading struct{ get func() (*loaded, error) }

type cacheKey struct {
	registry, name, digest, scorer string
	version                        int
}

func load(ctx context.Context, m Model) (*loaded, error) {
	key := cacheKey{m.Registry, m.Name, m.Digest, m.Scorer, m.Version}
	place, _ := cache.LoadOrStore(key, &loading{sync.OnceValues(func() (*loaded, error) { return open(ctx, m) })})
	l, err := place.(*loading).get()
	if err != nil {
		cache.CompareAndDelete(key, place) // the next attempt may find the registry back
		return nil, err
	}
	if m.Threshold != nil {
		own := *l
		own.threshold = *m.Threshold
		return &own, nil
	}
	return l, nil
}

func open(ctx context.Context, m Model) (*loaded, error) {
	if m.Scorer != "" {
		scorersMu.Lock()
		build, ok := scorers[m.Scorer]
		scorersMu.Unlock()
		if !ok {
			return nil, fmt.Errorf("no scorer %q: call predict.RegisterScorer from an init of this binary", m.Scorer)
		}
		sc, err := build(ctx)
		return &loaded{name: m.Name, scorer: sc, threshold: 0.5}, err
	}
	r, err := registry.Open(ctx, m.Registry, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	ref := fmt.Sprintf("%s@%d", m.Name, m.Version)
	b, err := r.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if m.Digest != "" && b.Digest != m.Digest {
		return nil, fmt.Errorf("%s has digest %.12s, the graph was submitted for %.12s: submit it again", ref, b.Digest, m.Digest)
	}
	if m.Fingerprint != "" {
		if err := b.CheckFingerprint(m.Fingerprint); err != nil {
			return nil, err
		}
	}
	l := &loaded{name: ref, scorer: b.Model, threshold: math.Inf(1)}
	if b.Threshold != nil {
		l.threshold = *b.Threshold
	}
	return l, nil
}
