package blob

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/gcsblob" // gs://
	"gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob" // s3://
	"gocloud.dev/gcerrors"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() {
	for _, scheme := range []string{"gs", "s3", "mem"} {
		source.Register(scheme, objects{})
		sink.Register(scheme, objects{})
	}
}

type objects struct{}

var (
	memoryMu sync.Mutex
	memory   = map[string]*blob.Bucket{} // by name; they live as long as the process
)

// open opens the bucket of an address and cuts the key off it. The last of the pieces is the query,
// with its question mark.
func open(ctx context.Context, address string) (b *blob.Bucket, bucket, key, query string, err error) {
	rest, query := address, ""
	if i := strings.LastIndexByte(rest, '?'); i >= 0 && strings.Contains(rest[i:], "=") {
		rest, query = rest[:i], rest[i:] // a ? without = belongs to a glob
	}
	scheme, rest, _ := strings.Cut(rest, "://")
	name, key, _ := strings.Cut(rest, "/")
	bucket = scheme + "://" + name
	if scheme == "mem" {
		memoryMu.Lock()
		defer memoryMu.Unlock()
		if memory[name] == nil {
			memory[name] = memblob.OpenBucket(nil)
		}
		return blob.PrefixedBucket(memory[name], ""), bucket, key, query, nil
	}
	b, err = blob.OpenBucket(ctx, bucket+query)
	return b, bucket, key, query, err
}

func (objects) Partitions(ctx context.Context, address string) ([]driver.Partition, error) {
	address, _, err := cutPoll(address)
	if err != nil {
		return nil, err
	}
	b, bucket, key, query, err := open(ctx, address)
	if err != nil {
		return nil, err
	}
	defer closeBucket(b, bucket)
	var keys []string
	switch {
	case strings.ContainsAny(key, "*?["):
		if _, err := path.Match(key, ""); err != nil {
			return nil, fmt.Errorf("reading the pattern %s: %w", key, err)
		}
		prefix := key[:strings.IndexAny(key, "*?[")]
		keys, err = names(ctx, b, prefix, func(name string) bool {
			ok, _ := path.Match(key, name)
			return ok
		})
	case key == "" || strings.HasSuffix(key, "/"):
		keys, err = folder(ctx, b, key)
	default:
		keys = []string{key}
	}
	if err != nil {
		return nil, err
	}
	parts := make([]driver.Partition, 0, len(keys))
	for _, k := range keys {
		attrs, err := b.Attributes(ctx, k)
		if err != nil {
			return nil, known(err)
		}
		p := driver.Partition{URL: bucket + "/" + k + query, Name: connect.Redact(bucket + "/" + k), Size: attrs.Size}
		p.Format, p.Gzip = connect.Ending(k)
		if attrs.Size >= 2 {
			r, err := b.NewRangeReader(ctx, k, 0, 2, nil)
			if err != nil {
				return nil, known(err)
			}
			var magic [2]byte
			_, err = io.ReadFull(r, magic[:])
			r.Close()
			if err != nil {
				return nil, err
			}
			p.Gzip = magic == [2]byte{0x1f, 0x8b}
		}
		p.Splittable = !p.Gzip && p.Format != "parquet"
		parts = append(parts, p)
	}
	if len(parts) == 0 && strings.ContainsAny(key, "*?[") {
		return nil, fmt.Errorf("no object matches %s: %w", connect.Redact(address), fs.ErrNotExist)
	}
	return parts, nil
}

func folder(ctx context.Context, b *blob.Bucket, prefix string) ([]string, error) {
	text, err := b.ReadAll(ctx, prefix+"_manifest.json")
	if err == nil {
		var m struct {
			Parts []struct{ Name string } `json:"parts"`
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("reading the manifest of %s: %w", prefix, err)
		}
		var keys []string
		for _, p := range m.Parts {
			keys = append(keys, prefix+p.Name)
		}
		return keys, nil
	}
	keys, err := names(ctx, b, prefix, func(name string) bool {
		rest := name[len(prefix):]
		return rest != "" && !strings.Contains(rest, "/") && rest[0] != '_' && rest[0] != '.'
	})
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("there are no objects at %s: %w", prefix, fs.ErrNotExist)
	}
	return keys, err
}

