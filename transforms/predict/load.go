package predict

import (
	"context"
	"fmt"
	"sync"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/live"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

var (
	scorersMu sync.Mutex
	scorers   = map[string]func(context.Context) (models.Scorer, error){}

	cache     sync.Map // cacheKey -> *loading
	following sync.Map // *line -> nil, of those that have not been closed
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

// newLine loads what a model needs, and follows its aliases if it has any.
func newLine(ctx context.Context, m Model, run string) (*line, error) {
	l := &line{model: m, salt: saltOf(m.Name), champion: &lane{own: m.Threshold}}
	if m.Alias == "" {
		v, err := load(ctx, m)
		l.champion.newest = func() *live.Version { return v }
		return l, err
	}
	var err error
	l.champion.handle, err = follow(ctx, m, run, "serve", m.Alias, false)
	if m.Canary.Alias != "" && err == nil {
		l.canary = &lane{own: m.Threshold}
		l.canary.handle, err = follow(ctx, m, run, "canary", m.Canary.Alias, true)
	}
	if m.Shadow != "" && err == nil {
		l.shadow = &lane{}
		l.shadow.handle, err = follow(ctx, m, run, "shadow", m.Shadow, true)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	for _, lane := range l.lanes() {
		lane.newest = lane.handle.Acquire
	}
	following.Store(l, nil)
	return l, nil
}

func follow(ctx context.Context, m Model, run, role, alias string, optional bool) (*live.Handle, error) {
	return live.Open(ctx, live.Params{
		Registry: m.Registry, Name: m.Name, Alias: alias, Fingerprint: m.Fingerprint, Run: run, Optional: optional, Poll: m.Poll,
	}, &live.Options{Notify: report(role)})
}

// report tells telemetry of a lane's versions.
func report(role string) func(live.Event) {
	serves := false
	return func(e live.Event) {
		switch e.What {
		case live.Swapped:
			telemetry.Serving(role, fmt.Sprintf("%s@%d", e.Ref.Name, e.Ref.Version), e.At)
			if serves {
				telemetry.Swapped(e.Ref.Name)
			}
			serves = true
		case live.Refused:
			telemetry.Refused(e.Ref.Name)
		}
	}
}

func (l *line) lanes() []*lane {
	lanes := []*lane{l.champion}
	if l.canary != nil {
		lanes = append(lanes, l.canary)
	}
	if l.shadow != nil {
		lanes = append(lanes, l.shadow)
	}
	return lanes
}

// close gives up the aliases.
func (l *line) close() {
	following.Delete(l)
	others := false // in other instances
	following.Range(func(o, _ any) bool {
		others = o.(*line).model.Name == l.model.Name
		return !others
	})
	if !others {
		telemetry.Left(l.model.Name)
	}
	for _, lane := range l.lanes() {
		if lane.handle != nil {
			lane.handle.Close()
		}
	}
}

// loading is one version's place in the cache: a second instance waits for the first one's loading.
type loading struct{ get func() (*live.Version, error) }

type cacheKey struct {
	registry, name, digest, scorer string
	version                        int
}

// CleanUp ends the polling for all runs in this process, whose runner may not have torn them down. Call
// it when no job runs.
func CleanUp() {
	following.Range(func(l, _ any) bool {
		l.(*line).close()
		return true
	})
}

// load loads a pinned version, or a user's scorer, once a process.
func load(ctx context.Context, m Model) (*live.Version, error) {
	key := cacheKey{m.Registry, m.Name, m.Digest, m.Scorer, m.Version}
	place, _ := cache.LoadOrStore(key, &loading{sync.OnceValues(func() (*live.Version, error) { return open(ctx, m) })})
	v, err := place.(*loading).get()
	if err != nil {
		cache.CompareAndDelete(key, place) // the next attempt may find the registry back
	}
	return v, err
}

func open(ctx context.Context, m Model) (*live.Version, error) {
	if m.Scorer != "" {
		scorersMu.Lock()
		build, ok := scorers[m.Scorer]
		scorersMu.Unlock()
		if !ok {
			return nil, fmt.Errorf("no scorer %q: call predict.RegisterScorer from an init of this binary", m.Scorer)
		}
		sc, err := build(ctx)
		half := 0.5
		return &live.Version{Name: m.Name, Scorer: sc, Threshold: &half}, err
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
	return &live.Version{Name: m.Name, Number: m.Version, Digest: b.Digest, Scorer: b.Model, Threshold: b.Threshold}, nil
}
