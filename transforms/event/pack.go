package event

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrValue reports a value that the column or the struct field can't hold: a null without a pointer
// to show it, an integer too large, an id that is no integer.
var ErrValue = errors.New("value does not fit")

// SchemaOf is the schema of the struct T: its exported fields in order, those of embedded structs
// included. A tag names and types a column:
//
//	ID       int64     `event:"tx,id"`            // identifies the event: one field, an integer or a string
//	Time     time.Time `event:"at,time"`          // the event time: one field
//	Customer string    `event:"customer,entity"`  // an id of something else
//	Amount   float64   `event:"amount,decimal=2"` // exact; an integer field holds value x 10^2
//	Country  string    `event:"country,category"`
//	Note     *string   `event:"note"`             // nil is null
//	Past     []float64                            // no tag: the field's name; nil is null
//	Scratch  int       `event:"-"`                // no column
//
// Types are the integers, floats, bool, string and time.Time, pointers to these, and slices of
// these. The error wraps ErrSchema and names all fields at fault.
func SchemaOf[T any]() (*Schema, error) {
	p, err := planOf(reflect.TypeFor[T]())
	if err != nil {
		return nil, err
	}
	return p.schema, nil
}

// Pack copies rows into a batch of the schema of T. Times are floored to microseconds; NaN and
// infinities become null. The error wraps ErrSchema for a T that is no event, ErrValue for a value
// without a place in its column.
func Pack[T any](rows []T) (Batch, error) {
	p, err := planOf(reflect.TypeFor[T]())
	if err != nil {
		return Batch{}, err
	}
	b := Batch{Schema: p.schema, Cols: make([]Column, len(p.fields)), N: len(rows)}
	all := reflect.ValueOf(rows)
	for k, f := range p.fields {
		b.Cols[k], err = packColumn(f.field, len(rows), func(i int) reflect.Value {
			v := all.Index(i).FieldByIndex(f.index)
			if f.pointer {
				return v.Elem() // of nil the invalid Value, which packs as null
			}
			return v
		})
		if err != nil {
			return Batch{}, fmt.Errorf("packing field %s: %w", f.goName, err)
		}
	}
	return b, nil
}

