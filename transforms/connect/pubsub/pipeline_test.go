package pubsub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source"
)

// child is set in the process that testKilled kills: the job that it runs, as JSON.
const child = "MILLRACE_PUBSUB_TEST_JOB"

func TestMain(m *testing.M) {
	*jobopts.Experiments = "prism_disable_sdf_split"
	beam.Init()
	if text := os.Getenv(child); text != "" {
		lease = shortLease
		var j job
		err := json.Unmarshal([]byte(text), &j)
		if err == nil {
			err = j.run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// shortLease is that of what is killed: what it had comes again when it is over.
const shortLease = 10 * time.Second

// job is a stream over a subscription: a count of each customer's events, and what went wrong, each to
// where it says.
type job struct {
	Run, Source, Sink, Letters string
	IdleTimeout                time.Duration
}

func (j job) run(ctx context.Context) error {
	p, s := beam.NewPipelineWithRoot()
	fields := []event.Field{{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "customer", Kind: event.Category}}
	d := decode.Params{ID: []string{"id"}, Time: "t"}
	for _, f := range fields {
		d.Fields = append(d.Fields, decode.Field{Name: f.Name, Kind: f.Kind, Optional: f.Name == "customer"})
	}
	events, bad := source.Read(s, source.Params{URLs: []string{j.Source}, Decode: d, Stream: &source.Stream{Run: j.Run, Lateness: time.Hour, IdleTimeout: j.IdleTimeout}})
	rows, rejected := feature.Compute(s, events, feature.Params{
		Fields: fields, ID: "id", Time: "t", Stream: &feature.Stream{Run: j.Run, Lateness: time.Hour}, Shards: 4,
		Features: []feature.Feature{{Entity: "customer", Windows: []feature.Window{{Duration: time.Hour}}, Aggregates: []feature.Aggregate{{Name: "n", Func: "count"}}}},
	})
	refused := sink.Write(s, rows, sink.Params{URL: j.Sink, Stream: &sink.Stream{}})
	deadletter.Write(s, deadletter.Params{URL: j.Letters, Stream: &deadletter.Stream{}}, bad, rejected, refused)
	_, err := prism.Execute(ctx, p)
	source.CleanUp()
	return errors.Join(err, feature.CleanUp())
}

func line(i int) string {
	return fmt.Sprintf(`{"id":%d,"t":"2026-01-01T00:%02d:%02dZ","customer":"c%d"}`, i, i/60%60, i%60, i%50)
}

// gates are sinks that hold back what is sent to them until they are opened, by address.
type gates struct{}

type gate struct {
	mu     sync.Mutex
	opened chan struct{}
	held   int // records that were sent and not flushed
	taken  map[string]int
	refuse func(key string) bool
}

var (
	gatesMu  sync.Mutex
	allGates = map[string]*gate{}
)

func init() { sink.Register("gate", gates{}) }

func newGate(address string) *gate {
	g := &gate{opened: make(chan struct{}), taken: map[string]int{}}
	gatesMu.Lock()
	allGates[address] = g
	gatesMu.Unlock()
	return g
}

func (gates) OpenSender(_ context.Context, address string) (sinkdriver.Sender, error) {
	gatesMu.Lock()
	defer gatesMu.Unlock()
	return &gateSender{gate: allGates[address]}, nil
}

type gateSender struct {
	*gate
	keys []string
}

func (s *gateSender) Send(_ context.Context, r sinkdriver.Record, rejected func(error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil && s.refuse(string(r.Key)) {
		rejected(errors.New("refused"))
		return nil
	}
	s.held++
	s.keys = append(s.keys, string(r.Key))
	return nil
}

func (s *gateSender) Flush(ctx context.Context) error {
	select {
	case <-s.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		s.taken[k]++
	}
	s.keys = nil
	return nil
}

func (s *gateSender) Close() error { return nil }

// wait waits until a condition of the gate holds.
func (g *gate) wait(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		g.mu.Lock()
		ok := holds()
		g.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records are held, %d were taken", g.held, len(g.taken))
		}
	}
}

func (j job) start(t *testing.T) (stop func(), done chan error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	done = make(chan error, 1)
	go func() { done <- j.run(ctx) }()
	return cancel, done
}

// testHeldBack: what the sink has not taken is not acknowledged, and is given again when the job ends.
func testHeldBack(t *testing.T, b bench) {
	b.make(t, b.name)
	var all []string
	for i := range 300 {
		all = append(all, line(i))
	}
	b.put(t, b.name, all...)
	g, dead := newGate("gate://held"), newGate("gate://heldletters")
	close(dead.opened)
	j := job{Run: b.name, Source: b.at("millrace/" + b.name), Sink: "gate://held", Letters: "gate://heldletters"}
	stop, done := j.start(t)
	g.wait(t, func() bool { return g.held > 0 })
	stop()
	if err := <-done; err == nil {
		t.Error("a job that was stopped has no error")
	}
	f := follow(t, b.at("millrace/"+b.name), b.subscription(b.name))
	came, _ := read(t, f, len(all))
	want(t, came, all)
}

// testDrain: a job that is asked to stop acknowledges all that it has read: what a sink took, duplicates,
// and records that are none. One that the sink refuses is acknowledged with its letter.
func testDrain(t *testing.T, b bench) {
	b.make(t, b.name)
	var all []string
	for i := range 2000 {
		all = append(all, line(i))
	}
	all = append(all, all[:100]...)
	all = append(all, "{", `{"id":7}`, `{"id":"x","t":"yesterday"}`, "{", " ")
	b.put(t, b.name, all...)
	g, dead := newGate("gate://drained"), newGate("gate://drainedletters")
	close(g.opened)
	close(dead.opened)
	g.refuse = func(key string) bool { return strings.HasPrefix(key, "150") }
	j := job{Run: b.name, Source: b.at("millrace/" + b.name), Sink: "gate://drained", Letters: "gate://drainedletters"}
	_, done := j.start(t)
	g.wait(t, func() bool { return len(g.taken) >= 2000-11 })
	dead.wait(t, func() bool { return dead.held >= 115 })
	source.Drain(b.name)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(g.taken) != 2000-11 {
		t.Errorf("the sink has taken %d", len(g.taken))
	}
	letters := 0
	for _, n := range dead.taken {
		letters += n
	}
	if letters < 100+4+11 {
		t.Errorf("%d letters, want 115 or, for what was given again, more", letters)
	}
	b.acknowledged(t, len(all))
}

// acknowledged holds that hardly any of so many messages come again: an acknowledgement that comes when the
// lease has ended, as on a machine that is busy, is none.
func (b bench) acknowledged(t *testing.T, all int) {
	t.Helper()
	f := follow(t, b.at("millrace/"+b.name), b.subscription(b.name))
	again := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		chunks, err := f.Poll(t.Context(), 100*time.Millisecond, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chunks {
			again += len(c.Records)
		}
	}
	if again > all/10 {
		t.Errorf("%d of %d messages come again", again, all)
	}
}

// testLetters: dead letters go to a topic, and from there into a file of letters again.
func testLetters(t *testing.T, b bench) {
	for _, name := range []string{b.name, b.name + "Dead", b.name + "Scores"} {
		b.make(t, name)
	}
	b.put(t, b.name, line(1), "{", `{"id":7}`)
	j := job{Run: b.name, Source: b.at("millrace/" + b.name), Sink: b.at("millrace/" + b.name + "Scores"), Letters: b.at("millrace/" + b.name + "Dead"), IdleTimeout: 3 * time.Second}
	_, done := j.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, m := range b.received(t, b.name+"Dead", 2) {
		if l, err := deadletter.Parse(m.Data); err != nil || l.Stage != "decode" || l.Place.Source != b.subscription(b.name) || m.Attributes["id"] == "" {
			t.Errorf("%s %v: %v", m.Data, m.Attributes, err)
		}
	}
	if m := b.received(t, b.name+"Scores", 1)[0]; m.Attributes["id"] != "1" || !strings.Contains(string(m.Data), `"n_1h":1`) {
		t.Errorf("%s %v", m.Data, m.Attributes)
	}
	parts, err := source.Partitions(t.Context(), b.at("millrace/"+b.name+"Dead"))
	if err != nil {
		t.Fatal(err)
	}
	err = source.Letters(t.Context(), parts[0], func(deadletter.Letter, error) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "where its end is") {
		t.Errorf("letters of a subscription are read to an end that it doesn't have: %v", err)
	}
}

// testKilled: a process is killed while it works; the next one gets what the first had not acknowledged. The
// emulator takes the dead process for alive, and with each lease that ends gives it half of what is left.
func testKilled(t *testing.T, b bench) {
	const n = 5_000
	defer func(was time.Duration) { lease = was }(lease)
	lease = shortLease
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	b.make(t, b.name)
	b.make(t, b.name+"Scores")
	b.make(t, b.name+"Dead")
	j := job{
		Run: b.name, Source: b.at("millrace/" + b.name), Sink: b.at("millrace/" + b.name + "Scores"), Letters: b.at("millrace/" + b.name + "Dead"),
	}
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+string(text))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	defer func() {
		if !killed {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()

	var all []string
	for i := range n {
		all = append(all, line(i))
		if i%20 == 0 {
			all = append(all, line(max(0, i-500)))
		}
	}
	go b.put(t, b.name, all...)

	ids, outputs := map[string]int{}, 0
	before := map[string]bool{} // scored by the first process
	came := make(chan *pubsub.Message, 1000)
	receiving, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for _, name := range []string{b.name + "Scores"} {
		go func() {
			_ = b.Subscriber(b.subscription(name)).Receive(receiving, func(_ context.Context, m *pubsub.Message) {
				m.Ack()
				came <- m
			})
		}()
	}
	var done chan error
	drained := false
	for ended := false; !ended || len(ids) < n; {
		select {
		case m := <-came:
			outputs++
			ids[m.Attributes["id"]]++
			if killed {
				if len(ids) == n && !drained {
					drained = true
					time.AfterFunc(lease, func() { source.Drain(b.name) }) // the first process's leases end before
				}
				break
			}
			if before[m.Attributes["id"]] = true; len(before) == n/4 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				killed = true
				_, done = j.start(t)
			}
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			ended, done = true, nil
		case <-receiving.Done():
			t.Fatalf("%d of %d events were scored; the first process says: %s", len(ids), n, log.String())
		}
	}
	t.Logf("%d events, %d messages, %d outputs, killed after %d", n, len(all), outputs, len(before))
	b.acknowledged(t, len(all))
}
