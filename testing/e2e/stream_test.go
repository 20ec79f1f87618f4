package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() {
	source.Register("memory", topics{})
	sink.Register("memory", topics{})
}

// topics are logs and tables in memory, by address: what is appended to them can be followed, what is
// sent to them is kept by key.
type topics struct{}

var (
	topicsMu sync.Mutex
	lines    = map[string]map[string][]string{} // address -> partition -> records
	sent     = map[string]map[string][]string{} // address -> key -> values
	perPoll  = 100
	onPoll   func(n int)
	polled   int
)

func (topics) Partitions(_ context.Context, address string) ([]driver.Partition, error) {
	topicsMu.Lock()
	defer topicsMu.Unlock()
	var parts []driver.Partition
	for _, name := range slices.Sorted(maps.Keys(lines[address])) {
		parts = append(parts, driver.Partition{URL: address, Name: name})
	}
	return parts, nil
}

func (topics) Follow(_ context.Context, address string, from []driver.Position) (driver.Follower, error) {
	f := &reader{address: address, at: map[string]int{}}
	for _, p := range from {
		f.at[p.Partition], _ = strconv.Atoi(p.Next)
	}
	return f, nil
}

// reader gives at most perPoll records of a partition a poll, and ends with the last.
type reader struct {
	address string
	at      map[string]int
	paused  []string
}

func (r *reader) Poll(context.Context, time.Duration, int) ([]driver.Chunk, error) {
	topicsMu.Lock()
	defer topicsMu.Unlock()
	polled++
	if onPoll != nil {
		onPoll(polled)
	}
	var chunks []driver.Chunk
	for _, name := range slices.Sorted(maps.Keys(r.at)) {
		if slices.Contains(r.paused, name) {
			continue
		}
		at, all := r.at[name], lines[r.address][name]
		to := min(len(all), at+perPoll)
		c := driver.Chunk{Partition: name, Next: strconv.Itoa(to), Ended: to == len(all)}
		for i := at; i < to; i++ {
			c.Records = append(c.Records, driver.Record{Value: []byte(all[i]), Offset: int64(i)})
		}
		if r.at[name] = to; c.Ended {
			delete(r.at, name)
		}
		chunks = append(chunks, c)
	}
	return chunks, nil
}

func (r *reader) Pause(names []string) { r.paused = names }
func (r *reader) Close() error         { return nil }

func (r *reader) Lag() map[string]int64 {
	topicsMu.Lock()
	defer topicsMu.Unlock()
	lag := map[string]int64{}
	for name, at := range r.at {
		lag[name] = int64(len(lines[r.address][name]) - at)
	}
	return lag
}

func (topics) OpenSender(_ context.Context, address string) (sinkdriver.Sender, error) {
	return &writer{address: address}, nil
}

type writer struct{ address string }

func (w *writer) Send(_ context.Context, r sinkdriver.Record, _ func(error)) error {
	topicsMu.Lock()
	defer topicsMu.Unlock()
	if sent[w.address] == nil {
		sent[w.address] = map[string][]string{}
	}
	sent[w.address][string(r.Key)] = append(sent[w.address][string(r.Key)], string(r.Value))
	return nil
}

func (w *writer) Flush(context.Context) error { return nil }
func (w *writer) Close() error                { return nil }

