package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source/driver"

	"github.com/millrace-ml/millrace/testing/components"
)

// patience is for what must happen; nothing waits so long that works.
const patience = 60 * time.Second

// TestBroker shares one broker, whose start takes longer than the tests.
func TestBroker(t *testing.T) {
	b := components.Kafka(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, bench)
	}{
		{"Newest", testNewest}, {"Timestamp", testTimestamp},
		{"Expired", testExpired}, {"ExpiredWhileRead", testExpiredWhileRead}, {"Growth", testGrowth}, {"Deleted", testDeleted},
		{"Absent", testAbsent}, {"SASL", testSASL}, {"Group", testGroup}, {"Transaction", testTransaction},
		{"Send", testSend}, {"Rejected", testRejected}, {"FlushEnds", testFlushEnds},
		{"Pipeline", testPipeline}, {"Killed", testKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, bench{b, "kafka://" + b.Addr + "/" + c.name, c.name})
		})
	}
}

// bench is a broker and a topic of a test.
type bench struct {
	*components.Broker
	address, topic string
}

func value(buf []byte, i int) []byte { return fmt.Appendf(buf, `{"i":%d}`, i) }

// put writes the records from <= i < to into partitions in turn.
func (b bench) put(t *testing.T, from, to, partitions int) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: b.topic, Partition: int32(i % partitions), Value: value(nil, i)})
	}
	if err := c.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// reader follows and keeps what it read.
type reader struct {
	driver.Follower
	got  map[string][]string // by partition
	next map[string]string
}

// follow reads from positions by partition; nil are all partitions without one.
func follow(t testing.TB, address string, from map[string]string) *reader {
	t.Helper()
	if from == nil {
		from = map[string]string{}
		parts, err := sourceDriver{}.Partitions(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			from[p.Name] = ""
		}
	}
	f, err := sourceDriver{}.Follow(t.Context(), address, positions(from))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &reader{Follower: f, got: map[string][]string{}, next: maps.Clone(from)}
}

func positions(next map[string]string) []driver.Position {
	var from []driver.Position
	resumes := slices.ContainsFunc(slices.Collect(maps.Values(next)), func(n string) bool { return n != "" })
	for _, name := range slices.Sorted(maps.Keys(next)) {
		from = append(from, driver.Position{Partition: name, Next: next[name], Gained: resumes && next[name] == ""})
	}
	return from
}

// poll polls once, and returns the number and the bytes of records.
func (r *reader) poll(t *testing.T, wait time.Duration, limit int) (n, size int) {
	t.Helper()
	chunks, err := r.Poll(t.Context(), wait, limit)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		for _, rec := range c.Records {
			if rec.Time.IsZero() {
				t.Error("a record has no time")
			}
			r.got[c.Partition] = append(r.got[c.Partition], string(rec.Value))
			n, size = n+1, size+len(rec.Value)
		}
		r.next[c.Partition] = c.Next
	}
	return n, size
}

// read polls until n records have come.
func (r *reader) read(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); n > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d records are missing", n)
		}
		got, _ := r.poll(t, 100*time.Millisecond, 1<<20)
		n -= got
	}
	if n < 0 {
		t.Fatalf("%d records too many", -n)
	}
}

// quiet holds that nothing comes.
func (r *reader) quiet(t *testing.T) {
	t.Helper()
	if n, _ := r.poll(t, 300*time.Millisecond, 1<<20); n > 0 {
		t.Fatalf("%d records too many: %v", n, r.got)
	}
}

// fails polls until there is an error.
func (r *reader) fails(t *testing.T) error {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := r.Poll(t.Context(), 100*time.Millisecond, 1<<20); err != nil {
			return err
		}
	}
	t.Fatal("reading goes on")
	return nil
}

// want holds what came of each partition to the records from <= i < to in turn.
func (r *reader) want(t *testing.T, topic string, from, to, partitions int) {
	t.Helper()
	for p := range partitions {
		var want []string
		for i := from; i < to; i++ {
			if i%partitions == p {
				want = append(want, string(value(nil, i)))
			}
		}
		if got := r.got[topic+"/"+strconv.Itoa(p)]; !slices.Equal(got, want) {
			t.Errorf("partition %d: %d records %.200q, want %d %.200q", p, len(got), got, len(want), want)
		}
	}
}

