package conformance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// patience is for what must happen; nothing waits so long that works.
const patience = 60 * time.Second

// log is a kind of log.
type log struct {
	// topic makes one for a case.
	topic func(t *testing.T, name string) *topic
	// several says that a topic has as many partitions as are asked for; else it has one.
	several bool
	// lag says that the lag is exact.
	lag bool
	// absent is an address of what isn't there, with a password that no error may show.
	absent string
}

// topic is a log of its own for a case, empty but for what has.
type topic struct {
	address string
	// open makes it, with so many partitions.
	open func(partitions int)
	// put appends values to a partition by its index; nil if nobody can.
	put func(partition int, values ...string)
	// add adds a partition; nil if nobody can.
	add func()
	// has are the values of a log that nobody can append to.
	has []string
}

// tells holds that an error is one, and that what people see of it holds no secret.
func tells(t *testing.T, err error, address string) {
	t.Helper()
	if err = connect.Scrub(err, address); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("of %s: %v", connect.Redact(address), err)
	}
}

func lookup(t *testing.T, address string) driver.Driver {
	t.Helper()
	d, err := source.Lookup(address)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// reader follows and keeps what it read.
type reader struct {
	driver.Follower
	got   map[string][]string // by partition
	at    map[string][]int    // by partition, how many records had come by a position
	next  map[string][]string // by partition, all positions
	last  map[string]int64    // of a partition and source, the offset of the last record
	ended bool
}

// follow reads from positions by partition; nil are all partitions without one.
func follow(t *testing.T, d driver.Log, address string, from map[string]string) *reader {
	t.Helper()
	if from == nil {
		from = map[string]string{}
		for _, p := range partitions(t, d, address) {
			from[p] = ""
		}
	}
	var positions []driver.Position
	resumes := slices.ContainsFunc(slices.Collect(maps.Values(from)), func(n string) bool { return n != "" })
	for _, name := range slices.Sorted(maps.Keys(from)) {
		positions = append(positions, driver.Position{Partition: name, Next: from[name], Gained: resumes && from[name] == ""})
	}
	f, err := d.Follow(t.Context(), address, positions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return &reader{Follower: f, got: map[string][]string{}, at: map[string][]int{}, next: map[string][]string{}, last: map[string]int64{}}
}

func partitions(t *testing.T, d driver.Log, address string) (names []string) {
	t.Helper()
	list := d.Partitions
	if l, ok := d.(driver.Lister); ok {
		list = l.Logs
	}
	parts, err := list(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		names = append(names, p.Name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("partitions %q are in no order", names)
	}
	return names
}

// poll polls once, and returns the number and the bytes of what came.
func (r *reader) poll(t *testing.T, wait time.Duration, limit int) (n, size int) {
	t.Helper()
	chunks, err := r.Poll(t.Context(), wait, limit)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		for _, rec := range c.Records {
			of := c.Partition + " " + c.Source
			if last, ok := r.last[of]; ok && rec.Offset <= last {
				t.Errorf("%s: offset %d comes behind %d", of, rec.Offset, last)
			}
			r.last[of] = rec.Offset
			r.got[c.Partition] = append(r.got[c.Partition], string(rec.Value))
			n, size = n+1, size+len(rec.Value)
		}
		for i := range c.Batch.N {
			r.got[c.Partition] = append(r.got[c.Partition], string(c.Batch.IDs().AppendID(nil, i)))
			n++
		}
		r.next[c.Partition] = append(r.next[c.Partition], c.Next)
		r.at[c.Partition] = append(r.at[c.Partition], len(r.got[c.Partition]))
		r.ended = r.ended || c.Ended
	}
	return n, size
}

// read polls until n records have come.
func (r *reader) read(t *testing.T, n, limit int) {
	t.Helper()
	for deadline := time.Now().Add(patience); n > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d records are missing", n)
		}
		got, _ := r.poll(t, 100*time.Millisecond, limit)
		n -= got
	}
	if n < 0 {
		t.Fatalf("%d records too many", -n)
	}
}

// quiet holds that nothing comes.
func (r *reader) quiet(t *testing.T) {
	t.Helper()
	if n, _ := r.poll(t, 200*time.Millisecond, 1<<20); n > 0 {
		t.Fatalf("%d records too many: %.300q", n, r.got)
	}
}

