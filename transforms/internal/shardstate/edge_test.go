package shardstate

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOpen(t *testing.T) {
	t.Run("references", func(t *testing.T) {
		var c Config
		a := open(t, func(x *Config) { c = *x })
		b, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		st := &state{}
		if err := do(a, 0, &fakeCells{state: st}, op{'a', 1, 1}); err != nil {
			t.Fatal(err)
		}
		a.Close()
		a.Close() // does not count twice
		if err := do(a, 0, &fakeCells{state: st}, op{'a', 1, 1}); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("a call by a closed reference: %v", err)
		}
		d, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := contents(d, 0, st); err != nil {
			t.Fatal(err)
		}
		if got := d.Stats(); got.Misses != 1 || got.Rebuilds != 0 || got != b.Stats() {
			t.Errorf("the cache did not outlive one of its references: %+v", got)
		}
		b.Close()
		d.Close()
		if d, err = Open(c); err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := contents(d, 0, st); err != nil {
			t.Fatal(err)
		}
		if got := d.Stats(); got.Misses != 1 || got.Rebuilds != 1 {
			t.Errorf("the cache outlived its references: %+v", got)
		}
	})
	t.Run("conflict", func(t *testing.T) {
		var c Config
		open(t, func(x *Config) { c = *x })
		for _, change := range []func(*Config){
			func(c *Config) { c.Fingerprint = "other" },
			func(c *Config) { c.Shards++ },
		} {
			other := c
			change(&other)
			if _, err := Open(other); err == nil || !strings.Contains(err.Error(), "name stages apart") {
				t.Error(err)
			}
		}
		c.Stage = "another"
		s, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
	t.Run("invalid", func(t *testing.T) {
		_, err := Open(Config{Trigger: 1.1, MinLog: -1})
		for _, want := range []string{"a run and a stage", "shards: 0", "a machine", "trigger: 1.1", "negative"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in: %v", want, err)
			}
		}
	})
	t.Run("defaults", func(t *testing.T) {
		s, err := Open(Config{Run: t.Name(), Stage: "s", Shards: 1, New: newArena})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.c.Trigger != 2 || s.c.MinLog != 1<<20 || s.c.CopyBytes != 256<<10 {
			t.Errorf("%+v", s.c.Config)
		}
		a, b := &state{}, &state{}
		for _, st := range []*state{a, b} {
			if err := do(s, 0, &fakeCells{state: st}, op{'a', 1, 1}); err != nil {
				t.Fatal(err)
			}
		}
		if a.head == b.head {
			t.Error("tokens are not random")
		}
	})
	t.Run("shard", func(t *testing.T) {
		for _, shard := range []int{-1, 2} {
			if err := do(open(t, nil), shard, &fakeCells{state: &state{}}); err == nil || !strings.Contains(err.Error(), "there are 2 shards") {
				t.Error(err)
			}
		}
	})
}

