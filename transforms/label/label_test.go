package label

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/keygroup"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

func params() Params {
	return Params{
		Fields: []event.Field{{Name: "x", Kind: event.Float}, {Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "who", Kind: event.ID}},
		ID:     "id", Time: "t", Keys: []string{"who"}, Known: "known", Horizon: 10 * time.Second,
		Labels: []event.Field{{Name: "own", Kind: event.ID}, {Name: "id", Kind: event.ID}, {Name: "known", Kind: event.Timestamp}, {Name: "bad", Kind: event.Bool}},
		Shards: 1, Stream: &Stream{},
	}
}

type happening struct{ id, t, who int64 }
type report struct{ own, id, known, bad int64 }

// idsOf are texts where they are odd, if there is such a one.
func idsOf(n int, id func(int) int64, texts bool) (c event.Column) {
	for i := range n {
		if !texts {
			c.Ints = append(c.Ints, id(i))
		} else if v := id(i); v%2 == 1 {
			c.AppendRaw([]byte(fmt.Sprintf("x%d", v)))
		} else {
			c.AppendRaw([]byte(fmt.Sprint(v)))
		}
	}
	return c
}

func eventsOf(p *plan, all []happening, texts bool) event.Batch {
	b := event.Batch{Schema: p.events, N: len(all), Cols: []event.Column{idsOf(len(all), func(i int) int64 { return all[i].id }, texts), {}, {}}}
	for _, e := range all {
		b.Cols[1].Ints, b.Cols[2].Ints = append(b.Cols[1].Ints, e.t), append(b.Cols[2].Ints, e.who)
	}
	return b
}

func labelsOf(p *plan, all []report, texts bool) event.Batch {
	b := event.Batch{Schema: p.labels, N: len(all), Cols: []event.Column{{}, idsOf(len(all), func(i int) int64 { return all[i].id }, texts), {}, {}}}
	for _, l := range all {
		b.Cols[0].Ints, b.Cols[2].Ints, b.Cols[3].Ints = append(b.Cols[0].Ints, l.own), append(b.Cols[2].Ints, l.known), append(b.Cols[3].Ints, l.bad)
	}
	return b
}

// memory is a shard's cells.
type memory struct {
	head  int64
	known bool
	logs  [2][][]byte
}