func value(i int) string { return fmt.Sprintf(`{"i":%d,"s":"%s"}`, i, strings.Repeat("ü", i%7)) }

func valuesOf(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, value(i))
	}
	return all
}

func testLog(t *testing.T, l log) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, log, driver.Log, *topic)
	}{
		{"Whole", logWhole}, {"Resume", logResume}, {"Limit", logLimit}, {"Pause", logPause}, {"Waiting", logWaiting},
		{"Growth", logGrowth}, {"Positions", logPositions}, {"Absent", logAbsent},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := l.topic(t, "log-"+c.name)
			c.run(t, l, lookup(t, top.address).(driver.Log), top)
		})
	}
}

// fill opens a topic and puts n values into each of its partitions, unless it has some. It gives how many
// there are in a partition, and how many partitions.
func (top *topic) fill(l log, n int) (each, partitions int) {
	partitions = 1
	if l.several {
		partitions = 3
	}
	top.open(partitions)
	if top.put == nil {
		return len(top.has), 1
	}
	for p := range partitions {
		top.put(p, valuesOf(p*n, (p+1)*n)...)
	}
	return n, partitions
}

// want are the values of a partition.
func (top *topic) want(p, n int) []string {
	if top.put == nil {
		return top.has
	}
	return valuesOf(p*n, (p+1)*n)
}

// logWhole: all records come once, in order within a partition, those too that come while it is read.
func logWhole(t *testing.T, l log, d driver.Log, top *topic) {
	n, parts := top.fill(l, 300)
	r := follow(t, d, top.address, nil)
	if lag := r.Lag(); l.lag {
		for _, name := range partitions(t, d, top.address) {
			if lag[name] != int64(n) {
				t.Errorf("the lag of %s is %d before reading, want %d", name, lag[name], n)
			}
		}
	}
	if top.put == nil {
		r.read(t, n, 1<<20)
	} else {
		r.read(t, n*parts, 1000)
		r.quiet(t)
		for i := range 5 {
			top.put(parts-1, value(parts*n+i))
			r.read(t, 1, 1<<20)
		}
		r.quiet(t)
	}
	names := partitions(t, d, top.address)
	if len(names) != parts {
		t.Fatalf("partitions %q, want %d", names, parts)
	}
	for p, name := range names {
		want := top.want(p, n)
		if p == parts-1 && top.put != nil {
			want = append(want, valuesOf(parts*n, parts*n+5)...)
		}
		if !slices.Equal(r.got[name], want) {
			t.Errorf("%s: %d records %.200q, want %d %.200q", name, len(r.got[name]), r.got[name], len(want), want)
		}
		if lag, known := r.Lag()[name]; (l.lag || known) && lag != 0 {
			t.Errorf("the lag of %s is %d at the end", name, lag)
		}
	}
}

// logResume: from every position that a poll gave exactly the rest comes, however often.
func logResume(t *testing.T, l log, d driver.Log, top *topic) {
	n, parts := top.fill(l, 60)
	r := follow(t, d, top.address, nil)
	r.read(t, n*parts, 300)
	for name, positions := range r.next {
		for k := 0; k < len(positions); k += 1 + len(positions)/4 {
			rest := r.got[name][r.at[name][k]:]
			for range 2 {
				again := follow(t, d, top.address, map[string]string{name: positions[k]})
				again.read(t, len(rest), 1<<20)
				if !slices.Equal(again.got[name], rest) {
					t.Fatalf("%s from %q: %.200q, want %.200q", name, positions[k], again.got[name], rest)
				}
			}
		}
		end := follow(t, d, top.address, map[string]string{name: positions[len(positions)-1]})
		end.quiet(t)
	}
}

// logLimit: a poll gives about as many bytes as are asked for, and never more by more than a record.
func logLimit(t *testing.T, l log, d driver.Log, top *topic) {
	if top.put == nil {
		t.Skip("batches are as large as they are")
	}
	n, parts := top.fill(l, 300)
	r := follow(t, d, top.address, nil)
	for left := n * parts; left > 0; {
		got, size := r.poll(t, time.Second, 500)
		if left -= got; size > 500+len(value(999)) {
			t.Fatalf("a poll gave %d bytes, the limit is 500", size)
		}
	}
}

