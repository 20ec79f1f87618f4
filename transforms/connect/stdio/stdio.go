package stdio

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/millrace-ml/millrace/transforms/connect/file"
	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// ErrConsumed reports that standard input has been read before.
var ErrConsumed = errors.New("standard input was read already and can't be read twice; use a file")

func init() {
	in := &stdin{r: os.Stdin}
	source.Register("-", in)
	source.Register("stdin", in)
	out := opener{func() io.Writer { return os.Stdout }}
	sink.Register("-", out)
	sink.Register("stdout", out)
	sink.Register("stderr", opener{func() io.Writer { return os.Stderr }})
}

type stdin struct {
	r    io.Reader
	used atomic.Bool
}

func (s *stdin) Partitions(context.Context, string) ([]driver.Partition, error) {
	return []driver.Partition{{URL: "stdin:", Name: "stdin", Size: -1}}, nil
}

func (s *stdin) Open(context.Context, driver.Partition, int64) (io.ReadCloser, error) {
	if s.used.Swap(true) {
		return nil, ErrConsumed
	}
	return io.NopCloser(s.r), nil // without a ReaderAt: standard input may be a pipe
}

type opener struct{ w func() io.Writer }

func (o opener) OpenStore(context.Context, string) (sinkdriver.Store, string, error) {
	s, name := file.Stream(func() (io.WriteCloser, error) { return nopCloser{o.w()}, nil })
	return s, name, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
