package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/connect/internal/tail"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

var _ driver.Lister = objects{}

const (
	// defaultPoll is how often a followed prefix is listed.
	defaultPoll = 10 * time.Second
	// head is what the first read of an object asks for: all of a small one.
	head = 1 << 20
)

// cutPoll cuts our parameter off an address: those left are the bucket's.
func cutPoll(address string) (rest string, poll time.Duration, err error) {
	at := strings.LastIndexByte(address, '?')
	if at < 0 || !strings.Contains(address[at:], tail.Poll+"=") {
		return address, defaultPoll, nil
	}
	values, err := url.ParseQuery(address[at+1:])
	if err != nil {
		return "", 0, errors.New("parameters are no valid query")
	}
	if poll, err = tail.Interval(values, defaultPoll); err != nil {
		return "", 0, err
	}
	values.Del(tail.Poll)
	if rest = address[:at]; len(values) > 0 {
		rest += "?" + values.Encode()
	}
	return rest, poll, nil
}

// Logs lists one partition: objects are read in turn, and those to come aren't known.
func (objects) Logs(ctx context.Context, address string) ([]driver.Partition, error) {
	p, _, err := newPrefix(ctx, address)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.List(ctx, "", func(tail.File) bool { return false }); err != nil { // may it be listed?
		return nil, known(err)
	}
	return []driver.Partition{{URL: address, Name: p.name(), Size: -1}}, nil
}

// Follow reads objects as they come.
func (objects) Follow(ctx context.Context, address string, from []driver.Position) (driver.Follower, error) {
	p, poll, err := newPrefix(ctx, address)
	if err != nil {
		return nil, err
	}
	if len(from) != 1 || from[0].Partition != p.name() {
		p.Close()
		return nil, fmt.Errorf("no partition but %s", p.name())
	}
	f, err := tail.Follow(p, p.name(), from[0].Next, poll)
	if err != nil {
		p.Close()
		return nil, err
	}
	return f, nil
}

// prefix is what an address stands for when it is followed: an object, a glob, or a prefix.
type prefix struct {
	b           *blob.Bucket
	bucket, key string
	ctx         context.Context // of reads of what is open
	stop        context.CancelFunc
}

func newPrefix(ctx context.Context, address string) (*prefix, time.Duration, error) {
	address, poll, err := cutPoll(address)
	if err != nil {
		return nil, 0, err
	}
	// The bucket outlives the call that opens it.
	b, bucket, key, _, err := open(context.WithoutCancel(ctx), address)
	if err != nil {
		return nil, 0, err
	}
	if _, err := path.Match(key, ""); err != nil {
		closeBucket(b, bucket)
		return nil, 0, fmt.Errorf("reading the pattern %s: %w", key, err)
	}
	p := &prefix{b: b, bucket: bucket, key: key}
	p.ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	return p, poll, nil
}

func (p *prefix) name() string { return p.Show(p.key) }

// Show is the object's URL without secrets.
func (p *prefix) Show(key string) string { return connect.Redact(p.bucket + "/" + key) }

// fixed is what all keys begin with.
func (p *prefix) fixed() string {
	if i := strings.IndexAny(p.key, "*?["); i >= 0 {
		return p.key[:i]
	}
	return p.key
}

// wants tells whether a key belongs to the address.
func (p *prefix) wants(key string) bool {
	base := path.Base(key)
	switch {
	case strings.ContainsAny(p.key, "*?["):
		ok, _ := path.Match(p.key, key)
		return ok && (base[0] != '.' || strings.HasPrefix(path.Base(p.key), "."))
	case p.key == "" || strings.HasSuffix(p.key, "/"):
		rest := key[len(p.key):]
		return rest != "" && !strings.Contains(rest, "/") && rest[0] != '_' && rest[0] != '.'
	}
	return key == p.key
}

// List begins behind a key where the store can.
func (p *prefix) List(ctx context.Context, after string, each func(tail.File) bool) error {
	opts := &blob.ListOptions{Prefix: p.fixed()}
	if p.key == "" || strings.HasSuffix(p.key, "/") {
		opts.Delimiter = "/"
	}
	if after > opts.Prefix {
		opts.BeforeList = func(as func(any) bool) error {
			var input *s3.ListObjectsV2Input
			var query *storage.Query
			if as(&input) {
				input.StartAfter = &after
			} else if as(&query) {
				query.StartOffset = after // with it
			}
			return nil
		}
	}
	for it := p.b.List(opts); ; {
		o, err := it.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if o.IsDir || o.Key <= after || !p.wants(o.Key) {
			continue
		}
		// An object that is overwritten is another one.
		id := tail.Identity(o.Key, o.ModTime.UnixMilli(), o.Size)
		if !each(tail.File{Name: o.Key, ID: id, Size: o.Size, Modified: o.ModTime, Final: true}) {
			return nil
		}
	}
}

// Open asks for the beginning of the object.
func (p *prefix) Open(ctx context.Context, f tail.File) (tail.Content, error) {
	if f.Size == 0 { // servers refuse a range of nothing
		return &followed{p: p, file: f}, nil
	}
	r, err := p.b.NewRangeReader(ctx, f.Name, 0, head, nil)
	if err != nil {
		return nil, known(err)
	}
	defer r.Close()
	if r.Size() != f.Size {
		return nil, fmt.Errorf("%s is another object now: %w", p.Show(f.Name), fs.ErrNotExist)
	}
	first, err := io.ReadAll(r)
	return &followed{p: p, file: f, first: first}, err
}

// Hopeless is what the cloud refuses.
func (p *prefix) Hopeless(err error) bool {
	switch gcerrors.Code(err) {
	case gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.NotFound, gcerrors.Unimplemented:
		return true // what isn't found is the bucket
	}
	return false
}

func (p *prefix) Close() error {
	p.stop()
	return closeBucket(p.b, p.bucket)
}

// followed is an object.
type followed struct {
	p     *prefix
	file  tail.File
	first []byte
}

func (o *followed) ReadAt(b []byte, at int64) (int, error) {
	if at >= o.file.Size {
		return 0, io.EOF
	}
	short := at+int64(len(b)) > o.file.Size
	if short {
		b = b[:o.file.Size-at]
	}
	n := 0
	if at < int64(len(o.first)) {
		n = copy(b, o.first[at:])
	}
	if n < len(b) {
		r, err := o.p.b.NewRangeReader(o.p.ctx, o.file.Name, at+int64(n), int64(len(b)-n), nil)
		if err != nil {
			return 0, known(err)
		}
		defer r.Close()
		m, err := io.ReadFull(r, b[n:])
		if n += m; err != nil {
			return n, fmt.Errorf("reading %s at %d: %w", o.p.Show(o.file.Name), at, err)
		}
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

func (o *followed) Size() (int64, error) { return o.file.Size, nil }
func (o *followed) Close() error         { return nil }
