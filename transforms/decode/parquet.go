package decode

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	pformat "github.com/parquet-go/parquet-go/format"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// ReadParquet decodes a Parquet file. Columns are found by the fields' paths. A letter's place is the
// row's number, from 0 as Offset and from 1 as Line, and its Original the row as JSON, since a row has
// no bytes of its own. Of src Offset and End count rows here: those from Offset on are read, to End if
// it is above 0; Header has no meaning.
//
// Columns are taken by physical type: integers for int, id, decimal (with the column's own scale),
// float, bool (0 and 1) and timestamp (with the column's unit or the field's unix format, else
// milliseconds are not guessed: it is an error); floating point for float and, by their shortest text,
// decimal; byte arrays for id, category, string and, as text, timestamp. Anything else fails the file.
func (d *Decoder) ReadParquet(r io.ReaderAt, size int64, src Source, emit func(event.Batch) error, reject func(deadletter.Letter) error) (stats Stats, err error) {
	f, columns, err := d.openParquet(r, size, src.Name)
	if err != nil {
		return stats, err
	}
	w := d.workers.Get().(*worker)
	defer d.workers.Put(w)
	rows := make([]parquet.Row, 256)
	number := int64(0)
	flush := func() error {
		if w.n == 0 {
			return nil
		}
		b := w.finish()
		w.begin(d.p.BatchRows)
		return emit(b)
	}
	w.begin(d.p.BatchRows)
	for g, group := range f.RowGroups() {
		if src.End > 0 && number >= src.End {
			break
		}
		if number+group.NumRows() <= src.Offset {
			number += group.NumRows()
			continue
		}
		reader := group.Rows()
		err := func() error {
			if skip := src.Offset - number; skip > 0 {
				if err := reader.SeekToRow(skip); err != nil {
					return fmt.Errorf("reading %s, row group %d: %w: going to row %d: %w", src.Name, g, ErrFile, src.Offset, err)
				}
				number = src.Offset
			}
			for src.End <= 0 || number < src.End {
				room := rows
				if src.End > 0 {
					room = rows[:min(int64(len(rows)), src.End-number)]
				}
				n, readErr := readRows(reader, room)
				for _, row := range rows[:n] {
					if w.parquetRow(columns, row) {
						stats.Rows++
					} else {
						stats.Rejected++
						why := w.fault
						w.undo()
						w.vitals(columns, row)
						w.fault = why
						l := w.letter(original(columns, row), deadletter.Place{Source: src.Name, Offset: number, Line: number + 1})
						w.undo()
						if err := reject(l); err != nil {
							return err
						}
					}
					number++
					if w.n == d.p.BatchRows {
						if err := flush(); err != nil {
							return err
						}
					}
				}
				if readErr == io.EOF {
					return nil
				}
				if readErr != nil {
					return fmt.Errorf("reading %s, row group %d: %w", src.Name, g, readErr)
				}
			}
			return nil
		}()
		if err = errors.Join(err, reader.Close()); err != nil {
			return stats, err
		}
	}
	stats.Lines, stats.Bytes = stats.Rows+stats.Rejected, size
	if total := f.NumRows(); stats.Lines < total {
		stats.Bytes = int64(float64(size) / float64(total) * float64(stats.Lines))
	}
	err = flush()
	w.release()
	return stats, err
}

// readRows turns a panic over corrupt pages into an error.
func readRows(r parquet.Rows, rows []parquet.Row) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("%w: corrupt parquet pages: %v", ErrFile, p)
		}
	}()
	return r.ReadRows(rows)
}

// pcolumn is a leaf column of the file that a field is read from.
type pcolumn struct {
	f     *field
	at    int // leaf number
	kind  parquet.Kind
	scale uint8 // of integers: decimal places
	unit  uint8 // of timestamps: decimal places to the microsecond
	nanos bool
	bare  bool // an integer that the field says the time format of
}