func testNewest(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 2)
	b.put(t, 0, 100, 2)
	r := follow(t, b.address+"?start=newest", nil)
	r.quiet(t)
	if r.next["Newest/0"] != "50" || r.next["Newest/1"] != "50" {
		t.Fatalf("reading begins at %v", r.next)
	}
	b.put(t, 100, 200, 2)
	r.read(t, 100)
	r.want(t, b.topic, 100, 200, 2)
	// A job that ended before the first record comes back to its place.
	again := follow(t, b.address+"?start=newest", map[string]string{"Newest/0": "50", "Newest/1": "50"})
	again.read(t, 100)
	again.want(t, b.topic, 100, 200, 2)
}

func testTimestamp(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 100, 1)
	time.Sleep(1100 * time.Millisecond) // an address has whole seconds
	from := time.Now().Truncate(time.Second)
	if d := time.Until(from); d > 0 {
		time.Sleep(d)
	}
	b.put(t, 100, 200, 1)
	r := follow(t, b.address+"?start="+from.UTC().Format(time.RFC3339), nil)
	r.read(t, 100)
	r.want(t, b.topic, 100, 200, 1)
	later := follow(t, b.address+"?start=2100-01-01T00:00:00Z", nil)
	later.quiet(t)
	if later.next["Timestamp/0"] != "200" {
		t.Errorf("of a time to come reading begins at %v", later.next)
	}
}

// deleteTo makes the broker delete the records of partition 0 before an offset.
func (b bench) deleteTo(t *testing.T, offset int64) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(b.topic, 0, offset, -1)
	done, err := b.Admin().DeleteRecords(context.Background(), offsets)
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func testExpired(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 100, 1)
	b.deleteTo(t, 60)
	r := follow(t, b.address, nil)
	r.read(t, 40)
	r.want(t, b.topic, 60, 100, 1)
	for _, next := range []string{"59", "101"} {
		from := []driver.Position{{Partition: "Expired/0", Next: next}}
		_, err := sourceDriver{}.Follow(t.Context(), b.address, from)
		if !errors.Is(err, kerr.OffsetOutOfRange) || !strings.Contains(err.Error(), "on_expired=oldest") || !strings.Contains(err.Error(), "60") {
			t.Errorf("from offset %s: %v", next, err)
		}
		r := follow(t, b.address+"?on_expired=oldest", map[string]string{"Expired/0": next})
		r.read(t, 40)
		r.want(t, b.topic, 60, 100, 1)
	}
}

func testExpiredWhileRead(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 100, 1)
	fails, goesOn := follow(t, b.address, nil), follow(t, b.address+"?on_expired=oldest", nil)
	for _, r := range []*reader{fails, goesOn} {
		r.read(t, 100)
		r.Pause([]string{b.topic + "/0"})
		r.quiet(t)
	}
	b.put(t, 100, 200, 1)
	b.deleteTo(t, 150)
	fails.Pause(nil)
	if err := fails.fails(t); !errors.Is(err, kerr.OffsetOutOfRange) || !strings.Contains(err.Error(), "150") {
		t.Error(err)
	}
	goesOn.Pause(nil)
	goesOn.read(t, 50)
	goesOn.got[b.topic+"/0"] = goesOn.got[b.topic+"/0"][100:]
	goesOn.want(t, b.topic, 150, 200, 1)
}

func testGrowth(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 10, 1)
	address := b.address + "?start=newest"
	r := follow(t, address, nil)
	r.quiet(t)
	if _, err := b.Admin().UpdatePartitions(context.Background(), 3, b.topic); err != nil {
		t.Fatal(err)
	}
	var parts []driver.Partition
	for deadline := time.Now().Add(patience); len(parts) != 3 && time.Now().Before(deadline); {
		var err error
		if parts, err = (sourceDriver{}).Partitions(t.Context(), address); err != nil {
			t.Fatal(err)
		}
	}
	b.put(t, 10, 100, 3)
	r.read(t, 30) // goes on with its own
	next := r.next
	for _, p := range parts {
		next[p.Name] += "" // the new ones have no position
	}
	all := follow(t, address, next)
	all.read(t, 60)
	all.quiet(t)
}

func testDeleted(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 10, 1)
	r := follow(t, b.address, nil)
	r.read(t, 10)
	if _, err := b.Admin().DeleteTopic(context.Background(), b.topic); err != nil {
		t.Fatal(err)
	}
	if err := r.fails(t); !strings.Contains(err.Error(), "deleted") {
		t.Error(err)
	}
	// The same name again is not the same topic.
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 10, 1)
	r = follow(t, b.address, nil)
	r.read(t, 10)
	if _, err := b.Admin().DeleteTopic(context.Background(), b.topic); err != nil {
		t.Fatal(err)
	}
	b.CreateTopic(b.topic, 1)
	if err := r.fails(t); !strings.Contains(err.Error(), "deleted") {
		t.Error(err)
	}
}

