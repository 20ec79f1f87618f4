package source_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// logDriver is logs in memory: the address's host names a log, each of partitions of lines.
type logDriver struct{}

var (
	logsMu sync.Mutex
	logs   = map[string]map[string][]string{} // address -> partition -> records
	polls  = map[string]func(){}              // called before each poll of an address
)

func init() { source.Register("testlog", logDriver{}) }

func (logDriver) Partitions(_ context.Context, address string) ([]driver.Partition, error) {
	logsMu.Lock()
	defer logsMu.Unlock()
	var parts []driver.Partition
	for name := range logs[address] {
		parts = append(parts, driver.Partition{URL: address, Name: name})
	}
	slices.SortFunc(parts, func(a, b driver.Partition) int { return len(a.Name) - len(b.Name) })
	if parts == nil {
		return nil, fmt.Errorf("no log %s", address)
	}
	return parts, nil
}

func (logDriver) Follow(_ context.Context, address string, from []driver.Position) (driver.Follower, error) {
	f := &logFollower{address: address, at: map[string]int{}}
	for _, p := range from {
		n, _ := strconv.Atoi(p.Next)
		f.at[p.Partition] = n
	}
	return f, nil
}

type logFollower struct {
	address string
	at      map[string]int
	paused  []string
}

func (f *logFollower) Poll(ctx context.Context, wait time.Duration, _ int) ([]driver.Chunk, error) {
	logsMu.Lock()
	defer logsMu.Unlock()
	if hook := polls[f.address]; hook != nil {
		hook()
	}
	var chunks []driver.Chunk
	for name, at := range f.at {
		lines := logs[f.address][name]
		if slices.Contains(f.paused, name) || at >= len(lines) {
			continue
		}
		c := driver.Chunk{Partition: name}
		for n := 0; n < 7 && at < len(lines); n++ {
			if lines[at] == "end" {
				c.Ended = true
			} else {
				c.Records = append(c.Records, driver.Record{Value: []byte(lines[at]), Offset: int64(at)})
			}
			at++
		}
		f.at[name], c.Next = at, strconv.Itoa(at)
		chunks = append(chunks, c)
	}
	if chunks == nil {
		time.Sleep(min(wait, 5*time.Millisecond))
	}
	return chunks, nil
}

func (f *logFollower) Pause(names []string) { f.paused = names }
func (f *logFollower) Lag() map[string]int64 {
	lag := map[string]int64{}
	for name, at := range f.at {
		lag[name] = int64(len(logs[f.address][name]) - at)
	}
	return lag
}
func (f *logFollower) Close() error { return nil }

// ackDriver is logs in memory that are told what has landed.
type ackDriver struct{ logDriver }

func init() { source.Register("acklog", ackDriver{}) }

func (d ackDriver) Follow(ctx context.Context, address string, from []driver.Position) (driver.Follower, error) {
	f, err := d.logDriver.Follow(ctx, address, from)
	return ackFollower{f.(*logFollower)}, err
}

type ackFollower struct{ *logFollower }

func (f ackFollower) Ack(next string) {
	seenMu.Lock()
	acks = append(acks, next)
	seenMu.Unlock()
}

// seen collects what a graph gave.
var (
	seenMu  sync.Mutex
	seen    []string // ids
	marks   []int64  // of each batch, the timestamp less the smallest row time
	letters []deadletter.Letter
	acks    []string // positions
)

type collectFn struct{}

func (*collectFn) ProcessElement(et beam.EventTime, b event.Batch, emit func(int)) {
	seenMu.Lock()
	defer seenMu.Unlock()
	for i := range b.N {
		seen = append(seen, string(b.IDs().AppendID(nil, i)))
	}
	marks = append(marks, et.Milliseconds()-mtime.FromMilliseconds(b.MinTime()).Milliseconds())
	emit(b.N)
}

type letterFn struct{}

func (*letterFn) ProcessElement(l deadletter.Letter, emit func(int)) {
	seenMu.Lock()
	defer seenMu.Unlock()
	letters = append(letters, l)
	emit(1)
}

func init() {
	beam.RegisterDoFn(&collectFn{})
	beam.RegisterDoFn(&letterFn{})
	register.Emitter1[int]()
}

var lines = decode.Params{
	Fields: []decode.Field{{Name: "id", Kind: event.ID}, {Name: "time", Kind: event.Timestamp, TimeFormat: "unix_s"}},
	ID:     []string{"id"}, Time: "time",
}

// followAll runs a stream to its end.
func followAll(t *testing.T, s source.Stream, addresses ...string) {
	t.Helper()
	p, scope := beam.NewPipelineWithRoot()
	s.Run = t.Name()
	events, bad := source.Read(scope, source.Params{URLs: addresses, Stream: &s, Decode: lines})
	runAll(t, p, scope, events, bad)
}

// runAll runs a graph to its end, and collects batches and letters.
func runAll(t *testing.T, p *beam.Pipeline, scope beam.Scope, events, bad beam.PCollection) {
	t.Helper()
	seen, marks, letters, acks = nil, nil, nil, nil
	beam.ParDo(scope, &collectFn{}, beam.Reshuffle(scope, events))
	beam.ParDo(scope, &letterFn{}, beam.Reshuffle(scope, bad))
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if _, err := beam.Run(ctx, "prism", p); err != nil {
		t.Fatal(err)
	}
}

