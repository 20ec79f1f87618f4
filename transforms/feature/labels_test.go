package feature

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

// said is a label as the oracle sees it: of the event (t, id) of an entity.
type said struct {
	t, id  int64
	entity *int64
	known  int64
	own    int64
	value  *bool
	item   *int64 // of the event, another entity
}

func labelFields() []event.Field {
	return []event.Field{
		{Name: "own", Kind: event.ID}, {Name: "id", Kind: event.ID}, {Name: "reason", Kind: event.Category}, {Name: "known", Kind: event.Timestamp},
		{Name: "t", Kind: event.Timestamp}, {Name: "label", Kind: event.Bool}, {Name: "e", Kind: event.ID}, {Name: "item", Kind: event.ID},
	}
}

// labeled makes the labels of p come as events of their own, and has aggregates over them in all forms.
func labeled(p Params) Params {
	p.Fields = slices.DeleteFunc(slices.Clone(p.Fields), func(f event.Field) bool { return f.Name == "label" })
	p.LabelDelay, p.Labels = 0, &Labels{Fields: labelFields(), Time: "known", ID: "own"}
	minus := -1.0
	p.Features = slices.Clone(p.Features)
	for i, suffix := range []string{"", "_late", "_before"} {
		p.Features[i].Aggregates = slices.Clone(p.Features[i].Aggregates)
		for _, a := range []Aggregate{
			{Name: "frauds", Func: "count", Where: "label"}, {Name: "lost", Func: "sum", Arg: "cents", Where: "label"}, {Name: "risk_big", Func: "mean", Arg: "label", Where: "cents > 1.0", Empty: &minus},
			{Name: "known", Func: "count", Arg: "label"}, {Name: "lastbad", Func: "time_since_last", Where: "label"}, {Name: "badwords", Func: "distinct", Arg: "word", Where: "label"},
			{Name: "baditems", Func: "sequence", Arg: "item", Args: []float64{3}, Where: "label"}, {Name: "labels3", Func: "sequence", Arg: "label", Args: []float64{3}},
			{Name: "badx", Func: "max", Arg: "x", Where: "label"}, {Name: "topbad", Func: "top_k", Arg: "word", Args: []float64{2}, Where: "label"}, {Name: "stdlabel", Func: "std", Arg: "label"},
		} {
			a.Name += suffix
			p.Features[i].Aggregates = append(p.Features[i].Aggregates, a)
		}
	}
	return p
}

// rowsOf are the batches of records without their labels.
func rowsOf(t interface{ Fatal(...any) }, c *compiled, rs []record) event.Batch {
	b, err := toBatch(t, Params{Fields: testFields(), ID: "id", Time: "t"}, rs).Only(c.input)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func labelsOf(t interface{ Fatal(...any) }, c *compiled, ls []said) event.Batch {
	b := event.New(c.labels, len(ls))
	b.N = len(ls)
	for i, l := range ls {
		ints := func(col string, v *int64) {
			k := c.labels.Index(col)
			if v == nil {
				v = new(int64)
				b.Cols[k].SetNull(i, b.N)
			}
			b.Cols[k].Ints = append(b.Cols[k].Ints, *v)
		}
		ints("own", &l.own)
		ints("id", &l.id)
		ints("known", &l.known)
		ints("t", &l.t)
		ints("e", l.entity)
		ints("item", l.item)
		b.Cols[c.labels.Index("reason")].AppendRaw([]byte("stolen"))
		var value *int64
		if l.value != nil {
			value = new(int64)
			if *l.value {
				*value = 1
			}
		}
		ints("label", value)
	}
	return b
}

// as is records with the labels that are known by a time.
func as(rs []record, ls []said, now int64) []record {
	out := slices.Clone(rs)
	for i := range out {
		out[i].label = nil
		var last *said
		for k := range ls {
			l := &ls[k]
			same := l.entity != nil && out[i].entity != nil && *l.entity == *out[i].entity
			if l.id != out[i].id || l.t != out[i].t || !same || l.known > now {
				continue
			}
			if last == nil || cmp.Or(cmp.Compare(l.known, last.known), cmp.Compare(l.own, last.own)) > 0 {
				last = l
			}
		}
		if last != nil {
			out[i].label = last.value
		}
	}
	return out
}

// drawLabels is up to three labels for each record, no two of one own id, and some of no record.
func drawLabels(t *rapid.T, rs []record) (ls []said) {
	own := int64(0)
	for _, r := range rs {
		for range rapid.SampledFrom([]int{0, 1, 1, 2, 3}).Draw(t, "labels") {
			own++
			l := said{t: r.t, id: r.id, entity: r.entity, own: own * 7919 % 10007}
			l.known = r.t + rapid.SampledFrom([]int64{0, 1, 1_000_000, 3_000_000, 9_000_000, 30_000_000}).Draw(t, "known")
			if v := rapid.IntRange(0, 4).Draw(t, "value"); v > 0 {
				is := v > 2
				l.value = &is
			}
			if rapid.IntRange(0, 9).Draw(t, "orphan") == 0 {
				l.id += 20_000
			}
			ls = append(ls, l)
		}
	}
	return ls
}

func compileLabeled(t testing.TB, ps ...Params) (cs []*compiled) {
	for _, p := range ps {
		c, err := compile(p)
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, c)
	}
	return cs
}

