package source

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// Stream says how logs are read that have no end. It is plain data.
type Stream struct {
	// Run names the run: open connections belong to it, and [Drain] and [CleanUp] end them by it.
	Run string
	// Lateness is how far events may come behind the newest of their partition. The watermark follows
	// that far behind; what comes behind the watermark is a dead letter of class late. Default 0.
	Lateness time.Duration
	// Alignment is how far a partition may be ahead of the slowest that has records waiting, in event
	// time, before it has to wait. Default a minute, or Lateness if that is more.
	Alignment time.Duration
	// Idle is after how long without records a partition holds back the watermark no more; what it
	// then brings may be late. When all are idle the watermark follows the newest event of any.
	// 0: never, which is right where history is read.
	Idle time.Duration
	// Linger is for how long, at the most, a call gathers rows before they go on: fewer and larger
	// batches for more latency. Default 10 ms.
	Linger time.Duration
	// Groups is over how many readers the partitions spread. Each has a watermark of its own, and one
	// without a partition holds back all: see [Spread]. It is fixed for the life of the state. Default 1,
	// which Prism needs: it mixes up the watermarks of several.
	Groups int
	// KeyGroups is how many groups of keys the runner spreads over its subtasks, Flink's max_parallelism; 0: 128. With
	// another number readers may share a subtask.
	KeyGroups int
	// Credit is how many rows may be under way in this process before reading waits; 0: any number.
	// It needs package inflight to count them out.
	Credit int
	// Waits says that rows stay where they are until the watermark has passed them: those take no credit, since
	// only reading moves it.
	Waits bool
	// Native are the URNs of the transforms by which the runner itself reads; see package source on what then
	// is different.
	Native []string
	// Models is how many models score each event, Sinks how many sinks take each score: a source that is told
	// what has landed counts them. Default 1.
	Models, Sinks int
	// Until ends reading at a time of the wall clock, IdleTimeout after so long without a record of any
	// partition. The zero values mean never.
	Until       time.Time
	IdleTimeout time.Duration
	// Refresh is how often partitions are listed anew. Default 10 s.
	Refresh time.Duration
}

const (
	defaultAlignment = time.Minute
	defaultLinger    = 10 * time.Millisecond
	defaultRefresh   = 10 * time.Second
)

func (s Stream) withDefaults() Stream {
	s.Alignment = cmp.Or(s.Alignment, max(defaultAlignment, s.Lateness))
	s.Linger = cmp.Or(s.Linger, defaultLinger)
	s.Groups = cmp.Or(s.Groups, 1)
	s.Refresh = cmp.Or(s.Refresh, defaultRefresh)
	s.Models, s.Sinks = cmp.Or(s.Models, 1), cmp.Or(s.Sinks, 1)
	return s
}

func (s Stream) validate(p Params) error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"lateness": s.Lateness, "alignment": s.Alignment, "idle": s.Idle, "linger": s.Linger, "idle timeout": s.IdleTimeout, "refresh": s.Refresh,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("source: %s of %v", name, d))
		}
	}
	if s.Run == "" {
		errs = append(errs, errors.New("source: a stream needs the name of its run"))
	}
	if s.Models < 0 || s.Sinks < 0 {
		errs = append(errs, fmt.Errorf("source: %d models, %d sinks", s.Models, s.Sinks))
	}
	if s.Groups < 0 || s.KeyGroups < 0 || s.Credit < 0 {
		errs = append(errs, fmt.Errorf("source: %d groups, %d groups of keys, a credit of %d rows", s.Groups, s.KeyGroups, s.Credit))
	}
	for what, format := range map[string]string{"records": p.Decode.Format, "labels": p.Labels.Decode.Format} {
		if format != "" && format != "json" && format != "debezium" {
			errs = append(errs, fmt.Errorf("source: the %s of a stream are json or debezium, not %s", what, format))
		}
	}
	if p.Decode.Time == "" {
		errs = append(errs, errors.New("source: a stream needs an event time: name the field"))
	}
	errs = append(errs, s.validateNative(p))
	for _, address := range slices.Concat(p.URLs, p.Labels.URLs, p.Replay) {
		if d, err := driverOf(address); err == nil {
			if _, ok := d.(driver.Log); !ok {
				errs = append(errs, fmt.Errorf("source: %s can't be read as a stream", connect.Redact(address)))
			}
		}
	}
	return errors.Join(errs...)
}

// follow is Read for streams: what the runner doesn't read itself is one element for each group of partitions,
// over all addresses, since each element has a watermark of its own.
func follow(s beam.Scope, p Params) Streams {
	st := p.Stream.withDefaults()
	decode, labels := p.Decode, p.Labels.Decode
	decode.Format, labels.Format = cmp.Or(decode.Format, "json"), cmp.Or(labels.Format, "json")
	p.Decode, p.Labels.Decode = decode, labels
	own, native := p.divide()
	var out Streams
	if addresses := slices.Concat(own.URLs, own.Labels.URLs, own.Replay); len(addresses) > 0 {
		groups := make([]group, st.Groups)
		for i := range groups {
			groups[i] = group{Addresses: addresses, Labels: len(own.Labels.URLs), Replay: len(own.Replay), Group: i, Groups: st.Groups}
		}
		place(groups, st.KeyGroups)
		out.Events, out.Labels, out.Bad, out.Letters = beam.ParDo4(s, &followFn{Decode: decode, Stream: st, Labels: labels}, beam.Reshuffle(s, beam.CreateList(s, groups)))
	}
	for _, n := range native {
		out.add(s, n.read(s, p))
	}
	return out
}
