package inflight

import (
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/transforms/event"
)

func batch(t *testing.T, ids ...int64) *event.Batch {
	t.Helper()
	s, err := event.NewSchema([]event.Field{{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}}, "id", "t")
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, len(ids))
	b.N = len(ids)
	b.Cols[0].Ints = append(b.Cols[0].Ints, ids...)
	b.Cols[1].Ints = make([]int64, len(ids))
	return &b
}

func letter(id string) Key { return LetterOf(id, "", nil) }

// TestAcks: a unit lands once, with the last end of the last copy of all that it holds.
func TestAcks(t *testing.T) {
	t.Cleanup(Abandon)
	var landed []string
	expect := func(name string, ways Ways, keys ...Key) {
		Expect(keys, ways, func() { landed = append(landed, name) })
	}
	check := func(want ...string) {
		t.Helper()
		if !slices.Equal(landed, want) {
			t.Fatalf("landed %v, want %v", landed, want)
		}
	}
	one := Ways{Models: 1, Sinks: 1}
	expect("empty", one)
	check("empty")
	landed = nil

	// A duplicate's letter doesn't stand for the first copy, which is still under way.
	expect("first", one, IDs(nil, batch(t, 7, 8))...)
	expect("again", one, IDs(nil, batch(t, 7))...)
	Ended(End{letter("7"), Whole})
	check()
	Ended(AtSink(batch(t, 7))...)
	check("again")
	Ended(End{letter("9"), Whole}, End{letter("8"), BySink}) // nobody waits for 9
	check("again", "first")
	if Active() {
		t.Error("something is under way")
	}
	landed = nil

	// Two models, three sinks: one model fails on the row, one sink refuses the other's, one leaves it out.
	expect("ways", Ways{Models: 2, Sinks: 3}, letter("7"))
	Ended(End{letter("7"), ByModel}, End{letter("7"), BySink})
	LeftOut(batch(t, 6, 7, 7), batch(t, 6, 7))
	check()
	Stage("chunk", AtSink(batch(t, 7)))
	check()
	Published("other")
	check()
	Published("chunk")
	check("ways")
	Published("chunk")
	check("ways")
	landed = nil

	// Records without an id are known by their digest, or by themselves.
	expect("records", one, LetterOf("", "ab", []byte("x")), LetterOf("", "", []byte("x")), LetterOf("", "ab", nil))
	Ended(End{LetterOf("", "ab", nil), Whole}, End{LetterOf("", "", []byte("x")), Whole})
	check()
	Ended(End{LetterOf("", "ab", []byte("x")), Whole})
	check("records")
	landed = nil

	expect("abandoned", one, letter("7"))
	Abandon()
	Ended(End{letter("7"), Whole})
	check()
}
