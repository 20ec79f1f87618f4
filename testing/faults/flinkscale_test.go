package faults

import (
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
)

var (
	flinkEntities = flag.Int("flink-entities", 0, "measure a job on Flink with the state of so many terminals and half as many customers, beside one with ten thousand; 0: don't")
	flinkMeasured = flag.Int("flink-scale-events", 2_000_000, "events over which cost and restart are measured once the windows are full")
	flinkHeap     = flag.Int("flink-scale-heap", 0, "the TaskManager's heap for tasks in MB; 0: by the number of terminals")
	flinkBackend  = flag.String("flink-scale-backend", "hashmap", "the state backend, hashmap or rocksdb")
	flinkShards   = flag.Int("flink-scale-shards", 0, "shards of the state; 0: the default")
	flinkInterval = flag.Duration("flink-scale-interval", 10*time.Second, "between two checkpoints")
)

// TestFlinkScale measures: it holds nothing to a bound, and means something on a quiet machine only.
func TestFlinkScale(t *testing.T) {
	if *flinkEntities == 0 {
		t.Skip("runs with -flink-entities=N")
	}
	t.Setenv(asCommand, "1")
	broker := components.Kafka(t)
	var runs []*scale
	for _, n := range []int{10_000, *flinkEntities} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			s := &scale{t: t, terminals: n}
			runs = append(runs, s)
			s.measure(broker)
		})
	}
	t.Logf("\n%s", scaleTable(runs))
}

// scale is a job with full windows.
type scale struct {
	t         *testing.T
	terminals int
	bed       bed
	cluster   *local.Cluster
	admin     *kadm.Client
	sent      int
	figures   []scaleFigure
}

type scaleFigure struct {
	name  string
	value float64
}

func (s *scale) put(name string, value float64) {
	s.figures = append(s.figures, scaleFigure{name, value})
	s.t.Logf("%d terminals: %s %s", s.terminals, name, short(value))
}

func scaleTable(runs []*scale) string {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "terminals\t")
	for _, r := range runs {
		fmt.Fprintf(t, "%d\t", r.terminals)
	}
	fmt.Fprintln(t)
	for i, f := range runs[0].figures {
		fmt.Fprintf(t, "%s\t", f.name)
		for _, r := range runs {
			if i < len(r.figures) {
				fmt.Fprintf(t, "%s\t", short(r.figures[i].value))
			}
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
	return text.String()
}

func (s *scale) measure(broker *components.Broker) {
	t := s.t
	name := fmt.Sprintf("scale%d", s.terminals)
	s.bed = bed{broker, name + ".in", name + ".out", filepath.Join(t.TempDir(), "registry")}
	broker.CreateTopic(s.bed.in, 1) // in order, for its time passes fast
	broker.CreateTopic(s.bed.out, 2, "retention.bytes", strconv.Itoa(256<<20), "segment.bytes", strconv.Itoa(64<<20))
	publish(t, s.bed.registry)
	s.admin = broker.Admin()
	heap := int64(*flinkHeap) << 20
	if heap == 0 {
		heap = 1<<30 + 200*int64(s.terminals)
	}
	s.cluster = components.Flink(t, local.Options{Slots: 2, Heap: heap})

	s.fill(2 * s.terminals)
	c := s.start()
	before := cpuOf(t, s.cluster)
	took := s.drain(c, 0, time.Now())
	s.put("start, seconds to the first score", took.first.Seconds())
	s.put("filling, events a second", float64(s.sent)/(took.all-took.first).Seconds())
	s.put("filling, CPU seconds a million, start included", s.each(before, s.sent))

	done := s.sent
	before, begin := cpuOf(t, s.cluster), time.Now()
	s.fill(*flinkMeasured)
	took = s.drain(c, done, begin)
	s.put("windows full, events a second", float64(*flinkMeasured)/took.all.Seconds())
	s.put("windows full, CPU seconds a million", s.each(before, *flinkMeasured))
	s.put("longest checkpoint while they come, seconds", took.checkpoint.Seconds())
	s.memory()
	s.rest(c)

	begin = time.Now()
	savepoint := s.stop(c)
	s.put("stopping with a savepoint, seconds", time.Since(begin).Seconds())
	s.put("savepoint, MB", folderSize(strings.TrimPrefix(savepoint, "file:")))

	done = s.sent
	s.fill(*flinkMeasured)
	before = cpuOf(t, s.cluster)
	c = s.start("--flink", "savepoint_path="+savepoint)
	took = s.drain(c, done, time.Now())
	s.put("restart, seconds to the first score", took.first.Seconds())
	s.put(fmt.Sprintf("restart, seconds to the last of %d behind", *flinkMeasured), took.all.Seconds())
	s.put("restart, CPU seconds", cpuOf(t, s.cluster)-before)
	s.memory()
	c.drain()
}

// fill lets events come at once. Terminals and customers are drawn by themselves, and a terminal has two events
// within its windows.
func (s *scale) fill(n int) {
	from, gap := s.sent, 37*24*3600*1e6/2/float64(s.terminals)
	s.t.Logf("%d terminals: a topic gets %d events", s.terminals, n)
	s.bed.Fill(s.bed.in, n, func(buf []byte, i int) []byte {
		id := from + i
		random := scramble(uint64(id))
		r := simulate.Row{
			ID: int64(id), Terminal: int64(random % uint64(s.terminals)), Customer: int64(scramble(random) % uint64(s.terminals/2)),
			Cents: int64(random>>32) % 50_000, Fraud: random>>58 == 0,
		}
		return appendPayment(buf, r, 1_500_000_000e6+int64(float64(id)*gap))
	})
	s.sent += n
}

// scramble is the output function of SplitMix64.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (s *scale) start(more ...string) *command {
	kind, config := s.cluster.Environment()
	if *flinkBackend != "hashmap" {
		more = append(more, "--flink", "state_backend="+*flinkBackend, "--flink", "storage_path=file://"+filepath.Join(s.cluster.Dir(), "checkpoints"))
	}
	if *flinkShards > 0 {
		more = append(more, "--flink", fmt.Sprintf("shards=%d", *flinkShards))
	}
	return s.bed.run(s.t, append([]string{
		"--runner", "flink", "--order", "arrival", "--set", "stream.idle=0", "--flink", "parallelism=2", "--flink", fmt.Sprintf("checkpoint_interval=%s", *flinkInterval),
		"--flink", "endpoint=" + s.cluster.JobServer(), "--flink", "rest=" + s.cluster.REST(), "--flink", "environment=" + kind, "--flink", "environment_config=" + config,
	}, more...)...)
}

