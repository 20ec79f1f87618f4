package format

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace-ml/millrace/transforms/event"
)

// Out is one output value of a record.
type Out struct {
	// Name is its key; Column is the column it comes from, Name if empty.
	Name   string
	Column string
	// Object is the JSON object it stands in, "" for the record itself. Consecutive outs of the same
	// object share it. CSV and Parquet have no objects: there the Name alone counts.
	Object string
	// Number writes a bool as 1 or 0, as models and tables of features want it.
	Number bool
}

// Encoder writes batches as text records. It may be used by several goroutines at once.
type Encoder interface {
	// Header is what comes before the first record of a file: CSV's line of names; else nothing.
	Header() []byte
	// Append appends a record a row, each ending in a newline.
	Append(dst []byte, b event.Batch) ([]byte, error)
}

// NewEncoder returns the encoder of a text format, "json" or "csv", for batches of schema s. Without
// outs all columns are written.
func NewEncoder(kind string, s *event.Schema, outs []Out) (Encoder, error) {
	cols, err := resolve(s, outs, kind != "json")
	if err != nil {
		return nil, err
	}
	switch kind {
	case "json":
		return newJSONEncoder(s, cols), nil
	case "csv":
		return &csvEncoder{s, cols}, nil
	case "parquet":
		return nil, errors.New(`format "parquet" is no text format: use WriteParquet`)
	}
	return nil, fmt.Errorf("unknown format %q: want json, csv or parquet", kind)
}

// column is an output with the place and field it comes from.
type column struct {
	Out
	at     int
	field  event.Field
	before []byte // JSON: what stands between the value before and this one
}

func resolve(s *event.Schema, outs []Out, flat bool) ([]column, error) {
	if len(outs) == 0 {
		for _, f := range s.Fields {
			outs = append(outs, Out{Name: f.Name})
		}
	}
	cols := make([]column, 0, len(outs))
	seen := make(map[[2]string]bool, len(outs))
	var errs []error
	object := ""
	for _, o := range outs {
		from := o.Column
		if from == "" {
			from = o.Name
		}
		at := s.Index(from)
		key := [2]string{o.Object, o.Name}
		if flat {
			key[0] = ""
		}
		reopened := o.Object != "" && o.Object != object && seen[[2]string{"", o.Object}]
		switch {
		case o.Name == "":
			errs = append(errs, fmt.Errorf("output of column %q has no name", o.Column))
		case at < 0:
			errs = append(errs, fmt.Errorf("output %q: no column %q", o.Name, from))
		case seen[key]:
			errs = append(errs, fmt.Errorf("output %q stands twice", o.Name))
		case !flat && reopened:
			errs = append(errs, fmt.Errorf("output %q: object %q stands twice, keep its outputs together", o.Name, o.Object))
		default:
			field := s.Fields[at]
			if o.Number && field.Kind == event.Bool {
				field.Kind = event.Int
			}
			cols = append(cols, column{Out: o, at: at, field: field})
		}
		seen[key] = true
		if o.Object != "" && !flat {
			seen[[2]string{"", o.Object}] = true
		}
		object = o.Object
	}
	return cols, errors.Join(errs...)
}

func check(want *event.Schema, b *event.Batch) error {
	if !want.Equal(b.Schema) {
		return fmt.Errorf("%w: encoder of %v got a batch of %v", event.ErrSchema, want, b.Schema)
	}
	return nil
}

type jsonEncoder struct {
	schema *event.Schema
	cols   []column
	after  []byte
}

func newJSONEncoder(s *event.Schema, cols []column) *jsonEncoder {
	e := &jsonEncoder{schema: s, cols: cols}
	glue, object := []byte{'{'}, ""
	for i := range cols {
		c := &cols[i]
		if c.Object != object {
			if object != "" {
				glue = append(glue, '}')
			}
			if i > 0 {
				glue = append(glue, ',')
			}
			if c.Object != "" {
				glue = append(AppendJSON(glue, []byte(c.Object)), ':', '{')
			}
			object = c.Object
		} else if i > 0 {
			glue = append(glue, ',')
		}
		glue = append(AppendJSON(glue, []byte(c.Name)), ':')
		c.before, glue = glue, nil
	}
	if object != "" {
		glue = append(glue, '}')
	}
	e.after = append(glue, '}', '\n')
	return e
}

