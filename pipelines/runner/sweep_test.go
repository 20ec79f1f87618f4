package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSweepWorkers: a file that another process's job has just made stays, and so does one that isn't empty.
func TestSweepWorkers(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	now := time.Now()
	for name, f := range map[string]struct {
		text string
		age  time.Duration
		gone bool
	}{"beamloopbackworker-1": {age: time.Hour, gone: true}, "beamloopbackworker-2": {age: time.Second}, "beamloopbackworker-3": {text: "x", age: time.Hour}, "other": {age: time.Hour}} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(-f.age)); err != nil {
			t.Fatal(err)
		}
		sweepWorkers(now)
		if _, err := os.Stat(path); os.IsNotExist(err) != f.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}
