package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
)

var (
	flinkFaults = flag.String("flink", "taskmanager", "what is killed under a job on Flink, of taskmanager, worker, jobmanager, broker, jobserver; with commas")
	flinkEvents = flag.Int("flink-events", 200_000, "events of a job on Flink")
	flinkRate   = flag.Int("flink-rate", 10_000, "events a second of a job on Flink")
	flinkWait   = flag.Duration("flink-wait", 90*time.Second, "for how long a job on Flink may do nothing before it is given up")
)

// killings are the faults: each kills something, and lets it start again where nothing else does.
var killings = map[string]func(t *testing.T, c *local.Cluster, b bed){
	"taskmanager": func(t *testing.T, c *local.Cluster, _ bed) {
		check(t, c.KillTaskManager(1))
		time.Sleep(*pause)
		check(t, c.StartTaskManager(t.Context(), 1))
	},
	"worker": func(t *testing.T, c *local.Cluster, _ bed) {
		pids, err := c.Workers(1)
		check(t, err)
		if len(pids) == 0 {
			t.Fatal("no worker to kill")
		}
		for _, pid := range pids {
			check(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	},
	"jobmanager": func(t *testing.T, c *local.Cluster, _ bed) {
		check(t, c.KillJobManager())
		time.Sleep(*pause)
		check(t, c.RestartJobManager(t.Context()))
	},
	"broker": func(_ *testing.T, _ *local.Cluster, b bed) {
		b.Kill()
		time.Sleep(*pause)
		b.Restart()
	},
	"jobserver": func(t *testing.T, c *local.Cluster, _ bed) {
		check(t, c.KillJobServer())
		time.Sleep(*pause)
		check(t, c.RestartJobServer(t.Context()))
	},
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFlink runs the command against a Flink of real processes: in the order of event time, the scores and
// features of a job that something is killed under are those of a bounded run to the bit.
func TestFlink(t *testing.T) {
	faults := strings.Split(*flinkFaults, ",")
	t.Setenv(asCommand, "1") // to what the TaskManagers start too
	cluster := components.Flink(t, local.Options{TaskManagers: 2, Slots: 1, Heap: 512 << 20, HighAvailability: slices.Contains(faults, "jobmanager")})
	broker := components.Kafka(t)
	near(t, cluster)
	in := newPayments(t, *flinkEvents)
	for _, fault := range faults {
		kill := killings[fault]
		if kill == nil {
			t.Fatalf("no fault is called %q", fault)
		}
		t.Run(fault, func(t *testing.T) { testFlinkKilled(t, newBed(t, broker), cluster, in, kill) })
	}
}

// near lets the command find a cluster as that of the user.
func near(t *testing.T, cluster *local.Cluster) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	home, err := local.DefaultDir()
	check(t, err)
	check(t, os.MkdirAll(filepath.Dir(home), 0o755))
	check(t, os.Symlink(cluster.Dir(), home))
}

// orderedRun is the command that scores in the order of event time on the cluster.
func (b bed) orderedRun(t *testing.T, parallelism int, more ...string) *command {
	return b.run(t, append([]string{
		"--runner", "flink", "--order", "event_time", "--lateness", "1m", "--features", "--set", "stream.idle=0",
		"--flink", fmt.Sprintf("parallelism=%d", parallelism), "--flink", "checkpoint_interval=2s",
	}, more...)...)
}

func testFlinkKilled(t *testing.T, b bed, cluster *local.Cluster, in events, kill func(*testing.T, *local.Cluster, bed)) {
	want := in.bounded(t, b.registry)
	c := b.orderedRun(t, 2)
	w := watch(t, b)
	in.send(t, b, 0, len(in.lines)/10)
	w.upTo(t, c, len(in.lines)/20) // it runs
	in.send(t, b, len(in.lines)/10, len(in.lines))
	w.upTo(t, c, len(in.lines)/4)
	killed := time.Now()
	kill(t, cluster, b)
	w.upTo(t, c, len(in.lines))
	t.Logf("%d scores in %s; %s without a new score after the kill", len(in.lines), time.Since(w.first).Round(time.Second), w.gap(killed).Round(100*time.Millisecond))
	c.drain()
	w.equal(t, want)
}

// events are payments of some weeks. Each day has its events within a minute or two, so that windows of days
// have something to forget and a second of a stream has many events.
type events struct{ lines [][]byte }

func newPayments(t *testing.T, n int) (e events) {
	t.Helper()
	enough := errors.New("enough")
	today, inDay := int64(0), int64(0)
	err := simulate.Fraud(simulate.Params{Days: max(60, n/9000)}, func(r simulate.Row) error {
		if len(e.lines) == n {
			return enough
		}
		const day = 24 * 60 * 60 * 1_000_000
		if d := r.Time / day; d != today {
			today, inDay = d, 0
		}
		at := time.UnixMicro(today*day + inDay*10_000)
		inDay++
		e.lines = append(e.lines, fmt.Appendf(nil, `{"TRANSACTION_ID":%d,"TX_DATETIME":"%s","CUSTOMER_ID":%d,"TERMINAL_ID":%d,"TX_AMOUNT":%.2f,"TX_FRAUD":%t}`,
			len(e.lines), at.UTC().Format(time.RFC3339Nano), r.Customer, r.Terminal, float64(r.Cents)/100, r.Fraud))
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if len(e.lines) < n {
		t.Fatalf("%d events, want %d", len(e.lines), n)
	}
	return e
}

// time is that of an event.
func (e events) time(t *testing.T, i int) time.Time {
	t.Helper()
	var line struct {
		At time.Time `json:"TX_DATETIME"`
	}
	check(t, json.Unmarshal(e.lines[i], &line))
	return line.At
}

// trailers move the watermark past all events, one in each partition. They wait for what moves it past them.
func (e events) trailers(t *testing.T) (lines [][]byte) {
	t.Helper()
	at := e.time(t, len(e.lines)-1).Add(time.Hour)
	for partition := range 2 {
		lines = append(lines, fmt.Appendf(nil, `{"TRANSACTION_ID":%d,"TX_DATETIME":"%s","CUSTOMER_ID":1,"TERMINAL_ID":1,"TX_AMOUNT":1.00,"TX_FRAUD":false}`,
			1_000_000_000+partition, at.Format(time.RFC3339Nano)))
	}
	return lines
}

// bounded are the lines that a run to the end gives for the events, by id.
func (e events) bounded(t *testing.T, registry string, more ...string) map[int]string {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	check(t, os.WriteFile(in, append(bytes.Join(e.lines, []byte("\n")), '\n'), 0o644))
	c := start(t, append([]string{"run", "fraud", "--runner", "direct", "--source", in, "--sink", out, "--registry", registry, "--features", "--dead-letters", filepath.Join(dir, "dead") + "/"}, more...)...)
	if code := c.exit(2 * time.Minute); code != 0 {
		t.Fatalf("exit code %d of the bounded run", code)
	}
	f, err := os.Open(out)
	check(t, err)
	defer f.Close()
	want := map[int]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		want[scoreID(t, s.Bytes())] = s.Text()
	}
	if len(want) != len(e.lines) {
		t.Fatalf("the bounded run scored %d of %d", len(want), len(e.lines))
	}
	return want
}

func scoreID(t *testing.T, line []byte) int {
	var l struct{ ID *int }
	if err := json.Unmarshal(line, &l); err != nil || l.ID == nil {
		t.Errorf("a line that is no score: %q", line)
		return -1
	}
	return *l.ID
}

// send lets some of the events come at the rate, in the background, and behind the last of all the trailers. The
// function that it returns waits until they are there.
func (e events) send(t *testing.T, b bed, from, to int) (sent func()) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic(b.in), kgo.ProducerLinger(5*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100*time.Millisecond))
	check(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	t.Cleanup(func() { stop(); sending.Wait(); client.Close() })
	failed := func(_ *kgo.Record, err error) {
		if err != nil && ctx.Err() == nil {
			t.Errorf("sending: %v", err)
		}
	}
	var trailers [][]byte
	if to == len(e.lines) {
		trailers = e.trailers(t)
	}
	sending.Go(func() {
		begin := time.Now()
		for i := from; i < to && ctx.Err() == nil; i++ {
			if ahead := time.Duration(i-from)*time.Second/time.Duration(*flinkRate) - time.Since(begin); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
			client.Produce(ctx, &kgo.Record{Value: e.lines[i], Partition: int32(i) * 7 % 13 % 2}, failed)
		}
		for partition, line := range trailers {
			client.Produce(ctx, &kgo.Record{Partition: int32(partition), Value: line}, failed)
		}
		_ = client.Flush(ctx)
	})
	return sending.Wait
}

// watcher reads all that is written into the topic of scores.
type watcher struct {
	mu    sync.Mutex
	got   map[int]map[string]int
	fresh []time.Time // when ids came that had not come before, those of one fetch once
	first time.Time
}

func watch(t *testing.T, b bed) *watcher {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics(b.out), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100*time.Millisecond))
	check(t, err)
	w := &watcher{got: map[int]map[string]int{}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { stop(); <-done; client.Close() })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			w.mu.Lock()
			before := len(w.got)
			fetches.EachRecord(func(r *kgo.Record) { add(t, w.got, r.Value) })
			if now := time.Now(); len(w.got) > before {
				if before == 0 {
					w.first = now
				}
				w.fresh = append(w.fresh, now)
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// upTo waits until so many ids have come.
func (w *watcher) upTo(t *testing.T, c *command, n int) {
	t.Helper()
	have := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.got)
	}
	last, moved := 0, time.Now()
	for have() < n {
		select {
		case <-c.ended:
			t.Fatalf("the command ended by itself; %d of %d scored", have(), n)
		case <-time.After(20 * time.Millisecond):
		}
		if now := have(); now > last {
			last, moved = now, time.Now()
		}
		if time.Since(moved) > *flinkWait {
			t.Fatalf("%d of %d scored, and nothing more comes", last, n)
		}
	}
}

// gap is the longest time after a moment in which no new id came.
func (w *watcher) gap(after time.Time) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := after
	for _, at := range w.fresh {
		if at.After(after) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return longest
}

// count is how many ids have a line with such a text.
func (w *watcher) count(text string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, lines := range w.got {
		for line := range lines {
			if strings.Contains(line, text) {
				n++
				break
			}
		}
	}
	return n
}

// replace puts one text for another in all lines.
func (w *watcher) replace(old, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, lines := range w.got {
		changed := map[string]int{}
		for line, n := range lines {
			changed[strings.ReplaceAll(line, old, text)] += n
		}
		w.got[id] = changed
	}
}

// equal wants the lines of a bounded run, and only those, however often they came.
func (w *watcher) equal(t *testing.T, want map[int]string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	wrong := 0
	for id, line := range want {
		if lines := w.got[id]; len(lines) != 1 || lines[line] == 0 {
			if wrong++; wrong <= 3 {
				t.Errorf("event %d has the lines %v\nwant %s", id, lines, line)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d events are not as in a bounded run", wrong, len(want))
	}
	t.Logf("%d lines came again, alike", identical(t, w.got))
}
