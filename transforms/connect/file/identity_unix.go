//go:build unix

package file

import (
	"io/fs"
	"syscall"

	"github.com/millrace-ml/millrace/transforms/connect/internal/tail"
)

// identity is the file's whatever its name, as long as it lives.
func identity(name string, info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return tail.Identity("", int64(s.Dev), int64(s.Ino))
	}
	return tail.Identity(name)
}
