package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/testing/components"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

// streamGraph runs the scoring graph from topic to topic until it is interrupted, and then says what state
// was written.
func streamGraph(ctx context.Context, in, out, reg, order string) error {
	u, err := useCase()
	if err != nil {
		return err
	}
	plan, err := streamPlan(ctx, u, in, out, reg, 0, &scoring.Stream{Order: order, Lateness: lateness(order), InProcess: true, Cores: 2})
	if err != nil {
		return err
	}
	p, s := beam.NewPipelineWithRoot()
	scoring.Build(s, plan)
	stopping, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	context.AfterFunc(stopping, func() { source.Drain(plan.Run) })
	_, err = runner.Run(context.WithoutCancel(ctx), runner.Prism, p)
	fmt.Println(telemetry.Snapshot().StateWritten)
	return err
}

// streamPlan scores from topic to topic with the champion; shards of 0 are the plan's to choose.
func streamPlan(ctx context.Context, u *spec.UseCase, in, out, reg string, shards int, stream *scoring.Stream) (scoring.Plan, error) {
	return scoring.New(ctx, u, scoring.Options{
		Sources: []string{in}, Sink: out, DeadLetters: filepath.Join(filepath.Dir(reg), "dead") + "/", Registry: reg, Shards: shards, Stream: stream,
	})
}

// lateness is that of an order. The simulator's day of 40,000 events passes in a moment: an hour is some 1,700 rows
// that wait, as the built-in minute would hold at thirty events a second.
func lateness(order string) *time.Duration {
	if order != feature.EventTime {
		return nil
	}
	d := time.Hour
	return &d
}

// bed is a testing.TB for the servers of package components, outside of a test.
type bed struct {
	testing.TB
	dir      string
	cleanups []func()
}

func (b *bed) Helper()                      {}
func (b *bed) Name() string                 { return "bench" }
func (b *bed) Context() context.Context     { return context.Background() }
func (b *bed) Cleanup(f func())             { b.cleanups = append(b.cleanups, f) }
func (b *bed) Log(args ...any)              { say("%s", fmt.Sprint(args...)) }
func (b *bed) Logf(format string, a ...any) { say(format, a...) }
func (b *bed) Fatal(args ...any)            { panic(errors.New(fmt.Sprint(args...))) }
func (b *bed) Fatalf(f string, args ...any) { panic(fmt.Errorf(f, args...)) }
func (b *bed) Skipf(f string, args ...any)  { panic(fmt.Errorf(f, args...)) }
func (b *bed) Errorf(f string, args ...any) { say(f, args...) }
func (b *bed) TempDir() string {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		panic(err)
	}
	return dir
}

func (b *bed) close() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

// withBroker measures something with a broker.
func withBroker(ctx context.Context, self, dir string, f func(*components.Broker) ([]figure, error)) (figures []figure, err error) {
	b := &bed{dir: dir}
	defer b.close()
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("measuring the stream: %v", fault)
		}
	}()
	if err := os.Setenv("MILLRACE_REQUIRE", "1"); err != nil {
		return nil, err
	}
	broker := components.Kafka(b)
	if _, err := measure(ctx, nil, self, "-child", "prepare", "-in", dir, "-rows", "1000"); err != nil {
		return nil, err
	}
	return f(broker)
}

// measureStream drains topics, and then measures the latency of events that come at a rate.
func measureStream(ctx context.Context, o options, self, dir string) ([]figure, error) {
	return withBroker(ctx, self, dir, func(broker *components.Broker) ([]figure, error) {
		var out []figure
		for _, d := range []drain{
			{name: "stream", events: o.events, whole: true},
			{name: "stream_uuid", events: o.variants, uuids: true, whole: true},
			{name: "stream_event_time", events: o.variants, order: feature.EventTime},
			{name: "stream_event_time_uuid", events: o.variants, order: feature.EventTime, uuids: true},
		} {
			if d.events == 0 {
				continue
			}
			drained, err := d.measure(ctx, self, dir, broker)
			if err != nil {
				return nil, err
			}
			out = append(out, drained...)
		}
		late, err := latency(ctx, o, self, dir, broker)
		return append(out, late...), err
	})
}

// generator gives the simulator's transactions as lines, without an end.
type generator struct {
	rows  chan simulate.Row
	uuids bool // in place of whole numbers, as ids of events, customers and terminals
}