// learn gives labels to a shard as a router would.
func learn(t interface{ Fatal(...any) }, c *compiled, sh *shard, ls []said) {
	b, err := labelsOf(t, c, ls).Only(sh.s.labels.schema)
	if err != nil {
		t.Fatal(err)
	}
	in, err := sh.s.labels.input(&b)
	if err != nil {
		t.Fatal(err)
	}
	sh.w.Learn(&in)
}

// TestLabels: each row is as of its own time over the rows and the labels that have arrived before it, in
// whatever order and however often these come.
func TestLabels(t *testing.T) {
	ps := []Params{labeled(everything(0)), bounded(labeled(everything(0))), leaving(labeled(everything(0)))}
	cs := compileLabeled(t, ps...)
	rapid.Check(t, func(t *rapid.T) {
		which := rapid.IntRange(0, len(ps)-1).Draw(t, "params")
		p, c := ps[which], cs[which]
		rs := drawRecords(t, rapid.IntRange(1, 25).Draw(t, "rows"))
		ls := drawLabels(t, rs)
		if which == 0 && rapid.Bool().Draw(t, "shuffled") {
			rs = rapid.Permutation(rs).Draw(t, "order")
		} else {
			slices.SortFunc(rs, before)
		}
		ls = rapid.Permutation(ls).Draw(t, "labels in order")
		sh := c.stages[0].newShard()
		var out []event.Batch
		var have [][]said // by row
		given := 0
		for _, part := range cut(t, rs) {
			n := rapid.IntRange(0, len(ls)-given).Draw(t, "labels now")
			from := rapid.IntRange(0, given).Draw(t, "again")
			learn(t, c, sh, ls[from:given+n])
			given += n
			b, dups, err := sh.apply(rowsOf(t, c, part))
			if err != nil || len(dups) > 0 {
				t.Fatal(err, dups)
			}
			out = append(out, b)
			for range part {
				have = append(have, ls[:given])
			}
		}
		checkAll(t, p, nil, out, func(row int) []record {
			seen := rs
			if which == 0 {
				seen = rs[:row+1]
			}
			return as(seen, have[row], rs[row].t)
		})
	})
}

