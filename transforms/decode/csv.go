package decode

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// header says which field each column of a CSV file is; nil: none.
type header []*field

// parseHeader maps the names in the header line, which may end in a newline.
func (d *Decoder) parseHeader(line []byte) (header, error) {
	line = bytes.TrimPrefix(line, []byte("\ufeff"))
	line = append(bytes.TrimRight(line, "\r\n"), '\n')
	byName := make(map[string]*field, len(d.fields))
	for i := range d.fields {
		byName[d.fields[i].flat()] = &d.fields[i]
	}
	var h header
	var errs []error
	seen := make(map[string]bool)
	var scratch []byte
	for i := 0; ; {
		b, from, to, next, why := cell(line, i, len(line)-1, &scratch)
		if why != "" {
			return nil, fmt.Errorf("%w: csv header: %s", ErrFile, why)
		}
		name := string(b[from:to])
		f := byName[name]
		switch {
		case f == nil && d.p.RejectUnknown:
			errs = append(errs, fmt.Errorf("column %q is unknown", name))
		case f != nil && seen[name]:
			errs = append(errs, fmt.Errorf("column %q stands twice", name))
		}
		seen[name] = true
		h = append(h, f)
		if next < 0 {
			break
		}
		i = next
	}
	for i := range d.fields {
		if f := &d.fields[i]; !f.Optional && !seen[f.flat()] {
			errs = append(errs, fmt.Errorf("no column %q, which field %q requires", f.flat(), f.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: csv header: %w", ErrFile, err)
	}
	return h, nil
}

// cell reads the cell at b[i] of a line that ends at end: it is in[from:to]. next is where the next cell
// begins, -1 if this is the last. why says what is wrong.
func cell(b []byte, i, end int, scratch *[]byte) (in []byte, from, to, next int, why string) {
	if i < end && b[i] == '"' {
		return quoted(b, i, end, scratch)
	}
	for to = i; to < end && b[to] != ','; to++ {
		if b[to] == '"' {
			return nil, 0, 0, 0, fmt.Sprintf("a quote at byte %d inside a bare cell; quote the cell and double the quote", to)
		}
	}
	if to == end {
		return b, i, to, -1, ""
	}
	return b, i, to, to + 1, ""
}

func quoted(b []byte, i, end int, scratch *[]byte) (in []byte, from, to, next int, why string) {
	out := (*scratch)[:0]
	open := i
	for i++; ; i++ {
		if i >= end {
			return nil, 0, 0, 0, fmt.Sprintf("the quote at byte %d isn't closed in this line", open)
		}
		if b[i] == '"' {
			if i++; i >= end || b[i] != '"' {
				break
			}
		}
		out = append(out, b[i])
	}
	if i < end && b[i] != ',' {
		return nil, 0, 0, 0, fmt.Sprintf("byte %d follows a closing quote; want a comma", i)
	}
	out = append(out, '\n') // a stop for scanners
	*scratch = out
	next = i + 1
	if i >= end {
		next = -1
	}
	return out, 0, len(out) - 1, next, ""
}

// csv decodes a line, which ends in a newline, into row w.n.
func (w *worker) csv(h header, b []byte) bool {
	w.record()
	end := len(b) - 1
	if end > 0 && b[end-1] == '\r' {
		end--
	}
	i, k := 0, 0
	for ; i >= 0; k++ {
		if k < len(h) && h[k] != nil {
			f := h[k]
			stop := -1
			if f.rfc3339 {
				stop = w.quickTime(f, b, i)
			} else {
				stop = w.quick(f, &w.cols[f.at], w.n, b, i)
			}
			if stop == end || stop > 0 && b[stop] == ',' {
				w.have[f.at] = w.gen
				w.got++
				if i = stop + 1; stop == end {
					i = -1
				}
				continue
			}
		}
		in, from, to, next, why := cell(b, i, end, &w.scratch)
		if why != "" {
			w.fail(deadletter.Decode, "%s", why)
			return false
		}
		if k >= len(h) {
			w.fail(deadletter.Schema, "more than the %d cells of the header", len(h))
			return false
		}
		if f := h[k]; f != nil {
			null := from == to && (i == end || b[i] != '"' || f.Kind != event.String && f.Kind != event.Category)
			if !null {
				if !w.plain(f, &w.cols[f.at], w.n, in, from, to) {
					return false
				}
				w.have[f.at] = w.gen
				w.got++
			} else if !f.Optional {
				w.fail(deadletter.Schema, "field %q is empty; it is required", f.Name)
				return false
			}
		}
		i = next
	}
	if k < len(h) {
		w.fail(deadletter.Schema, "%d cells; the header has %d", k, len(h))
		return false
	}
	return w.complete()
}

// quickTime reads and stores a time like 2018-04-01T00:00:31Z; -1 for whatever needs more care.
func (w *worker) quickTime(f *field, b []byte, i int) int {
	if len(b)-i <= 20 {
		return -1
	}
	v, fault := w.times[f.at].Parse(b[i : i+20])
	if fault != format.OK {
		return -1
	}
	w.cols[f.at].ints[w.n] = v
	return i + 20
}

// rescueCSV reads id and time of a line that failed, as far as they can be.
func (w *worker) rescueCSV(h header, b []byte) {
	end := len(b) - 1
	for i, k := 0, 0; i >= 0 && k < len(h); k++ {
		in, from, to, next, why := cell(b, i, end, &w.scratch)
		if why != "" {
			return
		}
		if f := h[k]; f != nil && (f.at == w.d.schema.ID || f.at == w.d.schema.Time) && from < to &&
			w.plain(f, &w.cols[f.at], w.n, in, from, to) {
			w.have[f.at] = w.gen
		}
		i = next
	}
}
