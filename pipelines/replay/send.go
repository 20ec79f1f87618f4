package replay

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/reentry"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// Sending hands letters to a stream that runs.
type Sending struct {
	Params Params
	// To is the topic that the stream reads letters from, or a file in the folder that it follows.
	To string

	letters []driver.Partition
}

// NewSending plans the sending of letters to a topic, or to a folder: each time as one file more, which is there
// when it is whole.
func NewSending(ctx context.Context, to string, p Params) (Sending, error) {
	p.Filter.MaxAttempts = cmp.Or(p.Filter.MaxAttempts, DefaultMaxAttempts)
	out := Sending{Params: p, To: to}
	if folder := strings.HasSuffix(to, "/"); !folder && !source.Endless(to) {
		return out, fmt.Errorf("%w: a stream reads letters from a topic or a folder, which ends in /, not from %s", ErrAddress, connect.Redact(to))
	} else if folder && p.Rate > 0 {
		return out, fmt.Errorf("%w: letters come into a folder all at once, so that there is no rate", ErrAddress)
	} else if folder {
		out.To += "letters-" + rand.Text()[:12] + ".jsonl"
	}
	var err error
	out.letters, err = lettersOf(ctx, p.From, "")
	return out, err
}

// lettersOf lists the partitions of letters, which nothing may be written over.
func lettersOf(ctx context.Context, from []string, deadLetters string) ([]driver.Partition, error) {
	if len(from) == 0 {
		return nil, fmt.Errorf("%w: there is nothing to replay from: give the dead letters with --from", ErrAddress)
	}
	parts, err := source.Partitions(ctx, from...)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		if !source.Endless(part.URL) && inside(part.URL, deadLetters) { // a topic keeps what it has
			return nil, fmt.Errorf("%w: dead letters would be written over %s, which is replayed: give another place with --dead-letters", ErrAddress, part.Name)
		}
	}
	return parts, nil
}

// Check looks for a topic that can't be written.
func (p Sending) Check(ctx context.Context) error {
	return deadletter.Check(ctx, deadletter.Params{URL: p.To})
}

// BuildSending adds the sending to s. It panics if the plan is not valid. Lines that are no letters stay where
// they are.
func BuildSending(s beam.Scope, p Sending) {
	deadletter.Write(s, deadletter.Params{URL: p.To}, reentry.Choose(s, p.letters, p.Params.Filter, p.Params.Rate))
}
