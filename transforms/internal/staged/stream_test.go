package staged

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAPaneThatIsCommittedAgain is of other chunks, in other parts: the runner was set back.
func TestAPaneThatIsCommittedAgain(t *testing.T) {
	m, s := setup(t, Target{URL: "memory:///", Run: "r", Ext: ".txt", Stream: &Stream{Bytes: 14}})
	const window = "20200101T000000Z"
	first := append(bundle(t, s, "a", "b"), bundle(t, s, "c")...)
	again := append(append(bundle(t, s, "a"), bundle(t, s, "b")...), bundle(t, s, "c")...)
	late := bundle(t, s, "d")
	commit := func(pane int64, chunks []Chunk) {
		t.Helper()
		if _, err := s.commitPane(t.Context(), window, pane, slices.Clone(chunks), nil); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for _, name := range m.visible() {
			got[strings.TrimPrefix(name, window)] = strings.ReplaceAll(m.files[name], "head\n", "")
		}
		if len(got) != len(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for name, text := range want {
			if got[name] != text {
				t.Errorf("%s holds %q, want %q", name, got[name], text)
			}
		}
	}
	commit(0, again)
	commit(1, late)
	holds(map[string]string{"-00000-of-00002-pane0.txt": "a\nb\n", "-00001-of-00002-pane0.txt": "c\n", "-00000-of-00001-pane1.txt": "d\n"})
	m.room = 0 // the receipt can't be written: nothing may have changed
	if _, err := s.commitPane(t.Context(), window, 0, slices.Clone(first), nil); err == nil {
		t.Fatal("a full store was written to")
	}
	m.room = 1 << 20
	holds(map[string]string{"-00000-of-00002-pane0.txt": "a\nb\n", "-00001-of-00002-pane0.txt": "c\n", "-00000-of-00001-pane1.txt": "d\n"})
	one := bundle(t, s, "a", "b", "c")
	s.target.Stream.Bytes = 1000
	for range 2 {
		commit(0, one)
		holds(map[string]string{"-00000-of-00001-pane0.txt": "a\nb\nc\n", "-00000-of-00001-pane1.txt": "d\n"})
	}
}

// TestOldChunksAreSwept holds that chunks stay for as long as a runner may be set back.
func TestOldChunksAreSwept(t *testing.T) {
	defer func(now func() time.Time) { Now = now }(Now)
	clock := time.UnixMilli(0)
	Now = func() time.Time { return clock }
	m, s := setup(t, Target{URL: "memory:///", Run: "sweep", Ext: ".txt", Stream: &Stream{Keep: time.Minute}})
	staged := func() int { return len(m.files) - len(m.visible()) }
	step := func(window string, chunks []Chunk) {
		t.Helper()
		if _, err := s.commitPane(t.Context(), window, 0, chunks, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.sweepOld(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	step("w1", append(bundle(t, s, "a"), bundle(t, s, "b")...)) // two chunks, their join, the receipt
	clock = clock.Add(59 * time.Second)
	step("w2", bundle(t, s, "c")) // a chunk and the receipt
	if got := staged(); got != 6 {
		t.Errorf("%d staged objects, want 6", got)
	}
	clock = clock.Add(time.Second)
	step("w3", bundle(t, s, "d"))
	if got := staged(); got != 4 {
		t.Errorf("%d staged objects, want 4", got)
	}
	// A process that has just begun knows no age: it waits as long as if all were new.
	ages = births{at: map[string]time.Time{}}
	clock = clock.Add(time.Hour)
	if err := s.sweepOld(t.Context()); err != nil || staged() != 4 {
		t.Errorf("%v, %d staged objects, want 4", err, staged())
	}
	clock = clock.Add(time.Minute)
	if err := s.sweepOld(t.Context()); err != nil || staged() != 0 {
		t.Errorf("%v, %d staged objects, want none", err, staged())
	}
	if got := m.visible(); len(got) != 3 {
		t.Errorf("published: %v", got)
	}
}
