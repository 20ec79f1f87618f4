package expr

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	celref "cel.dev/cel-go/common/types/ref"
)

// canonical writes a checked tree in prefix form. It must never change: fingerprints hash it.
func canonical(tree *ast.AST) string { return write(tree, tree.Expr()) }

func write(tree *ast.AST, e ast.Expr) string {
	form := func(name string, parts ...string) string {
		return "(" + strings.Join(append([]string{name}, parts...), " ") + ")"
	}
	all := func(es []ast.Expr) []string {
		out := make([]string, len(es))
		for i, e := range es {
			out[i] = write(tree, e)
		}
		return out
	}
	switch e.Kind() {
	case ast.LiteralKind:
		switch v := e.AsLiteral().(type) {
		case types.Double:
			return strconv.FormatFloat(float64(v)+0, 'g', -1, 64) // + 0 makes -0 a 0
		case types.String:
			return strconv.Quote(string(v))
		default:
			return form(v.Type().TypeName(), strconv.Quote(strings.TrimSpace(stringOf(v))))
		}
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		return form("."+e.AsSelect().FieldName(), write(tree, e.AsSelect().Operand()))
	case ast.ListKind:
		return "[" + strings.Join(all(e.AsList().Elements()), " ") + "]"
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		return form("loop", c.IterVar(), c.IterVar2(), c.AccuVar(), write(tree, c.IterRange()), write(tree, c.AccuInit()),
			write(tree, c.LoopCondition()), write(tree, c.LoopStep()), write(tree, c.Result()))
	case ast.CallKind:
	default:
		return form("?")
	}
	c := e.AsCall()
	name, args := c.FunctionName(), c.Args()
	if c.IsMemberFunction() {
		args = append([]ast.Expr{c.Target()}, args...)
	}
	parts := all(args)
	switch name {
	case finite:
		return parts[0]
	case "double":
		if k := tree.GetType(args[0].ID()).Kind(); k == types.DoubleKind || k == types.IntKind {
			return parts[0]
		}
	case operators.LogicalAnd, operators.LogicalOr:
		// Chains are trees of two operands each, balanced by the parser as it likes.
		parts = nil
		var flatten func(e ast.Expr)
		flatten = func(e ast.Expr) {
			if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == name {
				for _, a := range e.AsCall().Args() {
					flatten(a)
				}
				return
			}
			parts = append(parts, write(tree, e))
		}
		flatten(e)
		slices.Sort(parts)
		if parts = slices.Compact(parts); len(parts) == 1 {
			return parts[0]
		}
	case operators.Equals, operators.NotEquals, operators.Multiply, "min", "max":
		slices.Sort(parts)
	case operators.Add:
		if tree.GetType(e.ID()).Kind() == types.DoubleKind {
			slices.Sort(parts)
		}
	case operators.Greater:
		name, parts[0], parts[1] = operators.Less, parts[1], parts[0]
	case operators.GreaterEquals:
		name, parts[0], parts[1] = operators.LessEquals, parts[1], parts[0]
	case operators.In:
		if args[1].Kind() == ast.ListKind {
			set := all(args[1].AsList().Elements())
			slices.Sort(set)
			parts[1] = "[" + strings.Join(slices.Compact(set), " ") + "]"
		}
	}
	if short, ok := shownNames[name]; ok {
		name = short
	}
	return form(strings.TrimPrefix(name, "@"), parts...)
}

func stringOf(v celref.Val) string { return fmt.Sprint(v.Value()) }
