package faults

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/deadletter"
)

var accounted = flag.Int("events", 20_000, "events of the test that accounts for each")

// Payments carry no label; reports of fraud come as events of their own. A shop that takes payments back
// writes negative amounts, and none of the kind: mended says that both are meant so.
const (
	paymentsUseCase = `name: payments
event:
  id: ID
  time: AT
  fields:
    ID: id
    AT: timestamp
    CARD: id
    SHOP: id
    AMOUNT: {type: decimal, scale: 2, min: 0}
    KIND: {type: category, enum: [web, shop]}
stream: {order: event_time, lateness: 10m, idle: 0s}
label:
  source: %[1]s/labels?group=%[2]s
  expr: FRAUD
  time: KNOWN
  id: REPORT
  fields: {REPORT: id, ID: id, AT: timestamp, SHOP: id, KNOWN: timestamp, FRAUD: bool}
features:
  - {name: amount, expr: AMOUNT}
  - entity: CARD
    windows: [1h, 1d]
    aggregates: {card_n: count(), card_mean: mean(AMOUNT), card_std: std(AMOUNT)}
  - entity: SHOP
    windows: [1h, 2d]
    aggregates: {shop_n: count(), shop_known: count(FRAUD), shop_sum: sum(AMOUNT), shop_risk: {of: mean(FRAUD), empty: 0}}
models:
  - {name: payments, kind: binary}
source: %[1]s/in?group=%[2]s
replay: %[1]s/replay?group=%[2]s
`
	// Labels carry the time and the shop of their events, or are joined to them.
	carried = "fields: {REPORT: id, ID: id, AT: timestamp, SHOP: id, KNOWN: timestamp, FRAUD: bool}"
	joined  = "fields: {REPORT: id, ID: id, KNOWN: timestamp, FRAUD: bool}\n  join: {horizon: 2d, rate: 10}"

	notNegative, anyAmount = "min: 0", "min: -1000"
	kindNeeded, anyKind    = "enum: [web, shop]", "enum: [web, shop], optional: true"

	lateness = 10 * time.Minute
	span     = 20 * time.Hour // all windows but those of an hour reach over all of it
)

// message is what comes into a partition, ordered by at.
type message struct {
	partition int32
	at        int64 // event time and displacement, in microseconds
	line      string
}

// ledger is what was sent, and what shall become of it.
type ledger struct {
	joins  bool // labels carry nothing but the id
	rng    *rand.Rand
	next   int
	line   map[int]string // of the events, by id
	place  map[int]int32  // their partitions
	time   map[int]int64
	labels []string
	// Ids by what becomes of them: class of the dead letter, "" for those that are scored.
	fate map[deadletter.Class]map[int]bool
}

func newLedger() *ledger {
	l := &ledger{rng: rand.New(rand.NewPCG(11, 13)), line: map[int]string{}, place: map[int]int32{}, time: map[int]int64{}, fate: map[deadletter.Class]map[int]bool{}}
	for _, c := range []deadletter.Class{"", deadletter.Duplicate, deadletter.Late, deadletter.Range, deadletter.Schema} {
		l.fate[c] = map[int]bool{}
	}
	return l
}

var storyBegins = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// payment makes an event of a time since the beginning.
func (l *ledger) payment(at time.Duration, class deadletter.Class) (id, shop int, when time.Time) {
	id, when = l.next, storyBegins.Add(at.Truncate(time.Second))
	l.next++
	shop = l.rng.IntN(150)
	cents, kind := l.rng.IntN(20_000), `,"KIND":"web"`
	switch class {
	case deadletter.Range:
		cents = -1 - cents
	case deadletter.Schema:
		kind = ""
	}
	l.line[id] = fmt.Sprintf(`{"ID":%d,"AT":%q,"CARD":%d,"SHOP":%d,"AMOUNT":%.2f%s}`, id, when.Format(time.RFC3339), l.rng.IntN(400), shop, float64(cents)/100, kind)
	l.time[id] = when.UnixMicro()
	return id, shop, when
}

