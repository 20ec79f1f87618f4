package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	_ "github.com/millrace-ml/millrace/models/ensemble"
	_ "github.com/millrace-ml/millrace/models/forest"
	_ "github.com/millrace-ml/millrace/models/gbdt"
	"github.com/millrace-ml/millrace/models/linear"
	_ "github.com/millrace-ml/millrace/models/mlp"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/cli"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/testing/components"
	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	_ "github.com/millrace-ml/millrace/transforms/connect/redis"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	_ "github.com/millrace-ml/millrace/transforms/connect/webhook"
)

// asCommand makes this binary the command.
const asCommand = "MILLRACE_TESTED_AS_COMMAND"

// pause is how long what is stopped stays so.
var pause = flag.Duration("pause", 3*time.Second, "how long servers stay stopped")

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		cli.Main()
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// command is a running millrace.
type command struct {
	t     *testing.T
	cmd   *exec.Cmd
	mu    sync.Mutex
	said  bytes.Buffer
	ended chan struct{}
}

func (c *command) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(p)
}

func (c *command) says() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

func start(t *testing.T, args ...string) *command {
	t.Helper()
	c := &command{t: t, cmd: exec.Command(os.Args[0], args...), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), asCommand+"=1")
	c.cmd.Dir = t.TempDir()
	c.cmd.Stdout, c.cmd.Stderr = c, c
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.ended
		if t.Failed() {
			t.Logf("the command said:\n%s", c.says())
		}
	})
	return c
}

// exit is the command's exit code once it has ended by itself.
func (c *command) exit(within time.Duration) int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(within):
		c.t.Fatalf("the command did not end within %s", within)
	}
	return c.cmd.ProcessState.ExitCode()
}

// await waits until there are n; it gives up if the command ends, or if no more come for -flink-wait.
func (c *command) await(what string, n int, have func() int) {
	c.t.Helper()
	for last, moved := have(), time.Now(); last < n; {
		select {
		case <-c.ended:
			c.t.Fatalf("%s: %d of %d, and the command ended by itself", what, have(), n)
		case <-time.After(20 * time.Millisecond):
		}
		if now := have(); now > last {
			last, moved = now, time.Now()
		} else if time.Since(moved) > *flinkWait {
			c.t.Fatalf("%s: %d of %d, and no more come", what, last, n)
		}
	}
}

// told counts a text among what the command says: 1 once it is there.
func (c *command) told(text string) func() int {
	return func() int { return min(1, strings.Count(c.says(), text)) }
}

// drain asks the command to finish what it has read, and wants it to end well.
func (c *command) drain() {
	c.t.Helper()
	_ = c.cmd.Process.Signal(os.Interrupt)
	if code := c.exit(time.Minute); code != 0 {
		c.t.Errorf("exit code %d after a drain", code)
	}
}