func newGenerator(ctx context.Context) *generator {
	g := &generator{rows: make(chan simulate.Row, 4096)}
	go func() {
		_ = simulate.Fraud(simulate.Params{Days: 3650, Customers: 20_000}, func(r simulate.Row) error {
			select {
			case g.rows <- r:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return g
}

func (g *generator) next(buf []byte, _ int) []byte {
	r := <-g.rows
	buf = append(buf, `{"TRANSACTION_ID":`...)
	buf = g.id(buf, 1, r.ID)
	buf = append(buf, `,"TX_DATETIME":"`...)
	buf = time.UnixMicro(r.Time).UTC().AppendFormat(buf, time.RFC3339)
	buf = append(buf, `","CUSTOMER_ID":`...)
	buf = g.id(buf, 2, r.Customer)
	buf = append(buf, `,"TERMINAL_ID":`...)
	buf = g.id(buf, 3, r.Terminal)
	buf = append(buf, `,"TX_AMOUNT":`...)
	buf = strconv.AppendFloat(buf, float64(r.Cents)/100, 'f', 2, 64)
	buf = append(buf, `,"TX_FRAUD":`...)
	return append(strconv.AppendBool(buf, r.Fraud), '}')
}

// id appends a number, or a UUID that stands for it; of each kind of ids there are others.
func (g *generator) id(buf []byte, kind uint64, n int64) []byte {
	if !g.uuids {
		return strconv.AppendInt(buf, n, 10)
	}
	random := rand.NewPCG(kind, uint64(n))
	a, b := random.Uint64(), random.Uint64()
	return fmt.Appendf(buf, `"%08x-%04x-4%03x-%04x-%012x"`, a>>32, a>>16&0xffff, a&0xfff, b>>48&0x3fff|0x8000, b&(1<<48-1))
}

// process is a scoring graph in a process of its own.
type process struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	err   bytes.Buffer
	ended chan struct{} // closed when it has, for whatever reason
	fault error
}

func startJob(self string, broker *components.Broker, in, out, dir string, more ...string) (*process, error) {
	url := "kafka://" + broker.Addr + "/"
	return startProcess(exec.Command(self, append([]string{"-child", "stream", "-in", url + in, "-out", url + out, "-registry", filepath.Join(dir, "registry")}, more...)...))
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	j := &process{ended: make(chan struct{}), cmd: cmd}
	j.cmd.Stdout, j.cmd.Stderr = &j.out, &j.err
	if err := j.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		j.fault = j.cmd.Wait()
		close(j.ended)
	}()
	return j, nil
}

// end drains the job and returns what it took, and the bytes of state it wrote.
func (j *process) end() (u usage, state int64, err error) {
	_ = j.cmd.Process.Signal(os.Interrupt)
	<-j.ended
	if j.fault != nil {
		return u, 0, fmt.Errorf("scoring a stream: %w: %s", j.fault, j.err.String())
	}
	ru := j.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	u.cpu, u.rss = usageSeconds(ru), float64(ru.Maxrss)/1024
	state, err = strconv.ParseInt(strings.TrimSpace(j.out.String()), 10, 64)
	return u, state, err
}

// during is a context that ends when the process does, and then says what that said.
func (j *process) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-j.ended:
			end(errors.Join(fmt.Errorf("the stream ended by itself: %s", j.err.String()), j.fault))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil) }
}

// drain is a topic that is scored after it was filled.
type drain struct {
	name   string
	events int
	order  string // of the stream; empty: arrival
	uuids  bool
	whole  bool // else the last events wait for the watermark, and time is taken up to most of them
}

func (d drain) measure(ctx context.Context, self, dir string, broker *components.Broker) ([]figure, error) {
	in, to, partitions := d.name+".in", d.name+".out", 4
	if !d.whole {
		partitions = 1 // of several the watermark waits for the one that was filled last some time before the others
	}
	broker.CreateTopic(in, partitions)
	broker.CreateTopic(to, 4)
	gctx, stop := context.WithCancel(ctx)
	say("%s: filling a topic with %d events", d.name, d.events)
	g := newGenerator(gctx)
	g.uuids = d.uuids
	broker.Fill(in, d.events, g.next)
	stop()
	before := components.CPU(broker.PID())
	j, err := startJob(self, broker, in, to, dir, "-order", d.order)
	if err != nil {
		return nil, err
	}
	enough := int64(d.events)
	if !d.whole {
		enough = enough * 9 / 10
	}
	ctx, over := j.during(ctx)
	defer over()
	n, secs, err := arrivals(ctx, broker, to, enough, nil)
	if err != nil {
		return nil, err
	}
	brokerCPU := components.CPU(broker.PID()) - before
	u, state, err := j.end()
	if err != nil {
		return nil, err
	}
	all := float64(d.events)
	rate := value(d.name+"_drain", float64(n)/secs, "events/s")
	cpu := value(d.name+"_drain_cpu", u.cpu/all*1e6, "CPU s/M events")
	rss := value(d.name+"_drain_rss", u.rss, "MB")
	written := value(d.name+"_state", float64(state)/all, "bytes/event")
	if d.name != "stream" {
		return []figure{rate, cpu, rss, written}, nil
	}
	return []figure{rate.atLeast(100_000), cpu, value("stream_drain_broker_cpu", brokerCPU/all*1e6, "CPU s/M events"), rss, written.atMost(64)}, nil
}