// boundedLabels is the rows of a bounded run over the first stage, in their bits, and the ids of orphans.
func boundedLabels(t interface{ Fatal(...any) }, c *compiled, rs []record, ls []said) (map[string]string, []string) {
	f := &computeFn{c: c}
	st := f.c.stages[0]
	lb, err := labelsOf(t, f.c, ls).Only(st.labels.schema)
	if err != nil {
		t.Fatal(err)
	}
	out, letters, err := f.compute([]part{{Batches: []event.Batch{rowsOf(t, f.c, rs), lb}}})
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, b := range out {
		for i := range b.N {
			m[string(b.IDs().AppendID(nil, i))] = string(event.Append(nil, b.Gather([]int32{int32(i)})))
		}
	}
	var orphans []string
	for _, l := range letters {
		if l.Class == "label_orphan" {
			orphans = append(orphans, l.ID+string(l.Original))
		}
	}
	slices.Sort(orphans)
	return m, orphans
}

// TestMachineLabels: rows that wait and labels that come when they like, before their row or behind it, but
// before the watermark passes the time that they are known from, give the bits of a bounded run, however often
// the shard is rebuilt; labels are let go, and those that never meet a row are told, once.
func TestMachineLabels(t *testing.T) {
	const late = 9 * time.Second
	ps := []Params{labeled(everything(0)), bounded(labeled(everything(0))), leaving(labeled(everything(0)))}
	for i := range ps {
		ps[i].Stream = &Stream{Order: EventTime, Lateness: late}
	}
	cs := compileLabeled(t, ps...)
	forgot, told := false, false
	rapid.Check(t, func(t *rapid.T) {
		which := rapid.IntRange(0, 2).Draw(t, "params")
		p, c := ps[which], cs[which]
		rs, copies := drawArrival(t, late, which == 1)
		var once []record
		for _, r := range rs {
			if !slices.ContainsFunc(once, func(q record) bool { return q.id == r.id }) {
				once = append(once, r)
			}
		}
		ls := drawLabels(t, once)
		// A label comes somewhere between its event's time and late behind the time that it is known from.
		due := make([]int64, len(ls))
		for i, l := range ls {
			due[i] = rapid.Int64Range(l.t, l.known+late.Microseconds()).Draw(t, "due")
		}
		l := newLossy(t, p, c, 0)
		defer func() { l.store.Close() }()
		got, refused := map[string]string{}, 0
		var orphans []string
		var armed []bucket
		forget := func() {
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				l.forget(t)
			}
		}
		teach := func(ls []said) {
			b, err := labelsOf(t, c, ls).Only(c.stages[0].labels.schema)
			if err != nil {
				t.Fatal(err)
			}
			l.do(t, func(m *machine) ([][]byte, error) {
				_, delta, err := m.learn(b)
				if delta == nil {
					return nil, err
				}
				return [][]byte{delta}, err
			})
			forget()
		}
		fire := func(watermark int64) {
			slices.SortFunc(armed, func(a, b bucket) int { return cmp.Compare(a.end(), b.end()) })
			for len(armed) > 0 && armed[0].end() <= watermark {
				var done []applied
				l.do(t, func(m *machine) (deltas [][]byte, err error) {
					held := m.rows.Orphans().N
					done, deltas, err = m.pass(armed[0].end(), true)
					forgot = forgot || m.rows.Orphans().N < held
					return deltas, err
				})
				for _, a := range done {
					refused += len(a.duplicates)
					for _, letter := range c.stages[0].orphans(&a.orphans, "") {
						orphans = append(orphans, letter.ID+string(letter.Original))
						told = true
					}
					for i := range a.out.N {
						got[string(a.out.IDs().AppendID(nil, i))] = string(event.Append(nil, a.out.Gather([]int32{int32(i)})))
					}
				}
				armed = armed[1:]
				forget()
			}
		}
		newest := int64(0)
		for _, part := range cut(t, rs) {
			b := rowsOf(t, c, part)
			l.do(t, func(m *machine) ([][]byte, error) {
				delta := event.Append([]byte{pendingMark}, b)
				buckets, _ := m.add(b, len(delta))
				armed = append(armed, buckets...)
				return [][]byte{delta}, nil
			})
			for _, r := range part {
				newest = max(newest, r.t)
			}
			forget()
			var now []said
			for i := range ls {
				if due[i] <= newest && due[i] >= 0 {
					now, due[i] = append(now, ls[i]), -1
					if rapid.IntRange(0, 3).Draw(t, "twice") == 0 {
						now = append(now, ls[i])
					}
				}
			}
			if len(now) > 0 {
				teach(now)
			}
			fire(floor(newest-late.Microseconds(), 1000))
		}
		var rest []said
		for i := range ls {
			if due[i] >= 0 {
				rest = append(rest, ls[i])
			}
		}
		if len(rest) > 0 {
			teach(rest)
		}
		fire(1 << 60)
		want, all := boundedLabels(t, c, rs, ls)
		if len(got) != len(want) || refused != copies {
			t.Fatalf("%d rows of %d, %d copies of %d", len(got), len(want), refused, copies)
		}
		for id, w := range want {
			if got[id] != w {
				t.Fatalf("event %s has other features than a bounded run gives", id)
			}
		}
		slices.Sort(orphans)
		if len(slices.Compact(slices.Clone(orphans))) != len(orphans) {
			t.Fatalf("orphans told twice: %q", orphans)
		}
		for _, o := range orphans {
			if !slices.Contains(all, o) {
				t.Fatalf("%s is told to be an orphan, and isn't", o)
			}
		}
	})
	if !forgot || !told {
		t.Errorf("labels let go: %v, orphans told: %v", forgot, told)
	}
}

