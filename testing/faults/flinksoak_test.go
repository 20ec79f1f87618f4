package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
)

var (
	flinkSoak      = flag.Duration("flink-soak", 0, "for how long events come to a job on Flink, as many a second as -flink-rate says; 0: they don't")
	flinkSoakKill  = flag.Duration("flink-soak-kill", 5*time.Minute, "how often a TaskManager is killed meanwhile, one and then the other; also the window of what is measured")
	flinkStretches = flag.Int("flink-soak-stretches", 1000, "how many stretches of a hundred days, the last of all, are compared with bounded runs")
)

const (
	soakSample = 10 * time.Second
	// soakBehind is how many events may wait; a topic keeps twice as many at least.
	soakBehind = 6_000_000
)

// TestFlinkSoak lets events come for a long time, with a TaskManager killed now and then. Each event is scored, as
// by a bounded run to the bit, and it tells whether anything grows.
func TestFlinkSoak(t *testing.T) {
	if *flinkSoak == 0 {
		t.Skip("runs with -flink-soak=30m")
	}
	t.Setenv(asCommand, "1") // to what the TaskManagers start too
	b := bed{components.Kafka(t), "soak.in", "soak.out", filepath.Join(t.TempDir(), "registry")}
	for _, topic := range []string{b.in, b.out} { // a partition keeps some minutes
		b.CreateTopic(topic, 2, "retention.bytes", strconv.Itoa(2<<30), "segment.bytes", strconv.Itoa(256<<20))
	}
	publish(t, b.registry)
	cluster := components.Flink(t, local.Options{TaskManagers: 2, Slots: 1})
	c := b.run(t, slices.Concat(ordered, at(cluster, over(2)).flags())...)
	s := soak{t: t, cluster: cluster, command: c, gauges: gauges{window: *flinkSoakKill}}
	s.scored = readScores(t, b, *flinkRate*int((*flinkSoak+10*time.Minute)/time.Second))
	c.await("start of the job", 1, c.told("the job is RUNNING"))
	s.sent = sendPayments(t, b)
	n := s.run()
	c.drain()
	if s.scored.other > 0 {
		t.Errorf("%d lines came again, and differ", s.scored.other)
	}
	t.Logf("%d events, each scored; %d lines came again, alike", n, s.scored.again)
	if s.scored.distinct != n || slices.Contains(s.scored.hashes[:n], 0) {
		t.Errorf("%d ids are scored, and not those of the %d events", s.scored.distinct, n)
	}
	t.Logf("memory in MB, while nothing is behind; a heap is the least of its window:\n%s", s.gauges.table(*flinkSoak))
	s.scored.compare(t, b.registry, n, s.sent.day)
}

// soak is a job under events that come at a rate.
type soak struct {
	t       *testing.T
	cluster *local.Cluster
	command *command
	scored  *tally
	sent    *sending
	begin   time.Time
	job     string
	quiet   bool // nothing is behind since the last kill
	gauges  gauges
}

// run returns how many events were sent, when all are scored.
func (s *soak) run() (n int) {
	s.command.await("scored", 1, s.scored.count)
	s.begin, s.job = time.Now(), jobID(s.t, s.cluster, "fraud")
	tick := time.NewTicker(soakSample)
	defer tick.Stop()
	kills := 0
	for time.Since(s.begin) < *flinkSoak {
		select {
		case <-s.command.ended:
			s.t.Fatal("the command ended by itself")
		case <-tick.C:
		}
		s.look()
		if time.Since(s.begin) > time.Duration(kills+1)**flinkSoakKill && time.Since(s.begin) < *flinkSoak-soakSample {
			s.kill(kills % 2)
			kills++
		}
	}
	n = s.sent.end()
	s.command.await("scored", n, s.scored.count)
	all, err := checkpointsOf(s.t.Context(), s.cluster, s.job)
	check(s.t, err)
	s.t.Logf("%d kills; %d checkpoints completed, %d failed, %d restored", kills, all.Counts.Completed, all.Counts.Failed, all.Counts.Restored)
	return n
}

// kill kills a TaskManager and starts it again.
func (s *soak) kill(taskManager int) {
	s.t.Logf("%s: killing TaskManager %d; at most %s went without a new score before", s.time(), taskManager, s.scored.gap().Round(100*time.Millisecond))
	s.quiet = false
	check(s.t, s.cluster.KillTaskManager(taskManager))
	time.Sleep(*pause)
	check(s.t, s.cluster.StartTaskManager(s.t.Context(), taskManager))
}

func (s *soak) time() time.Duration { return time.Since(s.begin).Round(time.Second) }

