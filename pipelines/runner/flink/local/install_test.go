package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMissing names each program that the machine lacks, and what to do.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("JAVA_HOME", "")
	_, err := java(t.Context())
	for _, c := range []struct {
		err  error
		want string
	}{
		{err, "openjdk-17"},
		{installFlink(t.Context(), t.TempDir()), "python3-pip"},
		{installJobServer(t.Context(), t.TempDir()), "apt-get install maven"},
		{installBoot(t.Context(), t.TempDir()), "https://go.dev/dl"},
	} {
		if !errors.Is(c.err, ErrMissing) || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("got %v, which doesn't say %q", c.err, c.want)
		}
	}
}

func TestOldJava(t *testing.T) {
	home := t.TempDir()
	check(t, os.Mkdir(filepath.Join(home, "bin"), 0o777))
	check(t, os.WriteFile(filepath.Join(home, "bin", "java"), []byte("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n"), 0o777))
	t.Setenv("JAVA_HOME", home)
	if _, err := java(t.Context()); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "version 11") {
		t.Errorf("Java 11 gives %v", err)
	}
}
