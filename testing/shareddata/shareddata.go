package shareddata

import (
	"os"
	"path/filepath"
	"testing"
)

// Path returns the path of a reference file or folder, named relative to the data folder. Where it
// is absent the test is skipped with the reason; with MILLRACE_REQUIRE=1 in the environment it
// fails instead.
func Path(t testing.TB, name string) string {
	t.Helper()
	root, err := moduleRoot()
	if err == nil {
		path := filepath.Join(root, "..", "shared", "data", filepath.FromSlash(name))
		if _, err = os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("MILLRACE_REQUIRE") == "1" {
		t.Fatalf("finding reference data: %v", err)
	}
	t.Skipf("reference data %s is not beside the repository: %v", name, err)
	return ""
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", os.ErrNotExist
		}
		dir = up
	}
}