// TestMachineLabelsArrival: in the order of arrival a shard that is rebuilt at any point gives the same bits as
// one that never was: those that follow from the rows and labels that it has been given.
func TestMachineLabelsArrival(t *testing.T) {
	const late = 9 * time.Second
	ps := []Params{labeled(everything(0)), bounded(labeled(everything(0))), leaving(labeled(everything(0)))}
	for i := range ps {
		ps[i].Stream = &Stream{Order: Arrival, Lateness: late}
	}
	cs := compileLabeled(t, ps...)
	rapid.Check(t, func(t *rapid.T) {
		which := rapid.IntRange(0, 2).Draw(t, "params")
		p, c := ps[which], cs[which]
		rs, _ := drawArrival(t, late, which == 1)
		var once []record
		for _, r := range rs {
			if !slices.ContainsFunc(once, func(q record) bool { return q.id == r.id }) {
				once = append(once, r)
			}
		}
		ls := rapid.Permutation(drawLabels(t, once)).Draw(t, "labels in order")
		steady, l := newMachine(p, c.stages[0], 0), newLossy(t, p, c, 0)
		defer func() { l.store.Close() }()
		var out []event.Batch
		var have []int // labels, by row
		given, came := 0, 0
		for _, part := range cut(t, rs) {
			if n := rapid.IntRange(0, len(ls)-given).Draw(t, "labels now"); n > 0 {
				b, err := labelsOf(t, c, ls[given:given+n]).Only(c.stages[0].labels.schema)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := steady.learn(b); err != nil {
					t.Fatal(err)
				}
				l.do(t, func(m *machine) ([][]byte, error) {
					_, delta, err := m.learn(b)
					if delta == nil {
						return nil, err
					}
					return [][]byte{delta}, err
				})
				given += n
			}
			came += len(part)
			b := rowsOf(t, c, part)
			want, _, err := steady.arrive(b, true)
			if err != nil {
				t.Fatal(err)
			}
			var is applied
			l.do(t, func(m *machine) (deltas [][]byte, err error) {
				is, deltas, err = m.arrive(b, true)
				return deltas, err
			})
			if string(event.Append(nil, is.out)) != string(event.Append(nil, want.out)) || !slices.Equal(is.duplicates, want.duplicates) {
				t.Fatalf("after %d rows: other features, or duplicates %v instead of %v", came, is.duplicates, want.duplicates)
			}
			out = append(out, is.out)
			for range is.out.N {
				have = append(have, given)
			}
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				l.forget(t)
			}
		}
		if which == 0 && slices.IsSortedFunc(once, before) && len(once) == len(rs) { // else a batch's rows see later ones of it, or copies
			row := -1
			checkAll(t, p, nil, out, func(int) []record {
				row++
				me := slices.IndexFunc(rs, func(r record) bool { return r.id == idAt(out, row) })
				return as(rs[:me+1], ls[:have[row]], rs[me].t)
			})
		}
	})
}