func (m *memory) Head() (int64, bool, error) { return m.head, m.known, nil }
func (m *memory) SetHead(v int64) error      { m.head, m.known = v, true; return nil }
func (m *memory) Clear(log int) error        { m.logs[log] = nil; return nil }
func (m *memory) Add(log int, b []byte) error {
	m.logs[log] = append(m.logs[log], slices.Clone(b))
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

// TestJoin: whatever the order of events and labels, in whatever batches, and however often the shard is rebuilt
// from its log or compacted, each label comes out once: with its event's time and key if it became known within
// the horizon, else as an orphan, and that only once nothing can come any more.
func TestJoin(t *testing.T) {
	p := params()
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	let, compacted := false, false
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.Bool().Draw(t, "texts")
		type item struct {
			at int64
			e  *happening
			l  *report
		}
		var items []item
		want, orphan := map[int64]string{}, map[int64]bool{}
		now, own := int64(1_000_000), int64(0)
		for i := range rapid.IntRange(1, 60).Draw(t, "events") {
			now += rapid.Int64Range(0, 2_000_000).Draw(t, "gap")
			e := happening{int64(i), now, int64(i % 7)}
			missing := rapid.IntRange(0, 9).Draw(t, "missing") == 0
			if !missing {
				items = append(items, item{e.t + rapid.Int64Range(0, 3_000_000).Draw(t, "late"), &e, nil})
				if rapid.IntRange(0, 4).Draw(t, "twice") == 0 {
					items = append(items, item{e.t + rapid.Int64Range(0, 3_000_000).Draw(t, "late"), &e, nil})
				}
			}
			for range rapid.IntRange(0, 2).Draw(t, "labels") {
				own++
				l := report{own, e.id, e.t + rapid.SampledFrom([]int64{0, 1, 5_000_000, 10_000_000, 10_000_001, 20_000_000}).Draw(t, "known"), own % 2}
				items = append(items, item{l.known + rapid.Int64Range(0, 3_000_000).Draw(t, "late"), nil, &l})
				if missing || l.known-e.t > 10_000_000 {
					orphan[own] = true
				} else {
					want[own] = fmt.Sprint(e.t, e.who, l.known, l.bad)
				}
			}
		}
		slices.SortStableFunc(items, func(a, b item) int { return int(a.at - b.at) })
		open := func() *shardstate.Store {
			s, err := shardstate.Open(shardstate.Config{Run: rand.Text(), Stage: "x", Shards: 1, MinLog: 1, CopyBytes: 1, New: func() shardstate.Machine { return newMachine(c) }})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		store, cells := open(), &memory{}
		defer func() { store.Close() }()
		take := func(rows event.Batch, gone []event.Batch) {
			for i := range rows.N {
				own := rows.Col("own").Ints[i]
				is := fmt.Sprint(rows.Col("t").Ints[i], rows.Col("who").Ints[i], rows.Times()[i], rows.Col("bad").Ints[i])
				if want[own] != is {
					t.Fatalf("label %d: %q, want %q", own, is, want[own])
				}
				delete(want, own)
			}
			for _, b := range gone {
				for _, own := range b.Col("own").Ints {
					if !orphan[own] {
						t.Fatalf("label %d is told to be an orphan, and isn't, or is for the second time", own)
					}
					delete(orphan, own)
				}
			}
		}
		var armed []int64
		for len(items) > 0 {
			n := rapid.IntRange(1, min(10, len(items))).Draw(t, "batch")
			var es []happening
			var ls []report
			for _, it := range items[:n] {
				if it.e != nil {
					es = append(es, *it.e)
				} else {
					ls = append(ls, *it.l)
				}
			}
			items = items[n:]
			for _, labels := range []bool{rapid.Bool().Draw(t, "labels first"), false, true} {
				if labels && len(ls) == 0 || !labels && len(es) == 0 {
					continue
				}
				err := store.Do(0, cells, func(s shardstate.Machine) ([][]byte, error) {
					m := s.(*machine)
					var did change
					if labels {
						did = m.learn(labelsOf(c, ls, texts))
						ls = nil
					} else {
						did = m.arrive(eventsOf(c, es, texts))
						es = nil
					}
					if did.bucket != nil {
						armed = append(armed, *did.bucket)
					}
					rows, late, err := c.rows(did.met)
					take(rows, late)
					return did.deltas, err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(armed)
			for len(items) > 0 && len(armed) > 0 && c.fires(armed[0]).UnixMicro() <= items[0].at-3_000_000 {
				err := store.Do(0, cells, func(s shardstate.Machine) ([][]byte, error) {
					m := s.(*machine)
					pieces := len(m.pieces)
					old, deltas := m.pass(armed[0])
					let = let || len(m.pieces) < pieces
					take(event.Batch{}, old)
					return deltas, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				armed = armed[1:]
			}
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				compacted = compacted || store.Stats().Compactions > 0
				store.Close()
				store = open()
			}
		}
		if len(want) > 0 {
			t.Fatalf("labels %v never met their events", want)
		}
		if err := store.Do(0, cells, func(s shardstate.Machine) ([][]byte, error) {
			m := s.(*machine)
			for _, p := range m.pieces {
				if b := c.bucket(p.newest); !slices.Contains(armed, b) {
					t.Fatalf("bucket %d has no timer, there are %v", b, armed)
				}
			}
			left, _ := m.drop(1<<63 - 1)
			take(event.Batch{}, left)
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(orphan) > 0 {
			t.Fatalf("labels %v are lost", orphan)
		}
	})
	if !let || !compacted {
		t.Errorf("pieces let go: %v, logs compacted: %v", let, compacted)
	}
}

// TestKeys: the shards of ids are spread evenly over the subtasks of a Flink.
func TestKeys(t *testing.T) {
	const shards = 8
	for _, stream := range []*Stream{nil, {}, {KeyGroups: 256}} {
		p := params()
		p.Shards, p.Stream = shards, stream
		f := &routeFn{Params: p}
		if err := f.Setup(); err != nil {
			t.Fatal(err)
		}
		groups := keygroup.Default
		if stream != nil {
			groups = cmp.Or(stream.KeyGroups, groups)
		}
		var all []happening
		for id := range int64(1000) {
			all = append(all, happening{id, 0, 0})
		}
		keys := map[string]bool{}
		emit := func(_ beam.EventTime, key string, _ event.Batch) { keys[key] = true }
		f.StartBundle(emit)
		if err := errors.Join(f.ProcessElement(eventsOf(f.p, all, false), emit), f.FinishBundle(emit)); err != nil {
			t.Fatal(err)
		}
		for _, parallelism := range []int{1, 2, 4, 8} {
			subtasks := make([]int, parallelism)
			for key := range keys {
				subtasks[keygroup.Of(key, groups)*parallelism/groups]++
			}
			for _, n := range subtasks {
				if n != shards/parallelism {
					t.Errorf("%d groups: %d shards over %d subtasks are spread as %v", groups, len(keys), parallelism, subtasks)
					break
				}
			}
		}
	}
}

func TestParams(t *testing.T) {
	if s, err := params().Output(); err != nil || s.String() != "own:id id:id* known:timestamp@ bad:bool t:timestamp who:id" {
		t.Errorf("%v %v", s, err)
	}
	for name, change := range map[string]func(*Params){
		"no horizon":  func(p *Params) { p.Horizon = 0 },
		"no key":      func(p *Params) { p.Keys = []string{"whose"} },
		"no time":     func(p *Params) { p.Known = "t" },
		"no id":       func(p *Params) { p.Labels = p.Labels[2:] },
		"many shards": func(p *Params) { p.Shards = 1 << 20 },
	} {
		p := params()
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%s: no fault", name)
		}
	}
}
