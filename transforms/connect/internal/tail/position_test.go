package tail

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPositionVersion1 holds positions that were given before to what they meant.
func TestPositionVersion1(t *testing.T) {
	t.Parallel()
	const text = `{"v":1,"mark":"b","since":1700000000000,"files":"AAAAAAAAAAeAoJbw+mIBAAAAAAAAAAAIgKCW8PpiyAGAAQIDBA"}`
	s, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []known{
		{id: 7, modified: 1700119365632, at: whole, tried: -1, size: -1},
		{id: 8, modified: 1700119365632, at: 100, begin: beginning{128, 0x01020304}, tried: -1, size: -1},
	}
	var got []known
	for _, k := range s.files {
		got = append(got, *k)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(known{}, beginning{})); d != "" {
		t.Error(d, s.encode())
	}
	if s.mark != "b" || s.since != 1700000000000 || s.encode() != text {
		t.Errorf("it became %s", s.encode())
	}
	for _, broken := range []string{"{", `{"v":2}`, `{"v":1,"files":"AA"}`, `{"v":1,"files":"AAAAAAAAAAcC"}`, `{"v":1,"files":"*"}`} {
		if _, err := decode(broken); err == nil {
			t.Errorf("%s is a position", broken)
		}
	}
}

// TestPositionOfAnyName: a name of a file is bytes, and need not be UTF-8.
func TestPositionOfAnyName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"m\xfcnchen-0001.jsonl", "\x80", "münchen.jsonl", "\ufffd", ""} {
		s := state{mark: name}
		got, err := decode(s.encode())
		if err != nil {
			t.Fatal(err)
		}
		if got.mark != name {
			t.Errorf("%q became %q by %s", name, got.mark, s.encode())
		}
	}
}
