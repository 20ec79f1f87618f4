package expr

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/millrace-ml/millrace/transforms/event"
)

const (
	maxSource  = 16 << 10
	maxNesting = 100
	maxCost    = 10_000_000
	// assumed sizes of what no type bounds, for the estimate of the cost
	maxString = 4096
	maxList   = 1024
)

// Functions that rewriting puts in. No source can name them.
const (
	finite = "@finite" // its argument, or null if that is a number and not finite
	toID   = "@id"     // the id of a text
	mod    = "@mod"    // the remainder of doubles, which CEL lacks
)

var idType = cel.OpaqueType("id")

// checked is an expression that has been parsed, rewritten and type-checked.
type checked struct {
	schema *event.Schema
	env    *cel.Env
	ast    *cel.Ast
	tree   *ast.AST
	refs   []ref // sorted by name
}

// baseEnv has all but the fields; making it takes longer than compiling an expression.
var baseEnv = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.ParserExpressionSizeLimit(maxSource),
		cel.ParserRecursionLimit(maxNesting),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
		functions(),
	)
})

func check(src string, s *event.Schema) (*checked, error) {
	base, err := baseEnv()
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	parsed, iss := base.Parse(src)
	if err := faults(src, s, iss); err != nil {
		return nil, err
	}
	c := &checked{schema: s}
	r := rewriter{schema: s, tree: parsed.NativeRep(), fac: ast.NewExprFactory(), used: map[string]bool{}}
	r.next = ast.MaxID(r.tree)
	r.rewrite(r.tree.Expr(), nil)
	if len(r.errs) > 0 {
		return nil, fmt.Errorf("%w %q: %w", ErrExpression, src, errors.Join(r.errs...))
	}
	// Only the fields in use are declared, so that a field may have a name that CEL gives to a type.
	var vars []cel.EnvOption
	for i, f := range s.Fields {
		if r.used[f.Name] {
			vars = append(vars, cel.Variable(f.Name, typeOf(f.Kind, f.Elem)))
			c.refs = append(c.refs, ref{f, i})
		}
	}
	slices.SortFunc(c.refs, func(a, b ref) int { return strings.Compare(a.Name, b.Name) })
	if c.env, err = base.Extend(vars...); err != nil {
		return nil, fmt.Errorf("%w %q: declaring its fields: %w", ErrExpression, src, err)
	}
	c.ast, iss = c.env.Check(parsed)
	if err := faults(src, s, iss); err != nil {
		return nil, err
	}
	c.tree = c.ast.NativeRep()
	estimate, err := c.env.EstimateCost(c.ast, sizes{})
	if err != nil {
		return nil, fmt.Errorf("%w %q: estimating its cost: %w", ErrExpression, src, err)
	}
	if estimate.Max > maxCost {
		return nil, fmt.Errorf("%w %q: it may cost %d units a row, the limit is %d; loop over fewer lists", ErrExpression, src, estimate.Max, maxCost)
	}
	return c, nil
}

func typeOf(k, elem event.Kind) *cel.Type {
	switch k {
	case event.Bool:
		return cel.BoolType
	case event.Timestamp:
		return cel.TimestampType
	case event.ID:
		return idType
	case event.Category, event.String:
		return cel.StringType
	case event.List:
		return cel.ListType(typeOf(elem, 0))
	}
	return cel.DoubleType
}

// faults turns CEL's reports into one error that says where and, for a name, what else there is.
func faults(src string, s *event.Schema, iss *cel.Issues) error {
	if iss.Err() == nil {
		return nil
	}
	var errs []error
	for _, e := range iss.Errors() {
		msg := e.Message
		if _, rest, ok := strings.Cut(msg, "undeclared reference to '"); ok {
			name, _, _ := strings.Cut(rest, "'")
			msg = fmt.Sprintf("no field or function %q", name)
			if names := near(name, s); len(names) > 0 {
				msg += "; near it: " + strings.Join(names, ", ")
			} else if strings.Contains(src, name+"(") {
				msg += "; the functions are CEL's and abs, min, max, log, log1p, exp, sqrt, pow, floor, ceil, isNull, coalesce"
			} else {
				msg += "; the fields are " + s.String()
			}
		}
		if rest, ok := strings.CutPrefix(msg, "found no matching overload for "); ok {
			for name, shown := range shownNames {
				rest = strings.Replace(rest, "'"+name+"'", shown, 1)
			}
			msg = "no such operation: " + rest
		}
		at := fmt.Sprintf("column %d", max(e.Location.Column(), 0)+1)
		if e.Location.Line() > 1 {
			at = fmt.Sprintf("line %d, %s", e.Location.Line(), at)
		}
		errs = append(errs, fmt.Errorf("%s: %s", at, msg))
	}
	return fmt.Errorf("%w %q: %w", ErrExpression, src, errors.Join(errs...))
}

