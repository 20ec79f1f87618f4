package skew

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// Report is what a comparison has found.
type Report struct {
	Fingerprint string  `json:"fingerprint,omitempty"`
	Tolerance   float64 `json:"tolerance"`
	// Logged rows are Compared or Missing: those whose event is not in the history. Unreadable rows of
	// the log are beside them.
	Logged     int64     `json:"logged"`
	Compared   int64     `json:"compared"`
	Missing    int64     `json:"missing"`
	Unreadable int64     `json:"unreadable"`
	Features   []Feature `json:"features"`
}

// Feature is what was found of a feature.
type Feature struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
	// Differ counts the rows whose values are not the same to the bit, Beyond those of them that differ by
	// more than the tolerance; Null counts those where one of the two is null, which no tolerance covers.
	Differ int64 `json:"differ"`
	Beyond int64 `json:"beyond"`
	Null   int64 `json:"null"`
	// Absolute and Relative are the largest differences of numbers; a relative one is a part of the
	// larger of the two.
	Absolute float64 `json:"absolute"`
	Relative float64 `json:"relative"`
	// First are the first rows that differ, by event time and id.
	First []Example `json:"first,omitempty"`
}

// Example is a row that differs.
type Example struct {
	ID       string `json:"id"`
	Time     string `json:"time"`
	Logged   string `json:"logged"`
	Computed string `json:"computed"`

	// At is Time in microseconds.
	At int64 `json:"at_us"`
}

const examples = 3

// Beyond lists the features that differ by more than the tolerance.
func (r Report) Beyond() []string {
	var names []string
	for _, f := range r.Features {
		if f.Beyond > 0 {
			names = append(names, f.Name)
		}
	}
	return names
}

// add adds the report of other rows.
func (r *Report) add(o Report) {
	r.Tolerance = max(r.Tolerance, o.Tolerance)
	r.Logged += o.Logged
	r.Compared += o.Compared
	r.Missing += o.Missing
	r.Unreadable += o.Unreadable
	if len(r.Features) == 0 {
		r.Features = o.Features
		return
	}
	for i, f := range o.Features {
		sum := &r.Features[i]
		sum.Rows += f.Rows
		sum.Differ += f.Differ
		sum.Beyond += f.Beyond
		sum.Null += f.Null
		sum.Absolute, sum.Relative = max(sum.Absolute, f.Absolute), max(sum.Relative, f.Relative)
		sum.keep(f.First...)
	}
}

func (f *Feature) keep(more ...Example) {
	f.First = append(f.First, more...)
	slices.SortFunc(f.First, func(a, b Example) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID))
	})
	f.First = f.First[:min(len(f.First), examples)]
}

// compare joins rows of a log (id, time, fingerprint, features) to rows of the history (id, time,
// features).
func compare(names []string, tolerance float64, logged, computed []event.Batch) Report {
	r := Report{Tolerance: tolerance, Features: make([]Feature, len(names))}
	for i, n := range names {
		r.Features[i].Name = n
	}
	type place struct{ batch, row int }
	at := map[string]place{}
	var key []byte
	keyOf := func(b *event.Batch, row int) []byte {
		key = binary.LittleEndian.AppendUint64(key[:0], uint64(b.Times()[row]))
		return b.IDs().AppendID(key, row)
	}
	for i := range computed {
		for row := range computed[i].N {
			at[string(keyOf(&computed[i], row))] = place{i, row}
		}
	}
	for i := range logged {
		l := &logged[i]
		r.Logged += int64(l.N)
		for row := range l.N {
			p, ok := at[string(keyOf(l, row))]
			if !ok {
				r.Missing++
				continue
			}
			r.Compared++
			c := &computed[p.batch]
			for k := range names {
				r.Features[k].compare(l, row, k+3, c, p.row, k+2, tolerance)
			}
		}
	}
	return r
}

