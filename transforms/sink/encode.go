package sink

import (
	"fmt"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
)

// encoder is compiled for the schema that was seen last.
type encoder struct {
	params Params
	kind   string
	gzip   bool

	schema *event.Schema
	text   format.Encoder // nil for parquet
	head   []byte
	when   *expr.Program
}

func (e *encoder) wrap(err error) error {
	return fmt.Errorf("encoding for sink %s: %w", connect.Redact(e.params.URL), err)
}

// use compiles for a schema and reports whether that was needed.
func (e *encoder) use(s *event.Schema) (fresh bool, err error) {
	if e.schema == s {
		return false, nil
	}
	if e.schema.Equal(s) {
		e.schema = s
		return false, nil
	}
	if e.schema != nil && e.kind != "json" && len(e.params.Outs) == 0 {
		return false, e.wrap(fmt.Errorf("batches of several schemas need outs: %v and %v", e.schema, s))
	}
	if e.kind == "parquet" {
		_, err = format.NewEncoder("csv", s, e.params.Outs) // finds missing columns early
	} else {
		e.text, err = format.NewEncoder(e.kind, s, e.params.Outs)
	}
	if err != nil {
		return false, e.wrap(err)
	}
	if e.params.When != "" {
		if e.when, err = expr.Compile(e.params.When, s); err != nil {
			return false, fmt.Errorf("compiling the sink's when: %w", err)
		}
		if e.when.Kind() != event.Bool {
			return false, fmt.Errorf("compiling the sink's when: %q is a %v, not true or false", e.params.When, e.when.Kind())
		}
	}
	e.head = nil
	if e.text != nil {
		e.head = e.text.Header()
		if e.gzip {
			e.head = staged.Gzip(e.head)
		}
	}
	e.schema = s
	return true, nil
}

// keep leaves out the rows for which when does not hold.
func keep(b event.Batch, when *expr.Program) (event.Batch, error) {
	if when == nil {
		return b, nil
	}
	holds, err := when.Eval(&b)
	if err != nil {
		return b, fmt.Errorf("evaluating the sink's when: %w", err)
	}
	rows := make([]int32, 0, b.N)
	for i := range b.N {
		if !holds.Null(i) && holds.Ints[i] != 0 {
			rows = append(rows, int32(i))
		}
	}
	if len(rows) < b.N {
		b = b.Gather(rows)
	}
	return b, nil
}
