package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/testing/conformance/memory"
	"github.com/millrace-ml/millrace/transforms/deadletter"
)

// shopTopics are the topics of a stream, in memory.
type shopTopics struct{ events, replay, out, dead *memory.Topic }

func newShopTopics(t *testing.T) shopTopics {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	topics := shopTopics{memory.New(t, name+"/events"), memory.New(t, name+"/replay"), memory.New(t, name+"/out"), memory.New(t, name+"/dead")}
	topics.events.PerPoll = 100
	return topics
}

// fill puts lines into a topic.
func fill(topic *memory.Topic, lines ...string) {
	for _, l := range lines {
		topic.Append(memory.Record{Partition: "0", Value: []byte(l)})
	}
}

// in are the lines of a topic.
func in(topic *memory.Topic) (lines []string) {
	for _, r := range topic.Records("0") {
		lines = append(lines, string(r.Value))
	}
	return lines
}

// byID are the lines of a topic by their event's id.
func byID(t *testing.T, topic *memory.Topic) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, line := range in(topic) {
		var l struct{ ID json.Number }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		out[l.ID.String()] = append(out[l.ID.String()], line+"\n")
	}
	return out
}

// replayingShop has letters of bad and of unscored events, and the others.
func replayingShop(t *testing.T, replay string) (s shop, bad, unscored map[string]bool, oracle, plain map[string]string, good []string) {
	events, bad := shopEvents()
	s = newShop(t, "prism", shopUseCase, events)
	s.publish(70)
	s.do("run", "first")
	s.publish(1e9)
	s.do("run", "plain")
	plain = s.scores("plain")
	s.do("run", "oracle", mended...)
	oracle = s.scores("oracle")
	write(t, s.path("shop.yaml"), shopUseCase+"replay: "+replay+"\n")
	unscored = map[string]bool{}
	broken := map[string]bool{}
	for _, l := range s.letters("first") {
		switch l.Class {
		case deadletter.Score:
			unscored[l.ID] = true
		case deadletter.Decode, deadletter.Schema, deadletter.Range:
			broken[string(l.Original)] = true
		}
	}
	slices.SortFunc(events, func(a, b string) int { return strings.Compare(timeOf(a), timeOf(b)) })
	for _, e := range events {
		if !broken[e] {
			good = append(good, e)
		}
	}
	return s, bad, unscored, oracle, plain, good
}

func timeOf(event string) string {
	_, at, _ := strings.Cut(event, `"AT":"`)
	return at[:20]
}

func (s shop) send(args ...string) string {
	s.t.Helper()
	code, _, stderr := call(s.t, append(append([]string{"replay", s.path("shop.yaml"), "--from", s.path("first-dead.jsonl")}, mended...), args...)...)
	if code != exitOK {
		s.t.Fatalf("sending: %d %s", code, stderr)
	}
	return stderr
}

func (s shop) stream(topics shopTopics, args ...string) string {
	s.t.Helper()
	args = append(append([]string{"run", s.path("shop.yaml"), "--source", topics.events.Address(), "--sink", topics.out.Address(), "--registry", s.path("registry"),
		"--dead-letters", topics.dead.Address(), "--features"}, mended...), args...)
	code, _, stderr := call(s.t, args...)
	if code != exitOK {
		s.t.Fatalf("streaming: %d %s", code, stderr)
	}
	return stderr
}

// TestReplayIntoStream: letters that come before the watermark has passed their time are as if their events
// had been good; rows enter before the model and change nothing.
func TestReplayIntoStream(t *testing.T) {
	topics := newShopTopics(t)
	s, bad, unscored, oracle, plain, good := replayingShop(t, topics.replay.Address())
	if len(bad) < 100 || len(unscored) < 100 {
		t.Fatalf("%d bad events, %d unscored ones", len(bad), len(unscored))
	}
	says := s.send("--rate", "100000")
	if n := len(in(topics.replay)); !strings.Contains(says, fmt.Sprintf("%d sent to %s", n, topics.replay.Address())) || n < len(bad)+len(unscored) {
		t.Errorf("%d letters were sent: %s", n, says)
	}
	broken := len(in(topics.replay)) - len(bad) - len(unscored)
	fill(topics.events, good...)
	topics.events.End()
	s.stream(topics, "--order", "event_time", "--lateness", "1000h")
	got := byID(t, topics.out)
	for id, want := range oracle {
		all := []string{want}
		if unscored[id] { // the event, and its row with the features of the run that could not score it
			all = append(all, plain[id])
		}
		slices.Sort(all)
		slices.Sort(got[id])
		if !slices.Equal(all, got[id]) {
			t.Fatalf("event %s, bad %v, unscored %v: got\n%v\nwant\n%v", id, bad[id], unscored[id], got[id], all)
		}
	}
	if len(got) != len(oracle) {
		t.Errorf("%d events of %d", len(got), len(oracle))
	}
	again := 0
	for _, line := range in(topics.dead) {
		l, err := deadletter.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "_history") {
			t.Fatalf("marks are in a letter: %s", line)
		}
		switch l.Class {
		case deadletter.Duplicate:
		case deadletter.Decode:
			again++
			if l.Attempts != 2 || l.FirstFailure == "" || l.FirstFailure >= l.LastFailure {
				t.Errorf("failed again: %s", line)
			}
		default:
			t.Errorf("a letter of class %s: %s", l.Class, l.Message)
		}
	}
	if again != broken {
		t.Errorf("%d letters of %d broken events", again, broken)
	}
}

