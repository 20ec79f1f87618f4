package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	beam.RegisterDoFn(&nativeFn{})
	beam.RegisterDoFn(&nativeLettersFn{})
}

// native is an address that the runner reads, and what of p it is.
type native struct {
	driver.Transform
	labels, replay bool
}

// transform is that by which a runner reads an address that has those with some URNs.
func transform(address string, urns []string) (driver.Transform, bool) {
	if len(urns) == 0 {
		return driver.Transform{}, false
	}
	d, err := driverOf(address)
	if err != nil {
		return driver.Transform{}, false
	}
	n, ok := d.(driver.Native)
	if !ok {
		return driver.Transform{}, false
	}
	t, err := n.Native(address)
	return t, err == nil && slices.Contains(urns, t.URN) // an address with faults goes to its driver, who tells them
}

// ByRunner tells whether a runner that has the transforms with some URNs reads an address itself.
func ByRunner(address string, urns []string) bool {
	_, ok := transform(address, urns)
	return ok
}

// divide is p without the addresses that the runner reads, and those.
func (p Params) divide() (own Params, theirs []native) {
	own = p
	if p.Stream == nil {
		return own, nil
	}
	take := func(addresses []string, labels, replay bool) (kept []string) {
		for _, a := range addresses {
			if t, ok := transform(a, p.Stream.Native); ok {
				theirs = append(theirs, native{t, labels, replay})
			} else {
				kept = append(kept, a)
			}
		}
		return kept
	}
	own.URLs, own.Labels.URLs, own.Replay = take(p.URLs, false, false), take(p.Labels.URLs, true, false), take(p.Replay, false, true)
	return own, theirs
}

func (s Stream) validateNative(p Params) error {
	var errs []error
	own, theirs := p.divide()
	for _, n := range theirs {
		if !s.Until.IsZero() || s.IdleTimeout > 0 {
			errs = append(errs, fmt.Errorf("source: the runner itself reads %s, and without an end: leave out when to stop, and drain the job", n.Name))
		}
		if s.Waits && !n.Timed && !n.replay {
			errs = append(errs, fmt.Errorf("source: events in the order of their time wait for the watermark, which of %s the runner moves by when its service took them in: "+
				"let messages have their time as an attribute, and name it in the address (time_attribute=NAME)", n.Name))
		}
	}
	if len(theirs) > 0 && len(own.URLs)+len(own.Labels.URLs) == 0 && len(own.Replay) > 0 {
		errs = append(errs, fmt.Errorf("source: nothing moves the watermark of %s, which is read beside what the runner itself reads: give a source of the same kind", connect.Redact(own.Replay[0])))
	}
	return errors.Join(errs...)
}

// read adds what the runner reads to the graph.
func (n native) read(s beam.Scope, p Params) (out Streams) {
	s = s.Scope(strings.ReplaceAll(n.Name, "/", "."))
	values := beam.External(s, n.URN, n.Payload, nil, []beam.FullType{typex.New(reflectx.ByteSlice)}, false)[0]
	return n.decode(s, p, values)
}

func (n native) decode(s beam.Scope, p Params, values beam.PCollection) (out Streams) {
	switch {
	case n.replay:
		out.Letters, out.Bad = beam.ParDo2(s, &nativeLettersFn{Name: n.Name}, values)
	case n.labels:
		out.Labels, out.Bad = beam.ParDo2(s, &nativeFn{Decode: p.Labels.Decode, Name: n.Name, Labels: true}, values)
	default:
		out.Events, out.Bad = beam.ParDo2(s, &nativeFn{Decode: p.Decode, Name: n.Name}, values)
	}
	return out
}

// add puts more of each kind to what there is.
func (out *Streams) add(s beam.Scope, more Streams) {
	join := func(a *beam.PCollection, b beam.PCollection) {
		switch {
		case !b.IsValid():
		case !a.IsValid():
			*a = b
		default:
			*a = beam.Flatten(s, *a, b)
		}
	}
	join(&out.Events, more.Events)
	join(&out.Bad, more.Bad)
	join(&out.Labels, more.Labels)
	join(&out.Letters, more.Letters)
}

// nativeFn decodes the records that a runner has read, those of a bundle together.
type nativeFn struct {
	Decode decode.Params
	Name   string
	Labels bool

	decoder *decode.Decoder
	records []driver.Record
	bytes   int
	first   beam.EventTime // of the records
}

// Setup makes the decoder.
func (f *nativeFn) Setup() (err error) {
	f.decoder, err = decode.New(f.Decode)
	return err
}

// StartBundle drops what an attempt before has left.
func (f *nativeFn) StartBundle(func(beam.EventTime, event.Batch), func(beam.EventTime, deadletter.Letter)) {
	f.records, f.bytes = f.records[:0], 0
}

// ProcessElement gathers records.
func (f *nativeFn) ProcessElement(ctx context.Context, at beam.EventTime, value []byte, emit func(beam.EventTime, event.Batch), reject func(beam.EventTime, deadletter.Letter)) error {
	if len(f.records) == 0 || at < f.first {
		f.first = at
	}
	f.records = append(f.records, driver.Record{Value: value})
	f.bytes += len(value)
	if len(f.records) < callRows && f.bytes < callBytes {
		return nil
	}
	return f.flush(ctx, emit, reject)
}

// FinishBundle decodes the last of them.
func (f *nativeFn) FinishBundle(ctx context.Context, emit func(beam.EventTime, event.Batch), reject func(beam.EventTime, deadletter.Letter)) error {
	return f.flush(ctx, emit, reject)
}

func (f *nativeFn) flush(ctx context.Context, emit func(beam.EventTime, event.Batch), reject func(beam.EventTime, deadletter.Letter)) error {
	stats, err := f.decoder.Records(f.Name, f.records, func(b event.Batch) error {
		emit(mtime.Normalize(mtime.FromMilliseconds(b.MinTime())), b)
		return nil
	}, func(l deadletter.Letter) error {
		reject(f.first, l)
		return nil
	})
	if err != nil {
		return fmt.Errorf("decoding what was read of %s: %w", f.Name, err)
	}
	clear(f.records)
	f.records, f.bytes = f.records[:0], 0
	if f.Labels {
		readLabels.Inc(ctx, stats.Rows)
	} else {
		readEvents.Inc(ctx, stats.Rows)
		telemetry.Read(int(stats.Rows))
	}
	badEvents.Inc(ctx, stats.Rejected)
	telemetry.Bad(int(stats.Rejected))
	passOver(ctx, stats)
	return nil
}

// nativeLettersFn reads the dead letters that a runner has read; those that are none are letters themselves.
type nativeLettersFn struct{ Name string }

// ProcessElement reads a letter.
func (f *nativeLettersFn) ProcessElement(at beam.EventTime, value []byte, replay, reject func(beam.EventTime, deadletter.Letter)) error {
	l, err := envelope(f.Name, value, deadletter.Place{})
	switch {
	case errors.Is(err, deadletter.ErrVersion):
		return fmt.Errorf("reading %s: %w", f.Name, err)
	case err != nil:
		reject(at, l)
	default:
		replay(at, l)
	}
	return nil
}
