package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/feature"
)

const (
	// checkpointEvery is the time between two checkpoints of both.
	checkpointEvery = 5 * time.Second
	// alikeEvents are scored by both to see that they do the same.
	alikeEvents = 200_000
	// alikeWithin is how far two scores of one event may be apart.
	alikeWithin = 1e-6
)

// flinkGraph runs the scoring graph on a cluster from topic to topic, until it is interrupted.
func flinkGraph(ctx context.Context, o options) error {
	cluster, err := local.Open(o.cluster)
	if err != nil {
		return err
	}
	f, err := flink.Parse(strings.FieldsFunc(o.flink, func(r rune) bool { return r == ',' }))
	if err != nil {
		return err
	}
	f.Name, f.Endpoint, f.REST = "bench", cluster.JobServer(), cluster.REST()
	f.Environment, f.EnvironmentConfig = cluster.Environment()
	if f.CheckpointInterval == 0 {
		f.CheckpointInterval = checkpointEvery
	}
	if f.Parallelism, err = strconv.Atoi(o.parallelism); err != nil {
		return err
	}
	u, err := useCase()
	if err != nil {
		return err
	}
	u.Stream.Idle = 0
	plan, err := streamPlan(ctx, u, o.in, o.out, o.registry, f.Shards, &scoring.Stream{Order: feature.Arrival, Cores: 2, Parallelism: f.Parallelism, KeyGroups: f.MaxParallelism})
	if err != nil {
		return err
	}
	p, s := beam.NewPipelineWithRoot()
	scoring.Build(s, plan)
	_, err = runner.Engine{Name: runner.Flink, Flink: f}.Run(ctx, p)
	return err
}

// profileVariable names the file that a worker writes its CPU profile to, up to the signal that asks for it.
const profileVariable = "MILLRACE_BENCH_PROFILE"

func profileWorker() {
	path := os.Getenv(profileVariable)
	if path == "" {
		return
	}
	f, err := os.Create(path)
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		<-asked
		pprof.StopCPUProfile()
		_ = f.Close()
	}()
}

// contender is a job that is measured on Flink.
type contender struct {
	name  string
	start func(ctx context.Context, r *flinkRun) (context.Context, func(), error)
}

// flinkRun is one run of a contender on a cluster of its own.
type flinkRun struct {
	bench       *flinkBench
	in, out     string
	parallelism int
	cluster     *local.Cluster
	rest        *flink.Cluster
}

// flinkBench is what all runs have in common.
type flinkBench struct {
	options
	self, dir string
	broker    *components.Broker
	jar       string // the peer
	runs      int
}

// flinkCost is what a run took.
type flinkCost struct {
	rate, cpu, workers float64 // events a second, CPU seconds a million events, of all and of our workers
	p50, p99           float64 // ms
}