// look takes all figures once. Those of memory count only while nothing is behind.
func (s *soak) look() {
	s.t.Helper()
	at := time.Since(s.begin)
	sent, distinct := s.sent.n.Load(), s.scored.count()
	behind := int(sent) - distinct
	if behind > soakBehind {
		s.t.Fatalf("%d events are behind, of which a topic will lose some: lower -flink-rate (%d)", behind, *flinkRate)
	}
	if !s.quiet && behind < 10**flinkRate {
		s.quiet = true
		s.t.Logf("%s: nothing is behind any more; at most %s went without a new score", s.time(), s.scored.gap().Round(100*time.Millisecond))
	}
	put := func(name string, fold func([]float64) float64, value float64) { s.gauges.put(name, fold, at, value) }
	put("events behind, most", most, float64(behind))
	line := fmt.Sprintf("%s: %d events, %d behind", s.time(), sent, behind)
	if all, err := checkpointsOf(s.t.Context(), s.cluster, s.job); err == nil && all.Latest.Completed != nil {
		last := all.Latest.Completed
		put("checkpoint, mean", mean, float64(last.State)/megabyte)
		put("checkpoint, seconds, mean", mean, float64(last.Took)/1000)
		line += fmt.Sprintf(", checkpoint %d MB in %d ms", last.State/megabyte, last.Took)
	}
	pids := s.cluster.PIDs()
	for i := range 2 {
		workers, err := s.cluster.Workers(i)
		heap, metaspace, failed := jvm(s.t.Context(), s.cluster, i)
		if err := errors.Join(err, failed); err != nil || !s.quiet {
			continue // one that was killed says nothing yet
		}
		name := fmt.Sprintf("TaskManager %d ", i)
		put(name+"heap", least, heap)
		put(name+"metaspace", least, metaspace)
		put(name+"process, mean", mean, components.Resident(pids[fmt.Sprintf("taskmanager-%d", i)]))
		put(name+"worker, mean", mean, components.Resident(workers...))
		line += fmt.Sprintf(", heap %.0f MB, worker %.0f MB", heap, components.Resident(workers...))
	}
	put("JobManager process, mean", mean, components.Resident(pids["jobmanager"]))
	put("job server process, mean", mean, components.Resident(pids["jobserver"]))
	put("checkpoints on disk, most", most, folderSize(filepath.Join(s.cluster.Dir(), "checkpoints")))
	put("temporary files, most", most, folderSize(filepath.Join(s.cluster.Dir(), "tmp")))
	s.t.Log(line)
}

// eachPayment gives payments as lines, until it is told to stop. Their ids count from 0. A day has some 40,000,
// which come within a minute and a half: windows of days have something to forget, and rows wait for the watermark.
// There are 140 million.
func eachPayment(f func(id, day int, line []byte) error) error {
	const day = 24 * 60 * 60 * 1_000_000
	first, today, inDay := int64(0), int64(0), int64(0)
	var buf []byte
	return simulate.Fraud(simulate.Params{Days: 3650, Customers: 20_000}, func(r simulate.Row) error {
		if d := r.Time / day; d != today {
			today, inDay = d, 0
			if first == 0 {
				first = d
			}
		}
		if cap(buf)-len(buf) < 1024 {
			buf = make([]byte, 0, 256<<10) // another, as lines stay with who gets them
		}
		buf = appendPayment(buf[len(buf):], r, today*day+inDay*2000)
		inDay++
		return f(int(r.ID), int(today-first), buf[:len(buf):len(buf)])
	})
}

// sending lets payments come at a rate, until it is ended.
type sending struct {
	t    *testing.T
	n    atomic.Int64
	day  int // of the last, once it has ended
	stop atomic.Bool
	done chan struct{}
}

var errEnough = errors.New("enough")

func sendPayments(t *testing.T, b bed) *sending {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic(b.in), kgo.ProducerLinger(5*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.MaxBufferedRecords(1<<20))
	check(t, err)
	s := &sending{t: t, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); <-s.done; client.Close() })
	failed := func(_ *kgo.Record, err error) {
		if err != nil && ctx.Err() == nil {
			t.Errorf("sending: %v", err)
		}
	}
	go func() {
		defer close(s.done)
		begin := time.Now()
		err := eachPayment(func(id, day int, line []byte) error {
			if s.stop.Load() {
				return errEnough
			}
			if ahead := time.Duration(id)*time.Second/time.Duration(*flinkRate) - time.Since(begin); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
			client.Produce(ctx, &kgo.Record{Value: line, Partition: int32(id) * 7 % 13 % 2}, failed)
			s.n.Store(int64(id) + 1)
			s.day = day
			return ctx.Err()
		})
		if err == nil {
			err = errors.New("the simulation has ended: let it run shorter, or at a lower rate")
		}
		if !errors.Is(err, errEnough) && ctx.Err() == nil {
			t.Errorf("sending: %v", err)
		}
		for partition := range int32(2) { // moves the watermark past all of them
			line := trailer(s.n.Load()+int64(partition), time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC))
			client.Produce(ctx, &kgo.Record{Partition: partition, Value: line}, failed)
		}
		_ = client.Flush(ctx)
	}()
	return s
}

// end stops sending and returns how many were sent.
func (s *sending) end() int {
	s.stop.Store(true)
	<-s.done
	return int(s.n.Load())
}

