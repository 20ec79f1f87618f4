package script

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestScriptsCanFail takes scripts whose use case was changed and holds that their expectations, which are
// those of the use case as it was, notice.
func TestScriptsCanFail(t *testing.T) {
	for _, c := range []struct{ file, old, now string }{
		{"edges", "windows: [1h, 1d]", "windows: [1h, 25h]"},
		{"delay", "delay: 1h", "delay: 61m"},
		{"exclude", "current: exclude", "current: include"},
		{"empty", "empty: 0", "empty: 1"},
		{"last", "windows: [2n]", "windows: [3n]"},
		{"session", "session: 30m", "session: 29m"},
		{"decimals", "type: decimal, scale: 2", "type: float"},
		{"label", "delay: 1h", "delay: 59m"},
		{"malformed", "min: 0", "min: -1"},
		{"null_entity", "card: {type: id, optional: true}", "card: id"},
	} {
		text, err := os.ReadFile("testdata/" + c.file + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		changed := change(string(text), c.old, c.now)
		// Columns are named by their windows.
		for old, now := range map[string]string{"_1d=": "_25h=", "_2n=": "_3n=", "session30m=": "session29m="} {
			if strings.Contains(c.now, strings.Trim(now, "_=session")) {
				changed = strings.ReplaceAll(changed, old, now)
			}
		}
		s, err := parse(c.file, changed)
		if err != nil {
			t.Fatal(err)
		}
		if changed == string(text) || slices.Equal(s.want("bounded"), s.outcome(t, "bounded")) {
			t.Errorf("%s: nobody notices %q for %q", c.file, c.now, c.old)
		}
	}
	// A stream's rules are in the order of what comes, not in the use case.
	for _, c := range []struct{ file, old, now string }{
		{"late", "lateness: 10m", "lateness: 9m"},
		{"partitions", "@1 11:00", "   11:00"},
		{"new_partition", "\npartition 1\n", "\n"},
		{"idle", "\nidle\n", "\n"},
		{"together", "+ 09:30", "09:30"},
		{"out_of_order", "09:50  4  card=a amount=8\n11:05  5  card=a amount=16\n", "11:05  5  card=a amount=16\n09:50  4  card=a amount=8\n"},
	} {
		text, err := os.ReadFile("testdata/" + c.file + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		changed := change(string(text), c.old, c.now)
		s, err := parse(c.file, changed)
		if err != nil {
			t.Fatal(err)
		}
		s.u.Stream.Idle = 0 // without the word
		if changed == string(text) || slices.Equal(s.want("arrival"), s.outcome(t, "arrival")) {
			t.Errorf("%s: nobody notices %q for %q", c.file, c.now, c.old)
		}
	}
}

// change replaces a text behind the title.
func change(script, old, now string) string {
	title, rest, _ := strings.Cut(script, "-- use case --")
	return title + "-- use case --" + strings.Replace(rest, old, now, 1)
}

// TestRewrite holds that a script that is as it should be is written as it is, in any order of its
// expectations, and with its comments.
func TestRewrite(t *testing.T) {
	text, err := os.ReadFile("testdata/edges.txt")
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse("edges", string(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, run := range runs {
		got[run] = s.want(run)
	}
	again, err := parse("edges", s.rewrite(got))
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range again.expected {
		if l.String() != s.expected[i].String() || l.note != s.expected[i].note {
			t.Errorf("%s became %s", s.expected[i], l)
		}
	}
	got["arrival"] = slices.Clone(got["arrival"])
	got["arrival"][0] = "1 late"
	if text := s.rewrite(got); !strings.Contains(text, "\n1  [bounded event_time] n_1h=1") || !strings.Contains(text, "\n1  [arrival] late\n") {
		t.Errorf("%s", text)
	}
}
