package local

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"time"
)

// copies are those of workers' binaries that boots of this cluster have left in /tmp: boots that were ended before
// their worker ran, which removes its own. What a boot has fetched is in its folder, which the worker removes too.
func (c *Cluster) copies() []string {
	fetched, _ := filepath.Glob(c.path("tmp", "boot-*", "staged", "*"))
	made, _ := filepath.Glob("/tmp/bin*/worker")
	var left []string
	for _, name := range made {
		for _, from := range fetched {
			if copyOf(name, from) {
				left = append(left, name)
				break
			}
		}
	}
	return left
}

// settled is the age of a copy that nobody is going to run any more: boot starts the worker as soon as it has its copy.
const settled = time.Second

// copyOf tells whether a file is a copy of another, perhaps not a whole one. A Go binary has its build's id
// in its first page.
func copyOf(name, of string) bool {
	a, err := os.Stat(name)
	if err != nil {
		return false
	}
	b, err := os.Stat(of)
	if err != nil || a.Size() > b.Size() || a.ModTime().Before(b.ModTime()) {
		return false
	}
	head := func(name string) []byte {
		f, err := os.Open(name)
		if err != nil {
			return nil
		}
		defer f.Close()
		text, _ := io.ReadAll(io.LimitReader(f, min(a.Size(), 4096)))
		return text
	}
	return bytes.Equal(head(name), head(of))
}

// sweep removes copies that are left.
func (c *Cluster) sweep() {
	for _, name := range c.copies() {
		info, err := os.Stat(name)
		if err != nil {
			continue
		}
		time.Sleep(settled - min(settled, max(0, time.Since(info.ModTime()))))
		if again, err := os.Stat(name); err == nil && again.ModTime().Equal(info.ModTime()) {
			_ = os.RemoveAll(filepath.Dir(name))
		}
	}
}