func line(id, at int) string { return fmt.Sprintf(`{"id":%d,"time":%d}`, id, at) }

// setLog makes a log of partitions.
func setLog(address string, partitions ...[]string) {
	logsMu.Lock()
	defer logsMu.Unlock()
	logs[address] = map[string][]string{}
	for i, p := range partitions {
		logs[address][address+"/"+strconv.Itoa(i)] = p
	}
}

func wantIDs(t *testing.T, from, to int) {
	t.Helper()
	got := map[string]int{}
	for _, id := range seen {
		got[id]++
	}
	for i := from; i < to; i++ {
		if got[strconv.Itoa(i)] != 1 {
			t.Errorf("event %d came %d times", i, got[strconv.Itoa(i)])
		}
	}
	if len(seen) != to-from {
		t.Errorf("%d events, want %d", len(seen), to-from)
	}
}

func TestFollowToTheEnd(t *testing.T) {
	var a, b []string
	for i := range 500 {
		a = append(a, line(2*i, 1000+i))
		b = append(b, line(2*i+1, 1000+i))
	}
	setLog("testlog://ends", append(a, "end"), append(b, "end"))
	followAll(t, source.Stream{Lateness: time.Second}, "testlog://ends")
	wantIDs(t, 0, 1000)
	if len(letters) > 0 {
		t.Errorf("dead letters: %+v", letters[0])
	}
	for _, m := range marks {
		if m != 0 {
			t.Fatalf("a batch's timestamp is %d ms off its first row", m)
		}
	}
}

// TestFollowLate: what is more than the lateness behind is late, and nothing else.
func TestFollowLate(t *testing.T) {
	var lines []string
	for i := range 300 {
		at := 1000 + 10*i
		if i%50 == 49 {
			at -= 400 // seconds; the lateness is 100
		} else if i%7 == 3 {
			at -= 90
		}
		lines = append(lines, line(i, at))
	}
	lines = append(lines, "{", "end")
	setLog("testlog://late", lines)
	followAll(t, source.Stream{Lateness: 100 * time.Second}, "testlog://late")
	var late, bad int
	for _, l := range letters {
		switch l.Class {
		case deadletter.Late:
			late++
			if n, _ := strconv.Atoi(l.ID); n%50 != 49 {
				t.Errorf("event %s is late: %s", l.ID, l.Message)
			}
		case deadletter.Decode:
			bad++
		}
	}
	if late != 6 || bad != 1 || len(seen) != 294 {
		t.Errorf("%d late, %d bad, %d events; want 6, 1, 294", late, bad, len(seen))
	}
}

// TestFollowAlignment: a partition that is days ahead waits for the other, so nothing of it is late.
func TestFollowAlignment(t *testing.T) {
	var fast, slow []string
	for i := range 200 {
		fast = append(fast, line(i, 1000+3600*i))
		slow = append(slow, line(200+i, 1000+i))
	}
	setLog("testlog://aligned", append(fast, "end"), append(slow, "end"))
	followAll(t, source.Stream{}, "testlog://aligned")
	wantIDs(t, 0, 400)
	if len(letters) > 0 {
		t.Errorf("dead letters: %+v", letters[0])
	}
}

// TestFollowGrowth: a partition that comes while reading is read too, and an idle one holds up nobody.
func TestFollowGrowth(t *testing.T) {
	const address = "testlog://grows"
	setLog(address, []string{line(0, 1000)}, nil)
	n := 0
	polls[address] = func() {
		if n++; n == 20 {
			logs[address][address+"/more"] = []string{line(1, 1001), line(2, 1002)}
		}
	}
	followAll(t, source.Stream{Refresh: 20 * time.Millisecond, IdleTimeout: 500 * time.Millisecond, Idle: 50 * time.Millisecond}, address)
	wantIDs(t, 0, 3)
}

func TestFollowDrain(t *testing.T) {
	const address = "testlog://drained"
	setLog(address, []string{line(0, 1000)})
	n := 0
	polls[address] = func() {
		if n++; n == 20 {
			source.Drain("TestFollowDrain")
		}
	}
	followAll(t, source.Stream{}, address)
	wantIDs(t, 0, 1)
}

// TestFollowAcknowledgedLabels: labels of a source that is told what has landed are acknowledged as they go on.
func TestFollowAcknowledgedLabels(t *testing.T) {
	setLog("testlog://labeled", []string{line(0, 1000), "end"})
	setLog("acklog://labels", []string{line(0, 1001), line(1, 1002), "end"})
	p, scope := beam.NewPipelineWithRoot()
	out := source.ReadAll(scope, source.Params{
		URLs: []string{"testlog://labeled"}, Decode: lines, Labels: source.Labels{URLs: []string{"acklog://labels"}, Decode: lines},
		Stream: &source.Stream{Run: t.Name()},
	})
	runAll(t, p, scope, out.Labels, out.Bad)
	wantIDs(t, 0, 2)
	if !slices.Equal(acks, []string{"3"}) || len(letters) > 0 {
		t.Errorf("%q are acknowledged, want the one chunk; letters %v", acks, letters)
	}
}

func TestMain(m *testing.M) {
	*jobopts.Experiments = "prism_disable_sdf_split"
	beam.Init()
	os.Exit(m.Run())
}
