package feature

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
)

// ErrParams reports Params that make no graph.
var ErrParams = errors.New("unusable features")

// Params says which features to compute. It is plain data and travels inside DoFns as JSON.
type Params struct {
	// Features are computed in order; each may use the fields and every feature above it.
	Features []Feature
	// Fields, ID and Time are the schema of the incoming batches; both roles must be given.
	Fields   []event.Field
	ID, Time string
	// Label is the field that holds what models predict, or empty. An aggregate over it counts a row
	// only from LabelDelay after the row's own time, when the label is known.
	Label      string
	LabelDelay time.Duration
	// Labels, if not nil, says that labels come as events of their own; Label is then a field of theirs, and
	// LabelDelay 0.
	Labels *Labels
	// Keep are the fields needed downstream beside id, time and the features, which always stay and
	// may be named too; empty: all.
	Keep []string
	// Shards is into how many parts the entities are split; 0: 16, in streams 8. Results don't depend on it.
	Shards int
	// Local says that all workers share SpillDir's disk and that the runner copies what it shuffles, as
	// Prism does: every batch then goes through a file at once, and the runner moves references alone.
	// It changes the speed and never the result.
	Local bool
	// Memory is how many bytes the shuffles may hold before batches go to files in SpillDir; 0: 1 GiB.
	// SpillDir must be seen by all workers; empty: the system's folder for temporary files, which is
	// right for runners inside this process.
	Memory   int64
	SpillDir string
	// Stream, if not nil, makes Compute work without an end to its input. Shards is then 8 by default
	// and fixed for the life of the state; Local, Memory and SpillDir have no effect.
	Stream *Stream
}

// Labels are the schema of labels that come as events of their own. A label carries the id and the time of
// the event that it is of, and the event's entities, under the names that they have in events.
type Labels struct {
	Fields []event.Field
	// Time is the field that says when the label became known: an aggregate at the time t counts a row whose
	// label was known by t.
	Time string
	// ID is the field that identifies the label itself. Of an event's labels the last by (Time, ID) as of t
	// holds; a null one takes back those before it. Empty: they have none.
	ID string
}

// Orders of a stream.
const (
	// Arrival scores a batch at once, with all that its shard has finished before it.
	Arrival = "arrival"
	// EventTime lets rows wait until the watermark has passed them: the features are those of a bounded
	// run over the same events, to the bit.
	EventTime = "event_time"
)

// Stream makes Compute work without an end to its input.
type Stream struct {
	// Order is Arrival (default) or EventTime.
	Order string
	// Lateness is how far behind the newest event rows may come; the source decides who is late.
	Lateness time.Duration
	// Run names the run: caches belong to it. Compute makes one up if empty.
	Run string
	// KeyGroups is how many groups of keys the runner spreads over its subtasks, Flink's max_parallelism;
	// 0: 128. Shards are placed evenly for it.
	KeyGroups int
	// Fresh, if not empty, names a Bool field that is false in rows that were replayed: in the order
	// EventTime they may come behind the watermark, and see their windows as far as rows are kept.
	Fresh string
}

// Feature is either a derived column (Expr) or aggregates over windows of an Entity's events.
type Feature struct {
	// Name is the column of a derived feature.
	Name string
	// Expr is its expression.
	Expr string

	// Entity is the field whose values windows are kept by. Where it is null the features are null.
	Entity string
	// Windows are computed for each aggregate: columns <aggregate>_<window>.
	Windows []Window
	// Delay moves the windows back: (t-Delay-w, t-Delay].
	Delay time.Duration
	// Resolution rounds the windows' tails to panes of that length; 0: exact. Only 0 works yet.
	Resolution time.Duration
	// ExcludeCurrent leaves the event itself out of windows that reach up to it.
	ExcludeCurrent bool
	Aggregates     []Aggregate
}

// Window is how far back events count. Exactly one field is set.
type Window struct {
	// Duration is the length of (t-Duration, t].
	Duration time.Duration
	// Last is a number of events of the entity; those that a Where leaves out are among them.
	Last int
	// All is everything since the first event.
	All bool
	// Session is the longest gap between events that belong together, up to the current one.
	Session time.Duration
}

