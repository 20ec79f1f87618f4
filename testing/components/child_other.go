//go:build !linux

package components

import (
	"errors"
	"os"
	"os/exec"
)

var (
	stopSignal = os.Interrupt
	killSignal = os.Kill
)

type child struct {
	pid   int
	ended chan struct{}
	err   error
}

func startChild(*exec.Cmd) (*child, error) { return nil, errors.ErrUnsupported }
func (*child) signal(os.Signal)            {}
func lock(uintptr) error                   { return errors.ErrUnsupported }

const supported = false
