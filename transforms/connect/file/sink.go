package file

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() { sink.Register("file", opener{}) }

type opener struct{}

func (opener) OpenStore(_ context.Context, address string) (driver.Store, string, error) {
	path := toPath(address)
	if path == "" {
		return nil, "", errors.New("the path is empty")
	}
	if strings.HasSuffix(path, "/") {
		return &store{root: filepath.Clean(path)}, "", nil
	}
	// The file that a link names is replaced, not the link.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return &store{root: path}, "", nil
	case err == nil && !info.Mode().IsRegular():
		s, name := Stream(func() (io.WriteCloser, error) { return os.OpenFile(path, os.O_WRONLY, 0) })
		return s, name, nil
	}
	return &store{root: filepath.Dir(path)}, filepath.Base(path), nil
}

// Stream returns a store for a target that can't be replaced, such as standard output: it is
// staged in the temporary folder, and the commit writes it in one go.
func Stream(open func() (io.WriteCloser, error)) (s driver.Store, target string) {
	root := filepath.Join(os.TempDir(), fmt.Sprintf("millrace-%d", os.Getuid()))
	return &stream{store: store{root: root}, open: open}, "stream"
}

type stream struct {
	store
	open func() (io.WriteCloser, error)
}

// SharesStaging says that all streams are staged in one place.
func (s *stream) SharesStaging() {}

func (s *stream) Copy(ctx context.Context, from, to string) error {
	r, err := s.Open(ctx, from, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := s.open()
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

type store struct{ root string }

func (s *store) path(name string) string { return filepath.Join(s.root, filepath.FromSlash(name)) }

func (s *store) Create(_ context.Context, name string) (driver.Writer, error) {
	path := s.path(name)
	// A second try: another run may sweep the empty folder between the two calls.
	for try := 0; ; try++ {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return nil, err
		}
		temp := beside(path)
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, fs.ErrNotExist) && try < 3 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &writer{File: f, root: s.root, temp: temp, path: path}, nil
	}
}

func beside(path string) string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return filepath.Join(filepath.Dir(path), ".tmp-"+hex.EncodeToString(b[:]))
}

// writer embeds the file for its ReadFrom, which lets the kernel copy.
type writer struct {
	*os.File
	root, temp, path string
}

func (w *writer) Close() error {
	err := w.File.Sync()
	if cerr := w.File.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(w.temp, w.path)
	}
	if err != nil {
		w.remove()
		return err
	}
	return syncFolder(filepath.Dir(w.path))
}

func (w *writer) Abort() {
	w.File.Close()
	w.remove()
}

func (w *writer) remove() {
	os.Remove(w.temp)
	prune(w.root, filepath.Dir(w.temp))
}

// prune removes folders that have become empty, from dir up to root.
func prune(root, dir string) {
	for ; dir != root && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
}

// syncFolder makes names durable. Some file systems can't; then there is nothing to be done.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	_ = d.Sync()
	return d.Close()
}

func (s *store) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	f, err := os.Open(s.path(name))
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

func (s *store) Copy(ctx context.Context, from, to string) error {
	source, target := s.path(from), s.path(to)
	temp := beside(source) // in staging, on the same file system: a crash leaves it to the sweep
	if err := os.Link(source, temp); err == nil {
		if err := os.Rename(temp, target); err != nil {
			os.Remove(temp)
			return err
		}
		// Renaming one link of a file onto another does nothing and leaves both: a repeated commit.
		os.Remove(temp)
		return syncFolder(filepath.Dir(target))
	} else if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r, err := s.Open(ctx, from, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	w := &writer{File: f, root: s.root, temp: temp, path: target}
	if _, err := io.Copy(f, r); err != nil {
		w.Abort()
		return err
	}
	return w.Close()
}

// List walks the folder that the prefix names; temporary files of broken attempts are listed too.
func (s *store) List(_ context.Context, prefix string) ([]string, error) {
	var names []string
	dir := s.root
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = s.path(prefix[:i])
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.root, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if e.IsDir() {
			if !strings.Contains(prefix, "/") && path != dir {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// Delete removes a file and the staging folders that it leaves empty.
func (s *store) Delete(_ context.Context, name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	prune(s.root, filepath.Dir(s.path(name)))
	return nil
}

func (s *store) Close() error { return nil }
