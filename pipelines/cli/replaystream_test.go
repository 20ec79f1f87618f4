package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() {
	source.Register("shoplog", shopLogs{})
	sink.Register("shoplog", shopLogs{})
}

// shopLogs are topics of one partition in memory, by address. A record "end" ends one.
type shopLogs struct{}

var (
	shopMu  sync.Mutex
	shopLog = map[string][]string{}
	// shopLate is what comes into topics once the events have been read so far.
	shopLate map[int]func()
)

func (shopLogs) Partitions(_ context.Context, address string) ([]driver.Partition, error) {
	return []driver.Partition{{URL: address, Name: address}}, nil
}

func (shopLogs) Follow(_ context.Context, address string, from []driver.Position) (driver.Follower, error) {
	at, _ := strconv.Atoi(from[0].Next)
	return &shopReader{address, at}, nil
}

type shopReader struct {
	address string
	at      int
}

func (r *shopReader) Poll(_ context.Context, wait time.Duration, _ int) ([]driver.Chunk, error) {
	shopMu.Lock()
	defer shopMu.Unlock()
	all := shopLog[r.address]
	c := driver.Chunk{Partition: r.address}
	for n := 0; n < 100 && r.at < len(all); n++ {
		if all[r.at] == "end" {
			c.Ended = true
		} else {
			c.Records = append(c.Records, driver.Record{Value: []byte(all[r.at]), Offset: int64(r.at)})
		}
		r.at++
		if f := shopLate[r.at]; f != nil && strings.HasSuffix(r.address, "/events") {
			f()
		}
	}
	if len(c.Records) == 0 && !c.Ended {
		time.Sleep(min(wait, time.Millisecond))
		return nil, nil
	}
	c.Next = strconv.Itoa(r.at)
	return []driver.Chunk{c}, nil
}

func (r *shopReader) Pause([]string) {}
func (r *shopReader) Close() error   { return nil }
func (r *shopReader) Lag() map[string]int64 {
	shopMu.Lock()
	defer shopMu.Unlock()
	return map[string]int64{r.address: int64(len(shopLog[r.address]) - r.at)}
}

func (shopLogs) OpenSender(_ context.Context, address string) (sinkdriver.Sender, error) {
	return shopWriter(address), nil
}

type shopWriter string

func (w shopWriter) Send(_ context.Context, r sinkdriver.Record, _ func(error)) error {
	shopMu.Lock()
	defer shopMu.Unlock()
	shopLog[string(w)] = append(shopLog[string(w)], string(r.Value))
	return nil
}
func (w shopWriter) Flush(context.Context) error { return nil }
func (w shopWriter) Close() error                { return nil }

// byID are the lines of a topic by their event's id.
func byID(t *testing.T, address string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, line := range shopLog[address] {
		var l struct{ ID json.Number }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		out[l.ID.String()] = append(out[l.ID.String()], line+"\n")
	}
	return out
}