func names(ctx context.Context, b *blob.Bucket, prefix string, want func(string) bool) ([]string, error) {
	var keys []string
	for it := b.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		if err == io.EOF {
			slices.Sort(keys)
			return keys, nil
		}
		if err != nil {
			return nil, known(err)
		}
		if !o.IsDir && want(o.Key) {
			keys = append(keys, o.Key)
		}
	}
}

// known maps the cloud's "not found" to the one of files, and marks what time may mend.
func known(err error) error {
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
	case gcerrors.Unknown, gcerrors.Internal, gcerrors.ResourceExhausted, gcerrors.DeadlineExceeded:
		return sinkdriver.Transient(err) // a server that can't be reached is of the code Unknown
	}
	return err
}

// closeBucket leaves the buckets of this process open: closing a view of one would close it.
func closeBucket(b *blob.Bucket, bucket string) error {
	if strings.HasPrefix(bucket, "mem:") {
		return nil
	}
	return b.Close()
}

func (objects) Open(ctx context.Context, p driver.Partition, offset int64) (io.ReadCloser, error) {
	b, bucket, key, _, err := open(ctx, p.URL)
	if err != nil {
		return nil, err
	}
	r, err := b.NewRangeReader(ctx, key, offset, -1, nil)
	if err != nil {
		closeBucket(b, bucket)
		return nil, known(err)
	}
	return &object{r, func() error { return closeBucket(b, bucket) }}, nil
}

type object struct {
	io.ReadCloser
	done func() error
}

func (o *object) Close() error {
	err := o.ReadCloser.Close()
	if derr := o.done(); err == nil {
		err = derr
	}
	return err
}

func (objects) OpenStore(ctx context.Context, address string) (sinkdriver.Store, string, error) {
	b, bucket, key, _, err := open(ctx, address)
	if err != nil {
		return nil, "", err
	}
	slash := strings.LastIndexByte(key, '/')
	return &store{b: b, bucket: bucket, prefix: key[:slash+1]}, key[slash+1:], nil
}

type store struct {
	b              *blob.Bucket
	bucket, prefix string
}

func (s *store) Create(ctx context.Context, name string) (sinkdriver.Writer, error) {
	ctx, cancel := context.WithCancel(ctx)
	w, err := s.b.NewWriter(ctx, s.prefix+name, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		cancel()
		return nil, known(err)
	}
	return &writer{w, cancel}, nil
}

type writer struct {
	*blob.Writer
	cancel context.CancelFunc
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	return n, known(err)
}

func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	n, err := w.Writer.ReadFrom(r)
	return n, known(err)
}

func (w *writer) Close() error {
	defer w.cancel()
	return known(w.Writer.Close())
}

// Abort cancels before it closes: that is how an upload is dropped.
func (w *writer) Abort() {
	w.cancel()
	_ = w.Writer.Close()
}

func (s *store) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	r, err := s.b.NewRangeReader(ctx, s.prefix+name, offset, -1, nil)
	if err != nil {
		return nil, known(err)
	}
	return r, nil
}

func (s *store) Copy(ctx context.Context, from, to string) error {
	return known(s.b.Copy(ctx, s.prefix+to, s.prefix+from, nil))
}

func (s *store) List(ctx context.Context, prefix string) ([]string, error) {
	keys, err := names(ctx, s.b, s.prefix+prefix, func(string) bool { return true })
	for i := range keys {
		keys[i] = keys[i][len(s.prefix):]
	}
	return keys, err
}

func (s *store) Delete(ctx context.Context, name string) error {
	err := s.b.Delete(ctx, s.prefix+name)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil
	}
	return known(err)
}

func (s *store) Close() error { return closeBucket(s.b, s.bucket) }
