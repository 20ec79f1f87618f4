package live

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
)

const (
	defaultPoll = 10 * time.Second
	// idlePolls is after how many polls that nobody asked for the poller ends.
	idlePolls = 360
	// askWithin and loadWithin bound the requests of a poll, so that a store that hangs is reported.
	askWithin  = 30 * time.Second
	loadWithin = 10 * time.Minute
	// warmRows is about a batch.
	warmRows = 1024
)

var (
	followersMu sync.Mutex
	followers   = map[Params]*follower{}
)

// follower is the poller behind handles. No lock is taken while another is held, but for the locks of
// what is called.
type follower struct {
	Params
	Options
	current atomic.Pointer[Version]
	used    atomic.Bool // somebody acquired since the last poll
	asleep  atomic.Bool // it ended because nobody did

	swapped, refused, unreachable atomic.Int64

	refs int // guarded by followersMu

	mu   sync.Mutex // guards what follows
	stop func()     // ends the polling and waits for it; nil before the first
	left bool       // the last handle was closed

	// These belong to the goroutine that polls, and to start while there is none.
	reg     *registry.Registry
	seen    int // number of the alias's last move that was dealt with
	failing bool
}

// join finds or makes the follower for p and counts the caller in.
func join(p Params, o *Options) *follower {
	if p.Poll == 0 {
		p.Poll = defaultPoll
	}
	followersMu.Lock()
	defer followersMu.Unlock()
	f := followers[p]
	if f == nil {
		f = &follower{Params: p}
		if o != nil {
			f.Options = *o
		}
		f.setDefaults()
		followers[p] = f
	}
	f.refs++
	return f
}

func (f *follower) setDefaults() {
	if f.After == nil {
		f.After = time.After
	}
	if f.Rand == nil {
		var seed [32]byte
		_, _ = crand.Read(seed[:]) // never fails
		f.Rand = rand.New(rand.NewChaCha8(seed)).Float64
	}
	if f.Log == nil {
		f.Log = slog.Default()
	}
}

// leave counts the caller out; the last one ends the polling.
func (f *follower) leave() {
	followersMu.Lock()
	f.refs--
	last := f.refs == 0
	if last { // at once, so that nobody joins one that is about to end
		f.forget()
	}
	followersMu.Unlock()
	if !last {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = true
	if f.stop != nil {
		f.stop()
	}
	f.disconnect()
}

// forget lets those who come make a follower of their own. The caller holds followersMu.
func (f *follower) forget() {
	if followers[f.Params] == f {
		delete(followers, f.Params)
	}
}

func (f *follower) disconnect() {
	if f.reg != nil {
		_ = f.reg.Close() // it was only read from
		f.reg = nil
	}
}

// start loads the first version and begins to poll, unless that was done. Those who come meanwhile wait.
func (f *follower) start(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		return nil
	}
	select {
	case at := <-f.After(0):
		if err := f.follow(ctx, at); err != nil {
			if !f.Optional || ctx.Err() != nil {
				f.disconnect()
				return err
			}
			f.failed(err, at)
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	f.poll(f.pause())
	return nil
}

// wake polls again after a sleep.
func (f *follower) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.left && f.asleep.CompareAndSwap(true, false) {
		f.stop() // it has ended, or is about to
		f.poll(0)
	}
}

// poll looks at the alias after wait, and then again and again. The caller holds mu.
func (f *follower) poll(wait time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	f.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for idle := 0; idle < idlePolls; idle++ {
			select {
			case <-ctx.Done():
				return
			case at := <-f.After(wait):
				f.look(ctx, at)
			}
			if f.used.Swap(false) {
				idle = 0
			}
			wait = f.pause()
		}
		// Who acquires before this sees nobody asleep, and the version that was served last. Who
		// acquires after it wakes the follower. So nobody polls only while nobody acquires.
		f.disconnect()
		followersMu.Lock()
		f.forget()
		followersMu.Unlock()
		f.asleep.Store(true)
	}()
}

// pause is the time to the next poll: a quarter around Poll.
func (f *follower) pause() time.Duration {
	return time.Duration(float64(f.Poll) * (0.75 + f.Rand()/2))
}

// look follows the alias, and reports if that fails; the next look tries again.
func (f *follower) look(ctx context.Context, at time.Time) {
	err := f.follow(ctx, at)
	switch {
	case ctx.Err() != nil: // closed meanwhile
	case err != nil:
		f.failed(err, at)
	case f.failing:
		f.failing = false
		f.tell(slog.LevelInfo, "registry is within reach again", Event{What: Reachable, At: at})
	}
}

func (f *follower) failed(err error, at time.Time) {
	level := slog.LevelWarn
	if f.failing {
		level = slog.LevelDebug // it was said
	}
	f.failing = true
	f.unreachable.Add(1)
	f.tell(level, "following a model failed: what is loaded serves on", Event{What: Unreachable, Err: err, At: at})
}

