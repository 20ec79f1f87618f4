package expr

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	celref "cel.dev/cel-go/common/types/ref"

	"github.com/millrace-ml/millrace/transforms/event"
)

// rows evaluates an expression row by row in cel-go.
type rows struct {
	program cel.Program
	kind    event.Kind
	fields  map[string]ref
}

func newRows(c *checked, kind event.Kind) (*rows, error) {
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	loops := ast.MatchDescendants(ast.NavigateAST(c.tree), ast.KindMatcher(ast.ComprehensionKind))
	if len(loops) > 0 {
		// The rest is linear in its input, and counting costs about as much as evaluating.
		opts = append(opts, cel.CostLimit(maxCost))
	}
	program, err := c.env.Program(c.ast, opts...)
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	r := &rows{program: program, kind: kind, fields: make(map[string]ref, len(c.refs))}
	for _, f := range c.refs {
		r.fields[f.Name] = f
	}
	return r, nil
}

func (r *rows) eval(b *event.Batch) event.Column {
	var out event.Column
	switch r.kind {
	case event.Float:
		out.Floats = make([]float64, b.N)
	case event.String:
		out.Ends = make([]uint32, 0, b.N)
	default:
		out.Ints = make([]int64, b.N)
	}
	row := activation{fields: r.fields, batch: b}
	for i := range b.N {
		row.i = i
		v, _, err := r.program.Eval(&row)
		ok := err == nil && v != nil
		if ok {
			ok = put(&out, i, v)
		}
		if !ok {
			out.SetNull(i, b.N)
		}
		if r.kind == event.String && len(out.Ends) == i {
			out.AppendRaw(nil)
		}
	}
	return out
}

func put(out *event.Column, i int, v celref.Val) bool {
	switch v := v.(type) {
	case types.Double:
		f := float64(v)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return false
		}
		out.Floats[i] = f
	case types.Bool:
		if v {
			out.Ints[i] = 1
		}
	case types.String:
		out.AppendRaw([]byte(v))
	case types.Timestamp:
		out.Ints[i] = v.UnixMicro()
	default:
		return false
	}
	return true
}

// activation gives cel-go the fields of one row.
type activation struct {
	fields map[string]ref
	batch  *event.Batch
	i      int
}

func (a *activation) Parent() cel.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	f, ok := a.fields[name]
	if !ok {
		return nil, false
	}
	c := &a.batch.Cols[f.at]
	if c.Null(a.i) {
		return null, true
	}
	if f.Kind != event.List {
		return value(c, f.Kind, f.Scale, a.i), true
	}
	from, to := c.Span(a.i)
	elems := make([]celref.Val, 0, to-from)
	for k := from; k < to; k++ {
		if c.Elems.Null(k) {
			elems = append(elems, types.NullValue)
		} else {
			elems = append(elems, value(c.Elems, f.Elem, f.Scale, k))
		}
	}
	return types.DefaultTypeAdapter.NativeToValue(elems), true
}

func value(c *event.Column, k event.Kind, scale uint8, i int) celref.Val {
	switch k {
	case event.Bool:
		return types.Bool(c.Ints[i] != 0)
	case event.Int:
		return types.Double(c.Ints[i])
	case event.Decimal:
		return types.Double(float64(c.Ints[i]) / math.Pow10(int(scale)))
	case event.Float:
		return types.Double(c.Floats[i])
	case event.Timestamp:
		return types.Timestamp{Time: time.UnixMicro(c.Ints[i]).UTC()}
	case event.ID:
		if c.Ints != nil {
			return types.String(strconv.FormatInt(c.Ints[i], 10))
		}
	}
	return types.String(c.Raw(i))
}
