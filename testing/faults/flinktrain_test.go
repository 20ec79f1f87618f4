package faults

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/retraining"
	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
)

// training are the flags of a retraining that takes seconds.
func training(source, registry string) []string {
	return []string{
		"retrain", "fraud", "--source", source, "--registry", registry,
		"--set", "training.select={from: 2018-04-20, folds: 1}", "--set", "training.report={from: 2018-04-27, folds: 2}",
		"--set", "training.candidates=[{name: lr, kind: logistic}, {name: trees, kind: gbdt, params: {trees: 10, depth: 3}, calibrate: platt}, " +
			"{name: net, kind: mlp, params: {layers: [8], epochs: 2}}, {name: all, kind: ensemble, of: [lr, trees, net]}]",
	}
}

// TestFlinkRetrain: the runners publish the same bundles, to the byte, and decide alike: a challenger that is
// better than a champion of little use moves the alias, and the same one again does not.
func TestFlinkRetrain(t *testing.T) {
	t.Setenv(asCommand, "1") // to what the TaskManagers start too
	cluster := components.Flink(t, local.Options{Slots: 2, Heap: 512 << 20, Settings: patient})
	source, _, bad := simulated(t)
	work := t.TempDir()
	const champion = 3 // 1 is there, and the last of two folds is judged
	want := map[string]string{}
	var verdicts [2]string
	for _, engine := range []string{"direct", "prism", "flink"} {
		dir := t.TempDir()
		reg := filepath.Join(dir, "registry")
		publish(t, reg)
		for i := range 2 {
			args := append(training(source, reg), "--work", work, "--report", filepath.Join(dir, "report"), "--dead-letters", filepath.Join(dir, "dead.jsonl"))
			begin := time.Now()
			c := start(t, append(args, on(engine, cluster)...)...)
			if code := c.exit(10 * time.Minute); code != 0 {
				t.Fatalf("%s: exit code %d", engine, code)
			}
			t.Logf("%s: %s", engine, time.Since(begin).Round(100*time.Millisecond))
			r, err := retraining.ReadReport(filepath.Join(dir, "report"))
			check(t, err)
			if r.Gate.Passed != (i == 0) {
				t.Errorf("%s, run %d: the gate: %+v", engine, i, r.Gate)
			}
			verdict := fmt.Sprintf("%s %s %+v", r.Champion, r.Published, r.Gate)
			if engine == "direct" {
				verdicts[i] = verdict
				t.Log(verdict)
			} else if verdict != verdicts[i] {
				t.Errorf("%s: %s\nwant %s", engine, verdict, verdicts[i])
			}
			if got := serving(t, reg); got != champion {
				t.Errorf("%s: version %d serves, want %d", engine, got, champion)
			}
			if dead := digests(t, letterKey, filepath.Join(dir, "dead.jsonl")); len(dead) != bad {
				t.Errorf("%s: %d dead letters, want %d", engine, len(dead), bad)
			}
		}
		got := bundles(t, reg)
		if engine == "direct" {
			want = got
			if len(got) < 5*4 {
				t.Fatalf("the registry holds %v", got)
			}
			continue
		}
		for name, digest := range want {
			if got[name] != digest {
				t.Errorf("%s published another %s", engine, name)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s published %d files, want %d", engine, len(got), len(want))
		}
	}
	left, err := os.ReadDir(work)
	if err != nil || len(left) > 0 {
		t.Errorf("what passed between steps is left: %v, %v", left, err)
	}
}

func serving(t *testing.T, address string) int {
	t.Helper()
	r, err := registry.Open(t.Context(), address, nil)
	check(t, err)
	defer r.Close()
	v, err := r.Resolve(t.Context(), "fraud@"+registry.Champion)
	check(t, err)
	return v.Version
}

// bundles are the digests of all files of all versions.
func bundles(t *testing.T, registry string) map[string]string {
	t.Helper()
	all := map[string]string{}
	root := filepath.Join(registry, "fraud", "versions")
	check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, root)] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	}))
	return all
}