func (e *jsonEncoder) Header() []byte { return nil }

func (e *jsonEncoder) Append(dst []byte, b event.Batch) ([]byte, error) {
	if err := check(e.schema, &b); err != nil {
		return dst, err
	}
	for row := range b.N {
		for i := range e.cols {
			c := &e.cols[i]
			dst = append(dst, c.before...)
			col := &b.Cols[c.at]
			if col.Nulls != nil && col.Null(row) {
				dst = append(dst, "null"...)
				continue
			}
			dst = appendJSONValue(dst, &c.field, col, row)
		}
		dst = append(dst, e.after...)
	}
	return dst, nil
}

func appendJSONValue(dst []byte, f *event.Field, c *event.Column, row int) []byte {
	switch f.Kind {
	case event.Float:
		return AppendFloat(dst, c.Floats[row])
	case event.Int:
		return strconv.AppendInt(dst, c.Ints[row], 10)
	case event.Bool:
		return strconv.AppendBool(dst, c.Ints[row] != 0)
	case event.Decimal:
		return AppendDecimal(dst, c.Ints[row], f.Scale)
	case event.Timestamp:
		return append(AppendTime(append(dst, '"'), c.Ints[row]), '"')
	case event.ID:
		if c.Ints != nil {
			return strconv.AppendInt(dst, c.Ints[row], 10)
		}
		raw := c.Raw(row)
		if _, ok := event.CanonicalInt(raw); ok {
			return append(dst, raw...)
		}
		return AppendJSON(dst, raw)
	case event.List:
		dst = append(dst, '[')
		elem := event.Field{Kind: f.Elem, Scale: f.Scale}
		from, to := c.Span(row)
		for k := from; k < to; k++ {
			if k > from {
				dst = append(dst, ',')
			}
			if c.Elems.Null(k) {
				dst = append(dst, "null"...)
				continue
			}
			dst = appendJSONValue(dst, &elem, c.Elems, k)
		}
		return append(dst, ']')
	}
	return AppendJSON(dst, c.Raw(row))
}

type csvEncoder struct {
	schema *event.Schema
	cols   []column
}

func (e *csvEncoder) Header() []byte {
	var dst []byte
	for i, c := range e.cols {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendCell(dst, []byte(c.Name))
	}
	return append(dst, '\n')
}

func (e *csvEncoder) Append(dst []byte, b event.Batch) ([]byte, error) {
	if err := check(e.schema, &b); err != nil {
		return dst, err
	}
	for row := range b.N {
		for i := range e.cols {
			if i > 0 {
				dst = append(dst, ',')
			}
			c := &e.cols[i]
			col := &b.Cols[c.at]
			if col.Null(row) {
				continue
			}
			switch c.field.Kind {
			case event.Timestamp:
				dst = AppendTime(dst, col.Ints[row])
			case event.ID:
				if col.Ints != nil {
					dst = strconv.AppendInt(dst, col.Ints[row], 10)
				} else {
					dst = appendCell(dst, col.Raw(row))
				}
			case event.Category, event.String:
				dst = appendCell(dst, col.Raw(row))
			case event.List:
				dst = appendCell(dst, appendJSONValue(nil, &c.field, col, row))
			default:
				dst = appendJSONValue(dst, &c.field, col, row)
			}
		}
		dst = append(dst, '\n')
	}
	return dst, nil
}

// appendCell quotes as RFC 4180 asks, and the empty string, which would be null without.
func appendCell(dst, s []byte) []byte {
	if len(s) > 0 && bytes.IndexAny(s, ",\"\r\n") < 0 {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	for _, c := range s {
		if c == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}