var shownNames = map[string]string{
	"_+_": "+", "_-_": "-", "_*_": "*", "_/_": "/", "@mod": "%", "-_": "-", "!_": "!", "_<_": "<", "_<=_": "<=",
	"_>_": ">", "_>=_": ">=", "_==_": "==", "_!=_": "!=", "@in": "in", "_&&_": "&&", "_||_": "||", "_?_:_": "?:", "_[_]": "[]",
}

// sizes bounds what has no size of its own, for the estimate of the cost.
type sizes struct{}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n.ComputedSize() != nil {
		return nil
	}
	size := cost.RangedSizeEstimate(0, maxString)
	if n.Type().Kind() == types.ListKind {
		size = cost.RangedSizeEstimate(0, maxList)
	}
	return &size
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// rewriter changes a parsed tree in place; see "Non-obvious" in the package comment.
type rewriter struct {
	schema *event.Schema
	tree   *ast.AST
	fac    ast.ExprFactory
	next   int64
	used   map[string]bool
	errs   []error
}

// id is a new node id, with the place of node e in the source.
func (r *rewriter) id(e ast.Expr) int64 {
	r.next++
	if at, ok := r.tree.SourceInfo().GetOffsetRange(e.ID()); ok {
		r.tree.SourceInfo().SetOffsetRange(r.next, at)
	}
	return r.next
}

// wrap makes e the call fn(e).
func (r *rewriter) wrap(e ast.Expr, fn string) {
	inner := r.fac.NewUnspecifiedExpr(r.id(e))
	inner.SetKindCase(e)
	e.SetKindCase(r.fac.NewCall(e.ID(), fn, inner))
}

// numeric functions of CEL give ints; here they give doubles.
var toDouble = map[string]bool{
	"getFullYear": true, "getMonth": true, "getDate": true, "getDayOfMonth": true, "getDayOfWeek": true,
	"getDayOfYear": true, "getHours": true, "getMinutes": true, "getSeconds": true, "getMilliseconds": true,
	"size": true, "int": true, "uint": true,
}

// rewrite changes e and all below it; bound are the variables of the macros around it.
func (r *rewriter) rewrite(e ast.Expr, bound []string) {
	switch e.Kind() {
	case ast.LiteralKind:
		r.literal(e)
	case ast.IdentKind:
		if name := e.AsIdent(); !slices.Contains(bound, name) && r.schema.Index(name) >= 0 {
			r.used[name] = true
		}
	case ast.SelectKind:
		// A field may have dots in its name; CEL resolves the longest name that is declared.
		if name, ok := dotted(e); ok && r.schema.Index(name) >= 0 {
			r.used[name] = true
			return
		}
		r.rewrite(e.AsSelect().Operand(), bound)
	case ast.ListKind:
		for _, el := range e.AsList().Elements() {
			r.rewrite(el, bound)
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		r.rewrite(c.IterRange(), bound)
		r.rewrite(c.AccuInit(), bound)
		inner := append(slices.Clone(bound), c.IterVar(), c.IterVar2(), c.AccuVar())
		r.rewrite(c.LoopCondition(), inner)
		r.rewrite(c.LoopStep(), inner)
		r.rewrite(c.Result(), inner)
	case ast.CallKind:
		r.call(e, bound)
	}
}

func (r *rewriter) literal(e ast.Expr) {
	var f float64
	switch v := e.AsLiteral().(type) {
	case types.Int:
		f = float64(v)
	case types.Uint:
		f = float64(v)
	case types.Double:
		f = float64(v)
	default:
		return
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		at := r.tree.SourceInfo().GetStartLocation(e.ID())
		r.errs = append(r.errs, fmt.Errorf("column %d: the number is too large for a double", at.Column()+1))
	}
	e.SetKindCase(r.fac.NewLiteral(e.ID(), types.Double(f)))
}

func dotted(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent(), true
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return "", false
		}
		base, ok := dotted(e.AsSelect().Operand())
		return base + "." + e.AsSelect().FieldName(), ok
	}
	return "", false
}

