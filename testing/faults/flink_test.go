package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
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
)

// killing kills something under a job, and lets it start again where nothing else does.
type killing func(t *testing.T, c *local.Cluster, b bed)

var killings = map[string]killing{
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
	in := newPayments(t, *flinkEvents)
	killed := func(name string, kill killing, options place) {
		t.Run(name, func(t *testing.T) {
			alone(t, cluster)
			testFlinkKilled(t, newBed(t, broker), cluster, in, kill, options)
		})
	}
	for _, fault := range faults {
		kill := killings[fault]
		if kill == nil {
			t.Fatalf("no fault is called %q", fault)
		}
		killed(fault, kill, nil)
	}
	killed("rocksdb", onDisk, place{"state_backend": "rocksdb", "storage_path": "file://" + t.TempDir()})
}

// onDisk kills a TaskManager of a job, which it wants to keep its state in RocksDB.
func onDisk(t *testing.T, cluster *local.Cluster, b bed) {
	var config struct {
		Backend string `json:"state_backend"`
	}
	check(t, cluster.Get(t.Context(), "/jobs/"+jobID(t, cluster, "fraud")+"/checkpoints/config", &config))
	if !strings.Contains(config.Backend, "RocksDB") {
		t.Errorf("the job keeps its state in %s", config.Backend)
	}
	killings["taskmanager"](t, cluster, b)
}

func testFlinkKilled(t *testing.T, b bed, cluster *local.Cluster, in events, kill killing, options place) {
	want := in.bounded(t, b.registry)
	c := b.run(t, slices.Concat(ordered, at(cluster, spread(2)).and(options).flags())...)
	w := watch(t, b)
	in.send(t, b, 0, len(in.lines)/10)
	c.await("scored", len(in.lines)/20, w.ids) // it runs
	in.send(t, b, len(in.lines)/10, len(in.lines))
	c.await("scored", len(in.lines)/4, w.ids)
	killed := time.Now()
	kill(t, cluster, b)
	c.await("scored", len(in.lines), w.ids)
	t.Logf("%d scores in %s; %s without a new score after the kill", len(in.lines), time.Since(w.first).Round(time.Second), w.gap(killed).Round(100*time.Millisecond))
	c.drain()
	w.equal(t, want)
}

// events are payments of some weeks. Each day has its events within a minute or two, so that windows of days
// have something to forget and a second of a stream has many events.
type events struct{ lines [][]byte }

func newPayments(t *testing.T, n int) (e events) {
	t.Helper()
	today, inDay := int64(0), int64(0)
	err := simulate.Fraud(simulate.Params{Days: max(60, n/9000)}, func(r simulate.Row) error {
		if len(e.lines) == n {
			return errEnough
		}
		const day = 24 * 60 * 60 * 1_000_000
		if d := r.Time / day; d != today {
			today, inDay = d, 0
		}
		e.lines = append(e.lines, appendPayment(nil, r, today*day+inDay*10_000))
		inDay++
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
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
		lines = append(lines, trailer(1_000_000_000+int64(partition), at))
	}
	return lines
}

func trailer(id int64, at time.Time) []byte {
	return appendPayment(nil, simulate.Row{ID: id, Customer: 1, Terminal: 1, Cents: 100}, at.UnixMicro())
}

// bounded are the lines that a run to the end gives for the events, by id.
func (e events) bounded(t *testing.T, registry string, more ...string) map[int]string {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	check(t, os.WriteFile(in, append(bytes.Join(e.lines, []byte("\n")), '\n'), 0o644))
	boundedRun(t, in, out, registry, more...)
	f, err := os.Open(out)
	check(t, err)
	defer f.Close()
	want := map[int]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		want[lineID(s.Bytes())] = s.Text()
	}
	if len(want) != len(e.lines) {
		t.Fatalf("the bounded run scored %d of %d", len(want), len(e.lines))
	}
	return want
}

// boundedRun scores a file to its end, with features, and without a cluster.
func boundedRun(t *testing.T, in, out, registry string, more ...string) {
	t.Helper()
	c := start(t, append([]string{"run", "fraud", "--runner", "direct", "--source", in, "--sink", out, "--registry", registry, "--features", "--dead-letters", filepath.Join(filepath.Dir(out), "dead") + "/"}, more...)...)
	if code := c.exit(20 * time.Minute); code != 0 {
		t.Fatalf("exit code %d of the bounded run", code)
	}
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

// ids is how many have come, each counted once.
func (w *watcher) ids() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.got)
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

// rewrite puts another for each line; lines that become alike are one that came again.
func (w *watcher) rewrite(f func(line string) string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, lines := range w.got {
		changed := map[string]int{}
		for line, n := range lines {
			changed[f(line)] += n
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
