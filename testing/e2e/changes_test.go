package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/testing/components"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

const payments = `name: changes
event:
  id: id
  time: at
  fields:
    id: id
    terminal: id
    amount: {type: decimal, scale: 2}
    at: timestamp
    day: {type: timestamp, format: unix_days}
    op: {type: category, path: $.op, enum: [c, r]}
source: {url: "kafka://%s/cdc.public.payments", format: debezium, ops: [create, snapshot], decimals: precise}
stream: {lateness: 24h}
features:
  - {name: tx_amount, expr: amount}
  - {entity: terminal, windows: [7d], aggregates: {terminal_risk: count()}}
models:
  - {name: mine, kind: binary}
`

// TestChanges takes the rows of a table through change capture, a broker and a graph: each row is scored once,
// by all that came before it, though rows are changed and deleted, and capture is killed and says all again.
func TestChanges(t *testing.T) {
	b, d := components.Kafka(t), components.Postgres(t)
	b.CreateTopic("cdc.public.payments", 1)
	d.Exec(`CREATE TABLE payments (id bigint PRIMARY KEY, terminal int NOT NULL, amount numeric(10,2), at timestamptz NOT NULL, day date NOT NULL);
		ALTER TABLE payments REPLICA IDENTITY FULL;`)
	insert := func(from, to int) { // row i is i minutes after noon, of i.25
		d.Exec(fmt.Sprintf(`INSERT INTO payments SELECT i, 7, i + 0.25, timestamptz '2026-11-22 12:00:00Z' + i * interval '1 minute', '2026-11-22' FROM generate_series(%d, %d) i;`, from, to))
	}
	insert(1, 20)
	connect := components.Debezium(t, b, d, "table.include.list", "public.payments")

	u, err := spec.Parse("changes.yaml", fmt.Appendf(nil, payments, b.Addr), nil)
	if err != nil {
		t.Fatal(err)
	}
	const out = "memory://changes"
	dead := t.TempDir() + "/"
	plan, err := scoring.Features(u, scoring.Options{Sink: out, DeadLetters: dead, Stream: &scoring.Stream{Order: "arrival", InProcess: true, Cores: 2}})
	if err != nil {
		t.Fatal(err)
	}
	plan.Features.Keep = nil
	plan.Predict = predict.Params{UseCase: u.Name, Run: plan.Run, Models: []predict.Model{{Name: "mine", Scorer: "rule of thumb"}}}
	plan.Sinks = []sink.Params{{URL: out, Outs: u.Outputs(u.Models[0], false), Stream: plan.Roll}}
	pipeline, s := beam.NewPipelineWithRoot()
	scoring.Build(s, plan)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		_, err := runner.Run(ctx, runner.Prism, pipeline)
		ended <- err
	}()
	scored := func(want int) {
		t.Helper()
		for {
			topicsMu.Lock()
			n := len(sent[out])
			topicsMu.Unlock()
			if n >= want {
				return
			}
			select {
			case err := <-ended:
				t.Fatalf("the graph has ended with %d rows of %d: %v", n, want, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}

	insert(21, 60)
	scored(60)
	d.Exec(`UPDATE payments SET amount = 999 WHERE id = 2; DELETE FROM payments WHERE id = 3;
		INSERT INTO payments VALUES (1000, 7, NULL, '2026-11-22 12:00:00Z', '2026-11-22');`)
	connect.Kill()
	insert(61, 80)
	connect.Restart()
	insert(81, 100) // behind all that capture says again, in the one partition
	scored(100)
	source.Drain(plan.Run)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	topicsMu.Lock()
	defer topicsMu.Unlock()
	ids := map[int]bool{}
	for key, values := range sent[out] {
		var line struct {
			ID    int
			Time  time.Time
			Score float64
		}
		if err := json.Unmarshal([]byte(values[0]), &line); err != nil || len(values) != 1 {
			t.Fatalf("%s was sent as %v: %v", key, values, err)
		}
		i := line.ID
		ids[i] = true
		// The rule adds the amount in thousands to the count of the terminal's rows, which are in order.
		if want := (float64(i)+0.25)/1000 + float64(i); math.Abs(line.Score-want) > 1e-4 {
			t.Errorf("row %d has score %v, want %v", i, line.Score, want)
		}
		if want := time.Date(2026, 11, 22, 12, i, 0, 0, time.UTC); !line.Time.Equal(want) {
			t.Errorf("row %d is of %v, want %v", i, line.Time, want)
		}
	}
	if len(ids) != 100 {
		t.Errorf("%d rows of 100 were scored", len(ids))
	}
	classes := map[deadletter.Class]int{}
	for _, l := range lettersIn(t, dead) {
		classes[l.Class]++
		if l.Class == deadletter.Schema && (l.ID != "1000" || !strings.Contains(l.Message, `field "amount" is null`) || !json.Valid(l.Original)) {
			t.Errorf("letter %+v", l)
		}
	}
	// The rows that were there when capture began again, but for that which was deleted.
	if classes[deadletter.Duplicate] < 59 || classes[deadletter.Schema] < 1 || len(classes) != 2 {
		t.Errorf("dead letters %v", classes)
	}
	t.Log(classes)
}

func lettersIn(t *testing.T, dir string) (letters []deadletter.Letter) {
	t.Helper()
	files, err := filepath.Glob(dir + "*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			l, err := deadletter.Parse([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			letters = append(letters, l)
		}
	}
	return letters
}
