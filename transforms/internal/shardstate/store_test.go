package shardstate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// opened counts stores, whose runs must differ between tests.
var opened struct {
	sync.Mutex
	n uint64
}

// open opens a store of a run of its own, with a small format.
func open(t interface {
	Helper()
	Fatal(...any)
	Cleanup(func())
}, change func(*Config)) *Store {
	t.Helper()
	opened.Lock()
	opened.n++
	n := opened.n
	opened.Unlock()
	random := rand.New(rand.NewPCG(n, 1))
	c := Config{
		Run: fmt.Sprint("run-", n), Stage: "features", Fingerprint: "3fa2c1", Shards: 2, New: newArena,
		Rand: random.Uint64, MinLog: 300, CopyBytes: 40,
	}
	if change != nil {
		change(&c)
	}
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// do applies ops in one call.
func do(s *Store, shard int, cells Cells, ops ...op) error {
	return s.Do(shard, cells, func(m Machine) ([][]byte, error) {
		if err := m.(*arena).apply(ops, true); err != nil {
			return nil, err
		}
		return [][]byte{encode(ops)}, nil
	})
}

// contents is what a call on the shard sees. It must write nothing.
func contents(s *Store, shard int, st *state) (oracle, error) {
	var got oracle
	cells := &fakeCells{state: st.clone()}
	err := s.Do(shard, cells, func(m Machine) ([][]byte, error) {
		got = m.(*arena).dump()
		return [][]byte{nil, {}}, nil
	})
	if err == nil && (cells.sets != 0 || cells.adds != [2]int{}) {
		err = errors.New("a call that changed nothing wrote")
	}
	return got, err
}

// world is a job: shards at the runner with their oracles, a checkpoint, and processes whose caches
// know nothing of what the runner does.
type world struct {
	shards []shardWorld
	saved  []shardWorld
	procs  []*Store
	seen   *seen
}

type shardWorld struct {
	state  *state
	oracle oracle
}

// seen counts what the property test must have met.
type seen struct{ flips, midRebuild, restarts, partial, split, rolledBack, cellFaults, panics, twice int64 }

func cloneShards(in []shardWorld) []shardWorld {
	out := slices.Clone(in)
	for i, s := range out {
		out[i] = shardWorld{s.state.clone(), s.oracle.clone()}
	}
	return out
}

type step struct {
	shard int
	ops   []op
	cuts  []int // where the ops are cut into deltas
	fault string
	at    int
	after bool
}

func drawStep(t *rapid.T, shards int) step {
	s := step{shard: rapid.IntRange(0, shards-1).Draw(t, "shard")}
	for range rapid.IntRange(0, 6).Draw(t, "ops") {
		o := op{
			kind:   rapid.SampledFrom([]byte("aaaaddf")).Draw(t, "kind"),
			entity: uint64(rapid.IntRange(0, 9).Draw(t, "entity")),
		}
		switch o.kind {
		case 'a':
			// A few rows, or enough to make the entity larger than what a call copies.
			n := rapid.SampledFrom([]int{1, 1, 1, 2, 20}).Draw(t, "rows")
			for range n - 1 {
				o.arg++
				s.ops = append(s.ops, o)
			}
			o.arg = uint64(rapid.IntRange(100, 200).Draw(t, "row"))
		case 'd':
			o.arg = uint64(rapid.SampledFrom([]int{1, 2, 5, 100}).Draw(t, "drop"))
		case 'f':
			o.arg = uint64(rapid.IntRange(1, 1000).Draw(t, "frontier"))
		}
		s.ops = append(s.ops, o)
	}
	for range rapid.IntRange(0, 2).Draw(t, "cuts") {
		s.cuts = append(s.cuts, rapid.IntRange(0, len(s.ops)).Draw(t, "cut"))
	}
	slices.Sort(s.cuts)
	s.fault = rapid.SampledFrom([]string{"", "", "", "", "", "", "panic", "apply", "cell", "cell"}).Draw(t, "fault")
	s.at = rapid.IntRange(1, 6).Draw(t, "at")
	s.after = rapid.Bool().Draw(t, "after")
	return s
}

// run makes one call of a bundle. It returns whether the bundle lives on.
func (w *world) run(t *rapid.T, s *Store, st step) (ok bool) {
	at := &w.shards[st.shard]
	cells := &fakeCells{state: at.state}
	if st.fault == "cell" {
		cells.fail, cells.after = st.at, st.after
	}
	if _, copying, _ := splitHead(at.state.head); at.state.known && copying {
		if e := s.c.shards[st.shard]; e == nil || e.head != at.state.head {
			w.seen.midRebuild++
		}
	}
	defer func() {
		if st.fault != "panic" {
			return
		}
		if p := recover(); p != "apply panics" {
			panic(p) // a failure of the test
		}
		ok = false
		w.seen.panics++
	}()
	err := s.Do(st.shard, cells, func(m Machine) ([][]byte, error) {
		a := m.(*arena)
		if d := cmp.Diff(at.oracle, a.dump()); d != "" {
			t.Fatalf("shard %d before the call (-oracle +machine):\n%s", st.shard, d)
		}
		var deltas [][]byte
		from := 0
		for _, cut := range append(slices.Clone(st.cuts), len(st.ops)) {
			if err := a.apply(st.ops[from:cut], true); err != nil {
				return nil, err
			}
			deltas = append(deltas, encode(st.ops[from:cut]))
			from = cut
		}
		switch st.fault {
		case "panic":
			panic("apply panics")
		case "apply":
			return nil, errFault
		}
		return deltas, nil
	})
	if err != nil {
		if !errors.Is(err, errFault) {
			t.Fatalf("shard %d: %v", st.shard, err)
		}
		if st.fault == "cell" {
			w.seen.cellFaults++
		}
		return false
	}
	if st.fault == "cell" && st.at <= cells.ops {
		t.Fatal("a cell's error was swallowed")
	}
	if cells.heads != 1 || cells.sets > 1 || (cells.sets == 0) != (len(st.ops) == 0) {
		t.Fatalf("%d ops made %d Head and %d SetHead", len(st.ops), cells.heads, cells.sets)
	}
	at.oracle.apply(st.ops)
	if e := s.c.shards[st.shard]; e.copying && e.cursor.Row > 0 {
		w.seen.partial++
	}
	for _, log := range at.state.logs {
		const last = recordSize - 1
		if n := len(log); n > 2 && log[n-2][last] == 0 {
			w.seen.split++
		}
		for _, r := range log {
			if len(r) > max(s.c.maxRecord, 64) {
				t.Fatalf("a record of %d bytes", len(r))
			}
		}
	}
	return true
}

// check holds every shard's log, and every cache that claims to know it, to the oracle.
func (w *world) check(t *rapid.T) {
	fresh := w.procs[0].c
	for i, s := range w.shards {
		e, err := fresh.rebuild(i, &fakeCells{state: s.state}, s.state.head, s.state.known)
		if err != nil {
			t.Fatalf("rebuilding shard %d: %v", i, err)
		}
		if d := cmp.Diff(s.oracle, e.machine.(*arena).dump()); d != "" {
			t.Fatalf("shard %d (-oracle +rebuilt):\n%s", i, d)
		}
		for p, proc := range w.procs {
			c := proc.c.shards[i]
			if c == nil || c.known != s.state.known || c.head != s.state.head {
				continue
			}
			if d := cmp.Diff(s.oracle, c.machine.(*arena).dump()); d != "" {
				t.Fatalf("shard %d (-oracle +cache of process %d):\n%s", i, p, d)
			}
			if c.logs[c.active] != e.logs[e.active] || c.active != e.active || c.copying != e.copying {
				t.Fatalf("shard %d: the cache counts %+v, active %d, the log has %+v, active %d", i, c.logs, c.active, e.logs, e.active)
			}
			if c.machine.(*arena).frozen != c.copying {
				t.Fatalf("shard %d: frozen %v, copying %v", i, !c.copying, c.copying)
			}
			if !c.copying && len(s.state.logs[1-c.active]) > 0 {
				t.Fatalf("shard %d: the idle log has records", i)
			}
			if got := s.state.bytes(1 - c.active); c.copying && c.logs[1-c.active].bytes != 0 && c.logs[1-c.active].bytes != got {
				t.Fatalf("shard %d: the cache counts %d bytes of copy, there are %d", i, c.logs[1-c.active].bytes, got)
			}
		}
	}
}

// TestModel runs jobs on a runner with every fault that one may have, beside a naive oracle.
func TestModel(t *testing.T) {
	var total seen
	rapid.Check(t, func(t *rapid.T) {
		w := &world{seen: &total}
		shards := rapid.IntRange(1, 3).Draw(t, "S")
		for range shards {
			w.shards = append(w.shards, shardWorld{&state{}, newOracle()})
		}
		w.saved = cloneShards(w.shards)
		config := func(c *Config) {
			c.Shards = shards
			c.Trigger = rapid.SampledFrom([]float64{1.5, 2, 3}).Draw(t, "trigger")
			c.MinLog = rapid.SampledFrom([]int{1, 300, 1000}).Draw(t, "min log")
			c.CopyBytes = rapid.SampledFrom([]int{1, 40, 200}).Draw(t, "copy bytes")
		}
		record := rapid.SampledFrom([]int{recordSize + 1, 100, maxRecord}).Draw(t, "record")
		openProc := func() *Store {
			s := open(t, config)
			s.c.maxRecord = record
			return s
		}
		for range rapid.IntRange(1, 3).Draw(t, "processes") {
			w.procs = append(w.procs, openProc())
		}
		t.Repeat(map[string]func(*rapid.T){
			"bundle": func(t *rapid.T) { w.bundle(t, 5) },
			"more":   func(t *rapid.T) { w.bundle(t, 5) },
			"checkpoint": func(*rapid.T) {
				w.saved = cloneShards(w.shards)
			},
			"restore": func(*rapid.T) {
				w.shards = cloneShards(w.saved)
				total.rolledBack++
			},
			"process dies": func(t *rapid.T) {
				i := rapid.IntRange(0, len(w.procs)-1).Draw(t, "process")
				total.flips += w.procs[i].Stats().Compactions
				total.restarts += w.procs[i].Stats().Restarts
				w.procs[i].Close()
				w.procs[i] = openProc()
			},
			"": w.check,
		})
		for _, p := range w.procs {
			total.flips += p.Stats().Compactions
			total.restarts += p.Stats().Restarts
		}
	})
	t.Logf("%+v", total)
	if slices.Contains([]int64{total.flips, total.midRebuild, total.restarts, total.partial, total.split, total.rolledBack, total.cellFaults, total.panics, total.twice}, 0) {
		t.Errorf("some case was never met: %+v", total)
	}
}

// bundle runs calls on one process: all of them count, or none, or they are run again.
func (w *world) bundle(t *rapid.T, most int) {
	proc := rapid.SampledFrom(w.procs).Draw(t, "process")
	var steps []step
	for range rapid.IntRange(1, most).Draw(t, "calls") {
		steps = append(steps, drawStep(t, len(w.shards)))
	}
	before := cloneShards(w.shards)
	all := func(proc *Store, faults bool) bool {
		for _, st := range steps {
			if !faults {
				st.fault = ""
			}
			if !w.run(t, proc, st) {
				return false
			}
		}
		return true
	}
	ok := all(proc, true)
	if ok && rapid.IntRange(0, 4).Draw(t, "commits") > 0 {
		return
	}
	w.shards = before
	w.seen.rolledBack++
	if rapid.Bool().Draw(t, "again") {
		w.seen.twice++
		all(rapid.SampledFrom(w.procs).Draw(t, "other process"), false)
	}
}
