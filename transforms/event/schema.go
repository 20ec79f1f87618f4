package event

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrCorrupt reports bytes that are not a batch.
	ErrCorrupt = errors.New("corrupt batch")
	// ErrVersion reports a batch written by a later version.
	ErrVersion = errors.New("batch of a later version")
	// ErrSchema reports fields that don't make a schema, or a struct that doesn't fit one.
	ErrSchema = errors.New("unusable schema")
)

// Kind is the type of a column.
type Kind uint8

const (
	// Bool is kept as 0 or 1 in Column.Ints.
	Bool Kind = iota + 1
	// Int is a 64-bit integer.
	Int
	// Decimal is an exact number: Column.Ints holds value x 10^Field.Scale.
	Decimal
	// Float is a float64, never NaN or infinite.
	Float
	// Timestamp is microseconds since 1970-01-01 UTC.
	Timestamp
	// ID identifies an event or an entity: integers or bytes, see the package comment.
	ID
	// Category is a string from a small set.
	Category
	// String is any UTF-8 text.
	String
	// List holds a list of Field.Elem values a row.
	List
)

var kindNames = [...]string{"", "bool", "int", "decimal", "float", "timestamp", "id", "category", "string", "list"}

func (k Kind) String() string {
	if k.valid() {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (k Kind) valid() bool { return k >= Bool && k <= List }

// ParseKind is the inverse of Kind.String.
func ParseKind(s string) (Kind, bool) {
	for k := Bool; k <= List; k++ {
		if kindNames[k] == s {
			return k, true
		}
	}
	return 0, false
}

// Field describes a column.
type Field struct {
	Name string
	Kind Kind
	// Scale is the number of decimal places of a Decimal, 0 to 18.
	Scale uint8
	// Elem is the kind of a List's elements: any but List.
	Elem Kind
}

// Schema describes the columns of a batch. It is immutable once built and may be shared.
type Schema struct {
	// Fields are the columns, in order. Names are unique.
	Fields []Field
	// ID is the index of the column that identifies an event, an ID; -1 if there is none.
	ID int
	// Time is the index of the column that holds the event time, a Timestamp; -1 if there is none.
	Time int

	index map[string]int
}

// NewSchema checks fields and builds their schema. id and time name the columns that identify and
// date an event; either may be empty.
func NewSchema(fields []Field, id, time string) (*Schema, error) {
	s := &Schema{Fields: fields, ID: -1, Time: -1, index: make(map[string]int, len(fields))}
	var errs []error
	for i, f := range fields {
		if f.Name == "" {
			errs = append(errs, fmt.Errorf("field %d has no name", i))
		}
		if _, ok := s.index[f.Name]; ok {
			errs = append(errs, fmt.Errorf("field %q stands twice", f.Name))
		}
		if !f.Kind.valid() || f.Scale > 18 || (f.Kind == List) != (f.Elem.valid() && f.Elem != List) {
			errs = append(errs, fmt.Errorf("field %q: kind %v, scale %d, elements %v don't go together", f.Name, f.Kind, f.Scale, f.Elem))
		}
		s.index[f.Name] = i
	}
	role := func(name string, kind Kind) int {
		if name == "" {
			return -1
		}
		i, ok := s.index[name]
		if !ok || fields[i].Kind != kind {
			errs = append(errs, fmt.Errorf("no field %q of kind %v", name, kind))
			return -1
		}
		return i
	}
	s.ID, s.Time = role(id, ID), role(time, Timestamp)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return s, nil
}

// Index is the position of the named column, or -1.
func (s *Schema) Index(name string) int {
	if i, ok := s.index[name]; ok {
		return i
	}
	return -1
}

// With returns a schema with more columns behind those of s.
func (s *Schema) With(more ...Field) (*Schema, error) {
	fields := append(append(make([]Field, 0, len(s.Fields)+len(more)), s.Fields...), more...)
	return NewSchema(fields, s.roleName(s.ID), s.roleName(s.Time))
}

// Only returns a schema of the named columns of s, in the order given; roles go with their columns.
func (s *Schema) Only(names ...string) (*Schema, error) {
	fields := make([]Field, 0, len(names))
	id, time := "", ""
	for _, name := range names {
		i := s.Index(name)
		if i < 0 {
			return nil, fmt.Errorf("%w: no field %q", ErrSchema, name)
		}
		fields = append(fields, s.Fields[i])
		if i == s.ID {
			id = name
		}
		if i == s.Time {
			time = name
		}
	}
	return NewSchema(fields, id, time)
}

func (s *Schema) roleName(i int) string {
	if i < 0 {
		return ""
	}
	return s.Fields[i].Name
}

// Equal reports whether both have the same columns and roles.
func (s *Schema) Equal(o *Schema) bool {
	if s == o {
		return true
	}
	if s == nil || o == nil || len(s.Fields) != len(o.Fields) || s.ID != o.ID || s.Time != o.Time {
		return false
	}
	for i := range s.Fields {
		if s.Fields[i] != o.Fields[i] {
			return false
		}
	}
	return true
}

// String lists the columns: "id:id* time:timestamp@ amount:decimal(2)"; * is the id, @ the time.
func (s *Schema) String() string {
	var b strings.Builder
	for i, f := range s.Fields {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(f.Name + ":" + f.Kind.String())
		switch {
		case f.Kind == Decimal:
			fmt.Fprintf(&b, "(%d)", f.Scale)
		case f.Kind == List:
			fmt.Fprintf(&b, "(%v)", f.Elem)
		}
		if i == s.ID {
			b.WriteByte('*')
		}
		if i == s.Time {
			b.WriteByte('@')
		}
	}
	return b.String()
}
