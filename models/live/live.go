package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/registry"
)

// Params say what to follow. Handles with equal ones share a poller.
type Params struct {
	// Registry is the address of the registry, Name the model's, Alias one of its aliases.
	Registry, Name, Alias string
	// Fingerprint is that of the features that will be scored; a bundle with another one is refused.
	// Empty means: not compared.
	Fingerprint string
	// Run sets apart those who must not share a poller, such as two runs of a graph in a process.
	Run string
	// Optional says that there need not be a version: none is loaded yet, or the alias was removed.
	Optional bool
	// Poll is the time between two looks at the alias, more or less a quarter; the default is 10 s.
	Poll time.Duration
}

// Validate reports all that is wrong with p.
func (p Params) Validate() error {
	var errs []error
	for _, f := range []struct{ name, value string }{{"registry", p.Registry}, {"name", p.Name}, {"alias", p.Alias}} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s: missing", f.name))
		}
	}
	if p.Poll < 0 {
		errs = append(errs, fmt.Errorf("poll: %v is negative", p.Poll))
	}
	return errors.Join(errs...)
}

// Options are for those who watch, and for tests. Those of the first of several handles count.
type Options struct {
	// After waits; the default is time.After. The time that it sends is the time of what follows.
	After func(time.Duration) <-chan time.Time
	// Rand returns numbers in [0, 1) that spread the polls; the default is seeded at random.
	Rand func() float64
	// Log is told of swaps, refusals and failures; the default is slog.Default.
	Log *slog.Logger
	// Notify, if not nil, is called for each event, one at a time, by the poller: it must not block.
	Notify func(Event)
}

// What names a kind of event.
type What string

const (
	// Swapped: Ref is current now, the first version included.
	Swapped What = "swapped"
	// Refused: Ref is not fit to serve because of Err.
	Refused What = "refused"
	// Removed: the alias points nowhere. What is current goes on serving, unless it is optional.
	Removed What = "removed"
	// Unreachable: a poll failed with Err, for a reason that may pass.
	Unreachable What = "unreachable"
	// Reachable: the first poll that succeeded after some had failed.
	Reachable What = "reachable"
)

// Event is what a poller tells.
type Event struct {
	What What
	Ref  registry.Ref
	Err  error
	At   time.Time
}

// Version is a version that is loaded, checked and warm. It is immutable, and its Scorer is safe for
// concurrent use.
type Version struct {
	Name   string
	Number int
	Digest string
	Scorer models.Scorer
	// Threshold is the bundle's; nil if it has none.
	Threshold *float64
	// Alias is the one under which it was loaded, LoadedAt when.
	Alias    string
	LoadedAt time.Time
}

// String is name@number, or the name alone without a number.
func (v *Version) String() string {
	if v.Number == 0 {
		return v.Name
	}
	return v.Name + "@" + strconv.Itoa(v.Number)
}

// Counts are numbers of events.
type Counts struct{ Swapped, Refused, Unreachable int64 }

// Handle is one user's hold on a poller. It is safe for concurrent use.
type Handle struct {
	f     *follower
	close func()
}

// Open loads the version to which the alias points, unless a poller has it already, and follows the
// alias until the handle is closed. ctx bounds the loading alone. o may be nil.
func Open(ctx context.Context, p Params, o *Options) (*Handle, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("following a model: %w", err)
	}
	f := join(p, o)
	if err := f.start(ctx); err != nil {
		f.leave()
		return nil, fmt.Errorf("following %s@%s: %w", p.Name, p.Alias, err)
	}
	return &Handle{f, sync.OnceFunc(f.leave)}, nil
}

// Acquire returns the current version, without waiting; nil only if it is optional and there is none.
// Keep it for a batch and acquire again: it stays valid for as long as it is kept, and in memory too.
func (h *Handle) Acquire() *Version {
	if !h.f.used.Load() { // not stored each time, so that cores don't fight for its cache line
		h.f.used.Store(true)
	}
	if h.f.asleep.Load() {
		h.f.wake()
	}
	return h.f.current.Load()
}

// Take returns how many events there were since any handle of the poller took them last: of several
// takers each event reaches one.
func (h *Handle) Take() Counts {
	return Counts{h.f.swapped.Swap(0), h.f.refused.Swap(0), h.f.unreachable.Swap(0)}
}

// Close gives the handle up. The last one to do so ends the poller and waits for its end. It may be
// called again; Acquire then still returns the last version.
func (h *Handle) Close() { h.close() }