// TestMachineLabelSections: what comes while labels are being copied is in the copy: rows of an entity that is new,
// for whose rows the copy is too late, labels of it, and a label of an entity that is copied in part.
func TestMachineLabelSections(t *testing.T) {
	p := labeled(everything(0))
	p.Stream = &Stream{Order: Arrival, Lateness: time.Second}
	c := compileLabeled(t, p)[0]
	st := c.stages[0]
	live, copied := newMachine(p, st, 0), newMachine(p, st, 0)
	e, yes := []int64{1, 2, 3}, true
	take := func(rs []record, ls []said) (deltas [][]byte) {
		b, err := labelsOf(t, c, ls).Only(st.labels.schema)
		if err != nil {
			t.Fatal(err)
		}
		_, delta, err := live.learn(b)
		if err != nil {
			t.Fatal(err)
		}
		_, more, err := live.arrive(rowsOf(t, c, rs), true)
		if err != nil {
			t.Fatal(err)
		}
		return append([][]byte{delta}, more...)
	}
	label := func(r record, own int64) said {
		return said{t: r.t, id: r.id, entity: r.entity, known: r.t + own, own: own, value: &yes}
	}
	rs := []record{{t: 1, id: 1, entity: &e[0]}, {t: 2, id: 2, entity: &e[1]}}
	more := []record{{t: 3, id: 3, entity: &e[2]}}
	take(rs, []said{label(rs[0], 1), label(rs[0], 2), label(rs[1], 3)})
	live.Freeze(true)
	var at shardstate.Cursor
	given := false
	for done := false; !done; {
		if !given && at.Entity>>sectionShift == labelsSection && at.Row > 0 {
			given = true
			for _, d := range take(more, []said{label(more[0], 4), label(rs[0], 0), label(rs[0], 5)}) {
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
		t.Fatal("the copy took no pause among an entity's labels")
	}
	if a, _, err := copied.arrive(rowsOf(t, c, more), true); err != nil || len(a.duplicates) != 1 {
		t.Errorf("%d of 1 duplicates are known: %v", len(a.duplicates), err)
	}
	for name, m := range map[string]*machine{"live": live, "copied": copied} {
		if in, _, _, _ := m.rows.CopyLabels(0, 0, 1<<20); in.N != 6 || slices.Contains(in.Met, false) {
			t.Errorf("%s: %d labels of 6, met %v", name, in.N, in.Met)
		}
	}
}

// idAt is the id of a row of batches.
func idAt(all []event.Batch, row int) int64 {
	for _, b := range all {
		if row < b.N {
			return b.IDs().Ints[row]
		}
		row -= b.N
	}
	panic("there is no such row")
}

func TestLabelParams(t *testing.T) {
	good := labeled(everything(0))
	compileLabeled(t, good)
	if is := good.Uses(); !slices.Equal(is, []string{"e"}) {
		t.Errorf("entities %v use the label", is)
	}
	without := func(name string) func(*Params) {
		return func(p *Params) {
			p.Labels.Fields = slices.DeleteFunc(p.Labels.Fields, func(f event.Field) bool { return f.Name == name })
		}
	}
	for name, change := range map[string]func(*Params){
		"no entity":       without("e"),
		"no event's time": without("t"),
		"no event's id":   without("id"),
		"no label":        without("label"),
		"no time":         func(p *Params) { p.Labels.Time = "" },
		"a delay":         func(p *Params) { p.LabelDelay = 1 },
		"a label twice":   func(p *Params) { p.Fields = testFields() },
		"both in one": func(p *Params) {
			p.Features[0].Aggregates[0] = Aggregate{Name: "n", Func: "count", Where: "label && x > 1.0"}
		},
		"a derived one":    func(p *Params) { p.Features = append(p.Features, Feature{Name: "d", Expr: "label"}) },
		"another kind":     func(p *Params) { p.Labels.Fields[6].Kind = event.String },
		"no own id":        func(p *Params) { p.Labels.ID = "nothing" },
		"a label for time": func(p *Params) { p.Labels.Fields[5].Kind = event.Timestamp },
	} {
		p := labeled(everything(0))
		p.Features[0].Aggregates = slices.Clone(p.Features[0].Aggregates)
		change(&p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s: no fault", name)
		}
	}
	if a, b := labeled(everything(0)).Fingerprint(), everything(0).Fingerprint(); a == b {
		t.Error("labels of their own don't show in the fingerprint")
	}
}

// runLabeled runs bounded or without an end, on a runner, and returns what came out.
func runLabeled(t *testing.T, runner string, p Params, in, labels []event.Batch) ([]event.Batch, []deadletter.Letter, map[string]int64) {
	t.Helper()
	name := t.Name()
	beside := name + " labels"
	store.Lock()
	store.in[name], store.in[beside], store.out[name], store.letters[name] = in, labels, nil, nil
	store.Unlock()
	pipeline, s := beam.NewPipelineWithRoot()
	events, ls := beam.PCollection{}, beam.PCollection{}
	if p.Stream == nil {
		events, ls = beam.ParDo(s, &giveFn{name}, beam.Impulse(s)), beam.ParDo(s, &giveFn{beside}, beam.Impulse(s))
	} else {
		late := p.Stream.Lateness.Milliseconds()
		events = beam.ParDo(s, &trickleFn{Run: name, N: len(in), Late: late}, beam.Impulse(s))
		ls = beam.ParDo(s, &trickleFn{Run: beside, N: len(labels), Late: late}, beam.Impulse(s))
	}
	rows, rejected := ComputeLabeled(s, events, ls, p)
	beam.ParDo(s, &keepFn{name}, rows)
	beam.ParDo(s, &keepLetterFn{name}, rejected)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	result, err := beam.Run(ctx, runner, pipeline)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, c := range result.Metrics().AllMetrics().Counters() {
		counts[c.Name()] += c.Committed
	}
	store.Lock()
	defer store.Unlock()
	return store.out[name], store.letters[name], counts
}

// twoLabeled is twoEntities with labels of their own, used by both entities.
func twoLabeled() Params {
	p := twoEntities()
	fields := labeled(everything(0))
	p.Fields, p.Labels, p.LabelDelay = fields.Fields, fields.Labels, 0
	p.Features[1].Aggregates = append(slices.Clone(p.Features[1].Aggregates), Aggregate{Name: "frauds", Func: "count", Where: "label"}, Aggregate{Name: "lost", Func: "sum", Arg: "double", Where: "label"})
	return p
}

// shuffleWithin changes the order of what lies so many places apart.
func shuffleWithin[T any](r *rand.Rand, all []T, n int) {
	for from := 0; from < len(all); from += n {
		part := all[from:min(from+n, len(all))]
		r.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
}

// TestLabeledRunners: with labels that come as events of their own, the bits and the letters are those of an
// oracle that knows all at once, bounded on both runners and without an end on Prism, whatever the order of
// events and labels within the lateness, the sizes of batches and the number of shards.
func TestLabeledRunners(t *testing.T) {
	p := twoLabeled()
	c := compileLabeled(t, p)[0]
	rs := randomRecords(600, 11)
	slices.SortFunc(rs, before)
	r := rand.New(rand.NewPCG(9, 9))
	var ls []said
	orphans := 0
	for i, rec := range rs {
		for range r.IntN(3) {
			v := r.IntN(2) == 0
			l := said{t: rec.t, id: rec.id, entity: rec.entity, item: rec.item, known: rec.t + r.Int64N(20_000_000), own: int64(len(ls)), value: &v}
			if i < 100 && r.IntN(10) == 0 { // old enough to be let go
				l.id += 2_000_000
				if l.entity != nil {
					orphans++
				}
			}
			ls = append(ls, l)
		}
	}
	slices.SortStableFunc(ls, func(a, b said) int { return cmp.Compare(a.known, b.known) })
	batches := func(rs []record, size int) (out []event.Batch) {
		for from := 0; from < len(rs); from += size {
			out = append(out, rowsOf(t, c, rs[from:min(from+size, len(rs))]))
		}
		return out
	}
	labels := func(ls []said, size int) (out []event.Batch) {
		for from := 0; from < len(ls); from += size {
			out = append(out, labelsOf(t, c, ls[from:min(from+size, len(ls))]))
		}
		return out
	}
	var want map[string]string
	for _, run := range []struct {
		name         string
		runner       string
		stream       bool
		shards, size int
	}{{"direct", "direct", false, 16, 50}, {"prism", "prism", false, 3, 7}, {"stream", "prism", true, 1, 90}, {"stream of 5 shards", "prism", true, 5, 11}} {
		t.Run(run.name, func(t *testing.T) {
			p := p
			p.Shards = run.shards
			rs, ls := slices.Clone(rs), slices.Clone(ls)
			if run.stream {
				p.Stream = &Stream{Order: EventTime, Lateness: 60 * time.Second}
				shuffleWithin(r, rs, 100) // 23 s
				shuffleWithin(r, ls, 100)
			} else {
				shuffleWithin(r, rs, len(rs))
				shuffleWithin(r, ls, len(ls))
			}
			given := append(slices.Clone(ls), ls[:20]...) // some twice
			if run.stream {
				given = ls
			}
			out, letters, counts := runLabeled(t, run.runner, p, batches(rs, run.size), labels(given, run.size))
			got := bitsOf(t, out)
			if want == nil {
				want = got
				checkLabeled(t, p, rs, ls, out)
			}
			checkBits(t, got, want)
			n := 0
			for _, l := range letters {
				if l.Class == deadletter.LabelOrphan {
					n++
				}
			}
			if n != len(letters) || !run.stream && n != orphans || run.stream && n > orphans || counts["frontier_violation"] != 0 {
				t.Errorf("%d letters, %d orphans of %d; counters %v", len(letters), n, orphans, counts)
			}
		})
	}
}

// checkLabeled holds the labeled features of both entities to what follows from the definition.
func checkLabeled(t *testing.T, p Params, rs []record, ls []said, out []event.Batch) {
	t.Helper()
	byItem := func(rs []record) []record {
		rs = slices.Clone(rs)
		for i := range rs {
			rs[i].entity = rs[i].item
		}
		return rs
	}
	items := slices.Clone(ls)
	for i := range items {
		items[i].entity = items[i].item
	}
	some := 0
	for _, b := range out {
		for i := range b.N {
			me := slices.IndexFunc(rs, func(r record) bool { return r.id == b.IDs().Ints[i] })
			for _, w := range []Window{{Duration: 10 * time.Second}, {Last: 4}} {
				frauds := oracle(p, p.Features[1], Aggregate{Func: "count", Where: "label"}, w, as(rs, ls, rs[me].t), me)
				if is := got(&b, "frauds_"+w.suffix(), i); fmt.Sprint(is) != fmt.Sprint(frauds) {
					t.Fatalf("frauds over %v of %d: %v, want %v", w, rs[me].id, is, frauds)
				}
				risk := oracle(p, p.Features[3], Aggregate{Func: "mean", Arg: "label"}, w, as(byItem(rs), items, rs[me].t), me)
				if is := got(&b, "risk_"+w.suffix(), i); !near(is, risk, 0) {
					t.Fatalf("risk over %v of %d: %v, want %v", w, rs[me].id, is, risk)
				}
				if risk != nil && risk != 0.0 {
					some++
				}
			}
		}
	}
	if some < 20 {
		t.Errorf("only %d windows had a label", some)
	}
}
