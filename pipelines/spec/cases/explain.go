package cases

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/format"
)

// explain shows what a feature of a row was made of.
func explain(u *spec.UseCase, b *event.Batch, name string, row int) ([]string, error) {
	for _, f := range u.Entries {
		if f.Entity == "" {
			if f.Name == name {
				return explainExpr(f.Expr, b, row)
			}
			continue
		}
		names := feature.Params{Features: []feature.Feature{f}}.Names()
		if i := slices.Index(names, name); i >= 0 {
			// Names go through the windows of an aggregate before the next one.
			return explainWindow(u, b, f, f.Aggregates[i/len(f.Windows)], f.Windows[i%len(f.Windows)], row)
		}
	}
	return nil, nil
}

func explainExpr(src string, b *event.Batch, row int) ([]string, error) {
	p, err := expr.Compile(src, b.Schema)
	if err != nil {
		return nil, err
	}
	parts := make([]string, 0, len(p.Fields()))
	for _, n := range p.Fields() {
		parts = append(parts, n+" = "+show(value(b, n, row)))
	}
	return []string{src + ", where " + strings.Join(parts, ", ")}, nil
}

// explainWindow finds the rows of a window by the definition and not by the engine, whose work is in
// question.
func explainWindow(u *spec.UseCase, b *event.Batch, f feature.Feature, a feature.Aggregate, w feature.Window, row int) ([]string, error) {
	entity := b.Col(f.Entity)
	call := a.Func + "(" + a.Arg + ")"
	if entity.Null(row) {
		return []string{fmt.Sprintf("%s: the event has no %s", call, f.Entity)}, nil
	}
	who := string(entity.AppendID(nil, row))
	end := b.Times()[row] - f.Delay.Microseconds()
	var in []int
	for i := range b.N { // in order of time and id
		at, same := b.Times()[i], !entity.Null(i) && string(entity.AppendID(nil, i)) == who
		switch {
		case !same || at > end:
		case f.Delay == 0 && (i > row || i == row && f.ExcludeCurrent):
		default:
			in = append(in, i)
		}
	}
	span := fmt.Sprintf("up to %s", clock(end))
	switch {
	case w.Duration > 0:
		from := end - w.Duration.Microseconds()
		in = slices.DeleteFunc(in, func(i int) bool { return b.Times()[i] <= from })
		span = fmt.Sprintf("in (%s, %s]", clock(from), clock(end))
	case w.Last > 0:
		in = in[max(0, len(in)-w.Last):]
	case w.Session > 0:
		first := len(in) - 1
		for first > 0 && b.Times()[in[first]]-b.Times()[in[first-1]] <= w.Session.Microseconds() {
			first--
		}
		in = in[max(0, first):]
	}
	look := func(src string) (func(i int) any, bool, error) {
		if src == "" {
			return func(int) any { return nil }, false, nil
		}
		p, err := expr.Compile(src, b.Schema)
		if err != nil {
			return nil, false, err
		}
		c, err := p.Eval(b)
		if err != nil {
			return nil, false, err
		}
		label := u.Label != nil && slices.Contains(p.Fields(), u.Label.Field)
		return func(i int) any { return valueOf(event.Field{Kind: p.Kind()}, &c, i) }, label, nil
	}
	arg, byArg, err := look(a.Arg)
	if err != nil {
		return nil, err
	}
	holds, byWhere, err := look(a.Where)
	if err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("%s of %s %s %s: %d events", call, f.Entity, who, span, len(in))}
	for _, i := range in {
		line := fmt.Sprintf("  %s  %s", clock(b.Times()[i]), b.IDs().AppendID(nil, i))
		if a.Arg != "" {
			line += "  " + show(arg(i))
		}
		switch {
		case (byArg || byWhere) && b.Times()[i]+u.Label.Delay.Microseconds() > b.Times()[row]:
			line += "  does not count: its label is not yet known"
		case a.Where != "" && holds(i) != any(true):
			line += "  does not count: not " + a.Where
		case a.Arg != "" && arg(i) == nil:
			line += "  does not count"
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func clock(us int64) string {
	if us < math.MinInt64/2 {
		return "the beginning"
	}
	return string(format.AppendTime(nil, us))
}
