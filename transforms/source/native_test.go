package source

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// nativeLog is a log that a runner reads by the transform native, and by timed with the events' times.
type nativeLog struct {
	driver.Log
	timed bool
}

func (n nativeLog) Native(address string) (driver.Transform, error) {
	_, name, _ := strings.Cut(address, "://")
	return driver.Transform{URN: "native", Name: name, Timed: n.timed}, nil
}

func init() {
	Register("native", nativeLog{})
	Register("timed", nativeLog{timed: true})
	beam.RegisterDoFn(&stampFn{})
	beam.RegisterDoFn(&noteFn{})
	beam.RegisterDoFn(&noteLetterFn{})
	register.Emitter2[beam.EventTime, []byte]()
}

// stampFn gives records times a second apart, of which the first is at 100 s.
type stampFn struct{}

func (*stampFn) ProcessElement(_ []byte, emit func(beam.EventTime, []byte)) {
	for i, value := range nativeValues {
		emit(mtime.FromMilliseconds(int64(100+i)*1000), []byte(value))
	}
}

var nativeValues = []string{`{"id":1,"time":100}`, `{"id":2,"time":90}`, `{`, ``, `{"id":3,"time":102}`}

var notes struct {
	sync.Mutex
	all []string
}

func note(format string, args ...any) {
	notes.Lock()
	notes.all = append(notes.all, fmt.Sprintf(format, args...))
	notes.Unlock()
}

type noteFn struct{ What string }

func (f *noteFn) ProcessElement(at beam.EventTime, b event.Batch) {
	note("%s of %d at %d", f.What, b.N, at.Milliseconds()/1000)
}

type noteLetterFn struct{ What string }

func (f *noteLetterFn) ProcessElement(at beam.EventTime, l deadletter.Letter) {
	note("%s %s of %s at %d", f.What, l.Class, l.Place.Source, at.Milliseconds()/1000)
}

// TestNative: what a runner has read is decoded by the bundle; batches have the times of their events, letters the
// runner's.
func TestNative(t *testing.T) {
	d := decode.Params{
		Fields: []decode.Field{{Name: "id", Kind: event.ID}, {Name: "time", Kind: event.Timestamp, TimeFormat: "unix_s"}},
		ID:     []string{"id"}, Time: "time", Format: "json",
	}
	for _, c := range []struct {
		n    native
		want []string
	}{
		{native{}, []string{"bad decode of in at 100", "events of 3 at 90"}},
		{native{labels: true}, []string{"bad decode of in at 100", "labels of 3 at 90"}},
		{native{replay: true}, []string{"bad decode of in at 100", "bad decode of in at 101", "bad decode of in at 102", "bad decode of in at 103", "bad decode of in at 104"}},
	} {
		p, s := beam.NewPipelineWithRoot()
		c.n.Name = "in"
		out := c.n.decode(s, Params{Decode: d, Labels: Labels{Decode: d}}, beam.ParDo(s, &stampFn{}, beam.Impulse(s)))
		for what, col := range map[string]beam.PCollection{"events": out.Events, "labels": out.Labels} {
			if col.IsValid() {
				beam.ParDo0(s, &noteFn{what}, col)
			}
		}
		beam.ParDo0(s, &noteLetterFn{"bad"}, out.Bad)
		notes.all = nil
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		if _, err := prism.Execute(ctx, p); err != nil {
			t.Fatal(err)
		}
		stop()
		slices.Sort(notes.all)
		if !slices.Equal(notes.all, c.want) {
			t.Errorf("%+v: got %q, want %q", c.n, notes.all, c.want)
		}
	}
}

// TestNativeFaults: what can't be kept where the runner reads is refused, and only there.
func TestNativeFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p    Params
		s    Stream
		want string
	}{
		{Params{URLs: []string{"native://a"}}, Stream{}, ""},
		{Params{URLs: []string{"native://a"}}, Stream{Waits: true}, "time_attribute"},
		{Params{URLs: []string{"timed://a"}}, Stream{Waits: true}, ""},
		{Params{URLs: []string{"timed://a"}, Replay: []string{"native://b"}}, Stream{Waits: true}, ""},
		{Params{URLs: []string{"timed://a"}}, Stream{IdleTimeout: time.Second}, "drain"},
		{Params{URLs: []string{"timed://a"}, Replay: []string{"spread://b"}}, Stream{}, "nothing moves the watermark of spread://b"},
		{Params{URLs: []string{"timed://a", "spread://b"}, Replay: []string{"spread://c"}}, Stream{}, ""},
	} {
		c.s.Run, c.s.Native = "run", []string{"native"}
		c.p.Stream, c.p.Decode = &c.s, decode.Params{Fields: []decode.Field{{Name: "time", Kind: event.Timestamp}}, Time: "time"}
		err := c.p.Validate()
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, %+v: %v, want %q", c.p.URLs, c.s, err, c.want)
		}
	}
	for _, urns := range [][]string{nil, {"other"}} {
		if ByRunner("native://a", urns) {
			t.Errorf("a runner that has %q reads by another transform", urns)
		}
	}
}