// Unpack copies a batch into structs. Each column of T must be in b; further columns of b are left
// out. A number of any kind fits a float, a string, category or id fits a string, an id that is an
// integer fits an int. Null needs a pointer or a slice, or becomes the NaN of a float. The error
// wraps ErrSchema or ErrValue.
func Unpack[T any](b Batch) ([]T, error) {
	p, err := planOf(reflect.TypeFor[T]())
	if err != nil {
		return nil, err
	}
	rows := make([]T, b.N)
	all := reflect.ValueOf(rows)
	var errs []error
	for _, f := range p.fields {
		at := b.Schema.Index(f.field.Name)
		if at < 0 {
			errs = append(errs, fmt.Errorf("%w: field %s: the batch has no column %q", ErrSchema, f.goName, f.field.Name))
			continue
		}
		have := b.Schema.Fields[at]
		if !f.reads(have) {
			errs = append(errs, fmt.Errorf("%w: field %s: column %q is a %v, which does not fit a %v", ErrSchema, f.goName, have.Name, have.Kind, f.typ))
			continue
		}
		for i := range rows {
			if err := unpackValue(all.Index(i).FieldByIndex(f.index), have, &b.Cols[at], i); err != nil {
				errs = append(errs, fmt.Errorf("unpacking row %d, field %s: %w", i, f.goName, err))
				break
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return rows, nil
}

// plan is what is known of a struct type.
type plan struct {
	schema *Schema
	fields []planField
}

type planField struct {
	field   Field
	goName  string
	index   []int
	pointer bool
	typ     reflect.Type // of the value: without the pointer
}

var (
	plans    sync.Map // reflect.Type -> planned
	timeType = reflect.TypeFor[time.Time]()
)

type planned struct {
	plan *plan
	err  error
}

func planOf(t reflect.Type) (*plan, error) {
	if known, ok := plans.Load(t); ok {
		return known.(planned).plan, known.(planned).err
	}
	p, err := newPlan(t)
	// Of two goroutines that plan the same type, one wins, so that its schema is one pointer.
	known, _ := plans.LoadOrStore(t, planned{p, err})
	return known.(planned).plan, known.(planned).err
}

func newPlan(t reflect.Type) (*plan, error) {
	if t.Kind() != reflect.Struct || t == timeType {
		return nil, fmt.Errorf("%w: %v is not a struct", ErrSchema, t)
	}
	p := &plan{}
	var id, at string
	var errs []error
	for _, sf := range reflect.VisibleFields(t) {
		tag, tagged := sf.Tag.Lookup("event")
		promoted := len(sf.Index) > 1
		embedded := sf.Anonymous && sf.Type.Kind() == reflect.Struct && sf.Type != timeType
		switch {
		case tag == "-" || embedded && !tagged || !tagged && !sf.IsExported():
			continue // the fields of an embedded struct follow by themselves
		case !sf.IsExported():
			errs = append(errs, fmt.Errorf("field %s: is not exported", sf.Name))
			continue
		case promoted && throughPointer(t, sf.Index):
			errs = append(errs, fmt.Errorf("field %s: is embedded by pointer; embed the struct itself", sf.Name))
			continue
		}
		f, role, err := planOne(sf, tag)
		if err != nil {
			errs = append(errs, fmt.Errorf("field %s: %w", sf.Name, err))
			continue
		}
		for _, r := range []struct {
			role string
			name *string
		}{{"id", &id}, {"time", &at}} {
			if role != r.role {
				continue
			}
			if *r.name != "" {
				errs = append(errs, fmt.Errorf("field %s: %q is the %s already", sf.Name, *r.name, role))
			}
			if f.pointer {
				errs = append(errs, fmt.Errorf("field %s: the %s can't be null; take the pointer away", sf.Name, role))
			}
			*r.name = f.field.Name
		}
		p.fields = append(p.fields, f)
	}
	if len(errs) == 0 && len(p.fields) == 0 {
		errs = append(errs, errors.New("has no exported field"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrSchema, t, err)
	}
	fields := make([]Field, len(p.fields))
	for i, f := range p.fields {
		fields[i] = f.field
	}
	var err error
	if p.schema, err = NewSchema(fields, id, at); err != nil {
		return nil, fmt.Errorf("planning %v: %w", t, err)
	}
	return p, nil
}

func throughPointer(t reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		if t = t.Field(i).Type; t.Kind() == reflect.Pointer {
			return true
		}
	}
	return false
}

// planOne reads a struct field's type and tag; role is "id", "time" or empty.
func planOne(sf reflect.StructField, tag string) (f planField, role string, err error) {
	name, rest, _ := strings.Cut(tag, ",")
	if name == "" {
		name = sf.Name
	}
	f = planField{field: Field{Name: name}, goName: sf.Name, index: sf.Index, typ: sf.Type}
	if f.typ.Kind() == reflect.Pointer {
		f.pointer, f.typ = true, f.typ.Elem()
	}
	scalar := f.typ
	list := scalar.Kind() == reflect.Slice
	if list {
		if f.pointer {
			return f, "", fmt.Errorf("%v: a slice is null without a pointer", sf.Type)
		}
		scalar = scalar.Elem()
	}
	kind, ok := kindOf(scalar)
	if !ok {
		return f, "", fmt.Errorf("%v is not a type of events; take an integer, float, bool, string, time.Time, a pointer to one or a slice", sf.Type)
	}
	for _, opt := range strings.Split(rest, ",") {
		opt, arg, _ := strings.Cut(opt, "=")
		number := kind == Int || kind == Float
		fits := true
		switch opt {
		case "":
			continue
		case "id", "entity":
			fits = (kind == Int || kind == String) && (opt == "entity" || !list)
			kind = ID
		case "time":
			fits = kind == Timestamp && !list
		case "category":
			fits = kind == String
			kind = Category
		case "decimal":
			scale, err := strconv.ParseUint(arg, 10, 8)
			if err != nil || scale > 18 {
				return f, "", fmt.Errorf("decimal=%s: wants a number of places from 0 to 18", arg)
			}
			if list {
				return f, "", errors.New("decimal: lists have no scale")
			}
			fits = number
			kind, f.field.Scale = Decimal, uint8(scale)
		default:
			return f, "", fmt.Errorf("tag option %q: wants id, entity, time, category or decimal=PLACES", opt)
		}
		if !fits {
			return f, "", fmt.Errorf("tag option %q does not fit %v", opt, sf.Type)
		}
		if opt == "id" || opt == "time" {
			role = opt
		}
	}
	f.field.Kind = kind
	if list {
		f.field.Kind, f.field.Elem = List, kind
	}
	return f, role, nil
}

func kindOf(t reflect.Type) (Kind, bool) {
	switch {
	case t == timeType:
		return Timestamp, true
	case t.Kind() == reflect.Bool:
		return Bool, true
	case t.Kind() == reflect.String:
		return String, true
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return Int, true
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return Float, true
	}
	return 0, false
}

// packColumn packs n values; at gives the invalid Value for null.
func packColumn(f Field, n int, at func(int) reflect.Value) (Column, error) {
	c := newColumn(f.Kind, n)
	var elems []reflect.Value
	integers := true // so far all ids are
	if n > 0 && f.Kind == ID {
		for i := 0; i < n; i++ {
			if v := at(i); v.IsValid() && v.Kind() == reflect.String {
				c = newColumn(String, n)
				break
			}
		}
	}
	for i := 0; i < n; i++ {
		v := at(i)
		null := !v.IsValid() || v.Kind() == reflect.Slice && v.IsNil()
		var x int64
		var err error
		switch {
		case f.Kind == List:
			for k := 0; !null && k < v.Len(); k++ {
				elems = append(elems, v.Index(k))
			}
			c.Ends = append(c.Ends, uint32(len(elems)))
		case f.Kind == Float:
			y := 0.0
			if !null {
				y = v.Float()
			}
			if y-y != 0 { // NaN and infinities only
				y, null = 0, true
			}
			c.Floats = append(c.Floats, y)
		case c.Ints == nil:
			s := ""
			if !null {
				s = v.String()
				_, ok := CanonicalInt([]byte(s))
				integers = integers && ok
			}
			c.AppendRaw([]byte(s))
		default:
			if !null {
				x, null, err = packInt(f, v)
			}
			c.Ints = append(c.Ints, x)
		}
		if err != nil {
			return Column{}, fmt.Errorf("row %d: %w", i, err)
		}
		if null {
			c.SetNull(i, n)
		}
	}
	switch {
	case f.Kind == List:
		e, err := packColumn(Field{Kind: f.Elem}, len(elems), func(i int) reflect.Value { return elems[i] })
		if err != nil {
			return Column{}, fmt.Errorf("elements: %w", err)
		}
		c.Elems = &e
	case f.Kind == ID && c.Ints == nil && integers:
		ints := Column{Ints: make([]int64, n), Nulls: c.Nulls}
		for i := range ints.Ints {
			ints.Ints[i], _ = CanonicalInt(c.Raw(i)) // of a null row 0
		}
		c = ints
	}
	return c, nil
}

func packInt(f Field, v reflect.Value) (x int64, null bool, err error) {
	switch {
	case v.Type() == timeType:
		t := v.Interface().(time.Time)
		const limit = math.MaxInt64/1_000_000 - 1
		if s := t.Unix(); s > limit || s < -limit {
			return 0, false, fmt.Errorf("%w: %v is beyond microseconds in 64 bits", ErrValue, t)
		}
		return t.UnixMicro(), false, nil
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			x = 1
		}
	case v.CanInt():
		x = v.Int()
	case v.CanUint():
		if v.Uint() > math.MaxInt64 {
			return 0, false, fmt.Errorf("%w: %d is beyond 64 bits with sign", ErrValue, v.Uint())
		}
		x = int64(v.Uint())
	default: // a float as decimal
		y := v.Float()
		if y-y != 0 {
			return 0, true, nil
		}
		y = math.Round(y * math.Pow10(int(f.Scale)))
		if math.Abs(y) >= 1<<63 {
			return 0, false, fmt.Errorf("%w: %v with %d places is beyond 64 bits", ErrValue, v.Float(), f.Scale)
		}
		x = int64(y)
	}
	return x, false, nil
}

// reads reports whether a column can be unpacked into the struct field.
func (f *planField) reads(have Field) bool {
	t := f.typ
	if (t.Kind() == reflect.Slice) != (have.Kind == List) {
		return false
	}
	if have.Kind == List {
		t, have = t.Elem(), Field{Kind: have.Elem}
	}
	want, _ := kindOf(t)
	switch want {
	case Float:
		return have.Kind == Float || have.Kind == Int || have.Kind == Decimal
	case String:
		return have.Kind == String || have.Kind == Category || have.Kind == ID
	case Int:
		return have.Kind == Int || have.Kind == ID || have.Kind == Decimal && f.field.Kind == Decimal && have.Scale == f.field.Scale
	}
	return have.Kind == want
}

// unpackValue sets v, a struct field or an element of one, to row i of c.
func unpackValue(v reflect.Value, have Field, c *Column, i int) error {
	if c.Null(i) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice:
			return nil
		case reflect.Float32, reflect.Float64:
			v.SetFloat(math.NaN())
			return nil
		}
		return fmt.Errorf("%w: column %q is null; make the field a pointer", ErrValue, have.Name)
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.Slice:
		from, to := c.Span(i)
		v.Set(reflect.MakeSlice(v.Type(), to-from, to-from))
		for k := from; k < to; k++ {
			if err := unpackValue(v.Index(k-from), Field{Name: have.Name, Kind: have.Elem}, c.Elems, k); err != nil {
				return err
			}
		}
	case v.Type() == timeType:
		v.Set(reflect.ValueOf(time.UnixMicro(c.Ints[i]).UTC()))
	case v.Kind() == reflect.String:
		if have.Kind == ID {
			v.SetString(string(c.AppendID(nil, i)))
			break
		}
		v.SetString(string(c.Raw(i)))
	case v.Kind() == reflect.Bool:
		v.SetBool(c.Ints[i] != 0)
	case v.CanFloat():
		if have.Kind == Float {
			v.SetFloat(c.Floats[i])
			break
		}
		v.SetFloat(float64(c.Ints[i]) / math.Pow10(int(have.Scale)))
	default:
		var x int64
		if c.Ints != nil {
			x = c.Ints[i]
		} else {
			var ok bool
			if x, ok = CanonicalInt(c.Raw(i)); !ok {
				return fmt.Errorf("%w: id %q is no integer; make the field a string", ErrValue, c.Raw(i))
			}
		}
		if v.CanUint() {
			if x < 0 || v.OverflowUint(uint64(x)) {
				return fmt.Errorf("%w: %d in a %v", ErrValue, x, v.Type())
			}
			v.SetUint(uint64(x))
			break
		}
		if v.OverflowInt(x) {
			return fmt.Errorf("%w: %d in a %v", ErrValue, x, v.Type())
		}
		v.SetInt(x)
	}
	return nil
}