// publish trains a model of little use and makes it the champion of a registry.
func publish(t *testing.T, address string) {
	t.Helper()
	u, err := spec.Load("fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	publishFor(t, address, u)
}

// publishFor is publish for the one model of a use case.
func publishFor(t *testing.T, address string, u *spec.UseCase) {
	t.Helper()
	name, names := u.Models[0].Name, u.Features().Names()
	const rows = 256
	rng := rand.New(rand.NewPCG(3, 5))
	d := models.Dataset{X: make([]float32, rows*len(names)), Y: make([]float32, rows)}
	for _, n := range names {
		d.Features = append(d.Features, models.Feature{Name: n, Type: models.Number})
	}
	for i := range d.X {
		d.X[i] = float32(rng.NormFloat64())
	}
	for i := range d.Y {
		d.Y[i] = float32(rng.IntN(2))
	}
	k, err := models.Lookup(linear.Logistic)
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Complete(nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.Train(t.Context(), models.Training{Train: d, Params: p, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.Open(t.Context(), address, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	v, err := r.Publish(t.Context(), name, &bundle.Bundle{
		Manifest: bundle.Manifest{Fingerprint: u.Features().Fingerprint()}, Model: m, Golden: d.X[:64*len(names)],
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetAlias(t.Context(), name, registry.Champion, v, "for the test", registry.Any); err != nil {
		t.Fatal(err)
	}
}

// payments sends transactions into a topic at a rate, until it has sent n. Ids count from 0, and they
// take place when they are sent.
type payments struct {
	t      *testing.T
	client *kgo.Client
	sent   atomic.Int64
	failed atomic.Pointer[error]
	done   chan struct{}
}

func pay(t *testing.T, broker *components.Broker, topic string, n, rate int, more ...kgo.Opt) *payments {
	t.Helper()
	return payOf(t, broker, topic, n, rate, false, more...)
}

// payOf is pay; old transactions keep the time they have in the simulation, half a day a second.
func payOf(t *testing.T, broker *components.Broker, topic string, n, rate int, old bool, more ...kgo.Opt) *payments {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(broker.Addr), kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100 * time.Millisecond)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	p := &payments{t: t, client: client, done: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); <-p.done; client.Close() })
	enough := errors.New("enough")
	go func() {
		defer close(p.done)
		begin, i := time.Now(), 0
		err := simulate.Fraud(simulate.Params{Days: max(60, n/9000)}, func(r simulate.Row) error {
			if i == n {
				return enough
			}
			if ahead := time.Duration(i)*time.Second/time.Duration(rate) - time.Since(begin); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
			if !old {
				r.Time = time.Now().UnixMicro()
			}
			client.Produce(ctx, &kgo.Record{Value: appendPayment(nil, r, r.Time)}, func(_ *kgo.Record, err error) {
				if err != nil {
					p.failed.Store(&err)
					return
				}
				p.sent.Add(1)
			})
			i++
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, enough) && ctx.Err() == nil {
			p.failed.Store(&err)
		}
		if err := client.Flush(ctx); err != nil && ctx.Err() == nil {
			p.failed.Store(&err)
		}
	}()
	return p
}

// appendPayment adds a payment of a time, in microseconds since 1970, as a line without its end. A line given to a
// producer is the producer's: it must not be written over.
func appendPayment(line []byte, r simulate.Row, micros int64) []byte {
	line = strconv.AppendInt(append(line, `{"TRANSACTION_ID":`...), r.ID, 10)
	line = time.UnixMicro(micros).UTC().AppendFormat(append(line, `,"TX_DATETIME":"`...), time.RFC3339Nano)
	line = strconv.AppendInt(append(line, `","CUSTOMER_ID":`...), r.Customer, 10)
	line = strconv.AppendInt(append(line, `,"TERMINAL_ID":`...), r.Terminal, 10)
	line = strconv.AppendFloat(append(line, `,"TX_AMOUNT":`...), float64(r.Cents)/100, 'f', 2, 64)
	line = strconv.AppendBool(append(line, `,"TX_FRAUD":`...), r.Fraud)
	return append(line, '}')
}

// all waits until everything is sent.
func (p *payments) all() {
	p.t.Helper()
	<-p.done
	if err := p.failed.Load(); err != nil {
		p.t.Fatalf("sending: %v", *err)
	}
}

// upTo waits until so many are sent.
func (p *payments) upTo(n int64) {
	p.t.Helper()
	for p.sent.Load() < n {
		if err := p.failed.Load(); err != nil {
			p.t.Fatalf("sending: %v", *err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// scores reads a topic until it has each of the ids below n, and returns how often each line came.
func scores(t *testing.T, c *command, broker *components.Broker, topic string, n int) map[int]map[string]int {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.ConsumeTopics(topic), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	got := map[int]map[string]int{}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	go func() {
		select {
		case <-c.ended:
			stop()
		case <-ctx.Done():
		}
	}()
	for len(got) < n {
		fetches := client.PollFetches(ctx)
		select {
		case <-c.ended:
			t.Fatalf("the command ended by itself; %d of %d scored", len(got), n)
		default:
		}
		if ctx.Err() != nil {
			t.Fatalf("%d of %d scored", len(got), n)
		}
		fetches.EachRecord(func(r *kgo.Record) { add(t, got, r.Value) })
	}
	return got
}

func add(t *testing.T, got map[int]map[string]int, line []byte) {
	id := lineID(line)
	if id < 0 || !json.Valid(line) {
		t.Errorf("a line that is no score: %q", line)
		return
	}
	if got[id] == nil {
		got[id] = map[string]int{}
	}
	got[id][string(line)]++
}

// lineID is the id that a score begins with, -1 without one.
func lineID(line []byte) int {
	rest, ok := bytes.CutPrefix(line, []byte(`{"id":`))
	end := bytes.IndexByte(rest, ',')
	if !ok || end < 0 {
		return -1
	}
	id, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return -1
	}
	return id
}

// identical wants what came more than once to be the same each time, and returns how many did.
func identical(t *testing.T, got map[int]map[string]int) (again int) {
	t.Helper()
	for id, lines := range got {
		if len(lines) > 1 {
			t.Errorf("event %d has different scores: %v", id, slices.Sorted(maps.Keys(lines)))
		}
		for _, n := range lines {
			again += n - 1
		}
	}
	return again
}

// bed is a broker with topics, and a registry with a champion.
type bed struct {
	*components.Broker
	in, out, registry string
}

func newBed(t *testing.T, broker *components.Broker) bed {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-").Replace(t.Name()))
	b := bed{broker, name + ".in", name + ".out", filepath.Join(t.TempDir(), "registry")}
	b.CreateTopic(b.in, 2)
	b.CreateTopic(b.out, 2)
	publish(t, b.registry)
	return b
}

func (b bed) url(topic string) string { return "kafka://" + b.Addr + "/" + topic }

func (b bed) run(t *testing.T, more ...string) *command {
	t.Helper()
	return start(t, append([]string{"run", "fraud", "--source", b.url(b.in), "--sink", b.url(b.out), "--registry", b.registry, "--dead-letters", filepath.Join(t.TempDir(), "dead") + "/"}, more...)...)
}

func TestBroker(t *testing.T) {
	broker := components.Kafka(t)
	t.Run("Killed", func(t *testing.T) { testBrokerKilled(t, newBed(t, broker)) })
	t.Run("Partitions", func(t *testing.T) { testPartitions(t, newBed(t, broker)) })
	t.Run("Deleted", func(t *testing.T) { testTopicDeleted(t, newBed(t, broker)) })
	t.Run("Idle", func(t *testing.T) { testIdle(t, newBed(t, broker)) })
	t.Run("Group", func(t *testing.T) { testGroup(t, newBed(t, broker)) })
	t.Run("Redis", func(t *testing.T) { testRedis(t, newBed(t, broker)) })
	t.Run("Registry", func(t *testing.T) { testRegistry(t, newBed(t, broker)) })
	t.Run("SinkStops", func(t *testing.T) { testSinkStops(t, newBed(t, broker)) })
}

// testBrokerKilled: the one broker is killed and comes back; source and sink go on by themselves.
func testBrokerKilled(t *testing.T, b bed) {
	const n = 30_000
	c := b.run(t)
	p := pay(t, b.Broker, b.in, n, 5_000)
	p.upTo(n / 3)
	b.Kill()
	time.Sleep(*pause)
	b.Restart()
	p.all()
	got := scores(t, c, b.Broker, b.out, n)
	t.Logf("%d scores came again", identical(t, got))
	c.drain()
}

// testPartitions: a topic gets more partitions while it is read.
func testPartitions(t *testing.T, b bed) {
	const n = 30_000
	c := b.run(t)
	p := pay(t, b.Broker, b.in, n, 5_000)
	p.upTo(n / 3)
	if _, err := b.Admin().UpdatePartitions(t.Context(), 5, b.in); err != nil {
		t.Fatal(err)
	}
	p.all()
	ends, err := b.Admin().ListEndOffsets(t.Context(), b.in)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(5) {
		if o, ok := ends.Lookup(b.in, i); !ok || o.Offset == 0 {
			t.Errorf("nothing was sent to partition %d", i)
		}
	}
	scores(t, c, b.Broker, b.out, n)
	c.drain()
}

// testTopicDeleted: what is gone doesn't come back, so the command ends, and says so.
func testTopicDeleted(t *testing.T, b bed) {
	const n = 2_000
	c := b.run(t)
	pay(t, b.Broker, b.in, n, 5_000).all()
	scores(t, c, b.Broker, b.out, n)
	if _, err := b.Admin().DeleteTopic(t.Context(), b.in); err != nil {
		t.Fatal(err)
	}
	if code := c.exit(time.Minute); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(c.says(), "deleted") {
		t.Error("it doesn't say that the topic was deleted")
	}
	if last := strings.TrimSpace(c.says()); strings.Count(last[strings.LastIndexByte(last, '\n')+1:], "") > 500 {
		t.Errorf("a long way to say it: %s", last)
	}
}

// testIdle: a partition without events holds nothing back once it is idle.
func testIdle(t *testing.T, b bed) {
	const n = 5_000
	c := b.run(t, "--order", "event_time", "--lateness", "1h", "--set", "stream.idle=1s")
	p := payOf(t, b.Broker, b.in, n, 5_000, true, kgo.RecordPartitioner(kgo.ManualPartitioner())) // all of them into partition 0
	p.all()
	// The last hour of them waits for the watermark.
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics(b.out))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	got := map[int]map[string]int{}
	for len(got) < n/2 && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { add(t, got, r.Value) })
	}
	if len(got) < n/2 {
		t.Errorf("%d of %d scored while a partition is idle", len(got), n)
	}
	c.drain()
}

// testGroup: others who read as the same group take nothing away: partitions are the command's own.
func testGroup(t *testing.T, b bed) {
	const n = 15_000
	b2 := b
	b2.in = b.in + "?group=scoring"
	c := b2.run(t)
	p := pay(t, b.Broker, b.in, n, 5_000)
	p.upTo(n / 3)
	other, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics(b.in), kgo.ConsumerGroup("scoring"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	other.PollFetches(ctx)
	stop()
	other.Close()
	p.all()
	scores(t, c, b.Broker, b.out, n)
	c.drain()
}

// testRedis: the store of the latest scores is killed and comes back: writing waits for it.
func testRedis(t *testing.T, b bed) {
	const n = 30_000
	store := components.Redis(t)
	c := b.run(t, "--sink", "redis://"+store.Addr+"/0")
	p := pay(t, b.Broker, b.in, n, 5_000)
	p.upTo(n / 3)
	client := redis.NewClient(&redis.Options{Addr: store.Addr})
	defer client.Close()
	wait(t, c, func() bool { k, err := client.DBSize(t.Context()).Result(); return err == nil && k > 1000 })
	if err := client.Save(t.Context()).Err(); err != nil { // so that it comes back with what it had
		t.Fatal(err)
	}
	kept, err := client.DBSize(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	store.Kill()
	time.Sleep(*pause)
	store.Restart()
	p.all()
	wait(t, c, func() bool {
		found, err := client.Exists(t.Context(), fmt.Sprintf("millrace:%d:fraud", n-1)).Result()
		return err == nil && found == 1
	})
	c.drain()
	// What Redis had acknowledged and not yet saved it has lost itself; all that came later must be there.
	all, err := client.DBSize(t.Context()).Result()
	if err != nil || all < kept || all > n {
		t.Errorf("%d events of %d, %d were saved: %v", all, n, kept, err)
	}
	lost := int64(0)
	for i := range n {
		if found, err := client.Exists(t.Context(), fmt.Sprintf("millrace:%d:fraud", i)).Result(); err != nil || found != 1 {
			lost++
			if int64(i) > n*2/3 {
				t.Fatalf("event %d of after the restart is not there: %v", i, err)
			}
		}
	}
	t.Logf("Redis lost %d that it had acknowledged and not saved", lost)
}

func wait(t *testing.T, c *command, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !what(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-c.ended:
			t.Fatal("the command ended by itself")
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("it did not come")
		}
	}
}

// testRegistry: the registry's server is gone for a while: the version that serves goes on, and a version
// that is promoted afterwards takes over.
func testRegistry(t *testing.T, b bed) {
	n := 5_000 * int(9+2*pause.Seconds()) // some come after all that
	store := components.GCS(t)
	t.Setenv("STORAGE_EMULATOR_HOST", store.Addr)
	answer, err := http.Post("http://"+store.Addr+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name":"models"}`))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	b.registry = "gs://models/registry?anonymous=true"
	publish(t, b.registry)
	c := b.run(t, "--set", "stream.poll=200ms")
	p := pay(t, b.Broker, b.in, n, 5_000)
	p.upTo(5_000)
	admin := b.Admin()
	wait(t, c, func() bool { return recorded(t, admin, b.out) > 0 }) // a version serves
	store.Kill()
	time.Sleep(*pause)
	store.Restart()
	publish(t, b.registry)
	wait(t, c, func() bool { return strings.Contains(c.says(), "fraud@2") })
	p.all()
	got := scores(t, c, b.Broker, b.out, n)
	versions := map[string]int{}
	for id, lines := range got {
		if len(lines) != 1 {
			t.Errorf("event %d has %d scores", id, len(lines))
		}
		for line := range lines {
			var l struct{ Model string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			versions[l.Model]++
		}
	}
	if len(versions) != 2 || versions["fraud@1"] == 0 || versions["fraud@2"] == 0 {
		t.Errorf("scored by %v", versions)
	}
	c.drain()
}

// recorded is how many records a topic has.
func recorded(t *testing.T, admin *kadm.Client, topic string) (n int64) {
	t.Helper()
	all, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	all.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// testSinkStops: a target that takes nothing for a while makes reading pause: what waits stays in the
// topic, not in memory.
func testSinkStops(t *testing.T, b bed) {
	const n = 500_000
	target := components.Kafka(t)
	target.CreateTopic(b.out, 2)
	c := b.run(t, "--sink", "kafka://"+target.Addr+"/"+b.out)
	p := pay(t, b.Broker, b.in, n, 100_000)
	p.upTo(n / 10)
	admin := target.Admin()
	wait(t, c, func() bool { return recorded(t, admin, b.out) > n/100 })
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(target.PID(), s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	p.all()
	time.Sleep(*pause)
	held := components.Resident(c.cmd.Process.Pid)
	signal(syscall.SIGCONT)
	got := scores(t, c, target, b.out, n)
	t.Logf("%d scores came again; %.0f MB while the target stood, %.0f MB at the end", identical(t, got), held, components.Resident(c.cmd.Process.Pid))
	c.drain()
}
