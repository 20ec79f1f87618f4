package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	harness "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
)

const (
	period    = time.Second
	refusals  = 3  // in a row: nobody listens, on a machine that answers
	unreached = 30 // in a row: the machine doesn't answer, which may be the network alone
)

// Run serves the runner that started this process, by serve, which is beam.Init. It ends the process, and
// doesn't return. args are those of the process: boot gives the runner's endpoints.
func Run(args []string, serve func()) {
	w := worker{control: value(args, "control_endpoint"), parent: os.Getppid()}
	w.boot = isBoot(w.parent)
	late := w.parent == 1 && !w.boot // init has it: boot was ended while this process was starting
	if w.boot || late {
		w.own = ownFolder(value(args, "semi_persist_dir"))
		w.removeCopies()
	}
	if late {
		w.exit("boot is gone")
	}
	go w.watch()
	harness.ShutdownMode = harness.Return // else serve ends the process, and boot stays
	serve()
	w.lost()
}

// value is that of a flag among arguments.
func value(args []string, name string) string {
	for _, a := range args {
		if v, ok := strings.CutPrefix(strings.TrimLeft(a, "-"), name+"="); ok {
			return v
		}
	}
	return ""
}

// worker is this process among those it depends on.
type worker struct {
	control string // where the runner listens
	parent  int
	boot    bool   // the parent is Beam's boot
	own     string // boot's own folder, "" if it has none
}

// isBoot tells by its arguments whether a process is Beam's boot; where there is no /proc it is none.
func isBoot(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(args), "\x00--provision_endpoint=")
}

// ownFolder is dir if this process, and so boot, runs in it, except if everybody may.
func ownFolder(dir string) string {
	wd, err := os.Getwd()
	if err != nil || dir != wd || dir == filepath.Clean(os.TempDir()) || dir == "/tmp" {
		return ""
	}
	return dir
}

// removeCopies removes the copies of the binary that belong to this process alone.
func (w worker) removeCopies() {
	if exe, err := os.Executable(); err == nil {
		if ok, err := filepath.Match("/tmp/bin*/worker", exe); ok && err == nil {
			_ = os.RemoveAll(filepath.Dir(exe))
		}
	}
	if w.own != "" {
		_ = os.RemoveAll(filepath.Join(w.own, "staged"))
	}
}

// watch ends the process when boot or the runner is gone.
func (w worker) watch() {
	refused, silent := 0, 0
	for range time.Tick(period) {
		if os.Getppid() != w.parent {
			w.exit("boot is gone")
		}
		switch err := w.dial(); {
		case err == nil:
			refused, silent = 0, 0
		case errors.Is(err, syscall.ECONNREFUSED):
			refused++
		default:
			silent++
		}
		if refused >= refusals || silent >= unreached {
			w.endBoot()
			w.exit("the runner is gone")
		}
	}
}

// lost ends the process after the runner's stream has broken. A runner that is there hears of it from
// boot. One that is being killed may go on listening for a moment after its streams broke.
func (w worker) lost() {
	for range refusals {
		if err := w.dial(); err != nil {
			w.endBoot()
			w.exit("the runner is gone")
		}
		time.Sleep(period / 4)
	}
	w.exit("the runner has ended the work")
}

func (w worker) dial() error {
	c, err := net.DialTimeout("tcp", w.control, period)
	if err == nil {
		err = c.Close()
	}
	return err
}

func (w worker) endBoot() {
	if !w.boot || os.Getppid() != w.parent {
		return
	}
	if p, err := os.FindProcess(w.parent); err == nil {
		_ = p.Signal(syscall.SIGTERM)
	}
}

func (w worker) exit(why string) {
	if w.own != "" {
		_ = os.RemoveAll(w.own)
	}
	fmt.Fprintln(os.Stderr, "millrace: a worker ends:", why)
	os.Exit(1)
}
