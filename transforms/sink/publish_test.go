package sink

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() {
	Register("fake", fakes)
	beam.RegisterDoFn(&makeFn{})
	beam.RegisterDoFn(&keepFn{})
	register.Emitter2[beam.EventTime, event.Batch]()
}

func TestMain(m *testing.M) {
	flag.Parse()
	beam.Init()
	if err := flag.Set("experiments", "prism_disable_sdf_split"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var runners = map[string]func(context.Context, *beam.Pipeline) (beam.PipelineResult, error){
	"direct": direct.Execute, "prism": prism.Execute,
}

// fake is a topic in memory, one a test by the address.
type fake struct {
	mu     sync.Mutex
	topics map[string]*topic
}

var fakes = &fake{topics: map[string]*topic{}}

type topic struct {
	mu       sync.Mutex
	records  []string // "key value time" of those that were taken
	flushes  int
	open     int
	fail     func(flush int) error  // of Flush
	sendFail func(key string) error // of Send
	reject   func(key string) error // told by Flush
	gate     chan struct{}          // Flush waits for it
	waiting  chan struct{}          // and says that it does
	refused  error                  // of OpenSender
}

func newTopic(t *testing.T) (*topic, string) {
	tp := &topic{}
	address := "fake://user:hunter2@" + strings.ReplaceAll(t.Name(), "/", "_")
	fakes.mu.Lock()
	fakes.topics[address] = tp
	fakes.mu.Unlock()
	return tp, address
}

func (f *fake) OpenSender(_ context.Context, address string) (driver.Sender, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[address]
	if t == nil {
		return nil, fmt.Errorf("no topic %s", address)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused != nil {
		return nil, t.refused
	}
	t.open++
	return &fakeSender{topic: t}, nil
}

type fakeSender struct {
	topic *topic
	sent  []fakeRecord
}

type fakeRecord struct {
	key, text string
	rejected  func(error)
}

func (s *fakeSender) Send(_ context.Context, r driver.Record, rejected func(error)) error {
	if s.topic.sendFail != nil {
		if err := s.topic.sendFail(string(r.Key)); err != nil {
			return err
		}
	}
	s.sent = append(s.sent, fakeRecord{string(r.Key), fmt.Sprintf("%s %s %s", r.Key, r.Value, r.Time.UTC().Format(time.RFC3339Nano)), rejected})
	for i := range r.Value {
		r.Value[i] = '!' // the record's bytes are not the sender's; nor is anything behind them
	}
	_ = append(r.Value, '!')
	return nil
}

func (s *fakeSender) Flush(ctx context.Context) error {
	sent := s.sent
	s.sent = nil
	t := s.topic
	t.mu.Lock()
	t.flushes++
	n := t.flushes
	t.mu.Unlock()
	if t.waiting != nil {
		t.waiting <- struct{}{}
		select {
		case <-t.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if t.fail != nil {
		if err := t.fail(n); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range sent {
		if t.reject != nil {
			if err := t.reject(r.key); err != nil {
				r.rejected(err)
				continue
			}
		}
		t.records = append(t.records, r.text)
	}
	return nil
}

func (s *fakeSender) Close() error {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	s.topic.open--
	return nil
}

var schema = func() *event.Schema {
	s, err := event.NewSchema([]event.Field{
		{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "x", Kind: event.Float}, {Name: "model", Kind: event.Category},
	}, "id", "t")
	if err != nil {
		panic(err)
	}
	return s
}()

const start = 1577836800_000_000 // 2020-01-01, microseconds

// batch has the events from to from+n; event i happens at second i.
func batch(from, n int) event.Batch {
	b := event.New(schema, n)
	b.N = n
	for i := from; i < from+n; i++ {
		b.Cols[0].Ints = append(b.Cols[0].Ints, int64(i))
		b.Cols[1].Ints = append(b.Cols[1].Ints, start+int64(i)*1e6)
		b.Cols[2].Floats = append(b.Cols[2].Floats, float64(i)+0.5)
		b.Cols[3].AppendRaw([]byte("m@3"))
	}
	return b
}

func record(i int) string {
	at := time.UnixMicro(start + int64(i)*1e6).UTC().Format(time.RFC3339)
	return fmt.Sprintf(`%d:m {"id":%d,"t":"%s","x":%d.5,"model":"m@3"} %s`, i, i, at, i, at)
}

// makeFn makes a batch of each of its numbers.
type makeFn struct{ Rows int }

func (f *makeFn) ProcessElement(i int, emit func(beam.EventTime, event.Batch)) error {
	b := batch(i*f.Rows, f.Rows)
	emit(beam.EventTime(b.MinTime()), b)
	return nil
}

var (
	keptMu sync.Mutex
	kept   = map[string][]deadletter.Letter{}
)

// keepFn keeps letters for a test.
type keepFn struct{ Test string }

func (f *keepFn) ProcessElement(l deadletter.Letter) {
	keptMu.Lock()
	defer keptMu.Unlock()
	kept[f.Test] = append(kept[f.Test], l)
}

func run(t *testing.T, runner string, p Params, batches, rows int) ([]deadletter.Letter, error) {
	t.Helper()
	pl, s := beam.NewPipelineWithRoot()
	numbers := make([]int, batches)
	for i := range numbers {
		numbers[i] = i
	}
	in := beam.ParDo(s, &makeFn{Rows: rows}, beam.Reshuffle(s, beam.CreateList(s, numbers)))
	beam.ParDo0(s, &keepFn{Test: t.Name()}, Write(s, in, p))
	_, err := runners[runner](t.Context(), pl)
	keptMu.Lock()
	defer keptMu.Unlock()
	return kept[t.Name()], err
}

func each(t *testing.T, test func(t *testing.T, runner string)) {
	for runner := range runners {
		t.Run(runner, func(t *testing.T) { test(t, runner) })
	}
}

func TestEveryRowIsSent(t *testing.T) {
	each(t, func(t *testing.T, runner string) {
		tp, address := newTopic(t)
		p := Params{URL: address}
		if err := Check(t.Context(), p); err != nil || tp.open != 0 {
			t.Fatalf("%v, %d open", err, tp.open)
		}
		letters, err := run(t, runner, p, 20, 50)
		if err != nil || len(letters) > 0 {
			t.Fatalf("%v, letters %v", err, letters)
		}
		var want []string
		for i := range 1000 {
			want = append(want, record(i))
		}
		slices.Sort(want)
		slices.Sort(tp.records)
		if !slices.Equal(tp.records, want) {
			t.Errorf("got %d records, want %d: %.300q", len(tp.records), len(want), tp.records)
		}
		if runner == "direct" && tp.open != 0 { // Prism tears nothing down
			t.Errorf("%d senders are still open", tp.open)
		}
	})
}

func TestOutsAndWhen(t *testing.T) {
	each(t, func(t *testing.T, runner string) {
		tp, address := newTopic(t)
		p := Params{URL: address, When: "x > 7.0", Outs: []format.Out{{Name: "number", Column: "x"}}}
		if _, err := run(t, runner, p, 5, 2); err != nil {
			t.Fatal(err)
		}
		slices.Sort(tp.records)
		if want := []string{
			`7:m {"number":7.5} 2020-01-01T00:00:07Z`, `8:m {"number":8.5} 2020-01-01T00:00:08Z`, `9:m {"number":9.5} 2020-01-01T00:00:09Z`,
		}; !slices.Equal(tp.records, want) {
			t.Errorf("got %q", tp.records)
		}
	})
}

func TestAFaultFailsTheJob(t *testing.T) {
	gone := errors.New("broker gone")
	each(t, func(t *testing.T, runner string) {
		for name, set := range map[string]func(*topic){
			"flush": func(tp *topic) { tp.fail = func(int) error { return gone } },
			"send":  func(tp *topic) { tp.sendFail = func(string) error { return gone } },
		} {
			t.Run(name, func(t *testing.T) {
				tp, address := newTopic(t)
				set(tp)
				_, err := run(t, runner, Params{URL: address}, 3, 10)
				if err == nil || !strings.Contains(err.Error(), "broker gone") || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%v", err)
				}
				if len(tp.records) > 0 {
					t.Errorf("%d records", len(tp.records))
				}
			})
		}
	})
}

func TestARefusedRecordIsADeadLetter(t *testing.T) {
	each(t, func(t *testing.T, runner string) {
		tp, address := newTopic(t)
		tp.reject = func(key string) error {
			if key == "7:m" {
				return fmt.Errorf("%s: too large", address)
			}
			return nil
		}
		letters, err := run(t, runner, Params{URL: address, Outs: []format.Out{{Name: "id"}}}, 2, 10)
		if err != nil || len(letters) != 1 || len(tp.records) != 19 {
			t.Fatalf("%v, %d letters, %d records", err, len(letters), len(tp.records))
		}
		l := letters[0]
		if l.Class != deadletter.Sink || l.Stage != "sink" || l.ID != "7" || l.Model != "m@3" || l.EventTime != "2020-01-01T00:00:07Z" ||
			string(l.Original) != `{"id":7}` || string(l.Row) != `{"id":7,"t":"2020-01-01T00:00:07Z","x":7.5,"model":"m@3"}` ||
			!strings.Contains(l.Message, "too large") || strings.Contains(l.Message, "hunter2") {
			t.Errorf("%+v\n%s\n%s", l, l.Original, l.Row)
		}
	})
}

func TestBadTargets(t *testing.T) {
	tp, address := newTopic(t)
	tp.refused = errors.New("no permission for " + address)
	if err := Check(t.Context(), Params{URL: address}); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("%v", err)
	}
	for _, format := range []string{"csv", "parquet"} {
		if err := (Params{URL: address, Format: format}).Validate(); err == nil || !strings.Contains(err.Error(), "json") {
			t.Errorf("%v", err)
		}
	}
	if err := (Params{URL: "fake://broker/topic.v1"}).Validate(); err != nil {
		t.Errorf("a topic has no ending: %v", err)
	}
	_, s := beam.NewPipelineWithRoot()
	if _, err := TryWrite(s, beam.PCollection{}, Params{URL: "carrier-pigeon://x/"}); err == nil || !strings.Contains(err.Error(), "fake") {
		t.Errorf("%v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a driver of neither kind was taken")
		}
	}()
	Register("neither", 3)
}

// TestABundleThatFailedStartsAnew drives the DoFn as a runner does that tries a bundle again.
func TestABundleThatFailedStartsAnew(t *testing.T) {
	tp, address := newTopic(t)
	tp.fail = func(flush int) error {
		if flush == 1 {
			return errors.New("broker gone")
		}
		return nil
	}
	tp.reject = func(key string) error {
		if key == "1:m" {
			return errors.New("no")
		}
		return nil
	}
	f := &publishFn{Params: Params{URL: address}}
	var letters []deadletter.Letter
	var receipts []int64
	unsent := func(_ beam.EventTime, l deadletter.Letter) { letters = append(letters, l) }
	receipt := func(at beam.EventTime, n int64) { receipts = append(receipts, n, int64(at)) }
	ctx := t.Context()
	if err := f.Setup(ctx); err != nil {
		t.Fatal(err)
	}
	f.StartBundle(ctx, unsent, receipt)
	if err := f.ProcessElement(ctx, batch(0, 3), unsent, receipt); err != nil {
		t.Fatal(err)
	}
	if err := f.FinishBundle(ctx, unsent, receipt); err == nil {
		t.Fatal("the bundle has not failed")
	}
	f.StartBundle(ctx, unsent, receipt) // an attempt that something else breaks off
	if err := f.ProcessElement(ctx, batch(0, 3), unsent, receipt); err != nil {
		t.Fatal(err)
	}
	letters = nil
	tp.records = nil
	f.StartBundle(ctx, unsent, receipt)
	if len(letters) > 0 {
		t.Errorf("letters of a bundle that is gone: %v", letters)
	}
	tp.records = nil // at least once: the broken attempt's may be there
	for _, b := range []event.Batch{batch(5, 2), batch(1, 1), batch(0, 0)} {
		if err := f.ProcessElement(ctx, b, unsent, receipt); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.FinishBundle(ctx, unsent, receipt); err != nil {
		t.Fatal(err)
	}
	if want := []int64{3, start/1000 + 1000}; !reflect.DeepEqual(receipts, want) || len(letters) != 1 || !slices.Equal(tp.records, []string{record(5), record(6)}) {
		t.Errorf("receipts %v, letters %v, records %q", receipts, letters, tp.records)
	}
	if err := f.Teardown(ctx); err != nil || tp.open != 0 {
		t.Errorf("%v, %d open", err, tp.open)
	}
}

func TestASlowTargetBlocks(t *testing.T) {
	tp, address := newTopic(t)
	tp.gate, tp.waiting = make(chan struct{}), make(chan struct{})
	f := &publishFn{Params: Params{URL: address}}
	ctx := t.Context()
	if err := f.Setup(ctx); err != nil {
		t.Fatal(err)
	}
	f.StartBundle(ctx, nil, nil)
	done := make(chan error)
	go func() { done <- f.ProcessElement(ctx, batch(0, maxRows+1), nil, nil) }()
	<-tp.waiting // the target has taken nothing, and so much is under way: the bundle waits
	select {
	case <-done:
		t.Fatal("more is under way than the bound")
	default:
	}
	tp.gate <- struct{}{}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if f.sent != 1 || len(f.slots) != maxRows {
		t.Errorf("%d rows under way, %d slots", f.sent, len(f.slots))
	}
}

type null struct{}

func (null) Send(context.Context, driver.Record, func(error)) error { return nil }
func (null) Flush(context.Context) error                            { return nil }
func (null) Close() error                                           { return nil }

func BenchmarkPublish(b *testing.B) {
	f := &publishFn{enc: encoder{kind: "json"}, sender: null{}}
	in := batch(0, 4096)
	ctx := context.Background()
	receipt := func(beam.EventTime, int64) {}
	b.ReportAllocs()
	for b.Loop() {
		f.StartBundle(ctx, nil, nil)
		if err := f.ProcessElement(ctx, in, nil, nil); err != nil {
			b.Fatal(err)
		}
		if err := f.FinishBundle(ctx, nil, receipt); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*4096/b.Elapsed().Seconds(), "rows/s")
}
