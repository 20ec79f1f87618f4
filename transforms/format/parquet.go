package format

import (
	"fmt"
	"io"
	"iter"
	"reflect"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/transforms/event"
)

// WriteParquet writes the batches, all of schema s, as one Parquet file compressed with Snappy. Without
// outs all columns are written. It stops at the first error of the iterator and returns it.
func WriteParquet(w io.Writer, s *event.Schema, outs []Out, batches iter.Seq2[event.Batch, error]) error {
	cols, err := resolve(s, outs, true)
	if err != nil {
		return err
	}
	root := orderedGroup{Group: parquet.Group{}}
	for _, c := range cols {
		node, err := parquetNode(c.field)
		if err != nil {
			return fmt.Errorf("output %q: %w", c.Name, err)
		}
		root.Group[c.Name] = node
		root.names = append(root.names, c.Name)
	}
	out := parquet.NewWriter(w, parquet.NewSchema("event", root), parquet.Compression(&parquet.Snappy),
		parquet.MaxRowsPerRowGroup(1<<18))
	var rows []parquet.Row
	var values []parquet.Value
	for b, err := range batches {
		if err != nil {
			return err
		}
		if err := check(s, &b); err != nil {
			return err
		}
		for from := 0; from < b.N; from += 1024 {
			to := min(from+1024, b.N)
			rows, values = rows[:0], values[:0]
			for row := from; row < to; row++ {
				start := len(values)
				for k := range cols {
					values = appendParquet(values, &cols[k].field, &b.Cols[cols[k].at], row, k)
				}
				rows = append(rows, values[start:len(values):len(values)])
			}
			if _, err := out.WriteRows(rows); err != nil {
				return fmt.Errorf("writing parquet rows: %w", err)
			}
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("closing parquet file: %w", err)
	}
	return nil
}

// orderedGroup keeps columns in the order of the outputs; parquet.Group alone sorts them by name.
type orderedGroup struct {
	parquet.Group
	names []string
}

type orderedField struct {
	parquet.Node
	name string
}

func (f orderedField) Name() string                           { return f.name }
func (f orderedField) Value(base reflect.Value) reflect.Value { return base }

func (g orderedGroup) Fields() []parquet.Field {
	fields := make([]parquet.Field, len(g.names))
	for i, name := range g.names {
		fields[i] = orderedField{g.Group[name], name}
	}
	return fields
}

// GoType is asked by the writer and of no use to rows of values.
func (g orderedGroup) GoType() reflect.Type { return reflect.TypeFor[struct{}]() }

func parquetNode(f event.Field) (parquet.Node, error) {
	switch f.Kind {
	case event.Bool:
		return parquet.Optional(parquet.Leaf(parquet.BooleanType)), nil
	case event.Int:
		return parquet.Optional(parquet.Int(64)), nil
	case event.Decimal:
		return parquet.Optional(parquet.Decimal(int(f.Scale), 18, parquet.Int64Type)), nil
	case event.Float:
		return parquet.Optional(parquet.Leaf(parquet.DoubleType)), nil
	case event.Timestamp:
		return parquet.Optional(parquet.Timestamp(parquet.Microsecond)), nil
	case event.ID, event.String:
		return parquet.Optional(parquet.String()), nil
	case event.Category:
		return parquet.Optional(parquet.Encoded(parquet.String(), &parquet.RLEDictionary)), nil
	case event.List:
		elem, err := parquetNode(event.Field{Kind: f.Elem, Scale: f.Scale})
		if err != nil {
			return nil, err
		}
		return parquet.Optional(parquet.List(elem)), nil
	}
	return nil, fmt.Errorf("no parquet type for %v", f.Kind)
}

func appendParquet(dst []parquet.Value, f *event.Field, c *event.Column, row, at int) []parquet.Value {
	if f.Kind != event.List {
		if c.Null(row) {
			return append(dst, parquet.NullValue().Level(0, 0, at))
		}
		return append(dst, parquetValue(f.Kind, c, row).Level(0, 1, at))
	}
	// Levels of definition: a list, an element, a value.
	from, to := c.Span(row)
	switch {
	case c.Null(row):
		return append(dst, parquet.NullValue().Level(0, 0, at))
	case from == to:
		return append(dst, parquet.NullValue().Level(0, 1, at))
	}
	for k := from; k < to; k++ {
		repeated := min(k-from, 1)
		if c.Elems.Null(k) {
			dst = append(dst, parquet.NullValue().Level(repeated, 2, at))
		} else {
			dst = append(dst, parquetValue(f.Elem, c.Elems, k).Level(repeated, 3, at))
		}
	}
	return dst
}

func parquetValue(k event.Kind, c *event.Column, row int) parquet.Value {
	switch k {
	case event.Bool:
		return parquet.BooleanValue(c.Ints[row] != 0)
	case event.Int, event.Decimal, event.Timestamp:
		return parquet.Int64Value(c.Ints[row])
	case event.Float:
		return parquet.DoubleValue(c.Floats[row])
	case event.ID:
		return parquet.ByteArrayValue(c.AppendID(nil, row))
	}
	return parquet.ByteArrayValue(c.Raw(row))
}