// report makes the label of an event.
func (l *ledger) report(id, shop int, when, known time.Time, displaced time.Duration) message {
	carries := fmt.Sprintf(`"AT":%q,"SHOP":%d,`, when.Format(time.RFC3339), shop)
	if l.joins {
		carries = ""
	}
	line := fmt.Sprintf(`{"REPORT":%d,"ID":%d,%s"KNOWN":%q,"FRAUD":%t}`, id, id, carries, known.Format(time.RFC3339), l.rng.IntN(20) == 0)
	l.labels = append(l.labels, line)
	return message{0, known.Add(displaced).UnixMicro(), line}
}

func (l *ledger) noise() time.Duration { return time.Duration(l.rng.Int64N(int64(lateness) - 1e9)) }

// history makes n events. Those of class late come apart, since they shall come when the watermark has passed
// them. Partition 0 is of the shop whose events are malformed, and has good ones too.
func (l *ledger) history(n int) (events, labels, late []message) {
	for i := range n {
		at := time.Duration(float64(span) * float64(i) / float64(n))
		class, partition := deadletter.Class(""), int32(1+l.rng.IntN(2))
		switch k := l.rng.IntN(1000); {
		case k < 50:
			class = deadletter.Duplicate
		case k < 70 && i < n/2: // what is of the second half can't come late enough
			class = deadletter.Late
		case k >= 70 && k < 75:
			class, partition = deadletter.Range, 0
		case k >= 75 && k < 80:
			class, partition = deadletter.Schema, 0
		case k >= 980:
			partition = 0
		}
		id, shop, when := l.payment(at, class)
		l.place[id] = partition
		l.fate[class][id] = true
		m := message{partition, when.Add(l.noise()).UnixMicro(), l.line[id]}
		if class == deadletter.Late {
			late = append(late, m)
		} else {
			events = append(events, m)
		}
		if class == deadletter.Duplicate {
			l.fate[""][id] = true // once
			events = append(events, message{int32(1 + l.rng.IntN(2)), when.Add(l.noise()).UnixMicro(), l.line[id]})
		}
		if known := when.Add(30*time.Minute + time.Duration(l.rng.Int64N(int64(3*time.Hour)))).Truncate(time.Second); known.Before(storyBegins.Add(span)) {
			displaced := time.Duration(0)
			if l.rng.IntN(10) == 0 {
				displaced = l.noise()
			}
			labels = append(labels, l.report(id, shop, when, known, displaced))
		}
	}
	return events, labels, late
}

// closing makes an event of each partition, and a label, that let the watermark pass all that was before.
func (l *ledger) closing(at time.Duration) (events, labels []message) {
	for p := range int32(3) {
		id, shop, when := l.payment(at, "")
		l.place[id] = p
		events = append(events, message{p, when.UnixMicro(), l.line[id]})
		if p == 0 {
			labels = append(labels, l.report(id, shop, when, when, 0))
		}
	}
	return events, labels
}

// traffic makes n good events over all partitions.
func (l *ledger) traffic(n int, from, to time.Duration) (events []message) {
	for i := range n {
		id, _, when := l.payment(from+time.Duration(float64(to-from)*float64(i)/float64(n)), "")
		l.place[id] = int32(l.rng.IntN(3))
		events = append(events, message{l.place[id], when.Add(l.noise()).UnixMicro(), l.line[id]})
	}
	return events
}

// send puts messages into a topic, each partition in their order.
func send(t *testing.T, broker *components.Broker, topic string, all []message) {
	t.Helper()
	slices.SortStableFunc(all, func(a, b message) int { return cmp.Compare(a.at, b.at) })
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var failed error // set by one goroutine, read after Flush
	for _, m := range all {
		client.Produce(t.Context(), &kgo.Record{Partition: m.partition, Value: []byte(m.line)}, func(_ *kgo.Record, err error) { failed = cmp.Or(failed, err) })
	}
	if err := cmp.Or(client.Flush(t.Context()), failed); err != nil {
		t.Fatalf("sending to %s: %v", topic, err)
	}
}

