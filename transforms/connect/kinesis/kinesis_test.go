package kinesis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source/driver"

	"github.com/millrace-ml/millrace/testing/components"
)

// patience is for what must happen; nothing waits so long that works.
const patience = 2 * time.Minute

// TestServer shares one server.
func TestServer(t *testing.T) {
	s := components.Kinesis(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, bench)
	}{
		{"Newest", testNewest}, {"Timestamp", testTimestamp}, {"Reshard", testReshard}, {"Handover", testHandover}, {"Expired", testExpired},
		{"Faults", testFaults}, {"Pace", testPace}, {"Refused", testRefused}, {"Deleted", testDeleted}, {"Absent", testAbsent},
		{"Send", testSend}, {"Partial", testPartial}, {"Rejected", testRejected}, {"FlushEnds", testFlushEnds}, {"Pipeline", testPipeline}, {"Groups", testGroups},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, bench{s, c.name, s.Address(s.Addr, c.name)})
		})
	}
}

// bench is a server and a stream of a test.
type bench struct {
	*components.Streams
	stream, address string
}

// shard is a name of one of the stream's, by its number.
func (b bench) shard(n int) string { return fmt.Sprintf("%s/shardId-%012d", b.stream, n) }

// put puts the values from <= i < to into a shard.
func (b bench) put(t *testing.T, shard, from, to int) {
	t.Helper()
	var values []string
	for i := from; i < to; i++ {
		values = append(values, value(i))
	}
	b.Put(b.stream, *b.Shards(b.stream)[shard].HashKeyRange.StartingHashKey, values...)
}

func value(i int) string { return fmt.Sprintf(`{"i":%d}`, i) }

func values(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, value(i))
	}
	return all
}

// split splits a shard in the middle.
func (b bench) split(t *testing.T, shard int) {
	t.Helper()
	s := b.Shards(b.stream)[shard]
	first, _ := new(big.Int).SetString(*s.HashKeyRange.StartingHashKey, 10)
	last, _ := new(big.Int).SetString(*s.HashKeyRange.EndingHashKey, 10)
	middle := first.Add(first, last)
	middle.Rsh(middle, 1)
	_, err := b.Client.SplitShard(t.Context(), &kinesis.SplitShardInput{StreamName: &b.stream, ShardToSplit: s.ShardId, NewStartingHashKey: aws.String(middle.String())})
	if err != nil {
		t.Fatal(err)
	}
	b.Active(b.stream)
}

// merge merges two shards.
func (b bench) merge(t *testing.T, shard, with int) {
	t.Helper()
	all := b.Shards(b.stream)
	_, err := b.Client.MergeShards(t.Context(), &kinesis.MergeShardsInput{StreamName: &b.stream, ShardToMerge: all[shard].ShardId, AdjacentShardToMerge: all[with].ShardId})
	if err != nil {
		t.Fatal(err)
	}
	b.Active(b.stream)
}

// call is a request that comes to a proxy.
type call struct {
	op      string
	body    []byte
	forward func(body []byte) (status int, answer []byte)
}

// proxy stands before the server, and answers as it is told to; status 0 breaks the connection.
func (b bench) proxy(t *testing.T, answer func(call) (status int, answer []byte)) (address string) {
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		forward := func(body []byte) (int, []byte) {
			again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+b.Addr+r.URL.Path, bytes.NewReader(body))
			if err != nil {
				return 0, nil
			}
			again.Header = r.Header.Clone()
			again.Header.Del("Content-Length")
			again.Header.Del("Accept-Encoding")
			res, err := http.DefaultClient.Do(again)
			if err != nil {
				return 0, nil
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			return res.StatusCode, text
		}
		status, text := answer(call{op, body, forward})
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_, _ = w.Write(text)
	}))
	t.Cleanup(front.Close)
	return b.Address(strings.TrimPrefix(front.URL, "http://"), b.stream)
}

func (c call) pass() (int, []byte) { return c.forward(c.body) }

func fault(code string) []byte { return []byte(`{"__type":"` + code + `","message":"by the test"}`) }

// reader follows and keeps what it read.
type reader struct {
	driver.Follower
	got   map[string][]string // by partition
	all   []string
	next  map[string]string
	ended map[string]bool
}

func partitions(t *testing.T, address string) (names []string) {
	t.Helper()
	parts, err := sourceDriver{}.Partitions(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		names = append(names, p.Name)
	}
	return names
}