// TestReplayThroughAFolder: letters go to a folder as they do to a topic, each time as one more file.
func TestReplayThroughAFolder(t *testing.T) {
	topics, folder := newShopTopics(t), t.TempDir()+"/"
	s, bad, _, oracle, plain, good := replayingShop(t, folder)
	s.send("--class", "schema")
	s.send("--class", "range")
	s.send("--class", "schema") // copies
	files, err := filepath.Glob(folder + "*.jsonl")
	if err != nil || len(files) != 3 {
		t.Fatalf("letters are in %v, %v", files, err)
	}
	fill(topics.events, good...)
	topics.events.End()
	s.stream(topics, "--order", "event_time", "--lateness", "1000h")
	got := byID(t, topics.out)
	for id, want := range oracle {
		if len(got[id]) != 1 || got[id][0] != want {
			t.Fatalf("event %s, bad %v: got %v, want %s", id, bad[id], got[id], want)
		}
	}
	if len(got) != len(oracle) || len(got) <= len(plain) {
		t.Errorf("%d events of %d, %d without the bad ones", len(got), len(oracle), len(plain))
	}
	if code, _, stderr := call(t, "replay", s.path("shop.yaml"), "--from", s.path("first-dead.jsonl"), "--rate", "5"); code != exitUsage || !strings.Contains(stderr, "no rate") {
		t.Errorf("a rate for a folder: %d %s", code, stderr)
	}
}

// TestReplayBehindTheWatermark: letters that come late are scored all the same, and the times of letters
// move nothing.
func TestReplayBehindTheWatermark(t *testing.T) {
	for _, order := range []string{"arrival", "event_time"} {
		t.Run(order, func(t *testing.T) {
			topics, sent := newShopTopics(t), memory.New(t, "sent-"+order)
			s, bad, _, oracle, _, good := replayingShop(t, sent.Address())
			s.send("--class", "schema,range")
			letters := in(sent)
			write(t, s.path("shop.yaml"), shopUseCase+"replay: "+topics.replay.Address()+"\n")
			future := strings.Replace(good[0], timeOf(good[0]), "2031-01-01T00:00:00Z", 1)
			future = strings.Replace(future, `"ID":`, `"ID":9`, 1)
			p, err := deadletter.Append(nil, deadletter.Letter{Class: deadletter.Schema, Stage: "decode", Original: []byte(future), Attempts: 1})
			if err != nil {
				t.Fatal(err)
			}
			// Half of them at the beginning, the other in the middle, all at the end again.
			fill(topics.replay, append(slices.Clone(letters[:len(letters)/2]), strings.TrimSpace(string(p)))...)
			fill(topics.events, good...)
			topics.events.End()
			topics.events.When(len(good)/2, func() { fill(topics.replay, letters[len(letters)/2:]...) })
			topics.events.When(len(good)-1, func() { fill(topics.replay, letters...) })
			s.stream(topics, "--order", order, "--lateness", "1h")
			got := byID(t, topics.out)
			for id := range oracle {
				// What no window reaches any more isn't known when it comes again.
				if n := len(got[id]); n < 1 || n > 2 || n == 2 && !bad[id] {
					t.Errorf("event %s, bad %v, was scored %d times", id, bad[id], len(got[id]))
				}
			}
			if len(got) != len(oracle)+1 {
				t.Errorf("%d events of %d and one of the future", len(got), len(oracle))
			}
			for _, line := range in(topics.dead) {
				if l, err := deadletter.Parse([]byte(line)); err != nil || l.Class != deadletter.Duplicate {
					t.Errorf("letter %s, %v", line, err)
				}
			}
		})
	}
}