// testAbsent: what isn't there is an error that says what to do.
func testAbsent(t *testing.T, b bench) {
	for name, c := range map[string]struct{ address, want string }{
		"topic":  {b.address, "make the topic"},
		"broker": {"kafka://127.0.0.1:1/orders?sasl=plain&user=somebody&password=hunter2", "does a broker listen"},
	} {
		_, read := sourceDriver{}.Partitions(t.Context(), c.address)
		_, followed := sourceDriver{}.Follow(t.Context(), c.address, nil)
		_, sent := sinkDriver{}.OpenSender(t.Context(), c.address)
		for _, err := range []error{read, followed, sent} {
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("no %s: %v", name, err)
			}
		}
	}
	b.CreateTopic(b.topic, 1)
	if _, err := (sourceDriver{}).Follow(t.Context(), b.address, []driver.Position{{Partition: "Absent/1"}}); err == nil {
		t.Error("a partition that the topic doesn't have is followed")
	}
}

func testSASL(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 10, 1)
	admin := b.Admin()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		done, err := admin.AlterUserSCRAMs(context.Background(), nil, []kadm.UpsertSCRAM{{User: "scram", Mechanism: m, Iterations: 4096, Password: "hunter&2"}})
		if err == nil {
			err = done.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	address := "kafka://" + b.SASLAddr + "/" + b.topic + "?sasl="
	for _, query := range []string{
		"plain&user=" + components.User + "&password=" + components.Password,
		"scram-sha-256&user=scram&password=hunter%262", "scram-sha-512&user=scram&password=hunter%262",
	} {
		r := follow(t, address+query, nil)
		r.read(t, 10)
		s := open(t, address+query)
		if err := errors.Join(s.Send(t.Context(), sinkdriver.Record{Value: []byte("{}")}, noRejection(t)), s.Flush(t.Context())); err != nil {
			t.Error(err)
		}
		r.read(t, 1)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		b.deleteTo(t, -1)
		b.put(t, 0, 10, 1)
	}
	for _, query := range []string{"plain&user=" + components.User + "&password=hunter2", "scram-sha-256&user=scram&password=hunter2"} {
		_, err := sourceDriver{}.Partitions(t.Context(), address+query)
		if !errors.Is(err, kerr.SaslAuthenticationFailed) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a wrong password: %v", err)
		}
	}
	if _, err := (sourceDriver{}).Partitions(t.Context(), "kafka://"+b.SASLAddr+"/"+b.topic); err == nil {
		t.Error("nobody comes in")
	}
	if _, err := (sourceDriver{}).Partitions(t.Context(), b.address+"?tls=true"); err == nil {
		t.Error("tls goes to a broker without")
	}
}

func testGroup(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	b.put(t, 0, 100, 1)
	r := follow(t, b.address+"?group=millrace", nil)
	r.read(t, 100)
	committed := func() int64 {
		offsets, err := b.Admin().FetchOffsets(context.Background(), "millrace")
		if err != nil {
			t.Fatal(err)
		}
		o, _ := offsets.Lookup(b.topic, 0)
		return o.At
	}
	// Without another poll nobody knows whether the last one's records were taken.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := committed(); got == 100 {
		t.Errorf("%d is committed, and its records were not taken", got)
	}
	r = follow(t, b.address+"?group=millrace", r.next)
	for deadline := time.Now().Add(patience); committed() != 100; {
		r.quiet(t)
		if time.Now().After(deadline) {
			t.Fatal("nothing is committed")
		}
	}
}

func testTransaction(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.TransactionalID("t"), kgo.DefaultProduceTopic(b.topic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	for i, how := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := c.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for k := range 10 {
			c.Produce(ctx, &kgo.Record{Value: value(nil, i*10+k)}, nil)
		}
		if err := errors.Join(c.Flush(ctx), c.EndTransaction(ctx, how)); err != nil {
			t.Fatal(err)
		}
	}
	r := follow(t, b.address, nil)
	r.read(t, 20)
	r.quiet(t)
	for i := 10; i < 20; i++ {
		if v := string(value(nil, i)); slices.Contains(r.got[b.topic+"/0"], v) {
			t.Errorf("%s was aborted", v)
		}
	}
}

