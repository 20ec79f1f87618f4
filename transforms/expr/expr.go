package expr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	_ "time/tzdata" // zones must not depend on what a worker's image has installed

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"github.com/millrace-ml/millrace/transforms/event"
)

// ErrExpression reports an expression that can't be compiled.
var ErrExpression = errors.New("unusable expression")

// Program is a compiled expression. It is safe for concurrent use.
type Program struct {
	src       string
	kind      event.Kind
	field     int
	refs      []ref
	canonical string
	kernel    *kernel // nil: row by row
	rows      *rows   // nil: by kernel
}

// ref is a field that an expression reads.
type ref struct {
	event.Field
	at int
}

// Compile checks src against the fields of s. A batch to evaluate may have more columns than s, but
// those of s that src names must be at the same places.
func Compile(src string, s *event.Schema) (*Program, error) {
	c, err := check(src, s)
	if err != nil {
		return nil, err
	}
	p := &Program{src: src, field: -1, refs: c.refs, canonical: canonical(c.tree)}
	if e := c.tree.Expr(); e.Kind() == ast.IdentKind {
		p.field = s.Index(e.AsIdent())
		p.kind = bareKind(s.Fields[p.field].Kind)
		return p, nil
	}
	switch t := c.tree.GetType(c.tree.Expr().ID()); t.Kind() {
	case types.DoubleKind:
		p.kind = event.Float
	case types.BoolKind:
		p.kind = event.Bool
	case types.StringKind:
		p.kind = event.String
	case types.TimestampKind:
		p.kind = event.Timestamp
	default:
		return nil, fmt.Errorf("%w %q: it gives a %s; make it a number, bool, string or timestamp", ErrExpression, src, cel.FormatCELType(t))
	}
	if p.kernel = newKernel(c); p.kernel == nil {
		if p.rows, err = newRows(c, p.kind); err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrExpression, src, err)
		}
	}
	return p, nil
}

func bareKind(k event.Kind) event.Kind {
	switch k {
	case event.Int, event.Decimal:
		return event.Float
	case event.Category:
		return event.String
	}
	return k
}

// Kind is what the expression gives: Float for every number, Bool, String or Timestamp; for a bare
// reference to a field also ID or List.
func (p *Program) Kind() event.Kind { return p.kind }

// Field is the index of the field if the expression is a bare reference to one, else -1.
func (p *Program) Field() int { return p.field }

// Fields are the names of the fields that the expression reads, sorted.
func (p *Program) Fields() []string {
	names := make([]string, len(p.refs))
	for i, r := range p.refs {
		names[i] = r.Name
	}
	return names
}

// Canonical is the expression in a form in which spelling is gone (spaces, parentheses, 1 for 1.0,
// the order of the operands of + * == != && ||, the direction of < and >), for fingerprints.
func (p *Program) Canonical() string { return p.canonical }

// String is the expression as written.
func (p *Program) String() string { return p.src }

// Eval evaluates the expression for every row of b. The column is of kind [Program.Kind] and belongs
// to the caller; rows without a value are null.
func (p *Program) Eval(b *event.Batch) (event.Column, error) {
	for _, r := range p.refs {
		if b.Schema == nil || r.at >= len(b.Schema.Fields) || b.Schema.Fields[r.at] != r.Field {
			return event.Column{}, fmt.Errorf("evaluating %q: %w: no field %q of kind %v at place %d", p.src, event.ErrSchema, r.Name, r.Kind, r.at)
		}
	}
	switch {
	case p.field >= 0:
		return p.copy(b), nil
	case p.kernel != nil:
		return p.kernel.eval(b), nil
	}
	return p.rows.eval(b), nil
}

// copy makes a bare reference a column of its own.
func (p *Program) copy(b *event.Batch) event.Column {
	src := &b.Cols[p.field]
	if p.kind == event.Float {
		out := event.Column{Floats: make([]float64, b.N), Nulls: slices.Clone(src.Nulls)}
		loadNumbers(out.Floats, src, p.refs[0].Field, 0)
		for i := range out.Floats {
			if src.Null(i) {
				out.Floats[i] = 0
			}
		}
		return out
	}
	return clone(src)
}

func clone(c *event.Column) event.Column {
	out := event.Column{
		Ints: slices.Clone(c.Ints), Floats: slices.Clone(c.Floats), Ends: slices.Clone(c.Ends),
		Bytes: slices.Clone(c.Bytes), Nulls: slices.Clone(c.Nulls),
	}
	if c.Elems != nil {
		e := clone(c.Elems)
		out.Elems = &e
	}
	return out
}

// near lists the names closest to name, best first.
func near(name string, s *event.Schema) []string {
	type candidate struct {
		name string
		d    int
	}
	var found []candidate
	lower := strings.ToLower(name)
	for _, f := range s.Fields {
		other := strings.ToLower(f.Name)
		d := distance(lower, other)
		if len(lower) >= 3 && (strings.HasPrefix(other, lower) || strings.HasSuffix(other, lower)) {
			d = min(d, 1)
		}
		if d <= max(1, len(lower)/3) {
			found = append(found, candidate{f.Name, d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.d - b.d })
	names := make([]string, 0, 3)
	for _, c := range found[:min(3, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// distance is the number of bytes to insert, delete or replace to turn a into b (Levenshtein 1966).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
