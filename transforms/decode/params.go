package decode

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
)

// ErrFile reports a file that can't be read with these fields at all.
var ErrFile = errors.New("file doesn't fit the fields")

const (
	// DefaultMaxEvent is the longest record in bytes, unless Params says otherwise.
	DefaultMaxEvent = 1 << 20
	// DefaultBatchRows is the largest number of rows in a batch, unless Params says otherwise.
	DefaultBatchRows = 4096
	// CompoundID is the name of the column of an id of several fields.
	CompoundID = "id"
)

// Field is an input field and what it may hold.
type Field struct {
	Name string
	Kind event.Kind
	// Scale is the number of places of a Decimal, or of a List of them.
	Scale uint8
	// Elem is the kind of a List's elements. Lists are read from JSON and Parquet.
	Elem event.Kind
	// Path is where the value stands: keys of nested objects, joined by dots. The default is the key
	// Name at the top, dots and all. In CSV it is the column's name. In a change of a database it is
	// within the row, or behind "$." within the change itself: "$.op", "$.source.table".
	Path string
	// Optional fields may be null or missing.
	Optional bool
	// Min and Max bound an Int, Decimal or Float, inclusively.
	Min, Max *float64
	// Enum lists the values of a Category, String, ID or Int. Empty: any.
	Enum []string
	// Pattern is a regular expression (RE2) that a Category, String or ID must match somewhere.
	Pattern string
	// TimeFormat of a Timestamp: "" (RFC 3339), "unix_s", "unix_ms", "unix_us", "unix_ns",
	// "unix_days", "step" or a Go layout.
	TimeFormat string
	// Zone is the IANA name of the zone of times without an offset. Default UTC.
	Zone string
}

// Params say how to read records. All of it is plain data.
type Params struct {
	// Format is "json" (lines), "csv", "parquet" or "debezium" (lines of changes of a database).
	Format string
	// Changes say which of a database's changes are events.
	Changes Changes
	Fields  []Field
	// ID names the field that identifies an event, of kind ID. Several make a compound id, kept in a
	// column named "id" behind the fields. None: events have no id.
	ID []string
	// Time names the Timestamp field that is the event time. Empty: events have none.
	Time string
	// RejectUnknown makes a dead letter of a record with a key that no field asks for, at the top or in
	// an object that a path goes through. In CSV and Parquet such a column fails the file.
	RejectUnknown bool
	// MaxEvent is the longest record in bytes; 0 is DefaultMaxEvent.
	MaxEvent int
	// BatchRows is the largest number of rows in a batch; 0 is DefaultBatchRows.
	BatchRows int
	// UseCase and Fingerprint are stamped on dead letters.
	UseCase, Fingerprint string
}