// logPause: a paused partition gives nothing and loses nothing; the others go on.
func logPause(t *testing.T, l log, d driver.Log, top *topic) {
	n, parts := top.fill(l, 200)
	r := follow(t, d, top.address, nil)
	r.poll(t, time.Second, 100) // some of all is on its way
	names := partitions(t, d, top.address)
	first, total := len(r.got[names[0]]), n
	r.Pause(names[:1])
	if top.put != nil { // also what comes meanwhile
		for p := range parts {
			top.put(p, value(p*n+n))
		}
		total++
	}
	others := 0
	for _, name := range names[1:] {
		others += total - len(r.got[name])
	}
	r.read(t, others, 1<<20)
	r.quiet(t)
	if got := len(r.got[names[0]]); got != first {
		t.Errorf("a paused partition gave %d records", got-first)
	}
	r.Pause(names[1:])
	r.read(t, total-first, 1<<20)
	r.Pause(nil)
	if top.put != nil {
		for p := range parts {
			top.put(p, value(p*n+n))
		}
		r.read(t, parts, 1<<20)
	}
	for p, name := range names {
		want := top.want(p, n)
		if top.put != nil {
			want = append(want, value(p*n+n), value(p*n+n))
		}
		if !slices.Equal(r.got[name], want) {
			t.Errorf("%s: %.300q, want %.300q", name, r.got[name], want)
		}
	}
}

// logWaiting: with nothing there a poll waits, and ends with nothing and no error when its time or its
// context is over. What comes meanwhile ends it.
func logWaiting(t *testing.T, _ log, d driver.Log, top *topic) {
	if top.put == nil {
		t.Skip("there is always something")
	}
	top.open(1)
	r := follow(t, d, top.address, nil)
	r.quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	if chunks, err := r.Poll(ctx, patience, 1<<20); len(chunks) > 0 || err != nil || time.Since(begin) > patience/2 {
		t.Errorf("a poll whose context ends gives %v, %v", chunks, err)
	}
	time.AfterFunc(50*time.Millisecond, func() { top.put(0, value(1)) })
	if n, _ := r.poll(t, patience, 1<<20); n != 1 || time.Since(begin) > patience/2 {
		t.Errorf("a poll that waits gives %d records", n)
	}
}

// logGrowth: a partition that the log gains is listed, and read from its beginning beside the others.
func logGrowth(t *testing.T, l log, d driver.Log, top *topic) {
	if top.add == nil {
		t.Skip("it gains no partition")
	}
	n, parts := top.fill(l, 20)
	r := follow(t, d, top.address, nil)
	r.read(t, n*parts, 1<<20)
	from := map[string]string{}
	for name, positions := range r.next {
		from[name] = positions[len(positions)-1]
	}
	top.add()
	for deadline := time.Now().Add(patience); ; {
		names := partitions(t, d, top.address)
		for _, name := range names {
			from[name] += ""
		}
		if len(names) == parts+1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new partition isn't listed: %q", names)
		}
	}
	top.put(parts, "x", "y")
	top.put(0, "z")
	again := follow(t, d, top.address, from)
	again.read(t, 3, 1<<20)
	names := partitions(t, d, top.address)
	if got := fmt.Sprint(again.got[names[0]], again.got[names[parts]]); got != "[z] [x y]" {
		t.Errorf("behind its growth the log gives %s", got)
	}
}

// logPositions: partitions and positions that the log never gave are errors.
func logPositions(t *testing.T, l log, d driver.Log, top *topic) {
	top.fill(l, 5)
	name := partitions(t, d, top.address)[0]
	for _, bad := range []driver.Position{{Partition: "other"}, {Partition: ""}, {Partition: name + "0"}, {Partition: name, Next: "rubbish"}, {Partition: name, Next: "-1"}} {
		if f, err := d.Follow(t.Context(), top.address, []driver.Position{bad}); err == nil {
			f.Close()
			t.Errorf("%+v is followed", bad)
		}
	}
}

// logAbsent: what isn't there is an error soon, which shows no secret.
func logAbsent(t *testing.T, l log, d driver.Log, _ *topic) {
	list := d.Partitions
	if ls, ok := d.(driver.Lister); ok {
		list = ls.Logs
	}
	begin := time.Now()
	_, listed := list(t.Context(), l.absent)
	_, followed := d.Follow(t.Context(), l.absent, []driver.Position{{Partition: "0"}})
	tells(t, listed, l.absent)
	tells(t, followed, l.absent)
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %v to say so", took)
	}
}
