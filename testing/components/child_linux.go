package components

import (
	"os/exec"
	"runtime"
	"syscall"
)

const (
	stopSignal = syscall.SIGTERM
	killSignal = syscall.SIGKILL
)

// child is a process and its group.
type child struct {
	pid   int
	ended chan struct{} // closed when the process has ended
	err   error         // how it ended, once it has
}

// startChild starts a command in a group of its own. The thread that starts it waits for it: the
// kernel kills the child when that thread ends, be it with the whole process.
func startChild(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c := &child{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		if c.err = cmd.Wait(); c.err == nil {
			c.err = errEnded
		}
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// signal signals the whole group; one that is gone is none to signal.
func (c *child) signal(sig syscall.Signal) { _ = syscall.Kill(-c.pid, sig) }

func lock(fd uintptr) error { return syscall.Flock(int(fd), syscall.LOCK_EX) }

const supported = true