// Validate reports all faults, joined.
func (p Params) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch p.Format {
	case "json", "csv", "parquet", "debezium":
	default:
		bad("unknown format %q: want json, csv, parquet or debezium", p.Format)
	}
	if err := p.Changes.validate(); err != nil {
		errs = append(errs, err)
	}
	if len(p.Fields) == 0 {
		bad("no fields")
	}
	if p.MaxEvent < 0 || p.MaxEvent > 1<<30 {
		bad("MaxEvent %d: want 0 to 1 GiB", p.MaxEvent)
	}
	if p.BatchRows < 0 || p.BatchRows > 1<<20 {
		bad("BatchRows %d: want 0 to %d", p.BatchRows, 1<<20)
	}
	fields := make(map[string]*Field, len(p.Fields))
	for i := range p.Fields {
		f := &p.Fields[i]
		fields[f.Name] = f
		if err := f.validate(p.Format); err != nil {
			errs = append(errs, fmt.Errorf("field %q: %w", f.Name, err))
		}
	}
	if err := checkPaths(p.Fields); err != nil {
		errs = append(errs, err)
	}
	for _, name := range p.ID {
		f := fields[name]
		switch {
		case f == nil:
			bad("id: no field %q", name)
		case f.Optional:
			bad("id: field %q is optional, an event always needs its id", name)
		case len(p.ID) > 1 && (f.Kind == event.Float || f.Kind == event.List):
			bad("id: field %q of kind %v has no text to make an id of", name, f.Kind)
		}
	}
	if f := fields[p.Time]; p.Time != "" && f != nil && f.Optional {
		bad("time: field %q is optional, an event always needs its time", p.Time)
	}
	if _, err := p.Schema(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (f *Field) validate(format string) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	number := f.Kind == event.Int || f.Kind == event.Decimal || f.Kind == event.Float
	text := f.Kind == event.Category || f.Kind == event.String || f.Kind == event.ID
	if (f.Min != nil || f.Max != nil) && !number {
		bad("min and max are for int, decimal and float, not %v", f.Kind)
	}
	for _, v := range []*float64{f.Min, f.Max} {
		if v != nil && math.IsNaN(*v) {
			bad("min or max is NaN")
		}
	}
	if f.Min != nil && f.Max != nil && *f.Min > *f.Max {
		bad("min %v is above max %v", *f.Min, *f.Max)
	}
	if len(f.Enum) > 0 && !text && f.Kind != event.Int {
		bad("enum is for category, string, id and int, not %v", f.Kind)
	}
	if f.Pattern != "" {
		if !text {
			bad("pattern is for category, string and id, not %v", f.Kind)
		}
		if _, err := regexp.Compile(f.Pattern); err != nil {
			bad("pattern: %w", err)
		}
	}
	isTime := f.Kind == event.Timestamp || f.Kind == event.List && f.Elem == event.Timestamp
	if (f.TimeFormat != "" || f.Zone != "") && !isTime {
		bad("time format and zone are for timestamps, not %v", f.Kind)
	}
	if _, unix := timeUnits[f.TimeFormat]; unix && f.Zone != "" {
		bad("zone has no effect on %s", f.TimeFormat)
	}
	if f.Zone != "" {
		if _, err := time.LoadLocation(f.Zone); err != nil {
			bad("zone: %w", err)
		}
	}
	if f.Kind == event.List && format == "csv" {
		bad("csv has no lists")
	}
	if f.Path != "" {
		for _, key := range strings.Split(f.Path, ".") {
			if key == "" && format != "csv" {
				bad("path %q has an empty key", f.Path)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// checkPaths finds fields that ask for the same value, or for a value and one inside it.
func checkPaths(fields []Field) error {
	var errs []error
	leaves, inner := map[string]string{}, map[string]string{}
	for i := range fields {
		f := &fields[i]
		keys := f.keys()
		for n := 1; n < len(keys); n++ {
			inner[strings.Join(keys[:n], "\x00")] = f.Name
		}
		whole := strings.Join(keys, "\x00")
		if other, ok := leaves[whole]; ok && other != f.Name {
			errs = append(errs, fmt.Errorf("fields %q and %q have the same path", other, f.Name))
		}
		leaves[whole] = f.Name
	}
	for i := range fields {
		if other, ok := inner[strings.Join(fields[i].keys(), "\x00")]; ok {
			errs = append(errs, fmt.Errorf("field %q is an object to field %q", fields[i].Name, other))
		}
	}
	return errors.Join(errs...)
}

// keys is the path as a list.
func (f *Field) keys() []string {
	if f.Path == "" {
		return []string{f.Name}
	}
	return strings.Split(f.Path, ".")
}

// flat is the name of the column in CSV.
func (f *Field) flat() string {
	if f.Path == "" {
		return f.Name
	}
	return f.Path
}

// Schema is the schema of the batches.
func (p Params) Schema() (*event.Schema, error) {
	fields := make([]event.Field, 0, len(p.Fields)+1)
	for _, f := range p.Fields {
		fields = append(fields, event.Field{Name: f.Name, Kind: f.Kind, Scale: f.Scale, Elem: f.Elem})
	}
	id := ""
	switch len(p.ID) {
	case 0:
	case 1:
		id = p.ID[0]
	default:
		id = CompoundID
		fields = append(fields, event.Field{Name: CompoundID, Kind: event.ID})
	}
	return event.NewSchema(fields, id, p.Time)
}
