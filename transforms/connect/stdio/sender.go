package stdio

import (
	"context"
	"io"
	"sync"

	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
)

// OpenSender writes records as lines, when their bundle ends: for streams, which never complete.
func (o opener) OpenSender(context.Context, string) (sinkdriver.Sender, error) {
	return &sender{w: o.w()}, nil
}

// sender gathers lines, and writes whole ones only.
type sender struct {
	w     io.Writer
	lines []byte
}

// turn keeps the lines of several senders apart.
var turn sync.Mutex

func (s *sender) Send(ctx context.Context, r sinkdriver.Record, _ func(error)) error {
	s.lines = append(append(s.lines, r.Value...), '\n')
	if len(s.lines) >= 1<<16 {
		return s.Flush(ctx)
	}
	return nil
}

func (s *sender) Flush(context.Context) error {
	lines := s.lines
	s.lines = s.lines[:0]
	if len(lines) == 0 {
		return nil
	}
	turn.Lock()
	defer turn.Unlock()
	_, err := s.w.Write(lines)
	return err
}

func (s *sender) Close() error { return nil }
