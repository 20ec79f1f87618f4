package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"

	_ "github.com/millrace-ml/millrace/models/ensemble"
	_ "github.com/millrace-ml/millrace/models/forest"
	_ "github.com/millrace-ml/millrace/models/gbdt"
	_ "github.com/millrace-ml/millrace/models/linear"
	_ "github.com/millrace-ml/millrace/models/mlp"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
)

func TestMain(m *testing.M) {
	beam.Init()
	os.Exit(m.Run())
}

func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Execute(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("name: x\nevnt: {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"version"}, exitOK, ""},
		{[]string{"lint", "fraud"}, exitOK, ""},
		{[]string{"lint", broken}, exitUsage, "evnt"},
		{[]string{"lint", filepath.Join(dir, "none.yaml")}, exitUsage, "built in are fraud"},
		{[]string{"dance"}, exitUsage, "no verb"},
		{[]string{"run"}, exitUsage, "use case"},
		{[]string{"run", "fraud", "--runner", "spark"}, exitUsage, "prism, direct, flink or dataflow"},
		{[]string{"run", "fraud", "--memory", "lots"}, exitUsage, "512MiB"},
		{[]string{"run", "fraud", "--nonsense"}, exitUsage, "nonsense"},
		{[]string{"run", "fraud", "--registry", filepath.Join(dir, "reg")}, exitFailed, "run retrain first"},
		{[]string{"features", "fraud", "--source", filepath.Join(dir, "none.jsonl"), "--sink", filepath.Join(dir, "f.csv"), "--dead-letters", filepath.Join(dir, "d.jsonl")}, exitFailed, "none.jsonl"},
	} {
		code, _, stderr := call(t, c.args...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit code %d, want %d; it says %q, want %q in it", c.args, code, c.code, stderr, c.says)
		}
	}
}

// history writes 56 days of payments; flip turns the label of every payment from that time on, in
// microseconds.
func history(t *testing.T, path string, flip int64) {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD\n")
	err := simulate.Fraud(simulate.Params{Days: 56, Customers: 400, Terminals: 800, Radius: 8, Seed: 7}, func(r simulate.Row) error {
		if r.Time >= flip {
			r.Fraud = !r.Fraud
		}
		label := 0
		if r.Fraud {
			label = 1
		}
		fmt.Fprintf(&b, "%d,%s,%d,%d,%d.%02d,%d\n", r.ID, time.UnixMicro(r.Time).UTC().Format(time.RFC3339), r.Customer, r.Terminal, r.Cents/100, r.Cents%100, label)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestNoLeak retrains on a history, and on the same one with every label turned that the last fold
// could not have known when its training ended. Selection and weights must be the same to the byte.
func TestNoLeak(t *testing.T) {
	dir := t.TempDir()
	const reportFrom = "2018-05-04"
	start, err := time.Parse(time.DateOnly, reportFrom)
	if err != nil {
		t.Fatal(err)
	}
	models := map[string]map[string]string{}
	for name, flip := range map[string]int64{"true": 1 << 62, "turned": start.AddDate(0, 0, 7).UnixMicro()} {
		csv := filepath.Join(dir, name+".csv")
		history(t, csv, flip)
		reg := filepath.Join(dir, name+"-registry")
		code, _, stderr := call(t, "retrain", "fraud", "--runner", "direct", "--source", csv, "--registry", reg,
			"--report", filepath.Join(dir, name+"-report"), "--dead-letters", filepath.Join(dir, "dead.jsonl"),
			"--set", "training.select={from: 2018-04-20, folds: 1}", "--set", "training.report={from: "+reportFrom+", folds: 1}",
			"--set", "training.candidates=[{name: lr, kind: logistic}, {name: trees, kind: gbdt, params: {trees: 10, depth: 3}}, {name: both, kind: ensemble, of: [lr, trees]}]")
		if code != exitOK {
			t.Fatalf("retraining on the %s labels: exit code %d: %s", name, code, stderr)
		}
		r, err := registry.Open(context.Background(), reg, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.Get(t.Context(), "fraud@1")
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		models[name] = map[string]string{"kind": b.Kind, "data": b.Training.DataDigest, "threshold": fmt.Sprint(*b.Threshold)}
		for _, f := range b.Files {
			if strings.HasPrefix(f.Name, "model/") {
				models[name][f.Name] = f.SHA256
			}
		}
	}
	if fmt.Sprint(models["true"]) != fmt.Sprint(models["turned"]) {
		t.Errorf("labels that were not known changed the model:\n%v\n%v", models["true"], models["turned"])
	}
}
