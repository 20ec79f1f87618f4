package decode

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// Changes say which of a database's changes are events, for the format debezium; no other asks.
type Changes struct {
	// Ops are the operations whose row is an event: create, update, delete, snapshot. Default create and
	// snapshot: each row once, as it came to be. All others are skipped, and counted.
	Ops []string
	// Decimals is the connector's decimal.handling.mode: "precise" or "string" where records have no schema and
	// strings hold decimals. Empty: they don't.
	Decimals string
}

func (c Changes) validate() error {
	var errs []error
	for _, name := range c.Ops {
		if !slices.Contains(format.RowOps(), name) {
			errs = append(errs, fmt.Errorf("unknown op %q: want %s", name, strings.Join(format.RowOps(), ", ")))
		}
	}
	if c.Decimals != "" && c.Decimals != "precise" && c.Decimals != "string" {
		errs = append(errs, fmt.Errorf("unknown form of decimals %q: want precise or string", c.Decimals))
	}
	return errors.Join(errs...)
}

// changes is Changes made ready.
type changes struct {
	ops      []bool // by format.Op
	decimals wire
	// root and vital are as those of the Decoder, which are of the row: fields of the change itself.
	root, vital *node
}

// wire says what strings may hold where a field is a number.
type wire uint8

const (
	wireJSON     wire = iota // nothing: the record is no change
	wirePlain                // nothing
	wireText                 // the number's text
	wireUnscaled             // see format.Meaning
)

func newChanges(c Changes, root, vital *node) *changes {
	out := &changes{ops: make([]bool, format.Message+1), decimals: wirePlain, root: root, vital: vital}
	if len(c.Ops) == 0 {
		c.Ops = []string{format.Create.String(), format.Snapshot.String()}
	}
	for _, name := range c.Ops {
		op, _ := format.ParseOp(name) // validated
		out.ops[op] = true
	}
	switch c.Decimals {
	case "precise":
		out.decimals = wireUnscaled
	case "string":
		out.decimals = wireText
	}
	return out
}

// ofChange gives the keys of a field that stands in the change, beside its rows.
func (f *field) ofChange() ([]string, bool) {
	keys := f.keys()
	return keys[1:], f.Path != "" && keys[0] == "$" && len(keys) > 1
}

// expect says what strings may hold where no schema tells: only the field knows the scale.
func (f *field) expect(w wire) {
	f.strings, f.scale = w, 0
	switch kind := f.kind(); {
	case kind == event.Decimal:
		f.scale = int(f.Scale)
	case w == wireUnscaled && kind != event.Int:
		f.strings = wirePlain
	}
	if f.elem != nil {
		f.elem.expect(w)
	}
}

// kind is that of the field's values, or of their elements.
func (f *field) kind() event.Kind {
	if f.elem != nil {
		return f.Elem
	}
	return f.Kind
}

// mean gives a field the meaning that a schema says it has.
func (f *field) mean(m format.Meaning) {
	switch f.strings = wirePlain; {
	case m.Unscaled:
		f.strings, f.scale = wireUnscaled, m.Scale
	case m.Text:
		f.strings = wireText
	}
	if f.Kind == event.Timestamp && m.Time != "" {
		if f.TimeFormat = m.Time; m.Time == "rfc3339" {
			f.TimeFormat = ""
		}
		f.clock()
	}
	if f.elem != nil {
		e := *f.elem
		e.mean(m)
		f.elem = &e
	}
}

// typed are the fields as a record's schema has them.
func (d *Decoder) typed(schema []byte) ([]field, error) {
	types, err := format.ParseTypes(schema)
	if err != nil {
		return nil, err
	}
	fields := slices.Clone(d.fields)
	for i := range fields {
		keys, ok := fields[i].ofChange()
		if !ok {
			keys = append([]string{"after"}, fields[i].keys()...)
		}
		fields[i].mean(types.At(keys...))
	}
	return fields, nil
}

// change is the record that a worker decodes.
type change struct {
	format.Change
	why    string             // it is none
	fields []field            // as its schema has them, nil without one
	types  map[string][]field // by the schemas that came
}

// maxTypes is how many schemas a worker remembers: about one a table.
const maxTypes = 256

// Skips reports whether a record is a change that [Changes] don't ask for.
func (d *Decoder) Skips(record []byte) bool {
	if d.changes == nil {
		return false
	}
	w := d.workers.Get().(*worker)
	defer d.workers.Put(w)
	w.line = append(append(w.line[:0], record...), '\n')
	return w.skips(w.line)
}

