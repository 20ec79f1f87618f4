//go:build !linux

package local

import (
	"errors"
	"os/exec"
)

const supported = false

func start(*exec.Cmd, bool) (int, error) { return 0, errors.ErrUnsupported }
func lock(string) (func(), error)        { return nil, errors.ErrUnsupported }
func marked(int, string) bool            { return false }
func processes(string) ([]int, error)    { return nil, errors.ErrUnsupported }
func arguments(int) []byte               { return nil }
func kill(int)                           {}
func terminate(int)                      {}
