package pubsub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source/driver"

	"github.com/millrace-ml/millrace/testing/components"
)

// patience is for what must happen; nothing waits so long that works.
const patience = 2 * time.Minute

// TestEmulator shares one emulator.
func TestEmulator(t *testing.T) {
	e := components.PubSub(t)
	client := connected(t, e.Addr)
	for _, c := range []struct {
		name string
		run  func(*testing.T, bench)
	}{
		{"Acknowledge", testAcknowledge}, {"Bounds", testBounds}, {"Order", testOrder}, {"Absent", testAbsent}, {"Deleted", testDeleted},
		{"Send", testSend}, {"Rejected", testRejected}, {"Ordered", testOrdered}, {"TopicDeleted", testTopicDeleted},
		{"HeldBack", testHeldBack}, {"Drain", testDrain}, {"Letters", testLetters}, {"Killed", testKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, bench{e.Addr, client, c.name})
		})
	}
}

func connected(t testing.TB, emulator string) *pubsub.Client {
	t.Helper()
	c, err := address{project: "millrace", emulator: emulator}.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// bench is an emulator and a test's name, which its topic and subscription have too.
type bench struct {
	emulator string
	*pubsub.Client
	name string
}

func (b bench) topic(name string) string { return "projects/millrace/topics/" + name }
func (b bench) subscription(name string) string {
	return "projects/millrace/subscriptions/" + name
}

// at is the address of a name of the bench.
func (b bench) at(name string) string { return "pubsub://" + name + "?emulator=" + b.emulator }

// make makes a topic with a subscription of the same name.
func (b bench) make(t testing.TB, name string) {
	t.Helper()
	ctx := t.Context()
	if _, err := b.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: b.topic(name)}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{
		Name: b.subscription(name), Topic: b.topic(name), AckDeadlineSeconds: 10, MessageRetentionDuration: durationpb.New(time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
}

// put publishes texts, and returns when they are there.
func (b bench) put(t testing.TB, topic string, texts ...string) {
	t.Helper()
	p := b.Publisher(b.topic(topic))
	defer p.Stop()
	var results []*pubsub.PublishResult
	for _, text := range texts {
		results = append(results, p.Publish(t.Context(), &pubsub.Message{Data: []byte(text)}))
	}
	for _, r := range results {
		if _, err := r.Get(t.Context()); err != nil {
			t.Errorf("publishing: %v", err)
			return
		}
	}
}

func texts(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func follow(t testing.TB, address, name string) *follower {
	t.Helper()
	f, err := sourceDriver{}.Follow(t.Context(), address, []driver.Position{{Partition: name}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f.(*follower)
}

// read polls until n different texts have come, and returns how often each came, and what to acknowledge.
func read(t testing.TB, f *follower, n int) (came map[string]int, next []string) {
	t.Helper()
	came = map[string]int{}
	for deadline := time.Now().Add(patience); len(came) < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d messages came", len(came), n)
		}
		chunks, err := f.Poll(t.Context(), 100*time.Millisecond, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chunks {
			for _, r := range c.Records {
				came[string(r.Value)]++
			}
			next = append(next, c.Next)
		}
	}
	return came, next
}

// quiet holds that nothing comes for a time.
func quiet(t testing.TB, f *follower, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		chunks, err := f.Poll(t.Context(), 100*time.Millisecond, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(chunks) > 0 {
			t.Fatalf("%d messages too many, as %q", len(chunks[0].Records), chunks[0].Records[0].Value)
		}
	}
}

func want(t testing.TB, came map[string]int, all []string) {
	t.Helper()
	for _, text := range all {
		if came[text] == 0 {
			t.Fatalf("%q is lost", text)
		}
		delete(came, text)
	}
	for text := range came {
		t.Fatalf("%q came from nowhere", text)
	}
}

// testAcknowledge: what was acknowledged is gone, what was not is given to the next.
func testAcknowledge(t *testing.T, b bench) {
	b.make(t, b.name)
	all := texts(0, 2000)
	b.put(t, b.name, all...)
	f := follow(t, b.at("millrace/"+b.name), b.subscription(b.name))
	came, next := read(t, f, len(all))
	want(t, came, all)
	if parts, err := (sourceDriver{}).Partitions(t.Context(), b.at("millrace/"+b.name)); err != nil || len(parts) != 1 || parts[0].Name != b.subscription(b.name) {
		t.Errorf("partitions %v, %v", parts, err)
	}
	kept := next[len(next)-1]
	last := map[string]bool{}
	for _, m := range f.held[kept].messages {
		last[m.ID] = true
	}
	for _, n := range next[:len(next)-1] {
		f.Ack(n)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = follow(t, b.at("projects/millrace/subscriptions/"+b.name), b.subscription(b.name))
	again, next := read(t, f, len(last))
	if len(again) != len(last) {
		t.Errorf("%d messages were given again, and %d were not acknowledged", len(again), len(last))
	}
	for _, n := range next {
		f.Ack(n)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	quiet(t, follow(t, b.at("millrace/"+b.name), b.subscription(b.name)), 2*time.Second)
}

// testBounds: no more is under way than the address allows.
func testBounds(t *testing.T, b bench) {
	b.make(t, b.name)
	all := texts(0, 1000)
	b.put(t, b.name, all...)
	f := follow(t, b.at("millrace/"+b.name)+"&max_messages=100", b.subscription(b.name))
	came := map[string]int{}
	for rounds := 0; len(came) < len(all); rounds++ {
		got, next := read(t, f, 1)
		for k, n := range got {
			came[k] += n
		}
		f.mu.Lock()
		held := f.messages
		f.mu.Unlock()
		if held > 100 || rounds > len(all) {
			t.Fatalf("%d messages are under way", held)
		}
		for _, n := range next {
			f.Ack(n)
		}
	}
	want(t, came, all)
	f.Close()

	b.put(t, b.name, texts(1000, 1100)...) // of four bytes
	f = follow(t, b.at("millrace/"+b.name)+"&max_bytes=10", b.subscription(b.name))
	read(t, f, 3)
	quiet(t, f, time.Second)
	f.judge()
	if _, err := f.Poll(t.Context(), time.Second, 1<<20); err == nil || !strings.Contains(err.Error(), "max_bytes") {
		t.Errorf("stuck: %v", err)
	}
}

// testOrder: what waits is given in the order of publishing, and none while the one partition is paused.
func testOrder(t *testing.T, b bench) {
	b.make(t, b.name)
	all := texts(0, 300)
	for _, text := range all {
		b.put(t, b.name, text)
	}
	f := follow(t, b.at("millrace/"+b.name), b.subscription(b.name))
	f.Pause([]string{b.subscription(b.name)})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		f.mu.Lock()
		n := len(f.waiting)
		f.mu.Unlock()
		if n >= len(all) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d messages wait", n)
		}
	}
	quiet(t, f, 300*time.Millisecond)
	f.Pause(nil)
	chunks, err := f.Poll(t.Context(), time.Second, 1<<20)
	if err != nil || len(chunks) == 0 {
		t.Fatal(len(chunks), err)
	}
	var times []time.Time
	for _, r := range chunks[0].Records {
		times = append(times, r.Time)
	}
	if !slices.IsSortedFunc(times, time.Time.Compare) || times[0].IsZero() {
		t.Errorf("records come in no order: %v", times)
	}
}

func testAbsent(t *testing.T, b bench) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for text, want := range map[string]string{
		b.at("millrace/nothing"):                                  "is not there",
		"pubsub://millrace/nothing?emulator=" + closed:            "does Pub/Sub answer there",
		"pubsub://millrace?emulator=x:1":                          "want pubsub://projects/PROJECT/",
		"pubsub://millrace/s1x?emulator=x:1&subscription=hunter2": "unknown parameter",
		"pubsub://millrace/s1x?emulator=x":                        "host:port",
	} {
		within := patience
		if strings.Contains(text, closed) { // nobody answers there however long one waits
			within = 2 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, read := sourceDriver{}.Partitions(ctx, text)
		_, followed := sourceDriver{}.Follow(ctx, text, []driver.Position{{Partition: b.subscription("nothing")}})
		_, sent := sinkDriver{}.OpenSender(ctx, text)
		for _, err := range []error{read, followed, sent} {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	for text, want := range map[string]string{
		"pubsub://projects/p/topics/orders":          "gcloud pubsub subscriptions create NAME --topic=orders --project=p",
		"pubsub://p/orders?max_messages=0":           "above 0",
		"pubsub://projects/p/subscriptions/orders/x": "want pubsub://projects/PROJECT/subscriptions/NAME",
		"pubsub://p/orders?max_bytes=1&max_bytes=2":  "one value",
	} {
		if _, err := parseSource(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := parseSink("pubsub://projects/p/subscriptions/orders"); err == nil || !strings.Contains(err.Error(), "topics/NAME") {
		t.Error(err)
	}
	b.make(t, b.name)
	if _, err := b.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: b.subscription("Pushes"), Topic: b.topic(b.name), PushConfig: &pubsubpb.PushConfig{PushEndpoint: "http://127.0.0.1:1/"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := (sourceDriver{}).Partitions(t.Context(), b.at("millrace/Pushes")); err == nil || !strings.Contains(err.Error(), "pull") {
		t.Errorf("a subscription that pushes: %v", err)
	}
	if _, err := (sourceDriver{}).Follow(t.Context(), b.at("millrace/"+b.name), []driver.Position{{Partition: "other"}}); err == nil {
		t.Error("another partition is followed")
	}
}

func testDeleted(t *testing.T, b bench) {
	b.make(t, b.name)
	b.put(t, b.name, "1")
	f := follow(t, b.at("millrace/"+b.name), b.subscription(b.name))
	read(t, f, 1)
	if err := b.SubscriptionAdminClient.DeleteSubscription(t.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: b.subscription(b.name)}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := f.Poll(t.Context(), 100*time.Millisecond, 1<<20); err != nil {
			if !strings.Contains(err.Error(), "deleted while it was read") {
				t.Error(err)
			}
			return
		}
	}
	t.Error("reading goes on")
}

func open2(t testing.TB, address string) sinkdriver.Sender {
	t.Helper()
	s, err := sinkDriver{}.OpenSender(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func noRejection(t testing.TB) func(error) {
	return func(err error) { t.Errorf("rejected: %v", err) }
}

// received takes the messages of a subscription, n at least, and acknowledges them.
func (b bench) received(t testing.TB, name string, n int) []*pubsub.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	came := make(chan *pubsub.Message)
	done := make(chan error, 1)
	go func() {
		done <- b.Subscriber(b.subscription(name)).Receive(ctx, func(_ context.Context, m *pubsub.Message) {
			m.Ack()
			select {
			case came <- m:
			case <-ctx.Done():
			}
		})
	}()
	var all []*pubsub.Message
	ids := map[string]bool{}
	for len(ids) < n {
		select {
		case m := <-came:
			all, ids[m.ID] = append(all, m), true
		case err := <-done:
			t.Fatalf("%d of %d messages came: %v", len(ids), n, err)
		}
	}
	cancel()
	<-done
	return all
}

func testSend(t *testing.T, b bench) {
	b.make(t, b.name)
	s := open2(t, b.at("millrace/"+b.name))
	const n = 10_000
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	var key, value []byte
	for i := range n {
		key, value = fmt.Appendf(key[:0], "%d:m", i), fmt.Appendf(value[:0], `{"id":%d}`, i)
		if err := s.Send(t.Context(), sinkdriver.Record{Key: key, Value: value, Time: at}, noRejection(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	came := map[string]bool{}
	for _, m := range b.received(t, b.name, n) {
		id, _, _ := strings.Cut(m.Attributes["id"], ":")
		if string(m.Data) != `{"id":`+id+`}` || m.Attributes["event_time"] != "2026-01-02T03:04:05.000006Z" || m.OrderingKey != "" {
			t.Fatalf("%s: %v", m.Data, m.Attributes)
		}
		came[id] = true
	}
	if len(came) != n {
		t.Errorf("%d records came, want %d", len(came), n)
	}
}

// testRejected: a record that is too large comes back, and so does one that makes its request invalid;
// their neighbours arrive.
func testRejected(t *testing.T, b bench) {
	b.make(t, b.name)
	s := open2(t, b.at("millrace/"+b.name))
	var rejected []string
	for round := range 2 {
		for i := range 100 {
			r := sinkdriver.Record{Key: []byte(strconv.Itoa(i)), Value: []byte(strconv.Itoa(i))}
			switch i {
			case 50:
				r.Value = make([]byte, 11_000_000)
			case 70:
				r.Key, r.Value = nil, nil // a message needs data or attributes
			}
			if err := s.Send(t.Context(), r, func(err error) { rejected = append(rejected, fmt.Sprint(i, " ", err)) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(rejected) != 2*(round+1) || !strings.HasPrefix(rejected[2*round], "50 ") || !strings.HasPrefix(rejected[2*round+1], "70 ") {
			t.Fatalf("rejected: %v", rejected)
		}
	}
	b.received(t, b.name, 2*98)
}

// testOrdered: the value of a key of the record orders messages.
func testOrdered(t *testing.T, b bench) {
	b.make(t, b.name)
	s := open2(t, b.at("millrace/"+b.name)+"&order=customer")
	for i := range 200 {
		value := fmt.Sprintf(`{"customer":"c%d","n":{"customer":1}}`, i%4)
		if i%10 == 0 {
			value = fmt.Sprintf(`{"customer":%d}`, i)
		} else if i%10 == 1 {
			value = `{"customer":null}`
		}
		if err := s.Send(t.Context(), sinkdriver.Record{Key: []byte(value), Value: []byte(value)}, noRejection(t)); err != nil {
			t.Fatal(err)
		}
	}
	var refused error
	if err := s.Send(t.Context(), sinkdriver.Record{Value: []byte(`{"customer":"c1","x":"` + strings.Repeat("x", 11_000_000) + `"}`)}, func(err error) { refused = err }); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil || refused == nil {
		t.Fatal(err, refused)
	}
	if err := errors.Join(s.Send(t.Context(), sinkdriver.Record{Value: []byte(`{"customer":"c1"}`)}, noRejection(t)), s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, m := range b.received(t, b.name, 201) {
		keys[m.OrderingKey]++
	}
	if len(keys) != 1+4+20 || keys[""] != 20 || keys["c1"] != 41 || keys["190"] != 1 {
		t.Errorf("ordering keys: %v", keys)
	}
}

func testTopicDeleted(t *testing.T, b bench) {
	b.make(t, b.name)
	s := open2(t, b.at("projects/millrace/topics/"+b.name))
	if err := b.TopicAdminClient.DeleteTopic(t.Context(), &pubsubpb.DeleteTopicRequest{Topic: b.topic(b.name)}); err != nil {
		t.Fatal(err)
	}
	send := func() error {
		return errors.Join(s.Send(t.Context(), sinkdriver.Record{Value: []byte("{}")}, noRejection(t)), s.Flush(t.Context()))
	}
	if err := send(); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("to a topic that is gone: %v", err)
	}
	if _, err := b.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: b.topic(b.name)}); err != nil {
		t.Fatal(err)
	}
	if err := send(); err != nil {
		t.Errorf("to a topic that was made anew: %v", err)
	}
}
