package flink

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestResume: what is fixed for the life of the state comes from the savepoint's note, and nothing else is
// taken.
func TestResume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app := "fraud shards=8 max_parallelism=128 customer_id@01234567 terminal_id@89abcdef"
	if err := writeNote("file:"+dir, appNote("fraud", "1.19.3", app)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o      Options
		shards int
		want   string
	}{
		"taken over": {Options{Parallelism: 4}, 8, ""},
		"the same":   {Options{Shards: 8, MaxParallelism: 128}, 8, ""},
		"shards":     {Options{Shards: 16}, 0, "shards=8, which is fixed for the life of the state, and 16 was given"},
		"groups":     {Options{MaxParallelism: 256}, 0, "max_parallelism=128"},
		"fresh":      {Options{Shards: 16, FreshState: true}, 16, ""},
	} {
		c.o.SavepointPath = "file://" + dir
		o, err := c.o.Resume()
		switch {
		case c.want == "" && (err != nil || o.Shards != c.shards):
			t.Errorf("%s: %d shards, %v", name, o.Shards, err)
		case c.want != "" && (!errors.Is(err, ErrState) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	for name, path := range map[string]string{"no note": t.TempDir(), "elsewhere": "s3://bucket/savepoint", "nothing": ""} {
		if o, err := (Options{SavepointPath: path, Shards: 5}).Resume(); err != nil || o.Shards != 5 {
			t.Errorf("%s: %d shards, %v", name, o.Shards, err)
		}
	}
	if err := os.WriteFile(dir+"/"+noteName, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Options{SavepointPath: dir}).Resume(); err == nil {
		t.Error("a damaged note is no error")
	}
}