// skips scans a change, and reports whether it is of no interest.
func (w *worker) skips(b []byte) bool {
	c := &w.change
	c.Change, c.why = format.ScanChange(b, &w.scratch)
	c.fields = nil
	return c.why == "" && !w.d.changes.ops[c.Op]
}

// debezium decodes the change that was scanned into row w.n.
func (w *worker) debezium(b []byte) bool {
	w.record()
	c := &w.change
	if c.why != "" {
		w.fail(deadletter.Decode, "%s", c.why)
		return false
	}
	if c.Schema != nil && !w.learn() {
		return false
	}
	row := c.Row()
	if row < 0 {
		w.fail(deadletter.Schema, "the %v has no row; if the database logs none, ALTER TABLE ... REPLICA IDENTITY FULL makes it", c.Op)
		return false
	}
	if b[row] != '{' {
		w.syntax(b, row, "a row")
		return false
	}
	if w.object(w.d.root, b, row) < 0 || !w.around(w.d.changes.root, b) {
		return false
	}
	return w.complete()
}

// around reads what fields ask for beside the row. A change has more than any use case names.
func (w *worker) around(n *node, b []byte) bool {
	if len(n.entries) == 0 {
		return true
	}
	lenient := w.lenient
	w.lenient = true
	end := w.object(n, b, w.change.Payload)
	w.lenient = lenient
	return end > 0
}

// learn looks up what the record's schema says.
func (w *worker) learn() bool {
	c := &w.change
	fields, ok := c.types[string(c.Schema)]
	if !ok {
		var err error
		if fields, err = w.d.typed(c.Schema); err != nil {
			w.fail(deadletter.Decode, "reading its schema: %v", err)
			return false
		}
		if c.types == nil || len(c.types) == maxTypes {
			c.types = map[string][]field{}
		}
		c.types[string(c.Schema)] = fields
	}
	c.fields = fields
	return true
}

// rescueChange reads id and time of a change that failed, as far as they can be.
func (w *worker) rescueChange(b []byte) {
	c := &w.change
	if c.Change, c.why = format.ScanChange(b, &w.scratch); c.why != "" {
		return
	}
	if row := c.Row(); row >= 0 && b[row] == '{' {
		w.object(w.d.vital, b, row)
	}
	w.around(w.d.changes.vital, b)
}

// wired stores a string of a change where it is no plain text; done is false where it is.
func (w *worker) wired(f *field, c *builder, row int, text []byte) (done, good bool) {
	if string(text) == format.Unavailable {
		w.fail(deadletter.Schema, "field %q isn't in the change, as it didn't change and is long; ALTER TABLE ... REPLICA IDENTITY FULL brings it", f.Name)
		return true, false
	}
	number := f.Kind == event.Int || f.Kind == event.Decimal || f.Kind == event.Float
	switch {
	case f.strings == wireUnscaled && (number || f.Kind == event.ID):
		return true, w.unscaled(f, c, row, text, f.scale)
	case !number:
		return false, false
	case f.strings == wireText:
		w.cell = append(w.cell[:0], text...)
		return true, w.numeral(f, c, row, text)
	}
	if v, err := strconv.ParseFloat(string(text), 64); err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
		return true, w.wrong(deadletter.Range, f, text, f.wants())
	}
	return true, w.wrong(deadletter.Schema, f, text, f.wants()+"; if it is a decimal, say of the source whether decimals are precise or string")
}

// variable reads a decimal that brings its scale: {"scale":1,"value":"Dw=="}.
func (w *worker) variable(f *field, c *builder, row int, b []byte, i int) int {
	end := w.skip(b, i)
	if end < 0 {
		return -1
	}
	var v struct {
		Scale *int
		Value *string
	}
	if json.Unmarshal(b[i:end], &v) != nil || v.Scale == nil || v.Value == nil {
		w.wrong(deadletter.Schema, f, b[i:end], f.wants())
		return -1
	}
	if !w.unscaled(f, c, row, []byte(*v.Value), *v.Scale) {
		return -1
	}
	return end
}

func (w *worker) unscaled(f *field, c *builder, row int, text []byte, scale int) bool {
	var ok bool
	if w.cell, ok = format.AppendUnscaled(w.cell[:0], text, scale); !ok {
		return w.wrong(deadletter.Schema, f, text, f.wants()+" in base64, as decimals are precise")
	}
	return w.numeral(f, c, row, text)
}

// numeral stores the number whose text is w.cell; text is what the record has.
func (w *worker) numeral(f *field, c *builder, row int, text []byte) bool {
	w.cell = append(w.cell, '\n')
	n, end := format.ScanNumber(w.cell, 0)
	if end != len(w.cell)-1 {
		return w.noNumber(f, text)
	}
	return w.number(f, c, row, n, w.cell[:end])
}