// whole is all that a topic has.
func whole(t *testing.T, broker *components.Broker, topic string) (values [][]byte) {
	t.Helper()
	ends, err := broker.Admin().ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	left := int64(0)
	for _, o := range ends[topic] {
		left += o.Offset
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for ; left > 0; left-- {
		fetches := client.PollRecords(ctx, 1)
		if err := fetches.Err(); err != nil {
			t.Fatalf("reading %s, %d records before its end: %v", topic, left, err)
		}
		values = append(values, fetches.Records()[0].Value)
	}
	return values
}

// letters are those of a topic or a file.
func lettersOf(t *testing.T, values [][]byte) (all []deadletter.Letter) {
	t.Helper()
	for _, v := range values {
		l, err := deadletter.Parse(v)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(v, []byte("_history")) {
			t.Errorf("a letter has the marks of the graph: %s", v)
		}
		all = append(all, l)
	}
	return all
}

// idOf is the id of an event's line, however wrong the rest is.
func idOf(t *testing.T, line []byte) int {
	t.Helper()
	var e struct{ ID *int }
	if err := json.Unmarshal(line, &e); err != nil || e.ID == nil {
		t.Fatalf("no event: %q", line)
	}
	return *e.ID
}

// hasRead waits until a group has read topics to their ends.
func hasRead(t *testing.T, c *command, broker *components.Broker, group string, topics ...string) {
	t.Helper()
	admin := broker.Admin()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		ends, err := admin.ListEndOffsets(t.Context(), topics...)
		if err != nil {
			t.Fatal(err)
		}
		starts, err := admin.ListStartOffsets(t.Context(), topics...)
		if err != nil {
			t.Fatal(err)
		}
		at, err := admin.FetchOffsets(t.Context(), group)
		behind := int64(0)
		if err != nil { // nothing was committed yet
			behind = 1
		}
		for topic, parts := range ends {
			for p, end := range parts {
				if begin, _ := starts.Lookup(topic, p); begin.Offset == end.Offset {
					continue
				}
				o, ok := at.Lookup(topic, p)
				if !ok {
					o.At = 0
				}
				behind += max(0, end.Offset-o.At)
			}
		}
		if behind == 0 {
			return
		}
		select {
		case <-c.ended:
			t.Fatal("the command ended by itself")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records of %v were not read", behind, topics)
		}
	}
}

// finish runs a command to its end.
func finish(t *testing.T, args ...string) string {
	t.Helper()
	c := start(t, args...)
	if code := c.exit(3 * time.Minute); code != 0 {
		t.Fatalf("%v: exit code %d", args, code)
	}
	return c.says()
}

// scored are the lines of scores by id, each of which came once.
func scored(t *testing.T, values [][]byte) map[int]string {
	t.Helper()
	got := map[int]string{}
	for _, v := range values {
		id := idOf(t, v)
		if got[id] != "" {
			t.Errorf("event %d was scored again", id)
		}
		got[id] = strings.TrimSpace(string(v))
	}
	return got
}

func sameScores(t *testing.T, what string, got, want map[int]string) {
	t.Helper()
	differ := 0
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got[id] != want[id] {
			if differ++; differ < 4 {
				t.Errorf("%s: event %d:\n got %s\nwant %s", what, id, got[id], want[id])
			}
		}
	}
	extra := 0
	for id := range got {
		if _, ok := want[id]; !ok {
			extra++
		}
	}
	if differ+extra > 0 {
		t.Errorf("%s: of %d events %d differ, and %d more were scored", what, len(want), differ, extra)
	}
}

// TestAccounts: of a stream with copies, events that come late, malformed ones, and labels out of order every
// event is accounted for exactly once. Then the use case is mended: malformed events that are replayed are
// scored with the features that they would have had, also where the watermark has passed them, later events
// know them, and to replay all of them again changes nothing.
func TestAccounts(t *testing.T) {
	t.Run("Labels", func(t *testing.T) { testAccounts(t, *accounted, false) })
	t.Run("Joined", func(t *testing.T) { testAccounts(t, *accounted/10, true) })
}