func (d *Decoder) openParquet(r io.ReaderAt, size int64, name string) (f *parquet.File, columns []pcolumn, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening %s: %w: corrupt parquet file: %v", name, ErrFile, p)
		}
	}()
	if f, err = parquet.OpenFile(r, size, parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true)); err != nil {
		return nil, nil, fmt.Errorf("opening %s as parquet: %w: %w", name, ErrFile, err)
	}
	leaves := map[string]parquet.LeafColumn{}
	for _, path := range f.Schema().Columns() {
		leaf, _ := f.Schema().Lookup(path...)
		key := strings.Join(path, ".")
		for _, suffix := range []string{".list.element", ".list.item", ".array"} { // as writers name a list's elements
			key = strings.TrimSuffix(key, suffix)
		}
		leaves[key] = leaf
	}
	var errs []error
	used := map[string]bool{}
	for i := range d.fields {
		fd := &d.fields[i]
		leaf, ok := leaves[fd.flat()]
		used[fd.flat()] = true
		if !ok {
			if !fd.Optional {
				errs = append(errs, fmt.Errorf("no column %q, which field %q requires", fd.flat(), fd.Name))
			}
			continue
		}
		c, err := column(fd, leaf)
		if err != nil {
			errs = append(errs, fmt.Errorf("field %q: %w", fd.Name, err))
			continue
		}
		columns = append(columns, c)
	}
	if d.p.RejectUnknown {
		for _, path := range f.Schema().Columns() {
			if key := strings.Join(path, "."); !used[key] && leaves[key].Node != nil {
				errs = append(errs, fmt.Errorf("column %q is unknown", key))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w: %w", name, ErrFile, err)
	}
	return f, columns, nil
}

func column(f *field, leaf parquet.LeafColumn) (pcolumn, error) {
	c := pcolumn{f: f, at: leaf.ColumnIndex, kind: leaf.Node.Type().Kind()}
	scalar := f
	if f.elem != nil {
		scalar = f.elem
	}
	if (leaf.MaxRepetitionLevel > 0) != (f.elem != nil) {
		return c, fmt.Errorf("the column is %s; want %s", leaf.Node.Type(), f.wants())
	}
	var logical any
	if l := leaf.Node.Type().LogicalType(); l != nil {
		logical = l.Value
	}
	integer := c.kind == parquet.Int32 || c.kind == parquet.Int64
	if l, ok := logical.(*pformat.DecimalType); ok {
		c.scale = uint8(min(max(l.Scale, 0), 38))
	}
	stamp, isStamp := logical.(*pformat.TimestampType)
	_, isDate := logical.(*pformat.DateType)
	ok := false
	switch scalar.Kind {
	case event.Bool:
		ok = c.kind == parquet.Boolean || integer
	case event.Int, event.ID:
		ok = integer && c.scale == 0 || c.kind == parquet.ByteArray && scalar.Kind == event.ID
	case event.Decimal, event.Float:
		ok = integer || c.kind == parquet.Double || c.kind == parquet.Float
	case event.Category, event.String:
		ok = c.kind == parquet.ByteArray
	case event.Timestamp:
		switch {
		case c.kind == parquet.ByteArray:
			ok = !scalar.numeric
		case integer && isStamp:
			ok = true
			switch stamp.Unit.Value.(type) {
			case *pformat.MilliSeconds:
				c.unit = 3
			case *pformat.NanoSeconds:
				c.nanos = true
			}
		case integer && isDate:
			return c, errors.New("the column is a date; want a timestamp")
		case integer && scalar.numeric:
			ok, c.bare = true, true
		case integer:
			return c, errors.New("the column is a bare integer; write it as a timestamp or name its unit, as unix_ms")
		case (c.kind == parquet.Double || c.kind == parquet.Float) && scalar.numeric:
			ok = true
		}
	}
	if !ok {
		return c, fmt.Errorf("the column is %s; want %s", leaf.Node.Type(), f.wants())
	}
	return c, nil
}

func (w *worker) parquetRow(columns []pcolumn, row parquet.Row) bool {
	w.record()
	at := 0
	for k := range columns {
		c := &columns[k]
		values := leafValues(row, c.at, &at)
		b := &w.cols[c.f.at]
		if c.f.elem != nil {
			if !w.parquetList(c, b, values) {
				return false
			}
		} else if len(values) == 0 || values[0].IsNull() {
			if !c.f.Optional {
				w.fail(deadletter.Schema, "field %q is null; it is required", c.f.Name)
				return false
			}
			w.setNull(b, w.n)
		} else if !w.parquetValue(c, c.f, b, w.n, values[0]) {
			return false
		}
		w.have[c.f.at] = w.gen
		w.got++
	}
	return w.complete()
}

// leafValues finds the values of a leaf; rows hold them in order of leaves. at is where to look first.
func leafValues(row parquet.Row, leaf int, at *int) []parquet.Value {
	i := *at
	if i >= len(row) || row[i].Column() > leaf {
		i = 0
	}
	for i < len(row) && row[i].Column() < leaf {
		i++
	}
	end := i
	for end < len(row) && row[end].Column() == leaf {
		end++
	}
	*at = end
	return row[i:end]
}

func (w *worker) parquetList(c *pcolumn, b *builder, values []parquet.Value) bool {
	e := b.elems
	if len(values) == 1 && values[0].IsNull() { // an empty list, or none
		values = nil
	}
	for _, v := range values {
		if v.IsNull() {
			w.fail(deadletter.Schema, "field %q has a null in its list", c.f.Name)
			return false
		}
		e.room(c.f.Elem)
		if !w.parquetValue(c, c.f.elem, e, e.rows, v) {
			return false
		}
		e.rows++
	}
	b.ends[w.n] = uint32(e.rows)
	return true
}

func (w *worker) parquetValue(c *pcolumn, f *field, b *builder, row int, v parquet.Value) bool {
	var buf [40]byte
	switch c.kind {
	case parquet.Boolean:
		b.ints[row] = 0
		if v.Boolean() {
			b.ints[row] = 1
		}
		return true
	case parquet.Int32, parquet.Int64:
		i := v.Int64()
		if c.kind == parquet.Int32 {
			i = int64(v.Int32())
		}
		n := format.Number{Mant: uint64(i), Neg: i < 0, Int: c.scale == 0, Exp: -int32(c.scale)}
		if i < 0 {
			n.Mant = -n.Mant
		}
		text := format.AppendDecimal(buf[:0], i, c.scale)
		if f.Kind != event.Timestamp || c.bare {
			return w.number(f, b, row, n, text)
		}
		if c.nanos {
			n.Exp = -3
		}
		us, fault := n.Decimal(c.unit, text)
		if fault == format.Inexact && n.Neg {
			us--
		}
		if fault == format.Overflow || us < format.MinTime || us > format.MaxTime {
			return w.wrong(deadletter.Range, f, text, "a time in the years 0 to 9999")
		}
		b.ints[row] = us
		return true
	case parquet.Double, parquet.Float:
		x, bits := v.Double(), 64
		if c.kind == parquet.Float {
			x, bits = float64(v.Float()), 32
		}
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return w.wrong(deadletter.Range, f, strconv.AppendFloat(buf[:0], x, 'g', -1, 64), f.wants())
		}
		if f.Kind == event.Float {
			if x < f.flo || x > f.fhi {
				return w.outside(f, strconv.AppendFloat(buf[:0], x, 'g', -1, 64))
			}
			b.floats[row] = x
			return true
		}
		text := append(strconv.AppendFloat(buf[:0], x, 'e', -1, bits), '\n')
		n, end := format.ScanNumber(text, 0)
		return w.number(f, b, row, n, text[:end])
	}
	text := v.ByteArray()
	if !utf8.Valid(text) {
		return w.wrong(deadletter.Decode, f, text, "UTF-8")
	}
	return w.str(f, b, row, text)
}