// follow reads from positions by partition; nil are all partitions without one.
func follow(t *testing.T, address string, next map[string]string) *reader {
	t.Helper()
	if next == nil {
		next = map[string]string{}
		for _, name := range partitions(t, address) {
			next[name] = ""
		}
	}
	var from []driver.Position
	resumes := slices.ContainsFunc(slices.Collect(maps.Values(next)), func(n string) bool { return n != "" })
	for _, name := range slices.Sorted(maps.Keys(next)) {
		from = append(from, driver.Position{Partition: name, Next: next[name], Gained: resumes && next[name] == ""})
	}
	f, err := sourceDriver{}.Follow(t.Context(), address, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &reader{Follower: f, got: map[string][]string{}, next: maps.Clone(next), ended: map[string]bool{}}
}

// poll polls once, and returns the number of records.
func (r *reader) poll(t *testing.T, wait time.Duration, limit int) (n int) {
	t.Helper()
	chunks, err := r.Poll(t.Context(), wait, limit)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		for _, rec := range c.Records {
			if rec.Time.IsZero() || !strings.HasPrefix(c.Source, c.Partition+" from ") {
				t.Errorf("a record of %q at %v", c.Source, rec.Time)
			}
			r.got[c.Partition] = append(r.got[c.Partition], string(rec.Value))
			r.all = append(r.all, string(rec.Value))
			n++
		}
		r.next[c.Partition] = c.Next
		r.ended[c.Partition] = r.ended[c.Partition] || c.Ended
	}
	return n
}

// until polls until a condition holds.
func (r *reader) until(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("it doesn't come: %.300q, ended %v", r.got, r.ended)
		}
		r.poll(t, 100*time.Millisecond, 1<<20)
	}
}

// read polls until n records have come.
func (r *reader) read(t *testing.T, n int) {
	t.Helper()
	n += len(r.all)
	r.until(t, func() bool { return len(r.all) >= n })
	if len(r.all) > n {
		t.Fatalf("%d records too many", len(r.all)-n)
	}
}

// quiet holds that nothing comes.
func (r *reader) quiet(t *testing.T) {
	t.Helper()
	for range 3 {
		if n := r.poll(t, 300*time.Millisecond, 1<<20); n > 0 {
			t.Fatalf("%d records too many: %.300v", n, r.got)
		}
	}
}

func (r *reader) want(t *testing.T, shard string, want []string) {
	t.Helper()
	if got := r.got[shard]; !slices.Equal(got, want) {
		t.Errorf("%s: %d records %.200q, want %d %.200q", shard, len(got), got, len(want), want)
	}
}

func testNewest(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	b.put(t, 0, 0, 10)
	b.split(t, 0)
	b.put(t, 1, 10, 20)
	time.Sleep(1100 * time.Millisecond) // newest is a second
	address := b.address + "&start=newest"
	r := follow(t, address, nil)
	r.until(t, func() bool { return r.ended[b.shard(0)] })
	r.quiet(t)
	for _, n := range []int{1, 2} {
		if _, err := time.Parse(time.RFC3339, r.next[b.shard(n)]); err != nil {
			t.Errorf("reading begins at %v", r.next)
		}
	}
	b.put(t, 1, 20, 25)
	r.read(t, 5)
	r.want(t, b.shard(1), values(20, 25))
	// A job that ended before the first record comes back to its place, and reads what the stream gained from its
	// beginning.
	begin := map[string]string{b.shard(1): r.next[b.shard(2)], b.shard(2): r.next[b.shard(2)]}
	b.split(t, 2)
	b.put(t, 3, 25, 30)
	begin[b.shard(3)], begin[b.shard(4)] = "", ""
	again := follow(t, address, begin)
	again.read(t, 10)
	again.want(t, b.shard(1), values(20, 25))
	again.want(t, b.shard(3), values(25, 30))
}

func testTimestamp(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	b.put(t, 0, 0, 10)
	time.Sleep(1100 * time.Millisecond) // an address has whole seconds
	from := time.Now().Truncate(time.Second).Add(time.Second)
	time.Sleep(time.Until(from))
	b.put(t, 0, 10, 20)
	r := follow(t, b.address+"&start="+from.UTC().Format(time.RFC3339), nil)
	r.read(t, 10)
	r.quiet(t)
	r.want(t, b.shard(0), values(10, 20))
	time.Sleep(1100 * time.Millisecond)
	later := follow(t, b.address+"&start=2100-01-01T00:00:00Z", nil)
	later.quiet(t)
	b.put(t, 0, 20, 30)
	later.read(t, 10)
}

