package feature

import (
	"cmp"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

// memory is a shard's cells.
type memory struct {
	head  int64
	known bool
	logs  [2][][]byte
	bytes int64 // added, ever
}

func (m *memory) Head() (int64, bool, error) { return m.head, m.known, nil }
func (m *memory) SetHead(v int64) error      { m.head, m.known = v, true; return nil }
func (m *memory) Clear(log int) error        { m.logs[log] = nil; return nil }
func (m *memory) Add(log int, b []byte) error {
	m.logs[log] = append(m.logs[log], slices.Clone(b))
	m.bytes += int64(len(b))
	return nil
}
func (m *memory) Read(log int, each func([]byte) error) error {
	for _, b := range m.logs[log] {
		if err := each(b); err != nil {
			return err
		}
	}
	return nil
}

// lossy is a shard in a store that forgets its machine now and then, and compacts all the time.
type lossy struct {
	p     Params
	c     *compiled
	stage int
	cells memory
	store *shardstate.Store
}

func newLossy(t interface{ Fatal(...any) }, p Params, c *compiled, stage int) *lossy {
	l := &lossy{p: p, c: c, stage: stage}
	l.forget(t)
	return l
}

func (l *lossy) forget(t interface{ Fatal(...any) }) {
	if l.store != nil {
		l.store.Close()
	}
	var err error
	l.store, err = shardstate.Open(shardstate.Config{
		Run: rand.Text(), Stage: "x", Shards: 1, MinLog: 1, CopyBytes: 1,
		New: func() shardstate.Machine { return newMachine(l.p, l.c.stages[l.stage], l.stage) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lossy) do(t interface{ Fatal(...any) }, apply func(*machine) ([][]byte, error)) {
	if err := l.store.Do(0, &l.cells, func(m shardstate.Machine) ([][]byte, error) { return apply(m.(*machine)) }); err != nil {
		t.Fatal(err)
	}
}

// leaving is everything without windows that keep all rows, so that entities expire.
func leaving(p Params) Params {
	p.Features = slices.Clone(p.Features)
	for i := range p.Features {
		p.Features[i].Windows = slices.DeleteFunc(slices.Clone(p.Features[i].Windows), func(w Window) bool { return w.All || w.Last > 0 })
	}
	return p
}

// drawArrival is records in an order in which none comes later than late, some of them twice.
// Entities come and go, or there is only one, of which rows are dropped.
func drawArrival(t *rapid.T, late time.Duration, one bool) (rs []record, copies int) {
	rs = drawRecords(t, rapid.IntRange(1, 40).Draw(t, "rows"))
	at := map[int64]int64{}
	for i := range rs {
		if rs[i].entity != nil {
			e := *rs[i].entity + int64(i/8)
			if one {
				e = 7
			}
			rs[i].entity = &e
		}
		at[rs[i].id] = rs[i].t + rapid.Int64Range(0, late.Microseconds()).Draw(t, "late")
	}
	slices.SortStableFunc(rs, func(a, b record) int { return cmp.Compare(at[a.id], at[b.id]) })
	newest, out := int64(0), []record(nil)
	for _, r := range rs {
		out, newest = append(out, r), max(newest, r.t)
		if old := out[rapid.IntRange(0, len(out)-1).Draw(t, "copy")]; old.t >= newest-late.Microseconds() && rapid.IntRange(0, 3).Draw(t, "twice") == 0 {
			out = append(out, old)
			copies++
		}
	}
	return out, copies
}

func streams(t testing.TB, order string, late time.Duration) (ps []Params, cs []*compiled) {
	for _, p := range []Params{everything(3 * time.Second), bounded(everything(6 * time.Second)), leaving(everything(0))} {
		p.Stream = &Stream{Order: order, Lateness: late}
		c, err := compile(p)
		if err != nil {
			t.Fatal(err)
		}
		ps, cs = append(ps, p), append(cs, c)
	}
	return ps, cs
}

// TestMachineArrival: a shard that is rebuilt from its log at any point gives the same bits as one that
// never was, refuses the same rows, and every event comes out once; without late rows the bits are
// those of the bounded run.
func TestMachineArrival(t *testing.T) {
	sorts := map[time.Duration][]Params{}
	compiledOf := map[time.Duration][]*compiled{}
	lates := []time.Duration{0, 2 * time.Second, 9 * time.Second}
	for _, late := range lates {
		sorts[late], compiledOf[late] = streams(t, Arrival, late)
	}
	left, reused := false, false
	rapid.Check(t, func(t *rapid.T) {
		late := rapid.SampledFrom(lates).Draw(t, "lateness")
		which := rapid.IntRange(0, 2).Draw(t, "params")
		p, c := sorts[late][which], compiledOf[late][which]
		rs, copies := drawArrival(t, late, which == 1)
		steady, l := newMachine(p, c.stages[0], 0), newLossy(t, p, c, 0)
		defer func() { l.store.Close() }()
		var out []event.Batch
		refused := 0
		for _, part := range cut(t, rs) {
			b := toBatch(t, p, part)
			want, _, err := steady.arrive(b, true)
			if err != nil {
				t.Fatal(err)
			}
			var is applied
			var slots int
			l.do(t, func(m *machine) (deltas [][]byte, err error) {
				is, deltas, err = m.arrive(b, true)
				slots = m.rows.Entities()
				return deltas, err
			})
			if string(event.Append(nil, is.out)) != string(event.Append(nil, want.out)) || !slices.Equal(is.duplicates, want.duplicates) || is.conflicts+want.conflicts > 0 {
				t.Fatalf("after %d rows: other features, or duplicates %v instead of %v", refused, is.duplicates, want.duplicates)
			}
			out, refused = append(out, is.out), refused+len(is.duplicates)
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				l.forget(t)
			}
			left = left || which == 2 && slots < 2
			reused = reused || which == 2 && slots >= 2
		}
		ids := map[string]bool{}
		for _, b := range out {
			for i := range b.N {
				id := string(b.IDs().AppendID(nil, i))
				if ids[id] {
					t.Fatalf("%s came out twice", id)
				}
				ids[id] = true
			}
		}
		if refused != copies {
			t.Fatalf("%d of %d copies were refused", refused, copies)
		}
		if late == 0 && copies == 0 && slices.IsSortedFunc(rs, before) {
			for id, want := range bitsOfBounded(t, p, c, rs) {
				if !slices.ContainsFunc(out, func(b event.Batch) bool { return bitsIn(b, id) == want }) {
					t.Fatalf("event %s has other features than a bounded run gives", id)
				}
			}
		}
	})
	if !left || !reused {
		t.Error("no entity ever expired, or none was left")
	}
}

func bitsIn(b event.Batch, id string) string {
	for i := range b.N {
		if string(b.IDs().AppendID(nil, i)) == id {
			return string(event.Append(nil, b.Gather([]int32{int32(i)})))
		}
	}
	return ""
}

// bitsOfBounded is the rows of a bounded run over the first stage, in their bits.
func bitsOfBounded(t interface{ Fatal(...any) }, p Params, c *compiled, rs []record) map[string]string {
	b := toBatch(t, p, rs)
	rows, _ := once(&b, order(&b), c.stages[0].entity)
	out, _, err := c.stages[0].newShard().apply(b.Gather(rows))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for i := range out.N {
		m[string(out.IDs().AppendID(nil, i))] = string(event.Append(nil, out.Gather([]int32{int32(i)})))
	}
	return m
}

// TestMachineEventTime: rows that wait come out with the bits of a bounded run, each once, however late
// they came and however often the shard was rebuilt.
func TestMachineEventTime(t *testing.T) {
	const late = 9 * time.Second
	ps, cs := streams(t, EventTime, late)
	rapid.Check(t, func(t *rapid.T) {
		which := rapid.IntRange(0, 2).Draw(t, "params")
		p, c := ps[which], cs[which]
		rs, copies := drawArrival(t, late, which == 1)
		l := newLossy(t, p, c, 0)
		defer func() { l.store.Close() }()
		maxBuckets = rapid.SampledFrom([]int{1, 3, 48}).Draw(t, "buckets")
		defer func() { maxBuckets = 48 }()
		got, refused := map[string]string{}, 0
		var armed []bucket
		fire := func(watermark int64) {
			slices.SortFunc(armed, func(a, b bucket) int { return cmp.Compare(a.end(), b.end()) })
			for len(armed) > 0 && armed[0].end() <= watermark {
				var done []applied
				l.do(t, func(m *machine) (deltas [][]byte, err error) {
					done, deltas, err = m.pass(armed[0].end(), true)
					return deltas, err
				})
				for _, a := range done {
					refused += len(a.duplicates)
					for i := range a.out.N {
						id := string(a.out.IDs().AppendID(nil, i))
						if got[id] != "" {
							t.Fatalf("%s came out twice", id)
						}
						got[id] = string(event.Append(nil, a.out.Gather([]int32{int32(i)})))
					}
				}
				armed = armed[1:]
				if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
					l.forget(t)
				}
			}
		}
		newest := int64(0)
		for _, part := range cut(t, rs) {
			b := toBatch(t, p, part)
			l.do(t, func(m *machine) ([][]byte, error) {
				delta := event.Append([]byte{pendingMark}, b)
				buckets, behind := m.add(b, len(delta))
				if behind > 0 {
					t.Fatalf("%d rows are behind the frontier", behind)
				}
				armed = append(armed, buckets...)
				return [][]byte{delta}, nil
			})
			for _, r := range part {
				newest = max(newest, r.t)
			}
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				l.forget(t)
			}
			fire(floor(newest-late.Microseconds(), 1000))
		}
		fire(1 << 60)
		want := bitsOfBounded(t, p, c, rs)
		if len(got) != len(want) || refused != copies {
			t.Fatalf("%d rows of %d, %d copies of %d", len(got), len(want), refused, copies)
		}
		for id, w := range want {
			if got[id] != w {
				t.Fatalf("event %s has other features than a bounded run gives", id)
			}
		}
	})
}

// TestMachineConflict: of two events of one id the first goes on in arrival, the least in event time,
// and that they differ is counted.
func TestMachineConflict(t *testing.T) {
	e, x, y := int64(1), 0.5, 1.5
	rs := []record{{t: 1, id: 1, entity: &e, x: &y}, {t: 1, id: 1, entity: &e, x: &x}, {t: 1, id: 1, entity: &e, x: &y}, {t: 1, id: 2, entity: &e, x: &x}}
	for order, want := range map[string]int{Arrival: 1, EventTime: 2} {
		ps, cs := streams(t, order, time.Second)
		m, b := newMachine(ps[0], cs[0].stages[0], 0), toBatch(t, ps[0], rs)
		var done []applied
		if order == Arrival {
			a, _, err := m.arrive(b, true)
			if err != nil {
				t.Fatal(err)
			}
			done = []applied{a}
		} else {
			m.add(b, 1)
			var err error
			if done, _, err = m.pass(1000, true); err != nil {
				t.Fatal(err)
			}
		}
		rows, refused, conflicts := 0, 0, 0
		for _, a := range done {
			rows, refused, conflicts = rows+a.out.N, refused+len(a.duplicates), conflicts+a.conflicts
		}
		if rows != 2 || refused != 2 || conflicts != want {
			t.Errorf("%s: %d rows, %d duplicates, %d conflicts; want 2, 2, %d", order, rows, refused, conflicts, want)
		}
	}
}

func TestStageFingerprint(t *testing.T) {
	of := func(change func(*Params)) [2]string {
		p := twoEntities()
		p.Shards, p.Stream = 8, &Stream{Order: Arrival, Lateness: time.Minute, Run: "r"}
		change(&p)
		c, err := compile(p)
		if err != nil {
			t.Fatal(err)
		}
		return [2]string{c.stages[0].label(p), c.stages[1].label(p)}
	}
	is := of(func(*Params) {})
	if same := of(func(p *Params) { p.Stream.Lateness, p.Stream.Run, p.Keep = time.Hour, "s", []string{"word"} }); same != is {
		t.Errorf("%v, and %v for the same state", is, same)
	}
	for name, c := range map[string]struct {
		change func(*Params)
		both   bool
	}{
		"shards":            {func(p *Params) { p.Shards = 4 }, true},
		"order":             {func(p *Params) { p.Stream.Order = EventTime }, true},
		"a derived feature": {func(p *Params) { p.Features[0].Expr = "cents * 3.0" }, true},
		"the second's windows": {func(p *Params) {
			p.Features[3].Windows = p.Features[3].Windows[:1]
			p.Features[4].Expr = "risk_10s > 0.7"
		}, false},
		"the second's argument": {func(p *Params) { p.Features[2].Expr = "x * mean_10s" }, false},
	} {
		other := of(c.change)
		if other[1] == is[1] || (other[0] != is[0]) != c.both {
			t.Errorf("another %s: %v, was %v", name, other, is)
		}
	}
}

// TestMachineSections: what comes while a copy is in the making is in it, in the sections that it has
// whole: here an id without an entity, and a batch that waits.
func TestMachineSections(t *testing.T) {
	e := []int64{1, 2, 3}
	rs := []record{{t: 1, id: 1}, {t: 2, id: 2, entity: &e[0]}, {t: 3, id: 3, entity: &e[1]}, {t: 4, id: 4, entity: &e[2]}}
	more := []record{{t: 5_000_000, id: 5}, {t: 5_000_001, id: 6, entity: &e[0]}}
	for _, order := range []string{Arrival, EventTime} {
		ps, cs := streams(t, order, time.Second)
		st := cs[0].stages[0]
		live, copied := newMachine(ps[0], st, 0), newMachine(ps[0], st, 0)
		take := func(rs []record) (deltas [][]byte) {
			b := toBatch(t, ps[0], rs)
			if order == EventTime {
				delta := event.Append([]byte{pendingMark}, b)
				live.add(b, len(delta))
				return [][]byte{delta}
			}
			_, deltas, err := live.arrive(b, true)
			if err != nil {
				t.Fatal(err)
			}
			return deltas
		}
		take(rs)
		if order == EventTime {
			if _, _, err := live.pass(1000, true); err != nil {
				t.Fatal(err)
			}
		}
		live.Freeze(true)
		var at shardstate.Cursor
		given := false
		for done := false; !done; {
			if !given && at.Entity>>sectionShift == rowsSection {
				given = true
				for _, d := range take(more) {
					if err := copied.Replay(d, false); err != nil {
						t.Fatal(err)
					}
				}
			}
			var b []byte
			b, at, done = live.Copy(nil, at, 1)
			if err := copied.Load(b); err != nil {
				t.Fatal(err)
			}
		}
		if !given {
			t.Fatal("the copy took no pause between its sections")
		}
		if order == EventTime {
			done, _, err := copied.pass(8000, true)
			if err != nil || len(done) != 2 || done[1].out.N != 2 {
				t.Errorf("of two rows that wait %+v came out: %v", done, err)
			}
			continue
		}
		if a, _, err := copied.arrive(toBatch(t, ps[0], more), true); err != nil || len(a.duplicates) != 2 {
			t.Errorf("%d of 2 duplicates are known: %v", len(a.duplicates), err)
		}
	}
}