// Aggregate is a function of the rows in a window; package aggregate lists them.
type Aggregate struct {
	Name string
	// Func is the function: count, sum, mean, min, max, var, std, first, last, range, distinct, quantile,
	// top_k, time_since_last, slope, ewma or sequence.
	Func string
	// Arg is an expression; rows where it is null don't count. count and time_since_last need none.
	Arg string
	// Args are the function's constants: quantile's p in [0,1] (required), ewma's half-life in seconds
	// (required), the k of top_k (10) and of sequence (100).
	Args []float64
	// Where is a condition; rows where it is false or null don't count.
	Where string
	// Empty stands for null over a window in which no row counts. Count is 0 there, and lists are null.
	Empty *float64
}

// ParseWindow reads a window: a duration ("30d", "90m", "1h30m"; units d, h, m, s, ms), a number of
// events ("5n"), "all", or a session ("session:30m").
func ParseWindow(s string) (Window, error) {
	if s == "all" {
		return Window{All: true}, nil
	}
	if n, ok := strings.CutSuffix(s, "n"); ok {
		last, err := strconv.Atoi(n)
		if err != nil || last <= 0 {
			return Window{}, fmt.Errorf("%w: window %q: a number of events is written like 5n", ErrParams, s)
		}
		return Window{Last: last}, nil
	}
	gap, isSession := strings.CutPrefix(s, "session:")
	d, err := parseDuration(gap)
	if err != nil {
		return Window{}, fmt.Errorf("%w: window %q: write a duration (1d, 30m), a number of events (5n), all or session:30m", ErrParams, s)
	}
	if isSession {
		return Window{Session: d}, nil
	}
	return Window{Duration: d}, nil
}

func parseDuration(s string) (time.Duration, error) {
	days, rest := time.Duration(0), s
	if before, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseInt(before, 10, 32)
		if err != nil {
			return 0, err
		}
		days, rest = time.Duration(n)*24*time.Hour, after
	}
	d := time.Duration(0)
	if rest != "" || days == 0 {
		var err error
		if d, err = time.ParseDuration(rest); err != nil {
			return 0, err
		}
	}
	if d += days; d <= 0 {
		return 0, errors.New("not positive")
	}
	return d, nil
}

// String is the window in the form that ParseWindow reads and that column names end in, except that
// a session is "session30m" there.
func (w Window) String() string {
	switch {
	case w.All:
		return "all"
	case w.Last > 0:
		return strconv.Itoa(w.Last) + "n"
	case w.Session > 0:
		return "session:" + formatDuration(w.Session)
	}
	return formatDuration(w.Duration)
}

func (w Window) suffix() string { return strings.ReplaceAll(w.String(), ":", "") }

func formatDuration(d time.Duration) string {
	var b strings.Builder
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}, {1, "ns"}} {
		if n := d / u.d; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d %= u.d
		}
	}
	return b.String()
}

// Validate reports all faults, joined.
func (p Params) Validate() error {
	_, err := compile(p)
	return err
}

// Output is the schema of the batches that Compute gives: the fields kept, then the features.
func (p Params) Output() (*event.Schema, error) {
	c, err := compile(p)
	if err != nil {
		return nil, err
	}
	return c.output, nil
}

// Names are the feature columns, in order. They are right for valid Params only.
func (p Params) Names() []string {
	var names []string
	for _, f := range p.Features {
		if f.Entity == "" {
			names = append(names, f.Name)
			continue
		}
		for _, a := range f.Aggregates {
			for _, w := range f.Windows {
				names = append(names, a.Name+"_"+w.suffix())
			}
		}
	}
	return names
}

// Fingerprint identifies what the features mean, not how they are written or in which order: two Params
// of equal fingerprints give columns of the same names the same values. It is empty for Params that
// aren't valid.
func (p Params) Fingerprint() string {
	c, err := compile(p)
	if err != nil {
		return ""
	}
	lines := slices.Clone(c.meaning)
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:8])
}
