package deadletter

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
)

func letters() *rapid.Generator[Letter] {
	return rapid.Custom(func(t *rapid.T) Letter {
		text := rapid.String()
		original := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(text, func(s string) []byte { return []byte(s) })).Draw(t, "original")
		if len(original) == 0 {
			original = nil
		}
		return Letter{
			ID: text.Draw(t, "id"), Stage: text.Draw(t, "stage"), Class: Range, Message: text.Draw(t, "message"),
			Place:    Place{Source: text.Draw(t, "source"), Offset: rapid.Int64().Draw(t, "offset"), Length: 3, Line: 2},
			Attempts: 1, Original: original, Digest: "ab", FirstFailure: "2020-01-01T00:00:00Z", LastFailure: "2020-01-02T00:00:00Z",
			Row: []byte(`{"a":1,"b":"<"}`),
		}
	})
}

func TestLettersComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := letters().Draw(t, "letter")
		line, err := Append([]byte("before\n"), l)
		if err != nil {
			t.Fatal(err)
		}
		line = bytes.TrimPrefix(line, []byte("before\n"))
		if bytes.Count(line, []byte{'\n'}) != 1 {
			t.Fatalf("%q is not one line", line)
		}
		got, err := Parse(line)
		if err != nil || cmp.Diff(l, got) != "" {
			t.Fatalf("%v\n%s", err, cmp.Diff(l, got))
		}
		p, err := encode(l)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(p); err != nil || cmp.Diff(l, got) != "" {
			t.Fatalf("coder: %v\n%s", err, cmp.Diff(l, got))
		}
	})
}

func TestTheEnvelopeIsAsSpecified(t *testing.T) {
	t.Parallel()
	line, err := Append(nil, Letter{Stage: "decode", Class: Schema, Message: "a < b", Original: []byte("{\"a\":1}")})
	want := `{"v":2,"enter":"decode","stage":"decode","class":"schema","message":"a < b","place":{"offset":0,"length":0},"attempts":0,"original":"{\"a\":1}"}` + "\n"
	if err != nil || string(line) != want {
		t.Errorf("got %s, %v\nwant %s", line, err, want)
	}
	line, _ = Append(nil, Letter{Original: []byte{0xff, 0}})
	if !strings.Contains(string(line), `"original_base64":"/wA="`) {
		t.Errorf("got %s", line)
	}
	if _, err := Parse([]byte(`{"v":3}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	for _, bad := range []string{``, `{}`, `{"v":0}`, `[]`} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestLettersOfTheFirstVersion holds that what was written before is still read.
func TestLettersOfTheFirstVersion(t *testing.T) {
	t.Parallel()
	got, err := Parse([]byte(`{"v":1,"id":"7","stage":"decode","class":"range","message":"m","event_time":"2020-01-01T00:00:00Z",` +
		`"place":{"source":"in.jsonl","offset":5,"length":7,"line":2},"use_case":"fraud","fingerprint":"f","attempts":1,"original":"{}","digest":"ab"}`))
	want := Letter{
		ID: "7", Stage: "decode", Class: Range, Message: "m", EventTime: "2020-01-01T00:00:00Z",
		Place: Place{Source: "in.jsonl", Offset: 5, Length: 7, Line: 2}, UseCase: "fraud", Fingerprint: "f", Attempts: 1,
		Original: []byte("{}"), Digest: "ab",
	}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Fatalf("%v\n%s", err, cmp.Diff(want, got))
	}
	line, err := Append(nil, stamped(got))
	if err != nil || !bytes.Contains(line, []byte(`{"v":2,"enter":"decode","id":"7"`)) || !bytes.Contains(line, []byte(`"first_failure":"2`)) {
		t.Errorf("upgraded: %s, %v", line, err)
	}
}

func TestLettersOfRows(t *testing.T) {
	t.Parallel()
	s, err := event.NewSchema([]event.Field{
		{Name: "key", Kind: event.ID}, {Name: "at", Kind: event.Timestamp}, {Name: "amount", Kind: event.Decimal, Scale: 2}, {Name: "mean", Kind: event.Float},
	}, "key", "at")
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, 2)
	b.N = 2
	b.Cols[0].Ints = append(b.Cols[0].Ints, 1, 2)
	b.Cols[1].Ints = append(b.Cols[1].Ints, 0, 1500)
	b.Cols[2].Ints = append(b.Cols[2].Ints, 5, 1234)
	b.Cols[3].Floats = append(b.Cols[3].Floats, 0, 0.5)
	b.Cols[3].SetNull(0, 2)
	const first, second = `{"key":1,"at":"1970-01-01T00:00:00Z","amount":0.05,"mean":null}`, `{"key":2,"at":"1970-01-01T00:00:00.0015Z","amount":12.34,"mean":0.5}`
	l := FromRow(Late, &b, 0)
	if l.Class != Late || l.ID != "1" || l.EventTime != "1970-01-01T00:00:00Z" || l.Attempts != 1 || string(l.Original) != first || l.Row != nil || len(l.Digest) != 64 {
		t.Errorf("late: %+v %s", l, l.Original)
	}
	l = FromRow(Score, &b, 1)
	if l.Class != Score || l.ID != "2" || string(l.Row) != second || l.Original != nil {
		t.Errorf("score: %+v %s", l, l.Row)
	}
	for class, enter := range map[Class]string{
		Decode: "decode", Schema: "decode", Range: "decode", Late: "features", LabelOrphan: "features",
		Score: "predict", Remote: "predict", Sink: "predict", Duplicate: "", LabelConflict: "",
	} {
		if got := class.Enter(); got != enter {
			t.Errorf("%s enters at %q, want %q", class, got, enter)
		}
	}
}

// TestTimesOfFailure holds that the first time stays and the last is that of the writer.
func TestTimesOfFailure(t *testing.T) {
	defer func(now func() time.Time) { staged.Now = now }(staged.Now)
	staged.Now = func() time.Time { return time.UnixMilli(1500) }
	if l := stamped(Letter{}); l.FirstFailure != "1970-01-01T00:00:01.500Z" || l.LastFailure != l.FirstFailure {
		t.Errorf("%+v", l)
	}
	if l := stamped(Letter{FirstFailure: "2019-01-01T00:00:00Z"}); l.FirstFailure != "2019-01-01T00:00:00Z" || l.LastFailure != "1970-01-01T00:00:01.500Z" {
		t.Errorf("%+v", l)
	}
}