func open(t *testing.T, address string) sinkdriver.Sender {
	t.Helper()
	s, err := sinkDriver{}.OpenSender(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func noRejection(t *testing.T) func(error) {
	return func(err error) { t.Errorf("rejected: %v", err) }
}

func testSend(t *testing.T, b bench) {
	const n = 5000
	b.CreateTopic(b.topic, 3)
	s := open(t, b.address)
	var key, text []byte
	for round := range 2 {
		for i := range n {
			key, text = strconv.AppendInt(key[:0], int64(i), 10), value(text[:0], i)
			if err := s.Send(t.Context(), sinkdriver.Record{Key: key, Value: text, Time: time.Unix(1, 0)}, noRejection(t)); err != nil {
				t.Fatal(err)
			}
			clear(key) // the caller's bytes are the caller's
			clear(text)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := follow(t, b.address, nil)
		r.read(t, n*(round+1))
		r.quiet(t)
		at := map[string]string{} // which partition a record came from
		for name, values := range r.got {
			for _, v := range values {
				if at[v] != "" && at[v] != name {
					t.Fatalf("%s is in %s and in %s", v, at[v], name)
				}
				at[v] = name
			}
		}
		if len(at) != n {
			t.Errorf("%d different records, want %d", len(at), n)
		}
	}
	// Steady state: a record takes its memory from the one before.
	if allocs := testing.AllocsPerRun(10, func() {
		for i := range 1000 {
			key, text = strconv.AppendInt(key[:0], int64(i), 10), value(text[:0], i)
			if err := s.Send(t.Context(), sinkdriver.Record{Key: key, Value: text}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}); allocs > 3000 { // 1000 without the race detector, which empties pools
		t.Errorf("%.0f allocations for 1000 records", allocs)
	}
}

func testRejected(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1, "max.message.bytes", "2000")
	s := open(t, b.address)
	const n = 300
	var rejected []error
	for i := range n {
		text := value(nil, i)
		if i == 100 {
			text = []byte(strings.Repeat("x", 3000))
		}
		if err := s.Send(t.Context(), sinkdriver.Record{Key: []byte{1}, Value: text}, func(err error) { rejected = append(rejected, err) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(rejected) != 1 || !errors.Is(rejected[0], kerr.MessageTooLarge) || !strings.Contains(rejected[0].Error(), "3000") {
		t.Errorf("rejected: %v", rejected)
	}
	r := follow(t, b.address, nil)
	r.read(t, n-1)
	r.quiet(t)
}

func testFlushEnds(t *testing.T, b bench) {
	b.CreateTopic(b.topic, 1)
	s := open(t, b.address)
	if _, err := b.Admin().DeleteTopic(context.Background(), b.topic); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), sinkdriver.Record{Value: []byte("{}")}, noRejection(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Flush(ctx); err == nil {
		t.Error("a record went to a topic that was deleted")
	}
	// The sender can be used again, and what was given up does not come later.
	b.CreateTopic(b.topic, 1)
	again := open(t, b.address)
	for _, s := range []sinkdriver.Sender{s, again} {
		var err error
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if err = s.Send(t.Context(), sinkdriver.Record{Value: value(nil, 1)}, noRejection(t)); err != nil {
				t.Fatal(err)
			}
			if err = s.Flush(t.Context()); err == nil {
				break
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
	r := follow(t, b.address, nil)
	r.read(t, 2)
	r.quiet(t)
}

// testKilled kills the broker in the middle of producing and consuming; it comes last.
func testKilled(t *testing.T, b bench) {
	const n, rounds = 20_000, 4
	b.CreateTopic(b.topic, 2)
	s, r := open(t, b.address), follow(t, b.address, nil)
	down := make(chan struct{})
	for round := range rounds {
		if round == 1 {
			go func() {
				defer close(down)
				b.Kill()
				b.Restart()
			}()
		}
		for i := range n {
			v := value(nil, round*n+i)
			if err := s.Send(t.Context(), sinkdriver.Record{Key: v, Value: v}, noRejection(t)); err != nil {
				t.Fatal(err)
			}
			if i%1000 == 0 {
				r.poll(t, time.Millisecond, 1<<20)
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-down
	came := map[string]int{}
	for deadline := time.Now().Add(patience); ; {
		got, _ := r.poll(t, 500*time.Millisecond, 1<<20)
		for name, values := range r.got {
			for _, v := range values {
				came[v]++
			}
			r.got[name] = nil
		}
		if got == 0 && len(came) >= n*rounds || time.Now().After(deadline) {
			break
		}
	}
	for i := range n * rounds {
		if c := came[string(value(nil, i))]; c != 1 {
			t.Fatalf("record %d came %d times", i, c)
		}
	}
}
