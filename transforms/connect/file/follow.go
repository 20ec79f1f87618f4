package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect/internal/tail"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

var _ driver.Lister = files{}

// defaultPoll is how often a followed folder is looked at.
const defaultPoll = time.Second

// cutQuery cuts parameters off a file:// URL, and reads them. A question mark that no parameter follows is
// one of a glob.
func cutQuery(address string) (rest string, poll time.Duration, err error) {
	at := strings.LastIndexByte(address, '?')
	if at < 0 || !strings.HasPrefix(address, "file://") || !strings.Contains(address[at:], "=") {
		return address, defaultPoll, nil
	}
	values, err := url.ParseQuery(address[at+1:])
	if err != nil {
		return "", 0, errors.New("parameters are no valid query")
	}
	poll, err = tail.Interval(values, defaultPoll)
	for name := range values {
		if name != tail.Poll {
			err = errors.Join(err, fmt.Errorf("unknown parameter %s: known is %s", name, tail.Poll))
		}
	}
	return address[:at], poll, err
}

// Logs lists one partition: files are read in turn, and those to come aren't known.
func (files) Logs(_ context.Context, address string) ([]driver.Partition, error) {
	f, _, err := newFollowed(address)
	if err != nil {
		return nil, err
	}
	return []driver.Partition{{URL: address, Name: f.pattern, Size: -1}}, nil
}

// Follow reads files as they come and grow.
func (files) Follow(_ context.Context, address string, from []driver.Position) (driver.Follower, error) {
	f, poll, err := newFollowed(address)
	if err != nil {
		return nil, err
	}
	if len(from) != 1 || from[0].Partition != f.pattern {
		return nil, fmt.Errorf("no partition but %s", f.pattern)
	}
	return tail.Follow(f, f.pattern, from[0].Next, poll)
}

// followed is what an address stands for when it is followed: the path of a file or a folder, or a pattern.
type followed struct{ pattern string }

func newFollowed(address string) (*followed, time.Duration, error) {
	address, poll, err := cutQuery(address)
	if err != nil {
		return nil, 0, err
	}
	path := toPath(address)
	if _, err := filepath.Match(path, ""); err != nil {
		return nil, 0, fmt.Errorf("reading the pattern %s: %w", path, err)
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir() && !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("%s can't be followed, since it can't be read again: follow a file", path)
	case err == nil:
		return &followed{pattern: path}, poll, nil
	}
	// Nothing is there yet. Where it is to come must be, so that a wrong name is found out.
	parent := filepath.Dir(strings.TrimSuffix(path, "/"))
	if i := strings.IndexAny(path, "*?["); i >= 0 {
		parent = filepath.Dir(path[:i] + "x")
	}
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		return nil, 0, fmt.Errorf("there is no folder %s in which %s could appear: make it, or mend the address: %w", parent, path, fs.ErrNotExist)
	}
	return &followed{pattern: path}, poll, nil
}

// List reads the names of folders and looks at those behind after.
func (f *followed) List(ctx context.Context, after string, each func(tail.File) bool) error {
	names, err := f.names()
	if err != nil {
		return err
	}
	at, found := slices.BinarySearch(names, after)
	if found {
		at++
	}
	for _, name := range names[at:] {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && !each(tail.File{Name: name, ID: identity(name, info), Size: info.Size(), Modified: info.ModTime()}) {
			return nil
		}
	}
	return nil
}

func (f *followed) names() ([]string, error) {
	info, err := os.Stat(f.pattern)
	if err != nil || !info.IsDir() {
		names, err := filepath.Glob(escape(f.pattern))
		hidden := strings.HasPrefix(filepath.Base(f.pattern), ".")
		names = slices.DeleteFunc(names, func(name string) bool { return !hidden && strings.HasPrefix(filepath.Base(name), ".") })
		slices.Sort(names)
		return names, err
	}
	entries, err := os.ReadDir(f.pattern) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(e.Name(), "_") {
			names = append(names, filepath.Join(f.pattern, e.Name()))
		}
	}
	return names, err
}

// escape makes the name of a file that is there a pattern of itself, as reading to the end takes it.
func escape(pattern string) string {
	if _, err := os.Lstat(pattern); err != nil {
		return pattern
	}
	return strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, `\`, `\\`).Replace(pattern)
}

func (f *followed) Open(_ context.Context, file tail.File) (tail.Content, error) {
	o, err := os.Open(file.Name)
	if err != nil {
		return nil, err
	}
	info, err := o.Stat()
	if err == nil && identity(file.Name, info) != file.ID {
		err = fmt.Errorf("%s is another file now: %w", file.Name, fs.ErrNotExist)
	}
	if err != nil {
		o.Close()
		return nil, err
	}
	return opened{o}, nil
}

func (f *followed) Show(name string) string { return name }

// Hopeless is what may not be read.
func (f *followed) Hopeless(err error) bool { return errors.Is(err, fs.ErrPermission) }

func (f *followed) Close() error { return nil }

type opened struct{ *os.File }

func (opened) Local() {}

func (o opened) Size() (int64, error) {
	info, err := o.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
