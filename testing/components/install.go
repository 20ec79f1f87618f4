package components

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program returns the folder of a server's program. Where it isn't installed it is installed, or the
// test is skipped.
func program(t testing.TB, name string, install func(dir string) error) string {
	t.Helper()
	required := os.Getenv("MILLRACE_REQUIRE") == "1"
	if !supported && !required {
		t.Skipf("%s: servers are started on Linux only", name)
	}
	dir, err := installed(name)
	switch {
	case err == nil:
		return dir
	case !required:
		t.Skipf("%s is not installed; with MILLRACE_REQUIRE=1 the test installs it", name)
	}
	if dir, err = installOnce(name, install); err != nil {
		t.Fatalf("installing %s: %v", name, err)
	}
	return dir
}

// installed is the folder of a program by its name with version, an error where there is none.
func installed(name string) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	_, err = os.Stat(dir)
	return dir, err
}

func cacheFolder() (string, error) {
	if dir := os.Getenv("MILLRACE_COMPONENTS"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "millrace", "components"), err
}

// installOnce installs into a folder that gets its name when it is complete. Test processes run side
// by side: all but one wait.
func installOnce(name string, install func(dir string) error) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	f, err := os.Create(filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer f.Close() // which unlocks
	if err := lock(f.Fd()); err != nil {
		return "", fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	if dir, err := installed(name); err == nil {
		return dir, nil
	}
	// Nobody else can be at it: what stands there was left by a process that died.
	tmp := filepath.Join(cache, name+".part")
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	if err := install(tmp); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	return dir, os.Rename(tmp, dir)
}

// tool runs a program of the machine in a folder, with more environment.
func tool(dir string, env []string, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is needed: %w", name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s %s: %w\n%s", name, strings.Join(args, " "), err, out[max(0, len(out)-2000):])
	}
	return nil
}

// maven copies artifacts, "group:name:version", and what they need at run time into dir/libs.
func maven(dir string, artifacts ...string) error {
	var pom bytes.Buffer
	pom.WriteString("<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>local</artifactId><version>1</version><dependencies>\n")
	for _, a := range artifacts {
		part := strings.Split(a, ":")
		fmt.Fprintf(&pom, "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n", part[0], part[1], part[2])
	}
	pom.WriteString("</dependencies></project>\n")
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom.Bytes(), 0o666); err != nil {
		return err
	}
	return tool(dir, nil, "mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs")
}

// goInstall builds a command of a Go module, "path@version", into dir.
func goInstall(dir, command string) error {
	return tool(dir, []string{"GOBIN=" + dir, "GOFLAGS="}, "go", "install", command)
}

// debian unpacks packages into dir, without installing anything on the machine.
func debian(dir string, packages ...string) error {
	if err := tool(dir, nil, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return fmt.Errorf("%w (apt-get update may help)", err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(archives) < len(packages) {
		return fmt.Errorf("downloading %s: got %d archives: %w", strings.Join(packages, " "), len(archives), err)
	}
	for _, a := range slices.Sorted(slices.Values(archives)) {
		if err := errors.Join(tool(dir, nil, "dpkg-deb", "-x", a, "."), os.Remove(a)); err != nil {
			return err
		}
	}
	return nil
}
