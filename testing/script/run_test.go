package script

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/testing/conformance/memory"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/source"
)

func TestMain(m *testing.M) {
	flag.Parse()
	beam.Init()
	os.Exit(m.Run())
}

// runs are the ways that a script is taken.
var runs = []string{"bounded", "event_time", "arrival"}

// patience is for what must happen; nothing waits so long that works.
const patience = 60 * time.Second

// outcome is what became of a script's records: "name result", sorted.
func (s *script) outcome(t *testing.T, run string) []string {
	t.Helper()
	if run == "bounded" {
		return s.bounded(t, s.records())
	}
	return s.stream(t, run)
}

// bounded runs over a file of records.
func (s *script) bounded(t *testing.T, records []step) []string {
	t.Helper()
	dir := t.TempDir()
	in, out, dead := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "dead.jsonl")
	var text strings.Builder
	for _, st := range records {
		text.WriteString(st.text + "\n")
	}
	if err := os.WriteFile(in, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := scoring.Features(s.u, scoring.Options{Sources: []string{in}, Sink: out, DeadLetters: dead})
	if err != nil {
		t.Fatal(err)
	}
	p, root := beam.NewPipelineWithRoot()
	scoring.Build(root, plan)
	if _, err := runner.Run(t.Context(), runner.Direct, p); err != nil {
		t.Fatal(err)
	}
	return s.results(t, plan.Features.Names(), lines(t, out), lines(t, dead))
}

func lines(t *testing.T, path string) (all [][]byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for l := range bytes.Lines(b) {
		all = append(all, l)
	}
	return all
}

// stream runs as a stream on Prism. What was given before a restart is held to what is given after it.
func (s *script) stream(t *testing.T, order string) []string {
	t.Helper()
	var before [][]string
	for i, st := range s.steps {
		if st.what == "restart" {
			before = append(before, s.process(t, order, s.steps[:i], true))
		}
	}
	all := s.process(t, order, s.steps, false)
	for _, given := range before {
		for _, g := range given {
			if !slices.Contains(all, g) {
				t.Errorf("%s: before the restart there was %q, and not after it", order, g)
			}
		}
	}
	return all
}

// process is the life of a process that reads from the source's beginning. One that is stopped gives what
// it had given until then.
func (s *script) process(t *testing.T, order string, steps []step, stop bool) []string {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-") + "-" + order
	partitions, later := []string{"0"}, map[string]bool{}
	waits := false
	for _, st := range steps {
		later[st.partition] = later[st.partition] || st.what == "partition"
		if !later[st.partition] && !slices.Contains(partitions, st.partition) {
			partitions = append(partitions, st.partition)
		}
		waits = waits || st.what == "idle"
	}
	var got []string
	t.Run(order, func(t *testing.T) { // the topics are of this life
		in, out := memory.New(t, name, partitions...), memory.New(t, name+"-out", "rows", "letters")
		plan, err := scoring.Features(s.u, scoring.Options{
			Sources: []string{in.Address()}, Sink: out.Address() + "?partition=rows", DeadLetters: out.Address() + "?partition=letters", Shards: 2,
			Stream: &scoring.Stream{Order: order, InProcess: true, Cores: 2},
		})
		if err != nil {
			t.Fatal(err)
		}
		plan.Source.Stream.Linger, plan.Source.Stream.Refresh = time.Millisecond, time.Millisecond
		if !waits {
			plan.Source.Stream.Idle = 0
		}
		p, root := beam.NewPipelineWithRoot()
		scoring.Build(root, plan)

		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		defer time.AfterFunc(patience, func() { cancel(errors.New("it takes too long")) }).Stop()
		ended := make(chan error, 1)
		go func() {
			_, err := runner.Run(ctx, runner.Prism, p)
			ended <- err
			cancel(errors.New("the job has ended"))
		}()
		fed := feed(ctx, steps, order, plan.Source.Stream.Idle, in, out)
		results := func() []string {
			return s.results(t, plan.Features.Names(), values(out, "rows"), values(out, "letters"))
		}
		if stop {
			fed = errors.Join(fed, out.Wait(ctx, func(s memory.State) bool { return s.Records > 0 }))
			got = results()
			source.Drain(plan.Run)
		} else {
			in.End()
		}
		if err := errors.Join(fed, <-ended); err != nil {
			t.Fatal(err)
		}
		if !stop {
			got = results()
		}
	})
	return got
}

func values(topic *memory.Topic, partition string) (all [][]byte) {
	for _, r := range topic.Records(partition) {
		all = append(all, r.Value)
	}
	return all
}

// feed lets the steps happen, one after the other.
func feed(ctx context.Context, steps []step, order string, idle time.Duration, in, out *memory.Topic) error {
	followed := func(p string) error {
		return in.Wait(ctx, func(s memory.State) bool { return s.Followed[p] })
	}
	if err := followed("0"); err != nil {
		return err
	}
	sent := 0
	for i := 0; i < len(steps); i++ {
		var err error
		switch st := steps[i]; st.what {
		case "partition":
			in.Add(st.partition)
			err = followed(st.partition)
		case "idle":
			err = silence(ctx, in, idle)
		case "":
			records := []memory.Record{{Partition: st.partition, Value: []byte(st.text)}}
			for ; i+1 < len(steps) && steps[i+1].together; i++ {
				records = append(records, memory.Record{Partition: steps[i+1].partition, Value: []byte(steps[i+1].text)})
			}
			in.Append(records...)
			sent += len(records)
			err = in.Wait(ctx, func(s memory.State) bool { return s.Taken == s.Records })
			if err == nil && order == "arrival" { // each record comes to an end, as a row or as a letter
				err = out.Wait(ctx, func(s memory.State) bool { return s.Records >= sent })
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// silence waits until every partition is idle: until a poll has begun after such a time.
func silence(ctx context.Context, in *memory.Topic, idle time.Duration) error {
	select {
	case <-time.After(idle + idle/10):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	polls := -1
	return in.Wait(ctx, func(s memory.State) bool {
		if polls < 0 {
			polls = s.Polls
		}
		return s.Polls >= polls+2 // the one after that which waited meanwhile
	})
}

// results are what rows and letters tell of records, sorted.
func (s *script) results(t *testing.T, features []string, rows, letters [][]byte) []string {
	t.Helper()
	var out []string
	for _, text := range rows {
		var row map[string]json.RawMessage
		if err := json.Unmarshal(text, &row); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		r := strings.Trim(string(row["id"]), `"`)
		for _, f := range features {
			value, ok := row[f]
			if !ok {
				value = json.RawMessage("null")
			}
			r += " " + f + "=" + string(value)
		}
		out = append(out, r)
	}
	for _, text := range letters {
		l, err := deadletter.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		name := l.ID
		for _, st := range s.records() {
			if !st.ok && st.text == string(l.Original) {
				name = st.name
			}
		}
		out = append(out, fmt.Sprintf("%s %s", name, l.Class))
	}
	slices.Sort(out)
	return out
}