// drained says how long it took to the first score and to the last, and the longest checkpoint meanwhile.
type drained struct{ first, all, checkpoint time.Duration }

// drain waits until all that was sent is scored, of which some was before it began.
func (s *scale) drain(c *command, before int, begin time.Time) (d drained) {
	t := s.t
	t.Helper()
	said, moved, last := time.Now(), time.Now(), before
	for {
		select {
		case <-c.ended:
			t.Fatalf("the command ended by itself, %d of %d scored", last, s.sent)
		case <-time.After(20 * time.Millisecond):
		}
		ends, err := s.admin.ListEndOffsets(t.Context(), s.bed.out)
		check(t, err)
		scored := 0
		ends.Each(func(o kadm.ListedOffset) { scored += int(o.Offset) })
		if scored > last {
			if last == before {
				d.first = time.Since(begin)
			}
			last, moved = scored, time.Now()
		}
		if scored >= s.sent {
			d.all = time.Since(begin)
			d.checkpoint = s.longest(begin)
			return d
		}
		if time.Since(moved) > 10*time.Minute {
			t.Fatalf("%d of %d scored, and nothing more comes", scored, s.sent)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			s.progress(scored, time.Since(begin))
		}
	}
}

func (s *scale) progress(scored int, at time.Duration) {
	workers, _ := s.cluster.Workers(0)
	heap, _, _ := jvm(s.t.Context(), s.cluster, 0)
	s.t.Logf("%d terminals, %s: %d of %d scored, heap %.0f MB, worker %.0f MB", s.terminals, at.Round(time.Second), scored, s.sent, heap, residentOf(workers...))
}

// longest is the longest of the checkpoints that the job remembers, of those since a time.
func (s *scale) longest(since time.Time) (d time.Duration) {
	all, err := checkpointsOf(s.t.Context(), s.cluster, jobID(s.t, s.cluster, "fraud"))
	check(s.t, err)
	for _, one := range all.History {
		if one.Status == "COMPLETED" && one.Trigger+one.Took > since.UnixMilli() {
			d = max(d, time.Duration(one.Took)*time.Millisecond)
		}
	}
	return d
}

// rest looks at the job when nothing comes: at a checkpoint that was begun then.
func (s *scale) rest(c *command) {
	t := s.t
	job, since := jobID(t, s.cluster, "fraud"), time.Now().Add(time.Second).UnixMilli()
	for deadline := time.Now().Add(20 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		all, err := checkpointsOf(t.Context(), s.cluster, job)
		if err == nil && all.Latest.Completed != nil && all.Latest.Completed.Trigger > since {
			last := all.Latest.Completed
			s.put("checkpoint, MB", float64(last.State)/megabyte)
			s.put("checkpoint, bytes a terminal", float64(last.State)/float64(s.terminals))
			s.put("checkpoint, MB written", float64(last.Written)/megabyte)
			s.put("checkpoint at rest, seconds", float64(last.Took)/1000)
			s.put("checkpoints that failed", float64(all.Counts.Failed))
			s.put("restarts", float64(all.Counts.Restored))
			return
		}
		select {
		case <-c.ended:
			t.Fatal("the command ended by itself")
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("no checkpoint completes")
		}
	}
}

func (s *scale) memory() {
	workers, err := s.cluster.Workers(0)
	check(s.t, err)
	s.put("worker, MB", residentOf(workers...))
	s.put("TaskManager, MB", residentOf(s.cluster.PIDs()["taskmanager-0"]))
}

// each is the CPU seconds of a million events.
func (s *scale) each(before float64, events int) float64 {
	return (cpuOf(s.t, s.cluster) - before) / float64(events) * 1e6
}

// stop stops the job with a savepoint and returns where it is.
func (s *scale) stop(c *command) string {
	t := s.t
	drain := start(t, "jobs", "drain", "fraud", "--rest", s.cluster.REST())
	if code := drain.exit(20 * time.Minute); code != 0 {
		t.Fatalf("jobs drain: exit code %d: %s", code, drain.says())
	}
	found := regexp.MustCompile(`savepoint_path=(\S+)`).FindStringSubmatch(drain.says())
	if found == nil {
		t.Fatalf("jobs drain doesn't say where the savepoint is: %s", drain.says())
	}
	if code := c.exit(time.Minute); code != 0 {
		t.Errorf("exit code %d of the job that was stopped", code)
	}
	return found[1]
}
