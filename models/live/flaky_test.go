package live

import (
	"context"
	"errors"
	"io"
	"net/url"
	"sync"
	"sync/atomic"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"
)

// flaky is a store in memory that counts requests and can be out of reach. Its buckets at one host
// name share their objects, as those of a real store.
type flaky struct {
	bucket   *blob.Bucket
	requests atomic.Int64
	down     atomic.Bool
}

var (
	flakyMu sync.Mutex
	stores  = map[string]*flaky{}

	errDown = errors.New("connection refused")
)

func init() { blob.DefaultURLMux().RegisterBucket("flaky", flakyOpener{}) }

type flakyOpener struct{}

func (flakyOpener) OpenBucketURL(_ context.Context, u *url.URL) (*blob.Bucket, error) {
	return blob.NewBucket(flakyStore(u.Host)), nil
}

func flakyStore(host string) *flaky {
	flakyMu.Lock()
	defer flakyMu.Unlock()
	if stores[host] == nil {
		stores[host] = &flaky{bucket: memblob.OpenBucket(nil)}
	}
	return stores[host]
}

func forgetStore(host string) {
	flakyMu.Lock()
	defer flakyMu.Unlock()
	delete(stores, host)
}

func (f *flaky) request() error {
	f.requests.Add(1)
	if f.down.Load() {
		return errDown
	}
	return nil
}

func (f *flaky) ErrorCode(err error) gcerrors.ErrorCode {
	if errors.Is(err, errDown) {
		return gcerrors.Unknown
	}
	return gcerrors.Code(err)
}
func (f *flaky) As(any) bool             { return false }
func (f *flaky) ErrorAs(error, any) bool { return false }
func (f *flaky) Close() error            { return nil }

func (f *flaky) Attributes(ctx context.Context, key string) (*driver.Attributes, error) {
	if err := f.request(); err != nil {
		return nil, err
	}
	a, err := f.bucket.Attributes(ctx, key)
	if err != nil {
		return nil, err
	}
	return &driver.Attributes{Size: a.Size, ModTime: a.ModTime}, nil
}

func (f *flaky) ListPaged(ctx context.Context, o *driver.ListOptions) (*driver.ListPage, error) {
	if err := f.request(); err != nil {
		return nil, err
	}
	var page driver.ListPage
	for it := f.bucket.List(&blob.ListOptions{Prefix: o.Prefix, Delimiter: o.Delimiter}); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return &page, nil
		}
		if err != nil {
			return nil, err
		}
		page.Objects = append(page.Objects, &driver.ListObject{Key: object.Key, Size: object.Size, IsDir: object.IsDir})
	}
}

type flakyReader struct{ *blob.Reader }

func (r flakyReader) Attributes() *driver.ReaderAttributes {
	return &driver.ReaderAttributes{ContentType: r.ContentType(), ModTime: r.ModTime(), Size: r.Size()}
}

func (f *flaky) NewRangeReader(ctx context.Context, key string, offset, length int64, _ *driver.ReaderOptions) (driver.Reader, error) {
	if err := f.request(); err != nil {
		return nil, err
	}
	r, err := f.bucket.NewRangeReader(ctx, key, offset, length, nil)
	if err != nil {
		return nil, err
	}
	return flakyReader{r}, nil
}

func (f *flaky) NewTypedWriter(ctx context.Context, key, contentType string, o *driver.WriterOptions) (driver.Writer, error) {
	if err := f.request(); err != nil {
		return nil, err
	}
	return f.bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: contentType, IfNotExist: o.IfNotExist})
}

func (f *flaky) Copy(context.Context, string, string, *driver.CopyOptions) error {
	return errors.ErrUnsupported
}
func (f *flaky) Delete(ctx context.Context, key string, _ *driver.DeleteOptions) error {
	return f.bucket.Delete(ctx, key)
}
func (f *flaky) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", errors.ErrUnsupported
}
