package faults

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
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
	flinkOptions  = flag.String("flink-scale-options", "", "options of --flink for the job that is measured, as state_backend=rocksdb,shards=32")
)

// TestFlinkScale measures: it holds nothing to a bound, and means something on a quiet machine only.
func TestFlinkScale(t *testing.T) {
	if *flinkEntities == 0 {
		t.Skip("runs with -flink-entities=N")
	}
	t.Setenv(asCommand, "1")
	defer func(wait time.Duration) { *flinkWait = wait }(*flinkWait)
	*flinkWait = max(*flinkWait, 20*time.Minute) // so much state takes minutes to write, and to read again
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
	s.cluster = components.Flink(t, local.Options{Slots: 2, Heap: 1<<30 + 200*int64(s.terminals)})

	s.fill(2 * s.terminals)
	cpu := meter(t, s.cluster)
	c := s.start()
	took := s.drain(c, 0, time.Now())
	s.put("start, seconds to the first score", took.first.Seconds())
	s.put("filling, events a second", float64(s.sent)/(took.all-took.first).Seconds())
	s.put("filling, CPU seconds a million, start included", cpu()/float64(s.sent)*1e6)

	done := s.sent
	cpu, begin := meter(t, s.cluster), time.Now()
	s.fill(*flinkMeasured)
	took = s.drain(c, done, begin)
	s.put("windows full, events a second", float64(*flinkMeasured)/took.all.Seconds())
	s.put("windows full, CPU seconds a million", cpu()/float64(*flinkMeasured)*1e6)
	s.put("longest checkpoint while they come, seconds", took.checkpoint.Seconds())
	s.memory()
	s.atRest(c)

	begin = time.Now()
	point := stopped(t, c, "--rest", s.cluster.REST())
	s.put("stopping with a savepoint, seconds", time.Since(begin).Seconds())
	s.put("savepoint, MB", folderSize(strings.TrimPrefix(point, "file:")))

	done = s.sent
	s.fill(*flinkMeasured)
	cpu = meter(t, s.cluster)
	c = s.start(savepoint(point)...)
	took = s.drain(c, done, time.Now())
	s.put("restart, seconds to the first score", took.first.Seconds())
	s.put(fmt.Sprintf("restart, seconds to the last of %d behind", *flinkMeasured), took.all.Seconds())
	s.put("restart, CPU seconds", cpu())
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
	p := at(s.cluster, over(2)).and(place{"checkpoint_interval": "10s"})
	for _, option := range strings.FieldsFunc(*flinkOptions, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(option, "=")
		p[name] = value
	}
	if p["state_backend"] != "" && p["storage_path"] == "" {
		p["storage_path"] = "file://" + filepath.Join(s.cluster.Dir(), "checkpoints")
	}
	return s.bed.run(s.t, slices.Concat([]string{"--order", "arrival", "--set", "stream.idle=0"}, p.flags(), more)...)
}

// drained says how long it took to the first score and to the last, and the longest checkpoint meanwhile.
type drained struct{ first, all, checkpoint time.Duration }

// drain waits until all that was sent is scored, of which some was before it began.
func (s *scale) drain(c *command, before int, begin time.Time) (d drained) {
	s.t.Helper()
	said := begin
	c.await("scored", s.sent, func() (scored int) {
		ends, err := s.admin.ListEndOffsets(s.t.Context(), s.bed.out)
		check(s.t, err)
		ends.Each(func(o kadm.ListedOffset) { scored += int(o.Offset) })
		if scored > before && d.first == 0 {
			d.first = time.Since(begin)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			s.progress(scored, time.Since(begin))
		}
		return scored
	})
	d.all = time.Since(begin)
	d.checkpoint = s.longest(begin)
	return d
}

func (s *scale) progress(scored int, at time.Duration) {
	workers, _ := s.cluster.Workers(0)
	heap, _, _ := jvm(s.t.Context(), s.cluster, 0)
	s.t.Logf("%d terminals, %s: %d of %d scored, heap %.0f MB, worker %.0f MB", s.terminals, at.Round(time.Second), scored, s.sent, heap, components.Resident(workers...))
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

// atRest looks at the job when nothing comes: at a checkpoint that was begun then.
func (s *scale) atRest(c *command) {
	job, since := jobID(s.t, s.cluster, "fraud"), time.Now().Add(time.Second).UnixMilli()
	var all checkpoints
	c.await("checkpoint at rest", 1, func() int {
		var err error
		if all, err = checkpointsOf(s.t.Context(), s.cluster, job); err == nil && all.Latest.Completed != nil && all.Latest.Completed.Trigger > since {
			return 1
		}
		return 0
	})
	last := all.Latest.Completed
	s.put("checkpoint, MB", float64(last.State)/megabyte)
	s.put("checkpoint, bytes a terminal", float64(last.State)/float64(s.terminals))
	s.put("checkpoint, MB written", float64(last.Written)/megabyte)
	s.put("checkpoint at rest, seconds", float64(last.Took)/1000)
	s.put("checkpoints that failed", float64(all.Counts.Failed))
	s.put("restarts", float64(all.Counts.Restored))
}

func (s *scale) memory() {
	workers, err := s.cluster.Workers(0)
	check(s.t, err)
	s.put("worker, MB", components.Resident(workers...))
	s.put("TaskManager, MB", components.Resident(s.cluster.PIDs()["taskmanager-0"]))
}
