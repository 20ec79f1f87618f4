package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() { source.Register("file", files{}) }

type files struct{}

// toPath is the path of an address. In a URL %xx stands for bytes; in a plain path nothing does.
func toPath(address string) string {
	rest, ok := strings.CutPrefix(address, "file://")
	if !ok {
		return address
	}
	if path, err := url.PathUnescape(rest); err == nil {
		return path
	}
	return rest
}

func (files) Partitions(_ context.Context, address string) ([]driver.Partition, error) {
	address, _, err := cutQuery(address)
	if err != nil {
		return nil, err
	}
	path := toPath(address)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		names, err := folder(path)
		if err != nil {
			return nil, err
		}
		return partitions(names)
	case err == nil:
		return partitions([]string{path})
	case !strings.ContainsAny(path, "*?["):
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no file %s: %w", path, fs.ErrNotExist)
		}
		return nil, err
	}
	names, err := filepath.Glob(path) // sorted
	if err != nil {
		return nil, fmt.Errorf("reading the pattern %s: %w", path, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.IsDir()
	})
	if len(names) == 0 {
		return nil, fmt.Errorf("no file matches %s: %w", path, fs.ErrNotExist)
	}
	return partitions(names)
}

func folder(path string) ([]string, error) {
	var names []string
	text, err := os.ReadFile(filepath.Join(path, "_manifest.json"))
	if err == nil {
		var m struct {
			Parts []struct{ Name string } `json:"parts"`
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("reading the manifest of %s: %w", path, err)
		}
		for _, p := range m.Parts {
			if filepath.Base(p.Name) != p.Name {
				return nil, fmt.Errorf("reading the manifest of %s: %q is no name of a part", path, p.Name)
			}
			names = append(names, filepath.Join(path, p.Name))
		}
		return names, nil // a manifest without parts is an output without rows
	}
	entries, err := os.ReadDir(path) // sorted
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(e.Name(), "_") {
			names = append(names, filepath.Join(path, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the folder %s has no files: %w", path, fs.ErrNotExist)
	}
	return names, nil
}

func partitions(names []string) ([]driver.Partition, error) {
	parts := make([]driver.Partition, 0, len(names))
	for _, name := range names {
		p, err := partition(name)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func partition(name string) (driver.Partition, error) {
	p := driver.Partition{URL: name, Name: name, Size: -1}
	p.Format, p.Gzip = connect.Ending(name)
	info, err := os.Stat(name)
	if err != nil {
		return p, err
	}
	if !info.Mode().IsRegular() {
		return p, nil // a pipe: opening it here would take its first bytes
	}
	f, err := os.Open(name) // also finds out at submission that it may be read
	if err != nil {
		return p, err
	}
	defer f.Close()
	var magic [2]byte
	if n, _ := f.ReadAt(magic[:], 0); n == 2 {
		p.Gzip = magic == [2]byte{0x1f, 0x8b}
	} else {
		p.Gzip = false
	}
	p.Size, p.Splittable = info.Size(), !p.Gzip && p.Format != "parquet"
	return p, nil
}

// Open opens a file; it is an io.ReaderAt too, and the offset only moves its Read.
func (files) Open(_ context.Context, p driver.Partition, offset int64) (io.ReadCloser, error) {
	f, err := os.Open(p.URL)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}
