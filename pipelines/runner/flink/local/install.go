package local

import (
	"archive/tar"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core"
)

// FlinkVersion is that of the clusters.
const FlinkVersion = "1.19.3"

// ErrMissing reports a program that the machine lacks.
var ErrMissing = errors.New("missing program")

//go:embed jobserver.xml
var jobServerProject []byte

// part is something to install into a folder of the cache.
type part struct {
	name, what string
	install    func(ctx context.Context, dir string) error
}

var (
	flinkPart     = part{"flink-" + FlinkVersion, "Flink " + FlinkVersion, installFlink}
	jobServerPart = part{"beam-jobserver-flink-" + FlinkVersion, "Beam's job server", installJobServer}
	bootPart      = part{"beam-boot-" + core.SdkVersion, "Beam's boot " + core.SdkVersion, installBoot}
)

// Installed reports whether a cluster can be started without installing anything but Java.
func Installed() bool {
	for _, p := range []part{flinkPart, jobServerPart, bootPart} {
		if dir, err := p.dir(); err != nil || !exists(dir) {
			return false
		}
	}
	return true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (p part) dir() (string, error) {
	cache, err := cacheDir()
	return filepath.Join(cache, p.name), err
}

func cacheDir() (string, error) {
	if dir := os.Getenv("MILLRACE_COMPONENTS"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "millrace", "components"), err
}

// get returns the folder of a part. One that isn't installed is installed into a folder that gets its
// name when it is complete; of several processes all but one wait.
func (p part) get(ctx context.Context, progress func(string)) (string, error) {
	dir, err := p.dir()
	if err != nil || exists(dir) {
		return dir, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(dir) {
		return dir, nil
	}
	progress("installing " + p.what)
	tmp := dir + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	if err := p.install(ctx, tmp); err != nil {
		return "", fmt.Errorf("installing %s: %w", p.what, err)
	}
	return dir, os.Rename(tmp, dir)
}

// installFlink takes lib/ and the Prometheus plugin out of the source archive of the Python package.
// Beam needs nothing of tables.
func installFlink(ctx context.Context, dir string) error {
	pip, err := tool("pip, which fetches Flink (Debian: apt-get install python3-pip)", "pip", "pip3")
	if err != nil {
		return err
	}
	if err := command(ctx, dir, pip, "download", "-q", "--no-deps", "--no-binary", ":all:", "apache-flink-libraries=="+FlinkVersion, "-d", "."); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("pip gave %d archives: %w", len(archives), err)
	}
	return errors.Join(unpack(archives[0], dir), os.Remove(archives[0]))
}

var wanted = regexp.MustCompile(`^[^/]+/deps/((?:lib|plugins/metrics-prometheus)/[^/]+\.jar)$`)

func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", archive, err)
		}
		m := wanted.FindStringSubmatch(h.Name)
		if m == nil || strings.HasPrefix(path.Base(m[1]), "flink-table") || strings.HasPrefix(path.Base(m[1]), "flink-cep") {
			continue
		}
		if err := write(filepath.Join(dir, filepath.FromSlash(m[1])), r); err != nil {
			return err
		}
	}
}

func write(name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func installJobServer(ctx context.Context, dir string) error {
	mvn, err := tool("Maven, which assembles the job server (Debian: apt-get install maven)", "mvn")
	if err != nil {
		return err
	}
	project := filepath.Join(dir, "project")
	if err := os.Mkdir(project, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(project, "pom.xml"), jobServerProject, 0o666); err != nil {
		return err
	}
	if err := command(ctx, project, mvn, "-B", "-q", "package"); err != nil {
		return err
	}
	return errors.Join(os.Rename(filepath.Join(project, "target", "beam-flink-job-server.jar"), filepath.Join(dir, "jobserver.jar")), os.RemoveAll(project))
}

func installBoot(ctx context.Context, dir string) error {
	golang, err := tool("Go, which builds Beam's boot (https://go.dev/dl)", "go")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, golang, "install", "github.com/apache/beam/sdks/v2/go/container@v"+core.SdkVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if err := run(cmd, dir); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, "container"), filepath.Join(dir, "boot"))
}

// java finds a Java of at least 17, in JAVA_HOME or on the path.
func java(ctx context.Context) (string, error) {
	const what = "Java 17, which runs Flink (Debian: apt-get install openjdk-17-jre-headless, or set JAVA_HOME)"
	name := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		name = filepath.Join(home, "bin", "java")
	}
	name, err := tool(what, name)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, name, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", name, err)
	}
	if m := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out); m != nil {
		if v, err := strconv.Atoi(string(m[1])); err == nil && v < 17 {
			return "", fmt.Errorf("%w: %s; %s is version %d", ErrMissing, what, name, v)
		}
	}
	return name, nil
}

// tool finds the first of some names of a program.
func tool(what string, names ...string) (string, error) {
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrMissing, what)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	return run(exec.CommandContext(ctx, name, args...), dir)
}

func run(cmd *exec.Cmd, dir string) error {
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w\n%s", filepath.Base(cmd.Path), err, out[max(0, len(out)-2000):])
	}
	return nil
}