// arrivals waits until a topic has had enough records. It returns how many came after the first, and in how many
// seconds; first is called when that has come, and may be nil.
func arrivals(ctx context.Context, broker *components.Broker, topic string, enough int64, first func()) (n int64, secs float64, err error) {
	var began int64
	var start time.Time
	admin := broker.Admin()
	for {
		n, err := records(ctx, admin, topic)
		if err != nil {
			return 0, 0, errors.Join(err, context.Cause(ctx))
		}
		if n > 0 && start.IsZero() {
			start, began = time.Now(), n
			if first != nil {
				first()
			}
		}
		if n >= enough {
			return n - began, time.Since(start).Seconds(), nil
		}
		select {
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// records is how many a topic has had.
func records(ctx context.Context, admin *kadm.Client, topic string) (n int64, err error) {
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	for _, p := range ends[topic] {
		n += p.Offset
	}
	return n, nil
}

// latency lets events come at a rate, and measures from before an event is sent until its score is read.
func latency(ctx context.Context, o options, self, dir string, broker *components.Broker) ([]figure, error) {
	broker.CreateTopic("live", 4)
	broker.CreateTopic("scored", 4)
	var more []string
	if o.profile != "" {
		more = []string{"-profile", o.profile + ".stream"}
	}
	j, err := startJob(self, broker, "live", "scored", dir, more...)
	if err != nil {
		return nil, err
	}
	ctx, over := j.during(ctx)
	defer over()
	var ownCPU, brokerCPU float64
	all, err := paced(ctx, o, broker, "live", "scored", func() { ownCPU, brokerCPU = selfCPU(), components.CPU(broker.PID()) })
	if err != nil {
		return nil, err
	}
	ownCPU, brokerCPU = selfCPU()-ownCPU, components.CPU(broker.PID())-brokerCPU
	u, _, err := j.end()
	if err != nil {
		return nil, err
	}
	n := float64(o.rate*o.seconds) / 1e6
	return []figure{
		value("stream_rate", float64(o.rate), "events/s"),
		value("stream_p50", all[len(all)/2], "ms"),
		value("stream_p99", all[len(all)*99/100], "ms").atMost(100),
		value("stream_max", all[len(all)-1], "ms"),
		value("stream_cpu", u.cpu/n, "CPU s/M events"),
		value("stream_broker_cpu", brokerCPU/n, "CPU s/M events"),
		value("stream_generator_cpu", ownCPU/n, "CPU s/M events"),
		value("stream_rss", u.rss, "MB"),
	}, nil
}

const (
	// foremost are the events that a job has to score before the others come.
	foremost = 1000
	// Within these times the first score has to come, and the last after the last event.
	firstIn = 5 * time.Minute
	lastIn  = 30 * time.Second
)

// paced lets events come into a topic at a rate, and gives the milliseconds from before each is sent until its
// score is read, in order, the first fifth left out. The first of all are sent before the others, and begin is
// called when one of them is scored: a job has to have started.
func paced(ctx context.Context, o options, broker *components.Broker, in, out string, begin func()) ([]float64, error) {
	total := o.rate * o.seconds
	if total <= foremost {
		return nil, fmt.Errorf("%d events in %d s are too few to measure: over %d are needed", total, o.seconds, foremost)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.DefaultProduceTopic(in), kgo.ConsumeTopics(out), kgo.ProducerLinger(2*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.MaxBufferedRecords(1<<20), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	sent, got := make([]time.Duration, total), make([]time.Duration, total)
	start := time.Now()
	working := make(chan struct{})
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		for n := 0; n < total && ctx.Err() == nil; {
			fetches := c.PollFetches(ctx)
			now := time.Since(start)
			fetches.EachRecord(func(r *kgo.Record) {
				var line struct {
					ID int `json:"id"`
				}
				if err := json.Unmarshal(r.Value, &line); err != nil || line.ID >= total {
					stop(fmt.Errorf("reading a score: %q", r.Value))
				} else if got[line.ID] == 0 {
					if n == 0 {
						close(working)
					}
					got[line.ID] = now
					n++
				}
			})
		}
	})
	rows, stopRows := context.WithCancel(context.WithoutCancel(ctx)) // sending may wait for the next row
	defer stopRows()
	g := newGenerator(rows)
	send := func(i int) {
		value := g.next(nil, i)
		sent[i] = time.Since(start)
		c.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				stop(fmt.Errorf("sending an event: %w", err))
			}
		})
	}
	for i := range foremost {
		send(i)
	}
	select {
	case <-working:
	case <-time.After(firstIn):
		stop(fmt.Errorf("no score came within %v", firstIn))
	case <-ctx.Done():
	}
	begin()
	pace(ctx, time.Now(), o.rate, total-foremost, func(i int) { send(foremost + i) })
	late := time.AfterFunc(lastIn, func() { stop(fmt.Errorf("not all events had a score %v after the last", lastIn)) })
	defer late.Stop()
	reading.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var all []float64
	for i := max(total/5, foremost); i < total; i++ {
		all = append(all, float64(got[i]-sent[i])/1e6)
	}
	slices.Sort(all)
	return all, nil
}

// pace calls send for each of so many events at a rate a second.
func pace(ctx context.Context, start time.Time, rate, total int, send func(i int)) {
	for i := 0; i < total && ctx.Err() == nil; { // a millisecond's worth at a time
		due := int(time.Since(start).Seconds() * float64(rate))
		for ; i < min(due, total); i++ {
			send(i)
		}
		time.Sleep(time.Millisecond)
	}
}

func selfCPU() float64 {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return usageSeconds(&ru)
}
