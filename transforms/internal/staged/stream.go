package staged

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect"
)

// Stream says how a folder that is written without an end is cut into files.
type Stream struct {
	// Roll is the span of event time that a file belongs to; by default a minute.
	Roll time.Duration
	// Bytes is about the largest size of a file; by default 128 MiB.
	Bytes int64
	// Keep is for how long a chunk stays staged after it was published; by default an hour. A job can
	// be restored from no checkpoint that is older.
	Keep time.Duration
}

// Validate reports all that is wrong.
func (s *Stream) Validate() error {
	var errs []error
	if s.Roll < 0 || s.Roll > 0 && s.Roll < time.Second {
		errs = append(errs, fmt.Errorf("stream: files of %v of event time: a second is the least", s.Roll))
	}
	if s.Bytes < 0 {
		errs = append(errs, fmt.Errorf("stream: files of %d bytes", s.Bytes))
	}
	if s.Keep < 0 {
		errs = append(errs, fmt.Errorf("stream: chunks kept for %v", s.Keep))
	}
	return errors.Join(errs...)
}

// CheckStream reports what is wrong with writing files without an end to an address.
func CheckStream(address string, s *Stream) error {
	if !strings.HasSuffix(address, "/") {
		return fmt.Errorf("sink: %s is one file, which a stream without an end never completes: give a folder, %s/, which gets a file every %v, or - for standard output",
			connect.Redact(address), connect.Redact(address), s.roll())
	}
	return s.Validate()
}

func (s *Stream) roll() time.Duration {
	if s.Roll > 0 {
		return s.Roll
	}
	return time.Minute
}
