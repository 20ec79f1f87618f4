package stdio

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
)

func TestAStreamWritesLines(t *testing.T) {
	var out bytes.Buffer
	o := opener{func() io.Writer { return &out }}
	s, err := o.OpenSender(t.Context(), "-")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`{"a":1}`, `{"a":2}`} {
		if err := s.Send(t.Context(), sinkdriver.Record{Value: []byte(line)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() > 0 {
		t.Errorf("written before the bundle's end: %q", out.String())
	}
	if err := s.Flush(t.Context()); err != nil || out.String() != "{\"a\":1}\n{\"a\":2}\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	long := strings.Repeat("x", 1<<16)
	if err := s.Send(t.Context(), sinkdriver.Record{Value: []byte(long)}, nil); err != nil || !strings.HasSuffix(out.String(), long+"\n") {
		t.Errorf("a full buffer was not written: %v", err)
	}
	if err := (sink.Params{URL: "-", Stream: &sink.Stream{}}).Validate(); err != nil {
		t.Error(err)
	}
}
