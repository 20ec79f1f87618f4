package worker

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test's binary plays boot and the worker, each in a process of its own.
func TestMain(m *testing.M) {
	switch role := os.Getenv("MILLRACE_TEST_ROLE"); role {
	case "":
		os.Exit(m.Run())
	case "boot":
		os.Setenv("MILLRACE_TEST_ROLE", "worker")
		boot()
	case "late": // a worker that starts so slowly that its parent is gone
		for start := os.Getppid(); os.Getppid() == start; {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println("late", os.Getppid())
		Run(os.Args, func() { time.Sleep(time.Hour) })
	default:
		Run(os.Args, serve)
	}
}

// boot does what Beam's boot does: it starts a private copy of the worker, and hangs when that has
// ended.
func boot() {
	dir, err := os.MkdirTemp("/tmp/", "bin*")
	check(err)
	exe, err := os.Executable()
	check(err)
	check(os.MkdirAll("staged", 0o777))
	check(os.WriteFile("staged/worker", []byte("binary"), 0o777))
	check(os.WriteFile("pipeline_options.json", []byte("{}"), 0o666))
	prog := filepath.Join(dir, "worker")
	check(copyFile(exe, prog))
	wd, err := os.Getwd()
	check(err)
	cmd := exec.Command(prog, "--worker=true", "--control_endpoint="+value(os.Args, "control_endpoint"), "--semi_persist_dir="+wd)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	check(cmd.Start())
	fmt.Println("copy", dir)
	fmt.Println("worker", cmd.Process.Pid)
	_ = cmd.Wait()
	time.Sleep(time.Hour)
}

// serve does what the SDK's harness does: it holds a stream to the runner; when that ends well it sleeps
// for ever, when it breaks it returns.
func serve() {
	c, err := net.Dial("tcp", value(os.Args, "control_endpoint"))
	check(err)
	fmt.Println("serving", 1)
	if _, err := io.Copy(io.Discard, c); err == nil {
		time.Sleep(time.Hour)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o777)
	}
	return err
}

// family is a boot and its worker.
type family struct {
	boot   *exec.Cmd
	worker int
	copied string // boot's copy of the binary
	own    string // boot's folder
}

func start(t *testing.T, control string) family {
	t.Helper()
	f := family{boot: exec.Command(os.Args[0], "--id=1-1", "--provision_endpoint=none", "--control_endpoint="+control), own: t.TempDir()}
	f.boot.Env = append(os.Environ(), "MILLRACE_TEST_ROLE=boot")
	f.boot.Dir, f.boot.Stderr = f.own, os.Stderr
	out, err := f.boot.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.boot.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.boot.Process.Kill()
		if f.worker > 0 {
			_ = syscall.Kill(f.worker, syscall.SIGKILL)
		}
	})
	for serving := 0; serving == 0 || f.worker == 0; {
		var name, value string
		if _, err := fmt.Fscanln(out, &name, &value); err != nil {
			t.Fatal("boot ended:", err)
		}
		switch name {
		case "worker":
			f.worker, _ = strconv.Atoi(value)
		case "copy":
			f.copied = value
		case "serving":
			serving = 1
		}
	}
	go f.boot.Wait() // so that it is no zombie
	return f
}

// running tells whether a process is there and no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 200 {
		if is() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s: not in 20 s", what)
}

func absent(path string) bool {
	_, err := os.Stat(path)
	return os.IsNotExist(err)
}

// runner listens, and hands out the worker's stream.
type runner struct {
	*net.TCPListener
	streams chan *net.TCPConn
}

func listen(t *testing.T) runner {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := runner{l, make(chan *net.TCPConn, 100)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			r.streams <- c // the watch's as well: those are closed from the other side
		}
	}()
	return r
}

func (r runner) gone(t *testing.T, reset bool) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for len(r.streams) > 0 {
		c := <-r.streams
		if reset {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
}

func TestRun(t *testing.T) {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("boot is known by /proc alone")
	}
	for _, c := range []struct {
		name string
		end  func(*testing.T, runner, family)
		boot bool // boot stays, for the runner to end it
	}{
		{name: "runner closed its stream and is gone", end: func(t *testing.T, r runner, _ family) { r.gone(t, false) }},
		{name: "runner was killed", end: func(t *testing.T, r runner, _ family) { r.gone(t, true) }},
		{name: "boot was killed", end: func(_ *testing.T, _ runner, f family) { _ = f.boot.Process.Kill() }},
		{name: "runner reset the stream and lives", boot: true, end: func(_ *testing.T, r runner, _ family) {
			c := <-r.streams
			_ = c.SetLinger(0)
			_ = c.Close()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := listen(t)
			f := start(t, r.Addr().String())
			if !absent(f.copied) || !absent(filepath.Join(f.own, "staged")) {
				t.Errorf("the worker has left copies of its binary in %s or %s", f.copied, f.own)
			}
			if !running(f.worker) || !running(f.boot.Process.Pid) || absent(f.own) {
				t.Fatal("worker, boot or their folder is gone before its time")
			}
			c.end(t, r, f)
			eventually(t, "the worker ends", func() bool { return !running(f.worker) })
			eventually(t, "the folder is removed", func() bool { return absent(f.own) })
			if c.boot {
				if !running(f.boot.Process.Pid) {
					t.Error("boot was ended though the runner lives")
				}
				return
			}
			eventually(t, "boot ends", func() bool { return !running(f.boot.Process.Pid) })
		})
	}
}

// TestRunOfAnother ends no parent that isn't boot: it is this test.
func TestRunOfAnother(t *testing.T) {
	r := listen(t)
	cmd := exec.Command(os.Args[0], "--worker=true", "--control_endpoint="+r.Addr().String(), "--semi_persist_dir=/tmp")
	cmd.Env = append(os.Environ(), "MILLRACE_TEST_ROLE=worker")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if _, err := fmt.Fscanln(out, new(string), new(int)); err != nil {
		t.Fatal("it doesn't serve:", err)
	}
	r.gone(t, true)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the worker ended with %v, not with status 1", err)
	}
}

// TestRunLate ends a worker whose boot is gone before it looks, though the runner listens.
func TestRunLate(t *testing.T) {
	r := listen(t)
	copied, err := os.MkdirTemp("/tmp/", "bin*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(copied)
	prog := filepath.Join(copied, "worker")
	if err := copyFile(os.Args[0], prog); err != nil {
		t.Fatal(err)
	}
	sh := exec.Command("sh", "-c", `"$0" --worker=true --control_endpoint="$1" & echo worker $!; sleep 1`, prog, r.Addr().String())
	sh.Env = append(os.Environ(), "MILLRACE_TEST_ROLE=late")
	out, err := sh.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	var pid, parent int
	if _, err := fmt.Fscanln(out, new(string), &pid); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	if _, err := fmt.Fscanln(out, new(string), &parent); err != nil {
		t.Fatal(err)
	}
	if parent != 1 {
		t.Skipf("orphans go to process %d here, not to init", parent)
	}
	eventually(t, "the worker ends", func() bool { return !running(pid) })
	if !absent(copied) {
		t.Error("it has left the copy of its binary in", copied)
	}
}