// compare compares a value of column lc of the log with one of column cc of the history.
func (f *Feature) compare(l *event.Batch, row, lc int, c *event.Batch, crow, cc int, tolerance float64) {
	f.Rows++
	field, a, b := &l.Schema.Fields[lc], &l.Cols[lc], &c.Cols[cc]
	na, nb := null(field, a, row), null(field, b, crow)
	switch {
	case na && nb:
		return
	case na || nb:
		f.Null++
		f.Beyond++
	default:
		abs, rel, same := differ(field, a, row, b, crow)
		if same {
			return
		}
		f.Absolute, f.Relative = max(f.Absolute, abs), max(f.Relative, rel)
		if rel > tolerance {
			f.Beyond++
		}
	}
	f.Differ++
	if t := l.Times()[row]; len(f.First) < examples || t <= f.First[len(f.First)-1].At {
		f.keep(Example{
			ID: string(l.IDs().AppendID(nil, row)), Time: string(format.AppendTime(nil, t)), At: t,
			Logged: text(field, a, row), Computed: text(field, b, crow),
		})
	}
}

// null takes an empty list for null: Parquet does not tell them apart.
func null(f *event.Field, c *event.Column, row int) bool {
	if c.Null(row) {
		return true
	}
	if f.Kind != event.List {
		return false
	}
	from, to := c.Span(row)
	return from == to
}

// differ compares two values. What is no number differs wholly: by 1.
func differ(f *event.Field, a *event.Column, i int, b *event.Column, j int) (abs, rel float64, same bool) {
	var x, y float64
	switch f.Kind {
	case event.Float:
		x, y = a.Floats[i], b.Floats[j]
		same = x == y
	case event.Bool, event.Int, event.Decimal, event.Timestamp:
		x, y = float64(a.Ints[i]), float64(b.Ints[j])
		if f.Kind == event.Decimal {
			x, y = x/math.Pow10(int(f.Scale)), y/math.Pow10(int(f.Scale))
		}
		same = a.Ints[i] == b.Ints[j]
	case event.List:
		return 0, 1, sameList(f, a, i, b, j)
	default:
		return 0, 1, bytes.Equal(a.AppendID(nil, i), b.AppendID(nil, j))
	}
	abs = min(math.Abs(x-y), math.MaxFloat64) // JSON has no infinity
	if most := max(math.Abs(x), math.Abs(y)); most > 0 {
		rel = math.Abs(x/most - y/most)
		if abs < math.MaxFloat64 {
			rel = abs / most // the same, with one rounding
		}
	}
	return abs, rel, same
}

func sameList(f *event.Field, a *event.Column, i int, b *event.Column, j int) bool {
	from, to := a.Span(i)
	start, end := b.Span(j)
	if to-from != end-start {
		return false
	}
	elem := event.Field{Kind: f.Elem, Scale: f.Scale}
	for k := range to - from {
		if a.Elems.Null(from+k) != b.Elems.Null(start+k) {
			return false
		}
		if _, _, same := differ(&elem, a.Elems, from+k, b.Elems, start+k); !same {
			return false
		}
	}
	return true
}

// text is a value for people.
func text(f *event.Field, c *event.Column, row int) string {
	if null(f, c, row) {
		return "null"
	}
	switch f.Kind {
	case event.Float:
		return strconv.FormatFloat(c.Floats[row], 'g', -1, 64)
	case event.Bool, event.Int:
		return strconv.FormatInt(c.Ints[row], 10)
	case event.Decimal:
		return string(format.AppendDecimal(nil, c.Ints[row], f.Scale))
	case event.Timestamp:
		return string(format.AppendTime(nil, c.Ints[row]))
	case event.List:
		elem := event.Field{Kind: f.Elem, Scale: f.Scale}
		var b bytes.Buffer
		from, to := c.Span(row)
		for k := from; k < to; k++ {
			if k > from {
				b.WriteByte(' ')
			}
			b.WriteString(text(&elem, c.Elems, k))
		}
		return "[" + b.String() + "]"
	}
	return string(c.AppendID(nil, row))
}

// Print writes the report as a table, and the first rows that differ below it.
func (r Report) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "feature\trows\tdiffer\tbeyond\tnull\tabsolute\trelative\t")
	for _, f := range r.Features {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%.4g\t%.4g\t\n", f.Name, f.Rows, f.Differ, f.Beyond, f.Null, f.Absolute, f.Relative)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, f := range r.Features {
		for _, e := range f.First {
			fmt.Fprintf(w, "%s of %s at %s: logged %s, history gives %s\n", f.Name, e.ID, e.Time, e.Logged, e.Computed)
		}
	}
	_, err := fmt.Fprintf(w, "%d rows logged, %d compared, %d not in the history, %d unreadable; features %s\n", r.Logged, r.Compared, r.Missing, r.Unreadable, r.Fingerprint)
	return err
}