// tally has what came for each id, as a hash of the line.
type tally struct {
	mu       sync.Mutex
	seed     maphash.Seed
	hashes   []uint64 // by id; 0: none came
	distinct int
	again    int // lines that came before
	other    int // of an id that had another line
	fresh    time.Time
	longest  time.Duration
}

// readScores reads all that is written into the topic of scores, of at most so many ids.
func readScores(t *testing.T, b bed, ids int) *tally {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics(b.out))
	check(t, err)
	y := &tally{seed: maphash.MakeSeed(), hashes: make([]uint64, ids)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { stop(); <-done; client.Close() })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			y.mu.Lock()
			before := y.distinct
			fetches.EachRecord(func(r *kgo.Record) { y.add(t, r.Value) })
			if y.distinct > before {
				now := time.Now()
				if !y.fresh.IsZero() {
					y.longest = max(y.longest, now.Sub(y.fresh))
				}
				y.fresh = now
			}
			y.mu.Unlock()
		}
	}()
	return y
}

func (y *tally) add(t *testing.T, line []byte) {
	id := lineID(line)
	if id < 0 || id >= len(y.hashes) {
		t.Errorf("a line that is no score: %q", line)
		return
	}
	switch hash := y.hash(line); y.hashes[id] {
	case 0:
		y.hashes[id] = hash
		y.distinct++
	case hash:
		y.again++
	default:
		if y.other++; y.other <= 3 {
			t.Errorf("event %d came before with another score than %s", id, line)
		}
	}
}

// hash is never 0.
func (y *tally) hash(line []byte) uint64 { return max(1, maphash.Bytes(y.seed, line)) }

func (y *tally) count() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.distinct
}

// gap is the longest time in which no new id came, since the last call; one that lasts is told again.
func (y *tally) gap() time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	gap := max(y.longest, time.Since(y.fresh))
	y.longest = 0
	return gap
}

// Bounded runs take this many days each, and before them those that windows and labels reach back.
const (
	stretchDays = 100
	reachDays   = 38
)

// compare wants the lines that bounded runs give for the n events, the last of which is of a day.
func (y *tally) compare(t *testing.T, registry string, n, lastDay int) {
	t.Helper()
	stretches := lastDay/stretchDays + 1
	first := max(0, stretches-*flinkStretches)
	var now, next *stretch // that of the day, and that which reaches back to it
	err := eachPayment(func(id, day int, line []byte) error {
		if id == n {
			return errEnough
		}
		at := day / stretchDays
		if at < first-1 {
			return nil
		}
		if at >= first && (now == nil || now.number != at) {
			if now != nil {
				now.compare(t, y, registry)
			}
			if now, next = next, nil; now == nil {
				now = newStretch(t, at)
			}
			now.from = id
		}
		if at >= first {
			now.write(t, line)
			now.to = id + 1
		}
		if at+1 < stretches && day%stretchDays >= stretchDays-reachDays {
			if next == nil {
				next = newStretch(t, at+1)
			}
			next.write(t, line)
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("making the events again: %v", err)
	}
	now.compare(t, y, registry)
}

// stretch is the input of a bounded run, of whose events some are compared.
type stretch struct {
	number   int
	from, to int // ids that are compared
	dir      string
	file     *os.File
	buf      *bufio.Writer
}

func newStretch(t *testing.T, number int) *stretch {
	t.Helper()
	s := &stretch{number: number, dir: t.TempDir()}
	var err error
	s.file, err = os.Create(filepath.Join(s.dir, "in.jsonl"))
	check(t, err)
	s.buf = bufio.NewWriterSize(s.file, 1<<20)
	return s
}

func (s *stretch) write(t *testing.T, line []byte) {
	t.Helper()
	_, err := s.buf.Write(line)
	check(t, errors.Join(err, s.buf.WriteByte('\n')))
}

// compare runs it and looks at each line that comes out.
func (s *stretch) compare(t *testing.T, y *tally, registry string) {
	t.Helper()
	check(t, errors.Join(s.buf.Flush(), s.file.Close()))
	begin, out := time.Now(), filepath.Join(s.dir, "out.jsonl")
	boundedRun(t, s.file.Name(), out, registry)
	f, err := os.Open(out)
	check(t, err)
	defer f.Close()
	seen, wrong := 0, 0
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		check(t, err)
		line = bytes.TrimSuffix(line, []byte("\n"))
		id := lineID(line)
		if id < s.from || id >= s.to {
			continue
		}
		seen++
		if y.hashes[id] != y.hash(line) {
			if wrong++; wrong <= 3 {
				t.Errorf("event %d has another score than %s", id, line)
			}
		}
	}
	if seen != s.to-s.from || wrong > 0 {
		t.Errorf("events %d to %d: the bounded run gives %d, and %d differ", s.from, s.to, seen, wrong)
	}
	t.Logf("events %d to %d are compared with a bounded run, which took %s", s.from, s.to, time.Since(begin).Round(time.Second))
	check(t, os.RemoveAll(s.dir))
}
