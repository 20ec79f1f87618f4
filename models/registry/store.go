package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/memblob" // mem:// needs nothing but this process
	"gocloud.dev/gcerrors"
)

// errTaken reports that a key to be created exists.
var errTaken = errors.New("exists already")

// store is a bucket with an atomic create.
type store struct {
	*blob.Bucket
	// dir is the bucket's folder if it is one, else empty.
	dir string
}

// openStore opens a URL of a registered bucket driver, or a path.
func openStore(ctx context.Context, where string) (store, error) {
	u, err := url.Parse(where)
	if !strings.Contains(where, "://") {
		u, err = &url.URL{Scheme: "file", Path: where}, nil
	}
	if err != nil {
		return store{}, err
	}
	switch u.Scheme {
	case "file":
		dir := u.Path
		switch {
		case u.RawQuery != "":
			return store{}, fmt.Errorf("a folder takes no parameters, not %q", u.RawQuery)
		case u.Host == ".":
			dir = strings.TrimPrefix(dir, "/")
		case u.Host != "" && u.Host != "localhost":
			return store{}, fmt.Errorf("%q is taken for a host: write file://./%s%s for a relative folder, file:///... for an absolute one", u.Host, u.Host, u.Path)
		}
		if dir == "" {
			return store{}, errors.New("the folder's name is empty")
		}
		dir, err := filepath.Abs(filepath.FromSlash(dir))
		if err != nil {
			return store{}, err
		}
		bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{CreateDir: true, NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
		return store{bucket, dir}, err
	case "gs", "s3", "azblob":
		// The drivers take a prefix as a parameter only; a path is what people write.
		prefix := strings.Trim(u.Path, "/")
		u.Path = ""
		bucket, err := blob.OpenBucket(ctx, u.String())
		if err == nil && prefix != "" {
			bucket = blob.PrefixedBucket(bucket, prefix+"/")
		}
		return store{bucket, ""}, err
	}
	bucket, err := blob.OpenBucket(ctx, where)
	return store{bucket, ""}, err
}

// create writes an object that must not exist, whole or not at all; errTaken if it does.
func (s store) create(ctx context.Context, key string, content []byte) error {
	if s.dir != "" {
		return s.createFile(key, content)
	}
	err := s.WriteAll(ctx, key, content, &blob.WriterOptions{IfNotExist: true})
	// S3 answers 409 instead of 412 when the other write is still under way.
	if gcerrors.Code(err) == gcerrors.FailedPrecondition || err != nil && strings.Contains(err.Error(), "ConditionalRequestConflict") {
		return fmt.Errorf("%s: %w", key, errTaken)
	}
	return err
}

func (s store) createFile(key string, content []byte) error {
	// Keys are made of names that checkName passed and of numbers: no escaping is needed.
	name := filepath.Join(s.dir, filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	// CreateTemp's files are for their owner alone; a registry is read by others too.
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), name)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w", key, errTaken)
	case err != nil:
		return fmt.Errorf("a registry in a folder needs a file system with hard links; else keep it in an object store: %w", err)
	}
	return nil
}

// numbered lists the numbers n of the objects prefix + ten digits + ".json".
func (s store) numbered(ctx context.Context, prefix string) ([]int, error) {
	var out []int
	err := s.each(ctx, prefix, func(name string, dir bool) {
		digits, ok := strings.CutSuffix(name, ".json")
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 && name == recordName(n) {
			out = append(out, n)
		}
	})
	return out, err
}

func recordName(n int) string { return fmt.Sprintf("%010d.json", n) }

// folders lists the names of the folders directly below prefix, by name.
func (s store) folders(ctx context.Context, prefix string) ([]string, error) {
	var out []string
	err := s.each(ctx, prefix, func(name string, dir bool) {
		if dir {
			out = append(out, name)
		}
	})
	return out, err
}

// each calls f for the objects and folders directly below prefix, which is empty or ends in a
// slash, by name.
func (s store) each(ctx context.Context, prefix string, f func(name string, dir bool)) error {
	if s.dir != "" {
		// Not fileblob's List, which fails if another writer's temporary file goes away under it.
		entries, err := os.ReadDir(filepath.Join(s.dir, filepath.FromSlash(prefix)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, e := range entries {
			f(e.Name(), e.IsDir())
		}
		return err
	}
	return iterate(ctx, s.List(&blob.ListOptions{Prefix: prefix, Delimiter: "/"}), func(o *blob.ListObject) {
		f(path.Base(o.Key), o.IsDir)
	})
}

// having lists the folders directly below prefix that hold an object called file.
func (s store) having(ctx context.Context, prefix, file string) ([]string, error) {
	var out []string
	if s.dir != "" {
		names, err := s.folders(ctx, prefix)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			there, err := s.Exists(ctx, prefix+name+"/"+file)
			if err != nil {
				return nil, err
			}
			if there {
				out = append(out, name)
			}
		}
		return out, nil
	}
	// A listing of everything costs a request a thousand objects, a question each folder one.
	err := iterate(ctx, s.List(&blob.ListOptions{Prefix: prefix}), func(o *blob.ListObject) {
		if name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, prefix), "/"+file); ok && !strings.Contains(name, "/") {
			out = append(out, name)
		}
	})
	return out, err
}

func iterate(ctx context.Context, it *blob.ListIterator, f func(*blob.ListObject)) error {
	for {
		o, err := it.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		f(o)
	}
}