func (r *rewriter) call(e ast.Expr, bound []string) {
	c := e.AsCall()
	name, args := c.FunctionName(), c.Args()
	switch {
	case (name == "min" || name == "max" || name == "coalesce") && len(args) > 2 && !c.IsMemberFunction():
		rest := r.fac.NewCall(r.id(args[1]), name, args[1:]...)
		e.SetKindCase(r.fac.NewCall(e.ID(), name, args[0], rest))
		r.call(e, bound)
		return
	case name == operators.Equals || name == operators.NotEquals:
		if r.isID(args[0], bound) {
			r.idLiteral(args[1])
		} else if r.isID(args[1], bound) {
			r.idLiteral(args[0])
		}
	case name == operators.In:
		if r.isID(args[1], bound) { // a list of ids
			r.idLiteral(args[0])
		} else if r.isID(args[0], bound) && args[1].Kind() == ast.ListKind {
			for _, el := range args[1].AsList().Elements() {
				r.idLiteral(el)
			}
		}
	}
	if c.IsMemberFunction() {
		r.rewrite(c.Target(), bound)
	}
	for i, a := range args {
		if (name == operators.Index && i == 1 || name == "timestamp") && integral(a) {
			if a.Kind() == ast.CallKind { // the int stays one, its argument doesn't
				r.rewrite(a.AsCall().Args()[0], bound)
			}
			continue
		}
		r.rewrite(a, bound)
	}
	switch {
	case name == operators.Modulo:
		e.SetKindCase(r.fac.NewCall(e.ID(), mod, args...))
	case name == operators.Add || name == operators.Subtract || name == operators.Multiply || name == operators.Divide || name == "double":
		r.wrap(e, finite)
	case toDouble[name]:
		r.zone(c)
		r.wrap(e, "double")
	}
}

// zone refuses a zone that doesn't exist, which CEL would find out row by row.
func (r *rewriter) zone(c ast.CallExpr) {
	if !c.IsMemberFunction() || len(c.Args()) != 1 || c.Args()[0].Kind() != ast.LiteralKind {
		return
	}
	name, ok := c.Args()[0].AsLiteral().(types.String)
	if !ok || strings.Contains(string(name), ":") {
		return
	}
	if _, err := time.LoadLocation(string(name)); err != nil {
		at := r.tree.SourceInfo().GetStartLocation(c.Args()[0].ID())
		r.errs = append(r.errs, fmt.Errorf("column %d: %w; name one like Europe/Paris or +02:00", at.Column()+1, err))
	}
}

// integral reports whether e is an integer where CEL demands one: a literal, or int(x).
func integral(e ast.Expr) bool {
	if e.Kind() == ast.CallKind {
		c := e.AsCall()
		return c.FunctionName() == "int" && !c.IsMemberFunction() && len(c.Args()) == 1
	}
	if e.Kind() != ast.LiteralKind {
		return false
	}
	_, ok := e.AsLiteral().(types.Int)
	return ok
}

// isID reports whether e is an id or a list of ids, as far as can be seen before types are known.
func (r *rewriter) isID(e ast.Expr, bound []string) bool {
	switch e.Kind() {
	case ast.IdentKind, ast.SelectKind:
		name, ok := dotted(e)
		i := r.schema.Index(name)
		if !ok || i < 0 || slices.Contains(bound, name) {
			return false
		}
		f := r.schema.Fields[i]
		return f.Kind == event.ID || f.Kind == event.List && f.Elem == event.ID
	case ast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.Conditional:
			return r.isID(c.Args()[1], bound)
		case "coalesce", operators.Index:
			return len(c.Args()) > 0 && r.isID(c.Args()[0], bound)
		}
	}
	return false
}

func (r *rewriter) idLiteral(e ast.Expr) {
	if e.Kind() != ast.LiteralKind {
		return
	}
	var text string
	switch v := e.AsLiteral().(type) {
	case types.Int:
		text = strconv.FormatInt(int64(v), 10)
	case types.String:
		text = string(v)
	default:
		return
	}
	e.SetKindCase(r.fac.NewCall(e.ID(), toID, r.fac.NewLiteral(r.id(e), types.String(text))))
}