// vitals reads id and time of a row that failed.
func (w *worker) vitals(columns []pcolumn, row parquet.Row) {
	w.record()
	at := 0
	for k := range columns {
		c := &columns[k]
		if c.f.at != w.d.schema.ID && c.f.at != w.d.schema.Time {
			continue
		}
		values := leafValues(row, c.at, &at)
		if len(values) == 1 && !values[0].IsNull() && w.parquetValue(c, c.f, &w.cols[c.f.at], w.n, values[0]) {
			w.have[c.f.at] = w.gen
		}
	}
}

// original writes the values of a row that fields read as JSON.
func original(columns []pcolumn, row parquet.Row) []byte {
	dst := []byte{'{'}
	at := 0
	for k := range columns {
		c := &columns[k]
		if k > 0 {
			dst = append(dst, ',')
		}
		dst = append(format.AppendJSON(dst, []byte(c.f.flat())), ':')
		values := leafValues(row, c.at, &at)
		list := c.f.elem != nil
		if list {
			dst = append(dst, '[')
		}
		for j, v := range values {
			if j > 0 {
				dst = append(dst, ',')
			}
			switch {
			case v.IsNull() && list:
			case v.IsNull():
				dst = append(dst, "null"...)
			case c.kind == parquet.ByteArray, strings.ContainsAny(v.String(), "NI"): // NaN, Inf
				dst = format.AppendJSON(dst, []byte(v.String()))
			case c.kind == parquet.Int32:
				dst = format.AppendDecimal(dst, int64(v.Int32()), c.scale)
			case c.kind == parquet.Int64:
				dst = format.AppendDecimal(dst, v.Int64(), c.scale)
			default:
				dst = append(dst, v.String()...)
			}
		}
		if list {
			dst = append(dst, ']')
		}
	}
	return append(dst, '}')
}