// transactions are some of the handbook's, one a line.
func transactions(t *testing.T, days, customers int) (rows []simulate.Row, text []string) {
	t.Helper()
	err := simulate.Fraud(simulate.Params{Days: days, Customers: customers, Terminals: 2 * customers}, func(r simulate.Row) error {
		rows = append(rows, r)
		text = append(text, fmt.Sprintf(`{"TRANSACTION_ID":%d,"TX_DATETIME":%q,"CUSTOMER_ID":%d,"TERMINAL_ID":%d,"TX_AMOUNT":%d.%02d,"TX_FRAUD":%t}`,
			r.ID, time.UnixMicro(r.Time).UTC().Format(time.RFC3339), r.Customer, r.Terminal, r.Cents/100, r.Cents%100, r.Fraud))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows, text
}

// spread deals lines to partitions, each in the order of time + noise below the lateness.
func spread(rows []simulate.Row, text []string, partitions int, lateness time.Duration, rng *rand.Rand) map[string][]string {
	type item struct {
		at   int64
		line string
	}
	parts := make([][]item, partitions)
	for i, r := range rows {
		noise := int64(0)
		if lateness > 0 {
			noise = rng.Int64N(lateness.Microseconds())
		}
		p := rng.IntN(partitions)
		parts[p] = append(parts[p], item{r.Time + noise, text[i]})
	}
	out := map[string][]string{}
	for p, items := range parts {
		slices.SortStableFunc(items, func(a, b item) int { return int(a.at - b.at) })
		for _, it := range items {
			out[strconv.Itoa(p)] = append(out[strconv.Itoa(p)], it.line)
		}
	}
	return out
}

// runFeatures runs the built-in use case's features over a source.
func runFeatures(t *testing.T, name string, o scoring.Options) map[string]int64 {
	t.Helper()
	u, err := spec.Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := scoring.Features(u, o)
	if err != nil {
		t.Fatal(err)
	}
	p, s := beam.NewPipelineWithRoot()
	scoring.Build(s, plan)
	if onPoll != nil {
		run := plan.Run
		drain = func() { source.Drain(run) }
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	res, err := runner.Run(ctx, name, p)
	if err != nil {
		t.Fatal(err)
	}
	return res.Counters
}

var drain func()

// bounded is the features by event id of a run over a file.
func bounded(t *testing.T, text []string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	if err := os.WriteFile(in, []byte(strings.Join(text, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	runFeatures(t, runner.Direct, scoring.Options{Sources: []string{in}, Sink: out, DeadLetters: filepath.Join(dir, "dead.jsonl")})
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range bytes.Lines(b) {
		var l struct {
			ID json.Number `json:"id"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		want[l.ID.String()] = strings.TrimSpace(string(line))
	}
	return want
}

// compare holds what was sent, by key "id" or "id:model", to what a bounded run gives.
func compare(t *testing.T, address string, want map[string]string) {
	t.Helper()
	topicsMu.Lock()
	defer topicsMu.Unlock()
	got := sent[address]
	differ := 0
	for id, w := range want {
		switch g := got[id]; {
		case len(g) != 1:
			t.Fatalf("event %s was sent %d times", id, len(g))
		case g[0] != w:
			if differ++; differ < 4 {
				t.Errorf("event %s:\n got %s\nwant %s", id, g[0], w)
			}
		}
	}
	if differ > 0 || len(got) != len(want) {
		t.Errorf("%d events of %d differ; %d were sent", differ, len(want), len(got))
	}
}

// TestStreamEqualsBounded: in the order of event time a stream gives the bits of a bounded run, however
// events arrive within the lateness, in whatever batches, over how many partitions and shards.
func TestStreamEqualsBounded(t *testing.T) {
	rows, text := transactions(t, 50, 120)
	want := bounded(t, text)
	for i, c := range []struct {
		partitions, shards, batch int
		lateness                  time.Duration
	}{{1, 8, 1000, 0}, {3, 8, 100, 6 * time.Hour}, {2, 3, 17, 2 * time.Minute}, {4, 1, 4096, 48 * time.Hour}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			address := fmt.Sprintf("memory://equal%d", i)
			delete(sent, "memory://out"+address[len("memory://"):])
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			lines[address], perPoll = spread(rows, text, c.partitions, c.lateness, rng), c.batch
			for p := range lines[address] { // one event in twenty comes twice
				for _, l := range slices.Clone(lines[address][p]) {
					if c.lateness > 0 && rng.IntN(20) == 0 {
						at := slices.Index(lines[address][p], l)
						lines[address][p] = slices.Insert(lines[address][p], at+1, l)
					}
				}
			}
			counters := runFeatures(t, runner.Prism, scoring.Options{
				Sources: []string{address}, Sink: "memory://out" + address[len("memory://"):], DeadLetters: t.TempDir() + "/", Shards: c.shards,
				Stream: &scoring.Stream{Order: "event_time", Lateness: &c.lateness, InProcess: true, Cores: 2},
			})
			compare(t, "memory://out"+address[len("memory://"):], want)
			if n := counters["features.frontier_violation"]; n > 0 {
				t.Errorf("%d rows came behind the watermark", n)
			}
			t.Log(counters)
		})
	}
}

// TestStreamStartsAgain: a process that ends in the middle and reads again from the beginning gives the
// same bits for what it had given.
func TestStreamStartsAgain(t *testing.T) {
	rows, text := transactions(t, 30, 60)
	want := bounded(t, text)
	const in, out = "memory://again", "memory://outagain"
	delete(sent, out)
	lateness := time.Hour
	lines[in], perPoll = spread(rows, text, 2, lateness, rand.New(rand.NewPCG(2, 2))), 50
	options := scoring.Options{
		Sources: []string{in}, Sink: out, DeadLetters: t.TempDir() + "/",
		Stream: &scoring.Stream{Order: "event_time", Lateness: &lateness, InProcess: true, Cores: 2},
	}
	polled = 0
	onPoll = func(n int) {
		if n == 15 {
			drain()
		}
	}
	runFeatures(t, runner.Prism, options)
	onPoll = nil
	first := sent[out]
	if len(first) == 0 || len(first) == len(want) {
		t.Fatalf("%d events of %d before the end: it did not end in the middle", len(first), len(want))
	}
	sent[out] = nil
	runFeatures(t, runner.Prism, options)
	compare(t, out, want)
	// A drained stream lets what waits go, as if there were nothing more: what had been complete is equal.
	same := 0
	for id, values := range first {
		if values[0] == want[id] {
			same++
		}
	}
	if same < len(first)/2 {
		t.Errorf("%d of the %d events before the end have the same features", same, len(first))
	}
}

// TestStreamAccounts: in the order of arrival each event is scored, a duplicate, late or malformed, and
// counted once as what it is.
func TestStreamAccounts(t *testing.T) {
	rows, text := transactions(t, 60, 200)
	rng := rand.New(rand.NewPCG(3, 3))
	const in, out = "memory://accounts", "memory://outaccounts"
	delete(sent, out)
	lateness := time.Hour
	var stream []string
	copies, late, bad := 0, 0, 0
	type held struct {
		line string
		due  int64
	}
	var old []held
	for i, r := range rows {
		switch n := rng.IntN(100); {
		case n < 5:
			stream = append(stream, text[i], text[i])
			copies++
		case n < 6 && i < len(rows)*9/10:
			old = append(old, held{text[i], r.Time + 3*24*time.Hour.Microseconds()})
			late++
		case n < 7:
			stream = append(stream, strings.Replace(text[i], `"TX_AMOUNT":`, `"TX_AMOUNT":"x`, 1))
			bad++
		default:
			stream = append(stream, text[i])
		}
		for len(old) > 0 && old[0].due <= r.Time {
			stream = append(stream, old[0].line)
			old = old[1:]
		}
	}
	for range old {
		late-- // never sent
	}
	lines[in], perPoll = map[string][]string{"0": stream}, 64
	dead := t.TempDir() + "/"
	runFeatures(t, runner.Prism, scoring.Options{
		Sources: []string{in}, Sink: out, DeadLetters: dead,
		Stream: &scoring.Stream{Order: "arrival", Lateness: &lateness, InProcess: true, Cores: 2},
	})
	scored := len(sent[out])
	if all := scored + copies + late + bad; all != len(stream) {
		t.Errorf("%d scored + %d duplicates + %d late + %d malformed = %d of %d", scored, copies, late, bad, all, len(stream))
	}
	classes := map[deadletter.Class]int{} // of the letters: Prism's counters may lack its last bundles
	files, err := filepath.Glob(dead + "*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			l, err := deadletter.Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			classes[l.Class]++
		}
	}
	if want := map[deadletter.Class]int{deadletter.Late: late, deadletter.Schema: bad, deadletter.Duplicate: copies}; !maps.Equal(classes, want) {
		t.Errorf("dead letters %v, want %v", classes, want)
	}
	for id, values := range sent[out] {
		if len(values) != 1 {
			t.Fatalf("event %s was sent %d times", id, len(values))
		}
	}
}