// follow asks where the alias is and serves that version. An error may pass, or leaves nothing to serve.
func (f *follower) follow(ctx context.Context, at time.Time) error {
	if f.reg == nil {
		reg, err := registry.Open(ctx, f.Registry, nil)
		if err != nil {
			return err
		}
		f.reg = reg
	}
	asking, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	ref, seen, err := f.reg.Follow(asking, f.Name, f.Alias, f.seen)
	if err != nil {
		return err
	}
	current := f.current.Load()
	switch {
	case current == nil && ref.Version == 0 && !f.Optional:
		_, err := f.reg.Resolve(asking, f.Name+"@"+f.Alias) // knows what to say
		return err
	case seen == f.seen:
		return nil
	case ref.Version == 0:
		f.seen = seen
		if f.Optional {
			f.current.Store(nil)
		}
		if current != nil {
			f.tell(slog.LevelWarn, "alias was removed", Event{What: Removed, Ref: refOf(current), At: at})
		}
		return nil
	case current != nil && current.Digest == ref.Digest && current.Number == ref.Version:
		f.seen = seen
		return nil
	}
	if err := f.swap(ctx, ref, at); err != nil {
		if !final(err) {
			return err
		}
		if current == nil && !f.Optional {
			if err := f.goBack(ctx, ref, at, err); err != nil {
				return err
			}
		}
	}
	f.seen = seen
	return nil
}

// goBack serves the last good version before bad, which was refused.
func (f *follower) goBack(ctx context.Context, bad registry.Ref, at time.Time, refusal error) error {
	trail, err := f.reg.Trail(ctx, f.Name, f.Alias)
	if err != nil {
		return errors.Join(refusal, err)
	}
	tried := map[registry.Ref]bool{bad: true}
	for _, ref := range trail {
		if tried[ref] {
			continue
		}
		tried[ref] = true
		err := f.swap(ctx, ref, at)
		if err == nil {
			return nil
		}
		refusal = errors.Join(refusal, err)
		if !final(err) {
			break
		}
	}
	return refusal
}

// swap makes a version the current one once it has proved good. A version that is refused is reported.
func (f *follower) swap(ctx context.Context, ref registry.Ref, at time.Time) error {
	loading, cancel := context.WithTimeout(ctx, loadWithin)
	defer cancel()
	v, err := f.load(loading, ref, at)
	if err != nil {
		if final(err) {
			f.refused.Add(1)
			f.tell(slog.LevelError, "model refused", Event{What: Refused, Ref: ref, Err: err, At: at})
		}
		return err
	}
	f.current.Store(v)
	f.swapped.Add(1)
	f.tell(slog.LevelInfo, "model swapped in", Event{What: Swapped, Ref: ref, At: at})
	return nil
}

// errPanic reports a kind that does not survive a bundle.
var errPanic = errors.New("loading panicked")

func (f *follower) load(ctx context.Context, ref registry.Ref, at time.Time) (v *Version, err error) {
	// A panic would end the process, which has a good version to serve.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("loading %s: %w: %v", ref, errPanic, p)
		}
	}()
	b, err := f.reg.Load(ctx, ref)
	if err != nil {
		return nil, err
	}
	if f.Fingerprint != "" {
		if err := b.CheckFingerprint(f.Fingerprint); err != nil {
			return nil, err
		}
	}
	if err := warm(ctx, b); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, fmt.Errorf("scoring with %s once: %w: %w", ref, err, bundle.ErrCorrupt)
	}
	return &Version{
		Name: ref.Name, Number: ref.Version, Digest: b.Digest, Scorer: b.Model, Threshold: b.Threshold,
		Alias: f.Alias, LoadedAt: at,
	}, nil
}

// warm scores a batch of golden rows, so that the first real one finds memory and caches in place.
func warm(ctx context.Context, b *bundle.Bundle) error {
	width := len(b.Features)
	var x []float32
	for len(x) < warmRows*width {
		x = append(x, b.Golden...)
	}
	rows := len(x) / width
	return b.Model.Score(ctx, x, rows, make([]float32, rows*len(b.Outputs)))
}

// final reports that trying again would find the same.
func final(err error) bool {
	for _, reason := range []error{bundle.ErrCorrupt, bundle.ErrForeign, bundle.ErrFingerprint, models.ErrUnknownKind, models.ErrFiles, models.ErrShape, errPanic} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

func refOf(v *Version) registry.Ref {
	return registry.Ref{Name: v.Name, Version: v.Number, Digest: v.Digest}
}

func (f *follower) tell(level slog.Level, message string, e Event) {
	attrs := []slog.Attr{slog.String("model", f.Name), slog.String("alias", f.Alias)}
	if e.Ref.Version > 0 {
		attrs = append(attrs, slog.Int("version", e.Ref.Version))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.Any("error", e.Err))
	}
	f.Log.LogAttrs(context.Background(), level, message, attrs...)
	if f.Notify != nil {
		f.Notify(e)
	}
}
