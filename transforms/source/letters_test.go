package source_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/klauspost/compress/gzip"

	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source"
)

// envelopes are n letters, the second line of which is none.
func envelopes(t *testing.T, n int) (lines []string) {
	t.Helper()
	for i := range n {
		p, err := deadletter.Append(nil, deadletter.Letter{ID: fmt.Sprint(i), Class: deadletter.Range, Stage: "decode", Original: []byte{0xff, byte(i)}})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSuffix(string(p), "\n"))
		if i == 0 {
			lines = append(lines, "{}")
		}
	}
	return lines
}

func file(t *testing.T, dir, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func readLetters(t *testing.T, address string) (ids []string, bad int, err error) {
	t.Helper()
	parts, err := source.Partitions(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		err = errors.Join(err, source.Letters(t.Context(), p, func(l deadletter.Letter, fault error) error {
			if fault != nil {
				if l.Stage != "replay" || string(l.Original) != "{}" || l.Place.Source != p.Name {
					t.Errorf("a line that is no letter: %+v", l)
				}
				bad++
				return nil
			}
			ids = append(ids, l.ID)
			return nil
		}))
	}
	slices.Sort(ids)
	return ids, bad, err
}

func TestLetters(t *testing.T) {
	lines := envelopes(t, 30)
	want := make([]string, 30)
	for i := range want {
		want[i] = fmt.Sprint(i)
	}
	slices.Sort(want)
	dir := t.TempDir()
	text := strings.Join(lines, "\n") + "\n\n"
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	setLog("testlog://letters", lines[:12], lines[12:])
	for _, address := range []string{
		file(t, dir, "letters.jsonl", []byte(text)), file(t, dir, "letters.gz", packed.Bytes()), "testlog://letters",
	} {
		if ids, bad, err := readLetters(t, address); err != nil || !slices.Equal(ids, want) || bad != 1 {
			t.Errorf("%s: %v, %d lines that are none, %v", address, ids, bad, err)
		}
	}
	if _, _, err := readLetters(t, file(t, dir, "later.jsonl", []byte(`{"v":9}`))); !errors.Is(err, deadletter.ErrVersion) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a later version: %v", err)
	}
}

// TestLettersOfALiveLog: what is written meanwhile is for the next replay, or it might never end.
func TestLettersOfALiveLog(t *testing.T) {
	lines := envelopes(t, 20)
	setLog("testlog://live", lines)
	more := envelopes(t, 100)[2:]
	const name = "testlog://live/0"
	polls["testlog://live"] = func() { logs["testlog://live"][name] = append(logs["testlog://live"][name], more...) }
	ids, bad, err := readLetters(t, "testlog://live")
	if err != nil || len(ids) != 20 || bad != 1 {
		t.Errorf("%d letters, %d bad, %v", len(ids), bad, err)
	}
}

// TestFollowLetters: a log of letters gives them, holds no watermark, and ends nothing that is still to be read.
func TestFollowLetters(t *testing.T) {
	var lines []string
	for i := range 300 {
		at := 1000 + 10*i
		if i%50 == 49 {
			at -= 400
		}
		lines = append(lines, line(i, at))
	}
	setLog("testlog://beside", append(lines, "end"))
	setLog("testlog://envelopes", envelopes(t, 20))
	seen, marks, letters = nil, nil, nil
	p, scope := beam.NewPipelineWithRoot()
	in := source.ReadAll(scope, source.Params{
		URLs: []string{"testlog://beside"}, Replay: []string{"testlog://envelopes"}, Stream: &source.Stream{Run: t.Name(), Lateness: 100 * time.Second},
		Decode: decode.Params{
			Fields: []decode.Field{{Name: "id", Kind: event.ID}, {Name: "time", Kind: event.Timestamp, TimeFormat: "unix_s"}},
			ID:     []string{"id"}, Time: "time",
		},
	})
	events, bad, replayed := in.Events, in.Bad, in.Letters
	beam.ParDo(scope, &collectFn{}, beam.Reshuffle(scope, events))
	beam.ParDo(scope, &letterFn{}, beam.Reshuffle(scope, beam.Flatten(scope, bad, replayed)))
	if _, err := beam.Run(t.Context(), "prism", p); err != nil {
		t.Fatal(err)
	}
	count := map[deadletter.Class]int{}
	for _, l := range letters {
		count[l.Class]++
	}
	if len(seen) != 294 || count[deadletter.Late] != 6 || count[deadletter.Range] != 20 || count[deadletter.Decode] != 1 {
		t.Errorf("%d events, letters %v; want 294, 6 late, 20 replayed, one line that is none", len(seen), count)
	}
}