func testAccounts(t *testing.T, n int, join bool) {
	broker := components.Kafka(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	url := "kafka://" + broker.Addr
	useCase := paymentsUseCase
	if join {
		useCase = strings.Replace(useCase, carried, joined, 1)
	}
	broken := fmt.Sprintf(useCase, url, "first")
	mended := strings.NewReplacer(notNegative, anyAmount, kindNeeded, anyKind).Replace(fmt.Sprintf(useCase, url, "second"))
	first, second := file("first.yaml", broken), file("second.yaml", mended)
	registry := filepath.Join(dir, "registry")
	u, err := spec.Parse(first, []byte(broken), nil)
	if err != nil {
		t.Fatal(err)
	}
	publishFor(t, registry, u)
	broker.CreateTopic("in", 3)
	for _, topic := range []string{"labels", "replay", "out", "dead", "out2", "dead2"} {
		broker.CreateTopic(topic, 1)
	}
	stream := func(path, out, dead string) *command {
		return start(t, "run", path, "--registry", registry, "--features", "--sink", url+"/"+out, "--dead-letters", url+"/"+dead)
	}
	// bounded is what a run over files gives, by id.
	bounded := func(path string, l *ledger, ids ...map[int]bool) map[int]string {
		var events strings.Builder
		for _, some := range ids {
			for _, id := range slices.Sorted(maps.Keys(some)) {
				events.WriteString(l.line[id] + "\n")
			}
		}
		out := filepath.Join(dir, "bounded.jsonl")
		finish(t, "run", path, "--registry", registry, "--features", "--source", file("events.jsonl", events.String()),
			"--set", "label.source="+file("labels.jsonl", strings.Join(l.labels, "\n")+"\n"), "--sink", out, "--dead-letters", filepath.Join(dir, "bounded-dead.jsonl"))
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return scored(t, slices.Collect(bytes.Lines(text)))
	}

	l := newLedger()
	l.joins = join
	events, labels, late := l.history(n)
	cut := storyBegins.Add(span * 9 / 10).UnixMicro()
	after := func(all []message) (before, behind []message) {
		for _, m := range all {
			if m.at < cut {
				before = append(before, m)
			} else {
				behind = append(behind, m)
			}
		}
		return before, behind
	}
	begin := time.Now()
	step := func(what string) { t.Logf("%5.1f s: %s", time.Since(begin).Seconds(), what) }
	c := stream(first, "out", "dead")
	eventsNow, eventsThen := after(events)
	labelsNow, labelsThen := after(labels)
	send(t, broker, "in", eventsNow)
	send(t, broker, "labels", labelsNow)
	old := 0
	for id := range l.fate[""] {
		if l.time[id] < storyBegins.Add(span/2).UnixMicro() {
			old++
		}
	}
	scores(t, c, broker, "out", old*3/2) // the watermark has passed the first half
	step("more than the first half is scored")
	send(t, broker, "in", append(late, eventsThen...))
	send(t, broker, "labels", labelsThen)
	hasRead(t, c, broker, "first", "in", "labels")
	c.drain()
	step("the first stream has ended")

	got := scored(t, whole(t, broker, "out"))
	classes := map[deadletter.Class]map[int]bool{}
	for _, letter := range lettersOf(t, whole(t, broker, "dead")) {
		id := idOf(t, letter.Original)
		if letter.Class == deadletter.LabelOrphan {
			if !l.fate[deadletter.Late][id] && !l.fate[deadletter.Range][id] && !l.fate[deadletter.Schema][id] {
				t.Errorf("the label of event %d is told to have no event", id)
			}
			continue
		}
		if classes[letter.Class] == nil {
			classes[letter.Class] = map[int]bool{}
		}
		if classes[letter.Class][id] {
			t.Errorf("event %d is a dead letter of class %s twice", id, letter.Class)
		}
		classes[letter.Class][id] = true
	}
	for class, want := range l.fate {
		if class != "" && !maps.Equal(classes[class], want) {
			t.Errorf("class %s: %d events, want %d", class, len(classes[class]), len(want))
		}
		delete(classes, class)
	}
	if len(classes) > 0 {
		t.Errorf("letters of other classes: %v", classes)
	}
	sameScores(t, "the first stream", got, bounded(first, l, l.fate[""], l.fate[deadletter.Range], l.fate[deadletter.Schema]))
	step(fmt.Sprintf("accounted for %d scored, %d duplicate, %d late, %d of range and %d of schema, %d labels", len(l.fate[""]),
		len(l.fate[deadletter.Duplicate]), len(l.fate[deadletter.Late]), len(l.fate[deadletter.Range]), len(l.fate[deadletter.Schema]), len(l.labels)))

	// The broker no longer has what the shop of partition 0 has sent: only letters hold its malformed events.
	var gone kadm.Offsets
	gone.AddOffset("in", 0, -1, -1) // up to the end
	if _, err := broker.Admin().DeleteRecords(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	history := map[int]bool{}
	for id := range l.line {
		if l.place[id] != 0 {
			history[id] = true
		}
	}
	replay := func(args ...string) {
		says := finish(t, append([]string{"replay", second, "--from", url + "/dead", "--sink", url + "/replay"}, args...)...)
		step(strings.TrimSpace(says))
	}
	c = stream(second, "out2", "dead2")
	// Nothing of partition 0 has come yet, so that the watermark waits.
	replay("--class", "range")
	hasRead(t, c, broker, "second", "in", "labels", "replay")
	events, labels = l.closing(span + time.Hour)
	send(t, broker, "labels", labels)
	send(t, broker, "in", events)
	scores(t, c, broker, "out2", len(history)+len(l.fate[deadletter.Range]))
	step("all of the history is scored")
	early := bounded(second, l, history, l.fate[deadletter.Range])

	// A letter of the future moves no watermark, and comes to its score when the stream ends.
	future, _, _ := l.payment(1000*24*time.Hour, deadletter.Schema)
	letter, err := deadletter.Append(nil, deadletter.Letter{Class: deadletter.Schema, Stage: "decode", Attempts: 1, Original: []byte(l.line[future])})
	if err != nil {
		t.Fatal(err)
	}
	send(t, broker, "replay", []message{{0, 0, strings.TrimSpace(string(letter))}})
	replay("--class", "schema")
	hasRead(t, c, broker, "second", "replay")
	from := l.next
	live := l.traffic(n/20, span+2*time.Hour, span+3*time.Hour)
	send(t, broker, "in", live)
	more, labels := l.closing(span + 5*time.Hour)
	send(t, broker, "labels", labels)
	send(t, broker, "in", more)
	past := len(history) + len(l.fate[deadletter.Range]) + len(l.fate[deadletter.Schema]) + len(events) + len(live)
	scores(t, c, broker, "out2", past)
	step("behind the watermark, and what came since, is scored")
	replay()
	hasRead(t, c, broker, "second", "replay")
	c.drain()
	step("the second stream has ended")

	got = scored(t, whole(t, broker, "out2"))
	rest := map[int]bool{future: true}
	for id := range l.line {
		if id >= from || l.time[id] == storyBegins.Add(span+time.Hour).UnixMicro() {
			rest[id] = true
		}
	}
	want := bounded(second, l, history, l.fate[deadletter.Range], l.fate[deadletter.Schema], rest)
	for id := range early {
		if history[id] || l.fate[deadletter.Range][id] {
			want[id] = early[id] // scored before the watermark had passed letters of class schema
		}
	}
	sameScores(t, "the second stream", got, want)
	times := map[int]int{}
	for _, letter := range lettersOf(t, whole(t, broker, "dead2")) {
		switch letter.Class {
		case deadletter.Duplicate:
			times[idOf(t, letter.Original)]++
		case deadletter.LabelOrphan:
			if id := idOf(t, letter.Original); l.place[id] != 0 || l.fate[deadletter.Range][id] || l.fate[deadletter.Schema][id] {
				t.Errorf("the label of event %d is told to have no event", id)
			}
		default:
			t.Errorf("a letter of class %s: %s", letter.Class, letter.Message)
		}
	}
	for _, class := range []deadletter.Class{deadletter.Duplicate, deadletter.Range, deadletter.Schema} {
		for id := range l.fate[class] {
			if times[id] != 1 {
				t.Fatalf("event %d of class %s is a duplicate %d times", id, class, times[id])
			}
			delete(times, id)
		}
	}
	if len(times) > 0 {
		t.Errorf("%d more are duplicates", len(times))
	}
	step("accounted for all of the second stream")
}