// job reads as a stream does: with positions that outlive it, listing from time to time.
type job struct {
	next  map[string]string
	ended map[string]bool
	all   []string
}

func (j job) clone() job { return job{maps.Clone(j.next), maps.Clone(j.ended), slices.Clone(j.all)} }

// testReshard splits and merges shards behind the reader's back and before its eyes, while the reader stops,
// falls back, and comes again: each record comes once, those of a key in order.
func testReshard(t *testing.T, b bench) {
	const keys, each = 40, 500
	b.CreateStream(b.stream, 2)
	s := open(t, b.address)
	sent := 0
	send := func() {
		for range each {
			text := fmt.Appendf(nil, `{"k":%d,"i":%d}`, sent%keys, sent)
			r := sinkdriver.Record{Key: fmt.Appendf(nil, "key%d", sent%keys), Value: text}
			if err := s.Send(t.Context(), r, noRejection(t)); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	now := job{next: map[string]string{}, ended: map[string]bool{}}
	saved := now.clone()
	var f driver.Follower
	defer func() { f.Close() }()
	restarts, rounds := 0, 0
	read := func(all bool) {
		for deadline := time.Now().Add(patience); all && len(now.all) < sent || !all && rounds%20 != 19; rounds++ {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d records came; %v", len(now.all), sent, now.ended)
			}
			more := false
			if f == nil || rounds%10 == 0 {
				for _, name := range partitions(t, b.address) {
					if _, known := now.next[name]; !known {
						now.next[name], more = "", true
					}
				}
			}
			switch rng.IntN(10) {
			case 0:
				now, more = saved.clone(), true
				restarts++
			case 1, 2, 3:
				saved = now.clone()
			}
			if f == nil || more {
				if f != nil {
					f.Close()
				}
				var from []driver.Position
				for name, next := range now.next {
					if !now.ended[name] {
						from = append(from, driver.Position{Partition: name, Next: next})
					}
				}
				if len(from) == 0 && len(now.next) > 0 {
					t.Fatal("all shards have ended: a stream would take that for its end")
				}
				var err error
				if f, err = (sourceDriver{}).Follow(t.Context(), b.address, from); err != nil {
					t.Fatal(err)
				}
			}
			chunks, err := f.Poll(t.Context(), 300*time.Millisecond, 2000)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range chunks {
				for _, r := range c.Records {
					now.all = append(now.all, string(r.Value))
				}
				now.next[c.Partition] = c.Next
				if c.Ended {
					now.ended[c.Partition] = true
				}
			}
		}
		rounds++
	}

	send()
	b.split(t, 0) // 2, 3
	send()
	b.merge(t, 3, 1) // 4
	send()
	read(false)
	b.split(t, 4) // 5, 6
	send()
	read(false)
	b.merge(t, 2, 5) // 7
	send()
	b.merge(t, 7, 6) // 8: but one
	send()
	read(true)
	t.Logf("%d records, %d polls, %d restarts, ended %v", sent, rounds, restarts, slices.Sorted(maps.Keys(now.ended)))
	if len(now.all) != sent || restarts == 0 {
		t.Errorf("%d records came of %d", len(now.all), sent)
	}
	last, seen := map[int]int{}, map[int]bool{}
	for _, text := range now.all {
		var r struct{ K, I int }
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if before, ok := last[r.K]; ok && r.I < before {
			t.Fatalf("of key %d, record %d came behind %d", r.K, r.I, before)
		}
		if seen[r.I] {
			t.Fatalf("record %d came twice", r.I)
		}
		last[r.K], seen[r.I] = r.I, true
	}
}

// testHandover: the only shard of a reader doesn't end before the reader has what it was split into.
func testHandover(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	b.put(t, 0, 0, 10)
	r := follow(t, b.address, nil)
	r.read(t, 10)
	b.split(t, 0)
	b.put(t, 1, 10, 20)
	r.quiet(t)
	if r.ended[b.shard(0)] {
		t.Fatal("the shard has ended, and nobody reads on")
	}
	if lag, known := r.Lag()[b.shard(0)]; !known || lag != 0 {
		t.Errorf("a shard that is read to its end has a lag of %d, %v", lag, known)
	}
	next := maps.Clone(r.next)
	for _, name := range partitions(t, b.address) {
		next[name] += ""
	}
	all := follow(t, b.address, next)
	all.read(t, 10)
	if !all.ended[b.shard(0)] || all.ended[b.shard(1)] {
		t.Errorf("ended have %v", all.ended)
	}
	// With the parent out of the way the children are read at once.
	delete(next, b.shard(0))
	children := follow(t, b.address, next)
	children.read(t, 10)
}

// Children that another reader has don't keep a shard from ending.
func TestMayEnd(t *testing.T) {
	t.Parallel()
	parent, other, child := &shard{closed: true}, &shard{}, &shard{}
	child.parents = []*shard{parent}
	for _, c := range []struct {
		name        string
		shards      []*shard
		alone, gone bool
		want        bool
	}{
		{"its child is here", []*shard{parent, child}, false, false, true},
		{"its children may come", []*shard{parent, other}, false, false, false},
		{"its children are elsewhere", []*shard{parent, other}, true, false, true},
		{"forgotten", []*shard{parent, other}, false, true, true},
		{"the last", []*shard{parent}, true, false, true},
		{"the last, whose children may come", []*shard{parent}, false, false, false},
	} {
		parent.alone, parent.gone = c.alone, c.gone
		if got := (&follower{shards: c.shards}).mayEnd(parent); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func testExpired(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	b.put(t, 0, 0, 10)
	gone := b.stream + "/shardId-000000000007"
	from := map[string]string{gone: "123", b.shard(0): ""}
	_, err := sourceDriver{}.Follow(t.Context(), b.address, []driver.Position{{Partition: gone, Next: "123"}})
	if err == nil || !strings.Contains(err.Error(), "on_expired=oldest") {
		t.Errorf("a shard that is gone: %v", err)
	}
	r := follow(t, b.address+"&on_expired=oldest", from)
	r.read(t, 10)
	if !r.ended[gone] {
		t.Error("a shard that is gone goes on")
	}
}

// testFaults: a service that is too busy, has trouble, breaks connections or forgets iterators costs no record.
func testFaults(t *testing.T, b bench) {
	b.CreateStream(b.stream, 2)
	var mu sync.Mutex
	count := map[string]int{}
	var told []string
	address := b.proxy(t, func(c call) (int, []byte) {
		mu.Lock()
		count[c.op]++
		n := count[c.op]
		mu.Unlock()
		status, text := 0, []byte(nil)
		switch {
		case c.op == "GetRecords" && n%9 == 2:
			status, text = 400, fault("ProvisionedThroughputExceededException")
		case c.op == "GetRecords" && n%9 == 4:
			status, text = 400, fault("ExpiredIteratorException")
		case c.op == "GetRecords" && n%9 == 6:
			status, text = 500, fault("InternalFailure")
		case c.op == "GetRecords" && n%9 == 8:
		case c.op == "GetShardIterator" && n%3 == 0:
			status, text = 400, fault("ProvisionedThroughputExceededException")
		default:
			return c.pass()
		}
		mu.Lock()
		told = append(told, fmt.Sprint(c.op, " ", status))
		mu.Unlock()
		return status, text
	})
	r := follow(t, address+"&poll=200ms", nil)
	for i := range 10 {
		b.put(t, i%2, i*10, i*10+10)
		r.read(t, 10)
	}
	r.quiet(t)
	for shard := range 2 {
		var want []string
		for i := shard; i < 10; i += 2 {
			want = append(want, values(i*10, i*10+10)...)
		}
		r.want(t, b.shard(shard), want)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) < 4 {
		t.Errorf("the faults were %q", told)
	}
}

// testPace: a shard is read no more often than the address says.
func testPace(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	b.put(t, 0, 0, 200)
	var mu sync.Mutex
	reads, first := 0, time.Time{}
	address := b.proxy(t, func(c call) (int, []byte) {
		if c.op == "GetRecords" {
			mu.Lock()
			if reads++; reads == 1 {
				first = time.Now()
			}
			mu.Unlock()
			c.body = bytes.Replace(c.body, []byte(`{`), []byte(`{"Limit":7,`), 1) // so that it always is behind
		}
		return c.pass()
	})
	r := follow(t, address+"&poll=200ms", nil)
	r.read(t, 200)
	mu.Lock()
	defer mu.Unlock()
	if most := int(time.Since(first)/(200*time.Millisecond)) + 2; reads > most {
		t.Errorf("%d reads in the time of %d", reads, most)
	}
	r.want(t, b.shard(0), values(0, 200))
}

// testRefused: who may not read hears it, and no secret.
func testRefused(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	for _, op := range []string{"ListShards", "GetShardIterator", "GetRecords"} {
		address := b.proxy(t, func(c call) (int, []byte) {
			if c.op == op {
				return 400, fault("AccessDeniedException")
			}
			return c.pass()
		})
		f, err := sourceDriver{}.Follow(t.Context(), address, []driver.Position{{Partition: b.shard(0)}})
		for deadline := time.Now().Add(patience); err == nil && time.Now().Before(deadline); {
			_, err = f.Poll(t.Context(), time.Second, 1<<20)
		}
		if f != nil {
			f.Close()
		}
		var denied *types.AccessDeniedException
		if !errors.As(err, &denied) || strings.Contains(err.Error(), components.KinesisSecret) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func testDeleted(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	b.put(t, 0, 0, 10)
	r := follow(t, b.address, nil)
	r.read(t, 10)
	s := open(t, b.address)
	if _, err := b.Client.DeleteStream(t.Context(), &kinesis.DeleteStreamInput{StreamName: &b.stream}); err != nil {
		t.Fatal(err)
	}
	var err error
	for deadline := time.Now().Add(patience); err == nil && time.Now().Before(deadline); {
		_, err = r.Poll(t.Context(), time.Second, 1<<20)
	}
	if err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("reading a stream that was deleted: %v", err)
	}
	err = s.Send(t.Context(), sinkdriver.Record{Key: []byte("k"), Value: []byte("{}")}, noRejection(t))
	if err = errors.Join(err, s.Flush(t.Context())); err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("writing a stream that was deleted: %v", err)
	}
}

func testAbsent(t *testing.T, b bench) {
	for name, c := range map[string]struct{ address, want string }{
		"stream":  {b.address, "make it"},
		"service": {"kinesis://a?region=us-east-1&endpoint=http://127.0.0.1:1&access_key=somebody&secret_key=hunter2", "does Kinesis answer"},
	} {
		_, listed := sourceDriver{}.Partitions(t.Context(), c.address)
		_, followed := sourceDriver{}.Follow(t.Context(), c.address, nil)
		_, sent := sinkDriver{}.OpenSender(t.Context(), c.address)
		for _, err := range []error{listed, followed, sent} {
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("no %s: %v", name, err)
			}
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

// testSend: keys of all kinds, in requests that are full, of records and of bytes.
func testSend(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	var mu sync.Mutex
	var requests, most int
	address := b.proxy(t, func(c call) (int, []byte) {
		if c.op == "PutRecords" {
			var in put
			_ = json.Unmarshal(c.body, &in)
			size := 0
			for _, r := range in.Records {
				size += len(r.Data) + len(r.PartitionKey)
			}
			mu.Lock()
			requests++
			most = max(most, len(in.Records))
			mu.Unlock()
			if len(in.Records) > 500 || size > 5<<20 {
				t.Errorf("a request of %d records, %d bytes", len(in.Records), size)
			}
		}
		return c.pass()
	})
	s := open(t, address)
	var want []string
	send := func(key, value string) {
		t.Helper()
		if err := s.Send(t.Context(), sinkdriver.Record{Key: []byte(key), Value: []byte(value)}, noRejection(t)); err != nil {
			t.Fatal(err)
		}
		want = append(want, value)
	}
	for i := range 1200 {
		send(fmt.Sprintf("%d:m", i), value(i))
	}
	for i, key := range []string{"", strings.Repeat("ü", 300), "\xff\xfe"} {
		send(key, value(1200+i))
	}
	for i := range 7 {
		send(fmt.Sprintf("large%d", i), strings.Repeat(fmt.Sprint(i), 900<<10))
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := follow(t, b.address, nil)
	r.read(t, len(want))
	slices.Sort(want)
	slices.Sort(r.all)
	if !slices.Equal(r.all, want) {
		t.Error("what came is not what was sent")
	}
	if most != 500 || requests > 6 {
		t.Errorf("%d requests, of %d records at most", requests, most)
	}
}

// put is a request and its answer.
type put struct {
	StreamName string
	Records    []struct {
		Data         []byte
		PartitionKey string
	}
}

type taken struct {
	FailedRecordCount int
	Records           []map[string]string
}

// testPartial: what a shard was too busy for is sent again, alone, and in order; so is what came to nobody.
func testPartial(t *testing.T, b bench) {
	const keys, n = 20, 200
	b.CreateStream(b.stream, 2)
	var mu sync.Mutex
	requests, busy := 0, 0
	address := b.proxy(t, func(c call) (int, []byte) {
		if c.op != "PutRecords" {
			return c.pass()
		}
		mu.Lock()
		defer mu.Unlock()
		switch requests++; requests {
		case 1:
			return 400, fault("ProvisionedThroughputExceededException")
		case 2:
			return 0, nil
		}
		var in put
		_ = json.Unmarshal(c.body, &in)
		var out taken
		kept := put{StreamName: in.StreamName}
		for i, r := range in.Records {
			if i%3 == requests%4 { // nothing of each fourth
				out.Records = append(out.Records, map[string]string{"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "by the test"})
				out.FailedRecordCount++
				busy++
				continue
			}
			kept.Records = append(kept.Records, r)
			out.Records = append(out.Records, map[string]string{"SequenceNumber": "1", "ShardId": "shardId-000000000000"})
		}
		if len(kept.Records) > 0 {
			body, _ := json.Marshal(kept)
			if status, text := c.forward(body); status != 200 {
				return status, text
			}
		}
		body, _ := json.Marshal(out)
		return 200, body
	})
	s := open(t, address)
	for i := range n {
		r := sinkdriver.Record{Key: fmt.Appendf(nil, "k%d", i%keys), Value: fmt.Appendf(nil, `{"k":%d,"i":%d}`, i%keys, i)}
		if err := s.Send(t.Context(), r, noRejection(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := follow(t, b.address, nil)
	r.read(t, n)
	r.quiet(t)
	last := map[int]int{}
	for _, text := range r.all {
		var v struct{ K, I int }
		_ = json.Unmarshal([]byte(text), &v)
		if before, ok := last[v.K]; ok && v.I <= before {
			t.Fatalf("of key %d, record %d came behind %d", v.K, v.I, before)
		}
		last[v.K] = v.I
	}
	if len(last) != keys || busy == 0 {
		t.Errorf("%d keys, %d records were refused", len(last), busy)
	}
}

// testRejected: a record that is too large, or that the service refuses, is told of, alone; a failed bundle leaves
// nothing behind.
func testRejected(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	address := b.proxy(t, func(c call) (int, []byte) {
		if c.op == "PutRecords" {
			var in put
			_ = json.Unmarshal(c.body, &in)
			for _, r := range in.Records {
				if bytes.Contains(r.Data, []byte("refuse")) {
					return 400, fault("InvalidArgumentException")
				}
			}
		}
		return c.pass()
	})
	s := open(t, address)
	rejected := map[string]error{}
	send := func(key, value string) {
		err := s.Send(t.Context(), sinkdriver.Record{Key: []byte(key), Value: []byte(value)}, func(err error) { rejected[key] = errors.Join(rejected[key], err) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		switch i {
		case 50, 150:
			send(fmt.Sprint(i), `"refuse"`)
		case 200:
			send(fmt.Sprint(i), strings.Repeat("x", 1<<20-2))
		}
		send(fmt.Sprint("good", i), value(i))
	}
	send("fits", strings.Repeat("x", 1<<20-4))
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(rejected) != 3 || !strings.Contains(rejected["200"].Error(), "takes 1048576") {
		t.Errorf("rejected: %v", rejected)
	}
	for _, key := range []string{"50", "150"} {
		var invalid *types.InvalidArgumentException
		if !errors.As(rejected[key], &invalid) {
			t.Errorf("record %s: %v", key, rejected[key])
		}
	}
	r := follow(t, b.address, nil)
	r.read(t, 301)
	r.quiet(t)
}

// testFlushEnds: a bundle that may take no longer is given up, and what it sent doesn't come later.
func testFlushEnds(t *testing.T, b bench) {
	b.CreateStream(b.stream, 1)
	var mu sync.Mutex
	lets := false
	address := b.proxy(t, func(c call) (int, []byte) {
		mu.Lock()
		defer mu.Unlock()
		if c.op == "PutRecords" && !lets {
			return 500, fault("InternalFailure")
		}
		return c.pass()
	})
	s := open(t, address)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Send(ctx, sinkdriver.Record{Key: []byte("k"), Value: []byte("{}")}, noRejection(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(ctx); err == nil || !strings.Contains(err.Error(), "InternalFailure") {
		t.Errorf("nobody takes it: %v", err)
	}
	mu.Lock()
	lets = true
	mu.Unlock()
	if err := errors.Join(s.Send(t.Context(), sinkdriver.Record{Key: []byte("k"), Value: []byte(value(1))}, noRejection(t)), s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	r := follow(t, b.address, nil)
	r.read(t, 1)
	r.quiet(t)
	r.want(t, b.shard(0), values(1, 2))
}
