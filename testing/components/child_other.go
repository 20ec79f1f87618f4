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
func unprivileged(*exec.Cmd) error         { return errors.ErrUnsupported }
func give(string) error                    { return errors.ErrUnsupported }
func inhabited(string) bool                { return false }
func lock(uintptr) error                   { return errors.ErrUnsupported }

const supported = false