// replayingShop has letters of bad and of unscored events, and a topic of the others.
func replayingShop(t *testing.T, topic string) (s shop, bad, unscored map[string]bool, oracle, plain map[string]string, good []string) {
	events, bad := shopEvents()
	s = newShop(t, "prism", shopUseCase, events)
	s.publish(70)
	s.do("run", "first")
	s.publish(1e9)
	s.do("run", "plain")
	plain = s.scores("plain")
	s.do("run", "oracle", mended...)
	oracle = s.scores("oracle")
	write(t, s.path("shop.yaml"), shopUseCase+"replay: "+topic+"/replay\n")
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

func (s shop) stream(topic string, args ...string) string {
	s.t.Helper()
	args = append(append([]string{"run", s.path("shop.yaml"), "--source", topic + "/events", "--sink", topic + "/out", "--registry", s.path("registry"),
		"--dead-letters", topic + "/dead", "--features"}, mended...), args...)
	code, _, stderr := call(s.t, args...)
	if code != exitOK {
		s.t.Fatalf("streaming: %d %s", code, stderr)
	}
	return stderr
}

// TestReplayIntoStream: letters that come before the watermark has passed their time are as if their events
// had been good; rows enter before the model and change nothing.
func TestReplayIntoStream(t *testing.T) {
	const topic = "shoplog://wait"
	s, bad, unscored, oracle, plain, good := replayingShop(t, topic)
	if len(bad) < 100 || len(unscored) < 100 {
		t.Fatalf("%d bad events, %d unscored ones", len(bad), len(unscored))
	}
	says := s.send("--rate", "100000")
	if n := len(shopLog[topic+"/replay"]); !strings.Contains(says, fmt.Sprintf("%d sent to %s/replay", n, topic)) || n < len(bad)+len(unscored) {
		t.Errorf("%d letters were sent: %s", n, says)
	}
	broken := len(shopLog[topic+"/replay"]) - len(bad) - len(unscored)
	shopLog[topic+"/events"] = append(slices.Clone(good), "end")
	s.stream(topic, "--order", "event_time", "--lateness", "1000h")
	got := byID(t, topic+"/out")
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
	for _, line := range shopLog[topic+"/dead"] {
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
	const topic = "shoplog://folder"
	s, bad, _, oracle, plain, good := replayingShop(t, topic)
	folder := s.path("replay") + "/"
	write(t, s.path("shop.yaml"), shopUseCase+"replay: "+folder+"\n")
	s.send("--class", "schema")
	s.send("--class", "range")
	s.send("--class", "schema") // copies
	files, err := filepath.Glob(folder + "*.jsonl")
	if err != nil || len(files) != 3 {
		t.Fatalf("letters are in %v, %v", files, err)
	}
	shopLog[topic+"/events"] = append(slices.Clone(good), "end")
	s.stream(topic, "--order", "event_time", "--lateness", "1000h")
	got := byID(t, topic+"/out")
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
			topic := "shoplog://behind" + order
			s, bad, _, oracle, _, good := replayingShop(t, topic)
			s.send("--class", "schema,range")
			letters := shopLog[topic+"/replay"]
			future := strings.Replace(good[0], timeOf(good[0]), "2031-01-01T00:00:00Z", 1)
			future = strings.Replace(future, `"ID":`, `"ID":9`, 1)
			p, err := deadletter.Append(nil, deadletter.Letter{Class: deadletter.Schema, Stage: "decode", Original: []byte(future), Attempts: 1})
			if err != nil {
				t.Fatal(err)
			}
			// Half of them at the beginning, the other in the middle, all at the end again.
			shopLog[topic+"/replay"] = append(slices.Clone(letters[:len(letters)/2]), strings.TrimSpace(string(p)))
			shopLog[topic+"/events"] = append(slices.Clone(good), "end")
			shopLate = map[int]func(){
				len(good) / 2: func() { shopLog[topic+"/replay"] = append(shopLog[topic+"/replay"], letters[len(letters)/2:]...) },
				len(good) - 1: func() { shopLog[topic+"/replay"] = append(shopLog[topic+"/replay"], letters...) },
			}
			defer func() { shopLate = nil }()
			s.stream(topic, "--order", order, "--lateness", "1h")
			got := byID(t, topic+"/out")
			for id := range oracle {
				// What no window reaches any more isn't known when it comes again.
				if n := len(got[id]); n < 1 || n > 2 || n == 2 && !bad[id] {
					t.Errorf("event %s, bad %v, was scored %d times", id, bad[id], len(got[id]))
				}
			}
			if len(got) != len(oracle)+1 {
				t.Errorf("%d events of %d and one of the future", len(got), len(oracle))
			}
			for _, line := range shopLog[topic+"/dead"] {
				if l, err := deadletter.Parse([]byte(line)); err != nil || l.Class != deadletter.Duplicate {
					t.Errorf("letter %s, %v", line, err)
				}
			}
		})
	}
}
