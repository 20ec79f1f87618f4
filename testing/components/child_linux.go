package components

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
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
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
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

// unprivileged makes a command run as another user, where this is root: some servers refuse that.
func unprivileged(cmd *exec.Cmd) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := nobody()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return err
}

// give makes a folder that user's, and lets them in through those above.
func give(folder string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := nobody()
	if err == nil {
		err = os.Chown(folder, uid, gid)
	}
	tmp := filepath.Clean(os.TempDir())
	for dir := filepath.Dir(folder); err == nil && strings.HasPrefix(dir, tmp+string(filepath.Separator)); dir = filepath.Dir(dir) {
		var info os.FileInfo
		if info, err = os.Stat(dir); err == nil {
			err = os.Chmod(dir, info.Mode().Perm()|0o011)
		}
	}
	return err
}

func nobody() (uid, gid int, err error) {
	u, err := user.Lookup("nobody")
	if err != nil {
		return 0, 0, fmt.Errorf("finding a user to run as: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	return uid, gid, err
}

// inhabited reports whether a process works in a folder.
func inhabited(folder string) bool {
	dirs, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return false
	}
	for _, dir := range dirs {
		if at, err := os.Readlink(dir); err == nil && at == folder {
			return true
		}
	}
	return false
}
