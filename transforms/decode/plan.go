package decode

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// timeUnits gives the decimal places from a unit of time to the microsecond.
var timeUnits = map[string]uint8{"unix_s": 6, "unix_ms": 3, "unix_us": 0, "unix_ns": 0, "unix_days": 6, "step": 6}

// Decoder reads records. It may be used by several goroutines at once.
type Decoder struct {
	p       Params
	schema  *event.Schema
	fields  []field
	root    *node    // all fields
	vital   *node    // those of the id and the time, to name a bad record
	changes *changes // nil if records are no changes of a database
	idParts []int    // of a compound id
	workers sync.Pool
}

// field is a Field made ready.
type field struct {
	Field
	at       int // its column
	lo, hi   int64
	flo, fhi float64
	enum     map[string]bool
	pattern  *regexp.Regexp
	quick    event.Kind // Kind, if worker.quick may try
	rfc3339  bool
	numeric  bool // a timestamp that is a number
	whole    bool // and an integer
	unit     uint8
	strings  wire
	scale    int // of wireUnscaled
	location *time.Location
	elem     *field
}

// node is an object of the JSON record, with the keys that fields ask for.
type node struct {
	entries []entry
	index   map[string]int
	at      int // its place in worker.nodes
}

type entry struct {
	key   string // as it stands in JSON, quoted, with the colon
	name  string
	field *field // nil: the entry is an object
	child *node
}

// New makes a decoder ready.
func New(p Params) (*Decoder, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if p.MaxEvent == 0 {
		p.MaxEvent = DefaultMaxEvent
	}
	if p.BatchRows == 0 {
		p.BatchRows = DefaultBatchRows
	}
	schema, err := p.Schema()
	if err != nil {
		return nil, err
	}
	d := &Decoder{p: p, schema: schema, fields: make([]field, len(p.Fields))}
	for i, f := range p.Fields {
		d.fields[i] = compile(f, i)
	}
	if len(p.ID) > 1 {
		for _, name := range p.ID {
			d.idParts = append(d.idParts, schema.Index(name))
		}
	}
	nodes := 0
	newNode := func() *node {
		nodes++
		return &node{index: map[string]int{}, at: nodes - 1}
	}
	grow := func(root *node, f *field, keys []string) {
		n := root
		for k, key := range keys {
			i, ok := n.index[key]
			if !ok {
				i = len(n.entries)
				n.index[key] = i
				n.entries = append(n.entries, entry{key: string(format.AppendJSON(nil, []byte(key))) + ":", name: key})
				if k < len(keys)-1 {
					n.entries[i].child = newNode()
				} else {
					n.entries[i].field = f
				}
			}
			n = n.entries[i].child
		}
	}
	d.root, d.vital = newNode(), newNode()
	if p.Format == "debezium" {
		d.changes = newChanges(p.Changes, newNode(), newNode())
	}
	for i := range d.fields {
		f := &d.fields[i]
		root, vital, keys := d.root, d.vital, f.keys()
		if d.changes != nil {
			f.expect(d.changes.decimals)
			if inner, ok := f.ofChange(); ok {
				root, vital, keys = d.changes.root, d.changes.vital, inner
			}
		}
		grow(root, f, keys)
		if i == schema.ID || i == schema.Time {
			grow(vital, f, keys)
		}
	}
	d.workers.New = func() any { return newWorker(d, nodes) }
	return d, nil
}

// Schema is the schema of the batches.
func (d *Decoder) Schema() *event.Schema { return d.schema }

func compile(f Field, at int) field {
	c := field{Field: f, at: at, lo: math.MinInt64, hi: math.MaxInt64, flo: -math.MaxFloat64, fhi: math.MaxFloat64}
	if f.Kind == event.Int {
		c.lo, c.hi = -1<<53, 1<<53
	}
	if f.Kind == event.Bool {
		c.lo, c.hi = 0, 1
	}
	if f.Min != nil {
		c.lo, c.flo = max(c.lo, scaled(*f.Min, f, true)), *f.Min
	}
	if f.Max != nil {
		c.hi, c.fhi = min(c.hi, scaled(*f.Max, f, false)), *f.Max
	}
	if len(f.Enum) > 0 {
		c.enum = make(map[string]bool, len(f.Enum))
		for _, v := range f.Enum {
			c.enum[v] = true
		}
	}
	if f.Pattern != "" {
		c.pattern = regexp.MustCompile(f.Pattern)
	}
	if len(f.Enum) == 0 && f.Pattern == "" {
		c.quick = f.Kind
	}
	if f.Kind == event.Timestamp {
		c.clock()
		c.location = time.UTC
		if f.Zone != "" {
			c.location, _ = time.LoadLocation(f.Zone) // validated
		}
	}
	if f.Kind == event.List {
		e := compile(Field{Name: f.Name, Kind: f.Elem, Scale: f.Scale, TimeFormat: f.TimeFormat, Zone: f.Zone}, at)
		c.elem = &e
	}
	return c
}

// clock makes the time's format ready.
func (f *field) clock() {
	f.unit, f.numeric = timeUnits[f.TimeFormat]
	f.whole = f.TimeFormat == "step" || f.TimeFormat == "unix_days"
	f.rfc3339 = f.TimeFormat == ""
}

// scaled is a bound in units of the field's last place: the first integer inside it. The bound counts
// as the decimal number that its shortest text is, so that 0.1 at one place is 1 exactly.
func scaled(v float64, f Field, up bool) int64 {
	if f.Kind == event.Float {
		return 0
	}
	text := append(strconv.AppendFloat(nil, v, 'f', -1, 64), '\n')
	n, end := format.ScanNumber(text, 0)
	if end < 0 { // infinite
		if v > 0 {
			return math.MaxInt64
		}
		return math.MinInt64
	}
	i, fault := n.Decimal(f.Scale, text[:end])
	switch {
	case fault == format.Overflow && v > 0:
		return math.MaxInt64
	case fault == format.Overflow:
		return math.MinInt64
	case fault == format.Inexact && up && v > 0:
		i++
	case fault == format.Inexact && !up && v < 0:
		i--
	}
	return i
}

// wants says what the field holds, for messages.
func (f *field) wants() string {
	switch f.Kind {
	case event.Bool:
		return "true, false, 1 or 0"
	case event.Int:
		return "an integer"
	case event.Decimal:
		return fmt.Sprintf("a number with at most %d decimal places", f.Scale)
	case event.Float:
		return "a number"
	case event.Timestamp:
		switch {
		case f.rfc3339:
			return "a time as RFC 3339"
		case f.numeric:
			return "a time as " + f.TimeFormat
		}
		return fmt.Sprintf("a time like %q", f.TimeFormat)
	case event.ID:
		return "an id: a string or an integer"
	case event.List:
		return fmt.Sprintf("a list of %v", f.Elem)
	}
	return "a string"
}
