package decode

import (
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// json decodes a line, which ends in a newline, into row w.n. Where it fails, w.fault says why.
func (w *worker) json(b []byte) bool {
	w.record()
	i := format.SkipSpace(b, 0)
	if b[i] != '{' {
		w.syntax(b, i, "an object")
		return false
	}
	if i = w.object(w.d.root, b, i); i < 0 {
		return false
	}
	if i = format.SkipSpace(b, i); i != len(b)-1 {
		w.syntax(b, i, "the end of the line")
		return false
	}
	return w.complete()
}

// rescue reads id and time of a line that failed, as far as they can be.
func (w *worker) rescue(b []byte) {
	w.lenient = true
	if w.d.changes != nil {
		w.rescueChange(b)
	} else if i := format.SkipSpace(b, 0); b[i] == '{' {
		w.object(w.d.vital, b, i)
	}
	w.lenient = false
}

// syntax reports what isn't JSON.
func (w *worker) syntax(b []byte, i int, want string) int {
	if i >= len(b)-1 {
		w.fail(deadletter.Decode, "record ends at byte %d; want %s", len(b)-1, want)
	} else {
		w.fail(deadletter.Decode, "at byte %d stands %s; want %s", i, shown(b[i:min(len(b)-1, i+16)]), want)
	}
	return -1
}

// object reads the object at b[i], and returns the index behind it, or -1.
func (w *worker) object(n *node, b []byte, i int) int {
	state := &w.nodes[n.at]
	if i = format.SkipSpace(b, i+1); b[i] == '}' {
		return i + 1
	}
	last := 0 // the entry before, plus one
	for {
		k := -1
		if guess := int(state.next[last]); guess < len(n.entries) {
			key := n.entries[guess].key
			if len(b)-i > len(key) && string(b[i:i+len(key)]) == key {
				k = guess
				i += len(key)
			}
		}
		var name []byte
		if k < 0 {
			if b[i] != '"' {
				return w.syntax(b, i, "a key")
			}
			var end int
			if name, end = format.ScanString(b, i, &w.scratch); end < 0 {
				return w.syntax(b, i, "a key")
			}
			if i = format.SkipSpace(b, end); b[i] != ':' {
				return w.syntax(b, i, "a colon")
			}
			i++
			if found, ok := n.index[string(name)]; ok {
				k = found
				state.next[last] = int32(k)
			}
		}
		if b[i] <= ' ' {
			i = format.SkipSpace(b, i)
		}
		if k < 0 {
			if w.d.p.RejectUnknown && !w.lenient {
				w.fail(deadletter.Schema, "unknown field %s; the fields are fixed", shown(name))
				return -1
			}
			i = w.skip(b, i)
		} else {
			e := &n.entries[k]
			if state.seen[k] == w.gen {
				w.fail(deadletter.Decode, "key %q stands twice", e.name)
				return -1
			}
			state.seen[k] = w.gen
			last = k + 1
			if f := e.field; f != nil {
				if w.change.fields != nil {
					f = &w.change.fields[f.at]
				}
				if i = w.value(f, &w.cols[f.at], w.n, b, i); i >= 0 {
					w.have[f.at] = w.gen
					w.got++
				}
			} else {
				i = w.nested(e, b, i)
			}
		}
		if i < 0 {
			return -1
		}
		if b[i] <= ' ' {
			i = format.SkipSpace(b, i)
		}
		switch b[i] {
		case ',':
			i++
			if b[i] <= ' ' {
				i = format.SkipSpace(b, i)
			}
		case '}':
			return i + 1
		default:
			return w.syntax(b, i, "a comma or a closing brace")
		}
	}
}

// nested reads an object on the path of a field. null is an object without keys.
func (w *worker) nested(e *entry, b []byte, i int) int {
	if b[i] == '{' {
		return w.object(e.child, b, i)
	}
	end := w.skip(b, i)
	if end > 0 && b[i] != 'n' {
		w.fail(deadletter.Schema, "field %q is %s; want an object", e.name, shown(b[i:end]))
		return -1
	}
	return end
}

// skip passes over a value of no interest.
func (w *worker) skip(b []byte, i int) int {
	end := format.SkipValue(b, i, 1, &w.scratch)
	switch end {
	case -1:
		return w.syntax(b, i, "a value")
	case -2:
		w.fail(deadletter.Decode, "values nest deeper than %d", format.MaxDepth)
		return -1
	}
	return end
}

// value reads the value at b[i] into a row of the field's column, and returns the index behind it or -1.
func (w *worker) value(f *field, c *builder, row int, b []byte, i int) int {
	switch ch := b[i]; {
	case ch-'0' <= 9 || ch == '-':
		if end := w.quick(f, c, row, b, i); end >= 0 {
			return end
		}
		n, end := format.ScanNumber(b, i)
		if end < 0 || n.Padded {
			return w.syntax(b, i, "a number")
		}
		if !w.number(f, c, row, n, b[i:end]) {
			return -1
		}
		return end
	case ch == '"':
		if f.rfc3339 && len(b)-i > 22 && b[i+21] == '"' { // 2018-04-01T00:00:31Z
			if v, fault := w.times[f.at].Parse(b[i+1 : i+21]); fault == format.OK {
				c.ints[row] = v
				return i + 22
			}
		}
		text, end := format.ScanString(b, i, &w.scratch)
		if end < 0 {
			return w.syntax(b, i, "a string of UTF-8 with its quotes")
		}
		if !w.str(f, c, row, text) {
			return -1
		}
		return end
	case ch == '[' && f.elem != nil:
		return w.list(f, c, row, b, i)
	case ch == '{' && f.strings != wireJSON && (f.Kind == event.Int || f.Kind == event.Decimal || f.Kind == event.Float || f.Kind == event.ID):
		return w.variable(f, c, row, b, i)
	}
	end := w.skip(b, i)
	if end < 0 {
		return -1
	}
	switch ch := b[i]; {
	case ch == 'n':
		if !f.Optional {
			w.fail(deadletter.Schema, "field %q is null; it is required", f.Name)
			return -1
		}
		w.setNull(c, row)
		return end
	case f.Kind == event.Bool && ch == 't':
		c.ints[row] = 1
		return end
	case f.Kind == event.Bool && ch == 'f':
		c.ints[row] = 0
		return end
	}
	w.wrong(deadletter.Schema, f, b[i:end], f.wants())
	return -1
}

func (w *worker) list(f *field, c *builder, row int, b []byte, i int) int {
	e := c.elems
	if i = format.SkipSpace(b, i+1); b[i] == ']' {
		c.ends[row] = uint32(e.rows)
		return i + 1
	}
	for {
		e.room(f.Elem)
		if i = w.value(f.elem, e, e.rows, b, i); i < 0 {
			return -1
		}
		e.rows++
		i = format.SkipSpace(b, i)
		switch b[i] {
		case ',':
			i = format.SkipSpace(b, i+1)
		case ']':
			c.ends[row] = uint32(e.rows)
			return i + 1
		default:
			return w.syntax(b, i, "a comma or a closing bracket")
		}
	}
}
