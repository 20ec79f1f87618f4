package local

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

const supported = true

// start starts a command in a session of its own. A tied one is killed by the kernel when this process
// ends, which it tells by the thread that started the command: the thread waits for it.
func start(cmd *exec.Cmd, tied bool) (pid int, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if tied {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go func() {
		if tied {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
		}
		err := cmd.Start()
		if err == nil {
			pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return pid, <-started
}

func lock(name string) (unlock func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// marked reports whether a process has a line in its environment; one that ended hasn't.
func marked(pid int, line string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && (bytes.HasPrefix(env, []byte(line+"\x00")) || bytes.Contains(env, []byte("\x00"+line+"\x00")))
}

// processes are those that have a line in their environment.
func processes(line string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && marked(pid, line) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func kill(pid int)      { _ = syscall.Kill(pid, syscall.SIGKILL) }
func terminate(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }

// arguments are those a process was started with, separated by zeros.
func arguments(pid int) []byte {
	args, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return args
}
