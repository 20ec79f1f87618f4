package expr

import (
	"math"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	celref "cel.dev/cel-go/common/types/ref"
)

// unary and binary are the functions of doubles, the same for kernels and rows.
var unary = map[string]func(float64) float64{
	"abs": math.Abs, "log": math.Log, "log1p": math.Log1p, "exp": math.Exp, "sqrt": math.Sqrt,
	"floor": math.Floor, "ceil": math.Ceil,
}

var binary = map[string]func(a, b float64) float64{
	"min": func(a, b float64) float64 { return min(a, b) },
	"max": func(a, b float64) float64 { return max(a, b) },
	"pow": math.Pow,
	mod:   math.Mod,
}

// null stands for a missing value in cel-go.
var null = types.NewErr("null")

func isNull(v celref.Val) bool { return types.IsError(v) || types.IsUnknown(v) }

func number(f float64) celref.Val {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return null
	}
	return types.Double(f)
}

func functions() cel.EnvOption {
	var opts []cel.EnvOption
	add := func(name string, args []*cel.Type, result *cel.Type, more ...cel.OverloadOpt) {
		opts = append(opts, cel.Function(name, cel.Overload(name+"_millrace", args, result, more...)))
	}
	for name, f := range unary {
		add(name, []*cel.Type{cel.DoubleType}, cel.DoubleType, cel.UnaryBinding(func(v celref.Val) celref.Val {
			x, ok := v.(types.Double)
			if !ok {
				return null
			}
			return number(f(float64(x)))
		}))
	}
	for name, f := range binary {
		add(name, []*cel.Type{cel.DoubleType, cel.DoubleType}, cel.DoubleType, cel.BinaryBinding(func(a, b celref.Val) celref.Val {
			x, okX := a.(types.Double)
			y, okY := b.(types.Double)
			if !okX || !okY {
				return null
			}
			return number(f(float64(x), float64(y)))
		}))
	}
	any := cel.TypeParamType("T")
	add(finite, []*cel.Type{any}, any, cel.UnaryBinding(func(v celref.Val) celref.Val {
		if x, ok := v.(types.Double); ok {
			return number(float64(x))
		}
		return v
	}))
	add(toID, []*cel.Type{cel.StringType}, idType, cel.UnaryBinding(func(v celref.Val) celref.Val { return v }))
	add("isNull", []*cel.Type{any}, cel.BoolType, cel.OverloadIsNonStrict(), cel.UnaryBinding(func(v celref.Val) celref.Val {
		return types.Bool(isNull(v))
	}))
	add("coalesce", []*cel.Type{any, any}, any, cel.OverloadIsNonStrict(), cel.BinaryBinding(func(a, b celref.Val) celref.Val {
		if isNull(a) {
			return b
		}
		return a
	}))
	return cel.Lib(library(opts))
}

type library []cel.EnvOption

func (l library) CompileOptions() []cel.EnvOption     { return l }
func (l library) ProgramOptions() []cel.ProgramOption { return nil }