// TestDropped holds that whatever goes wrong in a call leaves no machine behind, for its contents may
// have changed under a head that the runner still has.
func TestDropped(t *testing.T) {
	for _, test := range []struct {
		name  string
		cells fakeCells
		panic bool
		err   error
	}{
		{name: "apply", err: errFault},
		{name: "panic", panic: true},
		{name: "adding", cells: fakeCells{fail: 2}},
		{name: "setting the head", cells: fakeCells{fail: 3}},
		{name: "setting the head late", cells: fakeCells{fail: 3, after: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, st := open(t, nil), &state{}
			if err := do(s, 0, &fakeCells{state: st}, op{'a', 1, 1}); err != nil {
				t.Fatal(err)
			}
			before := st.clone()
			test.cells.state = st
			func() {
				defer func() {
					if p := recover(); (p != nil) != test.panic {
						t.Errorf("panic: %v", p)
					}
				}()
				err := s.Do(0, &test.cells, func(m Machine) ([][]byte, error) {
					ops := []op{{'a', 1, 2}}
					if err := m.(*arena).apply(ops, true); err != nil {
						return nil, err
					}
					if test.panic {
						panic("apply panics")
					}
					return [][]byte{encode(ops)}, test.err
				})
				if !errors.Is(err, errFault) {
					t.Error(err)
				}
			}()
			if s.c.shards[0] != nil {
				t.Error("the machine is still there")
			}
			got, err := contents(s, 0, before)
			if err != nil {
				t.Fatal(err)
			}
			want := newOracle()
			want.apply([]op{{'a', 1, 1}})
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestSameShard runs a call inside another on the same shard, as a runner that is wrong might: each
// works on a machine of its own, and whichever is committed goes on rightly.
func TestSameShard(t *testing.T) {
	for _, winner := range []string{"outer", "inner"} {
		t.Run(winner, func(t *testing.T) {
			s, st := open(t, nil), &state{}
			if err := do(s, 0, &fakeCells{state: st}, op{'a', 1, 1}); err != nil {
				t.Fatal(err)
			}
			outer, inner := st.clone(), st.clone()
			err := s.Do(0, &fakeCells{state: outer}, func(m Machine) ([][]byte, error) {
				ops := []op{{'a', 1, 2}}
				if err := m.(*arena).apply(ops, true); err != nil {
					return nil, err
				}
				if err := do(s, 0, &fakeCells{state: inner}, op{'a', 1, 3}); err != nil {
					return nil, err
				}
				return [][]byte{encode(ops)}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			st, want := outer, []uint64{1, 2, 4}
			if winner == "inner" {
				st, want = inner, []uint64{1, 3, 4}
			}
			if err := do(s, 0, &fakeCells{state: st}, op{'a', 1, 4}); err != nil {
				t.Fatal(err)
			}
			for name, store := range map[string]*Store{"cache": s, "rebuilt": open(t, nil)} {
				got, err := contents(store, 0, st)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got.Rows[1]); d != "" {
					t.Errorf("%s (-want +got):\n%s", name, d)
				}
			}
		})
	}
}

// slowCells count how many logs are read at once.
type slowCells struct {
	fakeCells
	now, most *atomic.Int64
}

func (c *slowCells) Read(log int, each func([]byte) error) error {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
	}
	for range 1000 {
		runtime.Gosched()
	}
	return c.fakeCells.Read(log, each)
}

// TestConcurrent runs calls on many shards and several on each, all of which must rebuild now and
// then, one after the other.
func TestConcurrent(t *testing.T) {
	const shards, jobs, calls = 4, 2, 30
	// Two runs: the bound is the process's.
	stores := []*Store{open(t, func(c *Config) { c.Shards = shards }), open(t, func(c *Config) { c.Shards = shards })}
	for _, s := range stores {
		var mu sync.Mutex
		random := s.c.Rand
		s.c.Rand = func() uint64 { mu.Lock(); defer mu.Unlock(); return random() }
	}
	var now, most atomic.Int64
	var wg sync.WaitGroup
	for shard := range shards {
		for job := range jobs {
			wg.Go(func() {
				st, want := &state{}, newOracle()
				for i := range uint64(calls) {
					ops := []op{{'a', i % 5, i + uint64(job)<<32}}
					if err := do(stores[i%2], shard, &slowCells{fakeCells{state: st}, &now, &most}, ops...); err != nil {
						t.Error(err)
						return
					}
					want.apply(ops)
					got, err := contents(stores[i%2], shard, st)
					if err != nil {
						t.Error(err)
						return
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Errorf("shard %d, job %d (-want +got):\n%s", shard, job, d)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if n := most.Load(); n != 1 {
		t.Errorf("%d logs were read at once", n)
	}
	if s := stores[0].Stats(); s.Rebuilds < shards*jobs {
		t.Errorf("only %d rebuilds", s.Rebuilds)
	}
}

func TestStats(t *testing.T) {
	clock := time.Unix(0, 0)
	s := open(t, func(c *Config) {
		c.Now = func() time.Time { clock = clock.Add(time.Second); return clock }
	})
	st := &state{}
	var added int64
	call := func(ops ...op) {
		t.Helper()
		cells := &countCells{fakeCells: fakeCells{state: st}}
		if err := do(s, 1, cells, ops...); err != nil {
			t.Fatal(err)
		}
		added += cells.bytes
		if e := s.c.shards[1]; int64(len(e.out)) != cells.bytes {
			t.Fatalf("a call added %d bytes and made %d", cells.bytes, len(e.out))
		}
	}
	for i := range uint64(50) {
		call(op{'a', i % 7, i}, op{'d', i % 3, 1})
	}
	got := s.Stats()
	if sum := got.DeltaBytes + got.TwiceBytes + got.CopyBytes + got.HeaderBytes; sum != added {
		t.Errorf("the figures sum up to %d bytes, %d were added: %+v", sum, added, got)
	}
	if got.DeltaBytes != 50*2*opSize || got.TwiceBytes == 0 || got.CopyBytes == 0 || got.HeaderBytes == 0 || got.Compactions == 0 {
		t.Errorf("%+v", got)
	}
	active, _, _ := splitHead(st.head)
	live := s.c.shards[1].machine.Size()
	if got.LogBytes != st.bytes(active) || got.LiveBytes != live || got.LargestShard != live || got.Misses != 1 || got.Rebuilds != 0 {
		t.Errorf("%+v, log %d, live %d", got, st.bytes(active), live)
	}

	s.c.shards[1] = nil
	call(op{'a', 1, 1})
	got = s.Stats()
	if got.Misses != 2 || got.Rebuilds != 1 || got.LongestRebuild != time.Second || got.LargestRebuild == 0 {
		t.Errorf("after a rebuild: %+v", got)
	}

	s.c.live[0], s.c.live[1] = GoalBytes+1, WarnBytes+1
	if got = s.Stats(); got.OverGoal != 2 || got.OverWarn != 1 || got.LargestShard != WarnBytes+1 {
		t.Errorf("large shards: %+v", got)
	}
}

// countCells count added bytes.
type countCells struct {
	fakeCells
	bytes int64
}

func (c *countCells) Add(log int, record []byte) error {
	c.bytes += int64(len(record))
	return c.fakeCells.Add(log, record)
}

func TestFull(t *testing.T) {
	s, st := open(t, nil), &state{}
	s.c.limit = 200
	var err error
	n := uint64(0)
	for ; err == nil; n++ {
		if n == 100 {
			t.Fatal("no limit")
		}
		before := st.clone()
		if err = do(s, 0, &fakeCells{state: st}, op{'a', 1, n}); err != nil {
			st = before
		}
	}
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "with 2 instead of 2 shards") {
		t.Error(err)
	}
	// What is there can be read, and made less.
	got, err := contents(s, 0, st)
	if err != nil || len(got.Rows[1]) != int(n-1) {
		t.Errorf("%d calls, then %v: %v", n, err, got)
	}
	if err := do(s, 0, &fakeCells{state: st}, op{'d', 1, 3}); err != nil {
		t.Error(err)
	}
}

// TestSpread holds that equal shards do not all begin to copy in the same call after a restore.
func TestSpread(t *testing.T) {
	const shards = 8
	config := func(c *Config) { c.Shards, c.MinLog = shards, 1 }
	var states []*state
	first := open(t, config)
	for i := range shards {
		st := &state{}
		for j := range uint64(100) {
			if err := do(first, i, &fakeCells{state: st}, op{'a', j % 50, j}, op{'a', 100 + j, j}); err != nil {
				t.Fatal(err)
			}
		}
		for copying(st) {
			if err := do(first, i, &fakeCells{state: st}, op{'a', 1, 1}); err != nil {
				t.Fatal(err)
			}
		}
		states = append(states, st)
	}
	second := open(t, config)
	began := map[int]int{}
	for i, st := range states {
		for n := 0; !copying(st); n++ {
			// What is dropped again lets the log grow and not the shard.
			if err := do(second, i, &fakeCells{state: st}, op{'a', 999, 1}, op{'d', 999, 1}); err != nil {
				t.Fatal(err)
			}
			began[n]++
		}
	}
	ends := map[int]bool{}
	for n, c := range began {
		if began[n+1] < c {
			ends[n] = true
		}
	}
	if len(ends) < shards-1 {
		t.Errorf("%d shards began to copy in only %d different calls: %v", shards, len(ends), began)
	}
}

// TestMinLog holds that a small shard is not compacted every few calls.
func TestMinLog(t *testing.T) {
	s, st := open(t, func(c *Config) { c.MinLog = 5000 }), &state{}
	before := int64(0)
	for !copying(st) && s.Stats().Compactions == 0 {
		before = st.bytes(0)
		if err := do(s, 0, &fakeCells{state: st}, op{'f', 0, 1}); err != nil {
			t.Fatal(err)
		}
	}
	if before < 4900 || before > 5000+recordSize {
		t.Errorf("a compaction began at %d bytes", before)
	}
}

// badMachine is an arena whose Copy breaks its contract.
type badMachine struct {
	*arena
	copy func([]byte, Cursor) ([]byte, Cursor, bool)
}

func (m badMachine) Copy(dst []byte, from Cursor, _ int) ([]byte, Cursor, bool) {
	return m.copy(dst, from)
}

func TestBadCopy(t *testing.T) {
	for name, test := range map[string]struct {
		copy func([]byte, Cursor) ([]byte, Cursor, bool)
		want string
	}{
		"stands": {func(dst []byte, from Cursor) ([]byte, Cursor, bool) { return dst, from, false }, "went from {0 0} to {0 0}"},
		"back":   {func(dst []byte, from Cursor) ([]byte, Cursor, bool) { return dst, Cursor{-1, 5}, false }, "went from {0 0} to {-1 5}"},
		"cuts":   {func(dst []byte, from Cursor) ([]byte, Cursor, bool) { return dst[:1], Cursor{1, 0}, false }, "cut what it was to append to"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, func(c *Config) {
				c.MinLog = 1
				c.New = func() Machine { return badMachine{newArena().(*arena), test.copy} }
			})
			var err error
			for st := (&state{}); err == nil; {
				err = s.Do(0, &fakeCells{state: st}, func(Machine) ([][]byte, error) { return [][]byte{{1}}, nil })
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
		})
	}
}

// TestBuffers holds that the buffers of one large call are not kept.
func TestBuffers(t *testing.T) {
	s, st := open(t, nil), &state{}
	ops := make([]op, 5*maxRecord/opSize)
	for i := range ops {
		ops[i] = op{'f', 0, uint64(i)}
	}
	cells := &fakeCells{state: st}
	if err := do(s, 0, cells, ops...); err != nil {
		t.Fatal(err)
	}
	for _, log := range st.logs {
		for _, r := range log {
			if len(r) > maxRecord {
				t.Errorf("a record of %d bytes", len(r))
			}
		}
	}
	e := s.c.shards[0]
	if n := cap(e.parts) + cap(e.copied) + cap(e.out); n > 4*maxRecord {
		t.Errorf("%d bytes are kept", n)
	}
	got, err := contents(open(t, nil), 0, st)
	if err != nil || got.Frontier != uint64(len(ops)-1) {
		t.Errorf("%d, %v", got.Frontier, err)
	}
}