// measureFlink lets the scoring graph and the peer drain one topic in turns, and then score events that come at
// a rate, each time on a cluster of its own.
func measureFlink(ctx context.Context, o options, self, dir string) ([]figure, error) {
	return withBroker(ctx, self, dir, func(broker *components.Broker) (out []figure, err error) {
		b := &flinkBench{options: o, self: self, dir: dir, broker: broker}
		if o.profile != "" {
			path, err := filepath.Abs(o.profile + ".flink")
			if err == nil {
				err = os.Setenv(profileVariable, path)
			}
			if err != nil {
				return nil, err
			}
			defer os.Remove(path)
		}
		if b.jar, err = flinkPeer(ctx); err != nil {
			return nil, err
		}
		if err := exportModel(ctx, filepath.Join(dir, "registry"), filepath.Join(dir, "model")); err != nil {
			return nil, fmt.Errorf("writing the model for the peer: %w", err)
		}
		sides := []contender{{"flink", startGraph}, {"flink_java", startPeer}}
		alike, err := b.alike(ctx, sides)
		if err != nil {
			return nil, err
		}
		out = append(out, alike)
		b.fill(ctx, "payments", 4, o.events)
		for _, text := range strings.Split(o.parallelism, ",") {
			p, err := strconv.Atoi(text)
			if err != nil {
				return nil, fmt.Errorf("-parallelism: %w", err)
			}
			more, err := b.compare(ctx, sides, p)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
		return out, nil
	})
}

// fill makes a topic of events.
func (b *flinkBench) fill(ctx context.Context, topic string, partitions, events int) {
	say("filling a topic with %d events", events)
	b.broker.CreateTopic(topic, partitions)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	b.broker.Fill(topic, events, newGenerator(ctx).next)
}

// compare measures both sides at a parallelism.
func (b *flinkBench) compare(ctx context.Context, sides []contender, parallelism int) ([]figure, error) {
	costs := map[string][]flinkCost{}
	for turn := range b.pairs {
		for _, side := range sides {
			c, err := b.drain(ctx, side, parallelism)
			if err != nil {
				return nil, err
			}
			costs[side.name] = append(costs[side.name], c)
			say("turn %d %-10s p%d %8.0f events/s  %5.2f CPU s/M, of it %.2f of workers", turn+1, side.name, parallelism, c.rate, c.cpu, c.workers)
		}
	}
	late := map[string]flinkCost{}
	for _, side := range sides {
		c, err := b.latency(ctx, side, parallelism)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil { // it can't keep up; what was drained counts all the same
			say("       %-10s p%d no latency: %v", side.name, parallelism, err)
			continue
		}
		late[side.name] = c
		say("       %-10s p%d p50 %.0f ms, p99 %.0f ms, %.2f CPU s/M at %d events/s", side.name, parallelism, c.p50, c.p99, c.cpu, b.rate)
	}
	name := func(side, what string) string { return fmt.Sprintf("%s_p%d%s", side, parallelism, what) }
	ours, theirs := sides[0].name, sides[1].name
	var out []figure
	for _, m := range []struct {
		what, unit string
		of         func(flinkCost) float64
		judge      func(figure) figure
	}{
		{"", "events/s", func(c flinkCost) float64 { return c.rate }, func(f figure) figure { return f.atLeast(1) }},
		{"_cpu", "CPU s/M events", func(c flinkCost) float64 { return c.cpu }, func(f figure) figure { return f.atMost(1) }},
	} {
		a, b := each(costs[ours], m.of), each(costs[theirs], m.of)
		ratios := make([]float64, len(a))
		for i := range a {
			ratios[i] = a[i] / b[i]
		}
		out = append(out, value(name(theirs, m.what), median(b), m.unit),
			m.judge(value(name(ours, m.what), median(a), m.unit).over(name(theirs, m.what), median(ratios))))
	}
	out = append(out, value(name(ours, "_cpu_workers"), median(each(costs[ours], func(c flinkCost) float64 { return c.workers })), "CPU s/M events"))
	for _, m := range []struct {
		what, unit string
		of         func(flinkCost) float64
	}{
		{"_p50", "ms", func(c flinkCost) float64 { return c.p50 }},
		{"_p99", "ms", func(c flinkCost) float64 { return c.p99 }},
		{"_paced_cpu", "CPU s/M events", func(c flinkCost) float64 { return c.cpu }},
	} {
		c, kept := late[theirs]
		if kept {
			out = append(out, value(name(theirs, m.what), m.of(c), m.unit))
		}
		if own, ok := late[ours]; ok {
			f := value(name(ours, m.what), m.of(own), m.unit)
			if kept {
				f = f.over(name(theirs, m.what), m.of(own)/m.of(c))
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// run lets a side score from topic to topic on a new cluster while f looks on.
func (b *flinkBench) run(ctx context.Context, side contender, in string, parallelism int, f func(context.Context, *flinkRun) error) (err error) {
	b.runs++
	r := &flinkRun{bench: b, in: in, out: fmt.Sprintf("scores%d", b.runs), parallelism: parallelism}
	b.broker.CreateTopic(r.out, 4)
	dir := filepath.Join(b.dir, fmt.Sprintf("flink%d", b.runs))
	r.cluster, err = local.Up(ctx, local.Options{
		Dir: dir, Slots: parallelism, Tied: true, Settings: map[string]string{"web.submit.enable": "true"}, Progress: func(text string) {
			if strings.HasPrefix(text, "installing") {
				say("%s", text)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, r.cluster.Down(context.WithoutCancel(ctx)), os.RemoveAll(dir)) // checkpoints too
	}()
	if r.rest, err = flink.Open(r.cluster.REST()); err != nil {
		return err
	}
	during, end, err := side.start(ctx, r)
	if err != nil {
		return fmt.Errorf("starting %s: %w", side.name, err)
	}
	err = f(during, r)
	if err == nil {
		err = r.fault(ctx)
	}
	end()
	if err != nil {
		return fmt.Errorf("measuring %s at a parallelism of %d: %w", side.name, parallelism, err)
	}
	_, err = b.broker.Admin().DeleteTopic(ctx, r.out) // it is large
	return err
}

// fault is what went wrong in the run's job, which Flink would have started again.
func (r *flinkRun) fault(ctx context.Context) error {
	jobs, err := r.rest.Jobs(ctx)
	if err != nil || len(jobs) == 0 {
		return err
	}
	why, err := r.rest.Failure(ctx, jobs[0].ID)
	if why != "" {
		err = fmt.Errorf("the job failed on the way: %s", why)
	}
	return err
}

// drain measures a side by the topic of payments, from its first score to the last.
func (b *flinkBench) drain(ctx context.Context, side contender, parallelism int) (c flinkCost, err error) {
	err = b.run(ctx, side, "payments", parallelism, func(ctx context.Context, r *flinkRun) error {
		var jvms, workers float64
		n, secs, err := arrivals(ctx, b.broker, r.out, int64(b.events), func() { jvms, workers = spent(r.cluster) })
		if err != nil {
			return err
		}
		jvmsEnd, workersEnd := spent(r.cluster)
		c.rate, c.workers = float64(n)/secs, (workersEnd-workers)/float64(n)*1e6
		c.cpu = c.workers + (jvmsEnd-jvms)/float64(n)*1e6
		time.Sleep(time.Second)
		if n, err := records(ctx, b.broker.Admin(), r.out); err != nil || n != int64(b.events) {
			return errors.Join(err, fmt.Errorf("%d scores of %d events", n, b.events))
		}
		return r.profile()
	})
	return c, err
}

// latency measures a side by events that come at a rate.
func (b *flinkBench) latency(ctx context.Context, side contender, parallelism int) (c flinkCost, err error) {
	live := fmt.Sprintf("live%d", b.runs)
	b.broker.CreateTopic(live, 4)
	err = b.run(ctx, side, live, parallelism, func(ctx context.Context, r *flinkRun) error {
		var jvms, workers float64
		all, err := paced(ctx, b.options, b.broker, live, r.out, func() { jvms, workers = spent(r.cluster) })
		if err != nil {
			return err
		}
		jvmsEnd, workersEnd := spent(r.cluster)
		c.cpu = (jvmsEnd + workersEnd - jvms - workers) / float64(b.rate*b.seconds) * 1e6
		c.p50, c.p99 = all[len(all)/2], all[len(all)*99/100]
		return nil
	})
	return c, err
}

// alike lets both sides score a topic of one partition, whose order both keep, and tells which share of the
// scores agree.
func (b *flinkBench) alike(ctx context.Context, sides []contender) (figure, error) {
	n := min(b.events, alikeEvents)
	b.fill(ctx, "alike", 1, n)
	var scores [][]float64
	for _, side := range sides {
		err := b.run(ctx, side, "alike", 1, func(ctx context.Context, r *flinkRun) error {
			if _, _, err := arrivals(ctx, b.broker, r.out, int64(n), nil); err != nil {
				return err
			}
			of, err := readTopic(ctx, b.broker.Addr, r.out, n)
			scores = append(scores, of)
			return err
		})
		if err != nil {
			return figure{}, err
		}
	}
	same := 0
	for i := range n {
		if math.Abs(scores[0][i]-scores[1][i]) <= alikeWithin {
			same++
		}
	}
	share := float64(same) / float64(n)
	say("%.4f of the scores agree", share)
	return value("flink_alike", share, "share of scores").atLeast(0.99), nil
}

// readTopic reads the scores of n events, by id; each has to be there once.
func readTopic(ctx context.Context, addr, topic string, n int) ([]float64, error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	scores := make([]float64, n)
	for i := range scores {
		scores[i] = math.NaN()
	}
	for read := 0; read < n; {
		fetches := c.PollFetches(ctx)
		if err := errors.Join(fetches.Err(), ctx.Err()); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var line struct {
				ID    int
				Score float64
			}
			if jerr := json.Unmarshal(r.Value, &line); jerr != nil || line.ID < 0 || line.ID >= n || !math.IsNaN(scores[line.ID]) {
				err = fmt.Errorf("a line is wrong or stands twice: %s", r.Value)
				return
			}
			scores[line.ID] = line.Score
			read++
		})
		if err != nil {
			return nil, err
		}
	}
	return scores, nil
}

// spent is the CPU seconds so far of a cluster's own processes, and of the workers that its TaskManager started.
func spent(c *local.Cluster) (jvms, workers float64) {
	for _, pid := range c.PIDs() {
		jvms += components.CPU(pid)
	}
	pids, _ := c.Children(0)
	for _, pid := range pids {
		workers += components.CPU(pid)
	}
	return jvms, workers
}

// startGraph starts the scoring graph, by a process that submits it.
func startGraph(ctx context.Context, r *flinkRun) (context.Context, func(), error) {
	b := r.bench
	j, err := startProcess(exec.Command(b.self, "-child", "flink", "-in", "kafka://"+b.broker.Addr+"/"+r.in, "-out", "kafka://"+b.broker.Addr+"/"+r.out,
		"-registry", filepath.Join(b.dir, "registry"), "-cluster", r.cluster.Dir(), "-parallelism", strconv.Itoa(r.parallelism), "-flink", b.flink))
	if err != nil {
		return nil, nil, err
	}
	ctx, over := j.during(ctx)
	return ctx, func() {
		over()
		_ = j.cmd.Process.Signal(os.Interrupt)
		<-j.ended
	}, nil
}

// profile waits for the profile of the run's workers, if one is asked for.
func (r *flinkRun) profile() error {
	path := os.Getenv(profileVariable)
	if path == "" {
		return nil
	}
	pids, err := r.cluster.Workers(0)
	if err != nil || len(pids) == 0 {
		return err // the peer has none
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	return os.Rename(path, fmt.Sprintf("%s%d", path, r.parallelism))
}
