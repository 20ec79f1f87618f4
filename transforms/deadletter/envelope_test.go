package deadletter

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
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
			Attempts: 1, Original: original, Digest: "ab",
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
	want := `{"v":1,"stage":"decode","class":"schema","message":"a < b","place":{"offset":0,"length":0},"attempts":0,"original":"{\"a\":1}"}` + "\n"
	if err != nil || string(line) != want {
		t.Errorf("got %s, %v\nwant %s", line, err, want)
	}
	line, _ = Append(nil, Letter{Original: []byte{0xff, 0}})
	if !strings.Contains(string(line), `"original_base64":"/wA="`) {
		t.Errorf("got %s", line)
	}
	if _, err := Parse([]byte(`{"v":2}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	for _, bad := range []string{``, `{}`, `{"v":0}`, `[]`} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
