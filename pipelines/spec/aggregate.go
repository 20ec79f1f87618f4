package spec

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/transforms/feature"
)

// call declares an aggregate function for parsing and for the reference.
type call struct {
	name string
	// form shows how it is called.
	form string
	// expr is how many expressions it takes: none, one, or none or one.
	least, most int
	// args are the numbers behind the expression.
	args []argument
	doc  string
}

type argument struct {
	name     string
	lo, hi   float64
	whole    bool
	duration bool // in seconds, written as a duration
	optional bool
}

var calls = []call{
	{name: "count", form: "count()", most: 1, doc: "How many; of `count(X)`, how many are not null. 0 over an empty window."},
	{name: "sum", form: "sum(X)", least: 1, most: 1, doc: "The sum, exact for ints and decimals."},
	{name: "mean", form: "mean(X)", least: 1, most: 1, doc: "The mean; of a bool, the share of true."},
	{name: "min", form: "min(X)", least: 1, most: 1, doc: "The least."},
	{name: "max", form: "max(X)", least: 1, most: 1, doc: "The greatest."},
	{name: "var", form: "var(X)", least: 1, most: 1, doc: "The variance."},
	{name: "std", form: "std(X)", least: 1, most: 1, doc: "The standard deviation."},
	{name: "first", form: "first(X)", least: 1, most: 1, doc: "The oldest value."},
	{name: "last", form: "last(X)", least: 1, most: 1, doc: "The newest value."},
	{name: "range", form: "range(X)", least: 1, most: 1, doc: "The greatest less the least."},
	{name: "distinct", form: "distinct(X)", least: 1, most: 1, doc: "How many different values, by HyperLogLog."},
	{name: "quantile", form: "quantile(X, 0.9)", least: 1, most: 1, args: []argument{{name: "quantile", hi: 1}}, doc: "A quantile, by DDSketch."},
	{name: "top_k", form: "top_k(X, 3)", least: 1, most: 1, args: []argument{{name: "k", lo: 1, hi: 1000, whole: true, optional: true}}, doc: "The k most frequent values; k is 10 if left out."},
	{name: "time_since_last", form: "time_since_last()", most: 1, doc: "Seconds since the last event."},
	{name: "slope", form: "slope(X)", least: 1, most: 1, doc: "The slope of the least-squares line over time, a second."},
	{name: "ewma", form: "ewma(X, 1h)", least: 1, most: 1, args: []argument{{name: "half-life", lo: 1e-6, hi: 1e12, duration: true}}, doc: "The mean, weighted by a half-life."},
	{name: "sequence", form: "sequence(X, 20)", least: 1, most: 1, args: []argument{{name: "length", lo: 1, hi: 10000, whole: true, optional: true}}, doc: "The last values, oldest first; 100 if the number is left out."},
}

// parseAggregate reads name(expression, number...).
func parseAggregate(s string, a *feature.Aggregate) error {
	s = strings.TrimSpace(s)
	name, rest, ok := strings.Cut(s, "(")
	name = strings.TrimSpace(name)
	if ok && !strings.Contains(rest, ")") {
		return fmt.Errorf("%q is not closed; within braces a comma ends the text, so put the call in quotes", s)
	}
	if !ok || !strings.HasSuffix(rest, ")") || !nameText.MatchString(name) {
		return fmt.Errorf("%q is not an aggregate such as count() or mean(AMOUNT)", s)
	}
	var known []string
	var c *call
	for i := range calls {
		known = append(known, calls[i].name)
		if calls[i].name == name {
			c = &calls[i]
		}
	}
	if c == nil {
		return fmt.Errorf("unknown aggregate %s%s", name, hint(name, known))
	}
	parts, err := splitArguments(strings.TrimSuffix(rest, ")"))
	if err != nil {
		return fmt.Errorf("%q: %w", s, err)
	}
	exprs := min(len(parts), c.most)
	given := len(parts) - exprs
	if exprs < c.least || given > len(c.args) || (given < len(c.args) && !c.args[given].optional) {
		return fmt.Errorf("%q: write %s", s, c.form)
	}
	a.Func, a.Arg, a.Args = name, "", nil
	if exprs == 1 {
		a.Arg = parts[0]
	}
	for i, text := range parts[exprs:] {
		v, err := c.args[i].parse(text)
		if err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		a.Args = append(a.Args, v)
	}
	return nil
}

func (a argument) parse(text string) (float64, error) {
	if a.duration {
		d, err := ParseDuration(text)
		if err != nil || d.Seconds() < a.lo {
			return 0, fmt.Errorf("%s %q is not a duration such as 1h", a.name, text)
		}
		return d.Seconds(), nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= a.lo && v <= a.hi) || (a.whole && v != float64(int64(v))) {
		what := "a number"
		if a.whole {
			what = "a whole number"
		}
		return 0, fmt.Errorf("%s %q is not %s from %v to %v", a.name, text, what, a.lo, a.hi)
	}
	return v, nil
}

// splitArguments cuts at the commas that stand in no bracket and no quotes.
func splitArguments(s string) ([]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var parts []string
	var open []byte
	start := 0
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0:
			if c == '\\' {
				i++
			} else if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '(' || c == '[' || c == '{':
			open = append(open, c)
		case c == ')' || c == ']' || c == '}':
			if len(open) == 0 {
				return nil, fmt.Errorf("%c closes nothing", c)
			}
			open = open[:len(open)-1]
		case c == ',' && len(open) == 0:
			parts = append(parts, strings.TrimSpace(s[start:i]))
			start = i + 1
		}
	}
	if quote != 0 || len(open) > 0 {
		return nil, fmt.Errorf("a bracket or quote is not closed")
	}
	parts = append(parts, strings.TrimSpace(s[start:]))
	for _, p := range parts {
		if p == "" {
			return nil, fmt.Errorf("an argument is empty")
		}
	}
	return parts, nil
}

func sorted(m map[string]bool) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
