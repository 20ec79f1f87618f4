package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// buildPeer builds the peer of a folder in dir, without the two JSON libraries that its hand-written
// decoder competes with there. It gives the binaries by the scorer in them: plain, and SIMD where the
// toolchain has it.
func buildPeer(ctx context.Context, source, dir string) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(source, "main.go.txt"))
	if err != nil {
		return nil, err
	}
	for _, cut := range []string{`(?m)^.*(bytedance/sonic|goccy/go-json)"\n`, `(?ms)^func (goccy|son)\(.*?^}\n`, `, "goccy": goccy, "sonic": son`} {
		text = regexp.MustCompile(cut).ReplaceAll(text, nil)
	}
	files := map[string][]byte{"main.go": text, "go.mod": []byte("module peers\n\ngo 1.26\n")}
	if vector, err := os.ReadFile(filepath.Join(source, "simd.go.txt")); err == nil {
		files["simd.go"] = vector
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	binaries := map[string]string{}
	for scorer, experiment := range map[string]string{"plain": "", "SIMD": "simd"} {
		binary := filepath.Join(dir, scorer)
		cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOEXPERIMENT="+experiment, "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		switch {
		case err == nil:
			binaries[scorer] = binary
		case scorer == "plain":
			return nil, fmt.Errorf("building the peer: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	return binaries, nil
}
