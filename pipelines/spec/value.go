package spec

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/transforms/feature"
)

// A value is a declaration bound to the place that it decodes into. Bound to a throw-away place it
// still describes itself, which is how the reference and the JSON Schema are made.
type value interface {
	decode(d *decoder, n *yaml.Node, path string)
	describe() description
}

// description is what the generated pages say about a value.
type description struct {
	text    string         // the type in words
	schema  map[string]any // JSON Schema
	objects []object       // the objects that the value holds
}

// key is one key of an object.
type key struct {
	name     string
	value    value
	doc      string
	def      string
	example  string
	required bool
}

// object is a mapping with declared keys.
type object struct {
	name string // its heading in the reference
	doc  string
	keys []key
}

// decoder collects faults and remembers where each path stands.
type decoder struct {
	file   string
	faults Faults
	at     map[string]*yaml.Node
	origin map[*yaml.Node]string // nodes that came by flag
}

func (d *decoder) fault(n *yaml.Node, path, format string, args ...any) {
	f := Fault{File: d.file, Path: path, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		if flag, ok := d.origin[n]; ok {
			f.File = "--set " + flag
		} else {
			f.Line, f.Col = n.Line, n.Column
		}
	}
	d.faults = append(d.faults, f)
}

// faultAt reports a fault at a path, placed at the path or the nearest thing around it.
func (d *decoder) faultAt(path, format string, args ...any) {
	d.fault(d.node(path), path, format, args...)
}

// faultsAt reports each of the errors that a Validate has joined.
func (d *decoder) faultsAt(path string, err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") {
		for _, e := range many.Unwrap() {
			d.faultsAt(path, e)
		}
		return
	}
	d.faultAt(path, "%s", message(err))
}

// message drops what the place of a fault already says.
func message(err error) string {
	return strings.TrimPrefix(err.Error(), feature.ErrParams.Error()+": ")
}

func (d *decoder) node(path string) *yaml.Node {
	for p := path; ; {
		if n, ok := d.at[p]; ok || p == "" {
			return n
		}
		p = p[:max(strings.LastIndexAny(p, ".["), 0)]
	}
}

func (d *decoder) has(path string) bool { _, ok := d.at[path]; return ok }

// bad says whether a fault was found at the path or below it.
func (d *decoder) bad(path string) bool {
	for _, f := range d.faults {
		if rest, ok := strings.CutPrefix(f.Path, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// enter notes where the path stands and follows aliases.
func (d *decoder) enter(n *yaml.Node, path string) *yaml.Node {
	d.at[path] = n
	return follow(n)
}

func (d *decoder) wrong(n *yaml.Node, path, want string) {
	if n.ShortTag() == "!!null" {
		d.fault(n, path, "has no value, wants %s", want)
		return
	}
	d.fault(n, path, "wants %s, not %s", want, kindName(n))
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value
	case "!!null":
		return "nothing"
	}
	return "a text"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// pairs walks a mapping and reports what stands twice.
func (d *decoder) pairs(n *yaml.Node, path string, visit func(k, v *yaml.Node, path string)) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		p := join(path, k.Value)
		if k.Kind != yaml.ScalarNode {
			d.fault(k, path, "a key is %s, wants a name", kindName(k))
			continue
		}
		if seen[k.Value] {
			d.fault(k, p, "stands twice")
			continue
		}
		seen[k.Value] = true
		visit(k, v, p)
	}
}

func (o object) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "a mapping with "+strings.Join(o.names(), ", "))
		return
	}
	given := map[string]bool{}
	d.pairs(n, path, func(k, v *yaml.Node, p string) {
		i := slices.IndexFunc(o.keys, func(x key) bool { return x.name == k.Value })
		if i < 0 {
			d.fault(k, p, "unknown key%s", hint(k.Value, o.names()))
			return
		}
		given[k.Value] = true
		o.keys[i].value.decode(d, v, p)
	})
	for _, k := range o.keys {
		if k.required && !given[k.name] {
			d.fault(n, join(path, k.name), "is missing")
		}
	}
}

func (o object) names() []string {
	names := make([]string, len(o.keys))
	for i, k := range o.keys {
		names[i] = k.name
	}
	return names
}

func (o object) describe() description {
	props, required := map[string]any{}, []string{}
	for _, k := range o.keys {
		s := maps.Clone(k.value.describe().schema)
		doc := k.doc
		if k.def != "" {
			doc += " Default: " + k.def + "."
		}
		s["description"] = doc
		props[k.name] = s
		if k.required {
			required = append(required, k.name)
		}
	}
	s := map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return description{text: "[" + o.name + "](#" + anchor(o.name) + ")", schema: s, objects: []object{o}}
}

func anchor(heading string) string {
	return strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(heading, "`", "")), " ", "-")
}

// hint names what was probably meant.
func hint(given string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if n := edits(strings.ToLower(given), strings.ToLower(k)); n < distance && n < max(len(k), 2) {
			best, distance = k, n
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	if len(known) == 0 {
		return ""
	}
	known = slices.Clone(known)
	sort.Strings(known)
	return "; known are " + strings.Join(known, ", ")
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// scalar is a single value. tags are the YAML types it accepts; none means all but null.
type scalar struct {
	text   string
	schema map[string]any
	tags   []string
	set    func(n *yaml.Node) error
}

func (s scalar) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode || tag == "!!null" || (len(s.tags) > 0 && !slices.Contains(s.tags, tag)) {
		d.wrong(n, path, s.text)
		return
	}
	if err := s.set(n); err != nil {
		d.fault(n, path, "%s", message(err))
	}
}

func (s scalar) describe() description { return description{text: s.text, schema: s.schema} }

var nameText = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func text(dst *string) scalar {
	return scalar{text: "a text", schema: map[string]any{"type": "string"}, tags: []string{"!!str"}, set: func(n *yaml.Node) error {
		if n.Value == "" {
			return fmt.Errorf("is empty")
		}
		*dst = n.Value
		return nil
	}}
}

func name(dst *string) scalar {
	s := map[string]any{"type": "string", "pattern": nameText.String()}
	return scalar{text: "a name", schema: s, tags: []string{"!!str"}, set: func(n *yaml.Node) error {
		if !nameText.MatchString(n.Value) {
			return fmt.Errorf("%q is not a name: letters, digits and _, no digit first", n.Value)
		}
		*dst = n.Value
		return nil
	}}
}

// expression accepts every scalar, since 1 and true are expressions too.
func expression(dst *string) scalar {
	s := map[string]any{"type": []string{"string", "number", "boolean"}}
	return scalar{text: "an expression", schema: s, set: func(n *yaml.Node) error {
		if strings.TrimSpace(n.Value) == "" {
			return fmt.Errorf("is empty, wants an expression")
		}
		*dst = n.Value
		return nil
	}}
}

func url(dst *Ref) scalar {
	return scalar{text: "a URL or path", schema: map[string]any{"type": "string"}, tags: []string{"!!str"}, set: func(n *yaml.Node) error {
		if n.Value == "" {
			return fmt.Errorf("is empty, wants a URL or path")
		}
		*dst = Ref(n.Value)
		return dst.check()
	}}
}

func boolean(dst *bool) scalar {
	return scalar{text: "true or false", schema: map[string]any{"type": "boolean"}, tags: []string{"!!bool"}, set: func(n *yaml.Node) error {
		return n.Decode(dst)
	}}
}

func integer[T ~int | ~int64 | ~uint64 | ~uint8](dst *T, lo, hi int) scalar {
	s := map[string]any{"type": "integer", "minimum": lo, "maximum": hi}
	what := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	return scalar{text: what, schema: s, tags: []string{"!!int"}, set: func(n *yaml.Node) error {
		v, err := strconv.ParseInt(n.Value, 0, 64)
		if err != nil || v < int64(lo) || v > int64(hi) {
			return fmt.Errorf("%s is not %s", n.Value, what)
		}
		*dst = T(v)
		return nil
	}}
}

// number is a finite number between lo and hi, inclusive; open excludes the bounds themselves.
func number(set func(float64), what string, lo, hi float64, open bool) scalar {
	s := map[string]any{"type": "number"}
	if lo > -1e300 {
		s[map[bool]string{false: "minimum", true: "exclusiveMinimum"}[open]] = lo
	}
	if hi < 1e300 {
		s[map[bool]string{false: "maximum", true: "exclusiveMaximum"}[open]] = hi
	}
	return scalar{text: what, schema: s, tags: []string{"!!int", "!!float"}, set: func(n *yaml.Node) error {
		v, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if err != nil || v != v || v < lo || v > hi || (open && (v == lo || v == hi)) {
			return fmt.Errorf("%s is not %s", n.Value, what)
		}
		set(v)
		return nil
	}}
}

func optionalNumber(dst **float64) scalar {
	return number(func(v float64) { *dst = &v }, "a number", -1e308, 1e308, false)
}

func duration(dst *time.Duration, least time.Duration) scalar {
	s := map[string]any{"type": []string{"string", "integer"}, "pattern": `^(0|(\d+(\.\d+)?(w|d|h|m|s|ms|us))+)$`}
	return scalar{text: "a duration", schema: s, tags: []string{"!!str", "!!int"}, set: func(n *yaml.Node) error {
		v, err := ParseDuration(n.Value)
		if err != nil {
			return err
		}
		if v < least {
			return fmt.Errorf("%s is shorter than %s", n.Value, FormatDuration(least))
		}
		*dst = v
		return nil
	}}
}

func date(dst *time.Time) scalar {
	s := map[string]any{"type": "string"}
	return scalar{text: "a date", schema: s, tags: []string{"!!str", "!!timestamp"}, set: func(n *yaml.Node) error {
		for _, layout := range []string{time.DateOnly, time.RFC3339} {
			if t, err := time.Parse(layout, n.Value); err == nil {
				*dst = t.UTC()
				return nil
			}
		}
		return fmt.Errorf("%q is not a date such as 2018-07-25 or 2018-07-25T00:00:00Z", n.Value)
	}}
}

func enum(dst *string, values ...string) scalar {
	s := map[string]any{"enum": values}
	return scalar{text: strings.Join(values, ", "), schema: s, tags: []string{"!!str"}, set: func(n *yaml.Node) error {
		if !slices.Contains(values, n.Value) {
			return fmt.Errorf("%q is not one of %s%s", n.Value, strings.Join(values, ", "), suggestion(n.Value, values))
		}
		*dst = n.Value
		return nil
	}}
}

// suggestion is hint without the list.
func suggestion(given string, known []string) string {
	if h := hint(given, known); strings.Contains(h, "did you mean") {
		return h
	}
	return ""
}

// parsed is a text with a grammar of its own.
func parsed(what, pattern string, parse func(string) error) scalar {
	s := map[string]any{"type": "string"}
	if pattern != "" {
		s["pattern"] = pattern
	}
	return scalar{text: what, schema: s, tags: []string{"!!str"}, set: func(n *yaml.Node) error { return parse(n.Value) }}
}

// parameter is a hyper-parameter: a scalar or a list of scalars.
type parameter struct{ dst *any }

func (p parameter) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	flat := n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null"
	if n.Kind == yaml.SequenceNode {
		flat = !slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return follow(e).Kind != yaml.ScalarNode })
	}
	if !flat {
		d.wrong(n, path, "a number, a text, true, false, or a list of them")
		return
	}
	if err := n.Decode(p.dst); err != nil {
		d.fault(n, path, "%v", err)
	}
}

func (p parameter) describe() description {
	return description{text: "a value or a list of them", schema: map[string]any{"type": []string{"string", "number", "boolean", "array"}}}
}

// list is a sequence of values.
type list[T any] struct {
	dst  *[]T
	elem func(*T) value
	// lone accepts a single element without its list.
	lone  bool
	least int
}

func (l list[T]) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	if l.lone && n.Kind == yaml.ScalarNode {
		*l.dst = make([]T, 1)
		l.elem(&(*l.dst)[0]).decode(d, n, path)
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, path, "a list")
		return
	}
	if len(n.Content) < l.least {
		d.fault(n, path, "is empty, wants at least %d", l.least)
	}
	*l.dst = make([]T, len(n.Content))
	for i, e := range n.Content {
		l.elem(&(*l.dst)[i]).decode(d, e, fmt.Sprintf("%s[%d]", path, i))
	}
}

func (l list[T]) describe() description {
	e := l.elem(new(T)).describe()
	s := map[string]any{"type": "array", "items": e.schema}
	if l.least > 0 {
		s["minItems"] = l.least
	}
	if l.lone {
		return description{text: e.text + ", or a list", schema: map[string]any{"anyOf": []any{e.schema, s}}, objects: e.objects}
	}
	return description{text: "list of " + e.text, schema: s, objects: e.objects}
}

// dict is a mapping whose keys the file chooses; its order is the file's.
type dict[T any] struct {
	dst  *[]T
	elem func(name string, t *T) value
	// free keys need not be names.
	free  bool
	least int
}

func (m dict[T]) decode(d *decoder, n *yaml.Node, path string) {
	n = d.enter(n, path)
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "a mapping")
		return
	}
	if len(n.Content) < m.least {
		d.fault(n, path, "is empty, wants at least %d", m.least)
	}
	d.pairs(n, path, func(k, v *yaml.Node, p string) {
		if !m.free && !nameText.MatchString(k.Value) {
			d.fault(k, p, "%q is not a name: letters, digits and _, no digit first", k.Value)
			return
		}
		*m.dst = append(*m.dst, *new(T))
		m.elem(k.Value, &(*m.dst)[len(*m.dst)-1]).decode(d, v, p)
	})
}

func (m dict[T]) describe() description {
	e := m.elem("NAME", new(T)).describe()
	s := map[string]any{"type": "object", "additionalProperties": e.schema}
	if !m.free {
		s["propertyNames"] = map[string]any{"pattern": nameText.String()}
	}
	return description{text: "names, each with " + e.text, schema: s, objects: e.objects}
}

// forms chooses by how the value is written: on one line, as a mapping, or as a list.
type forms struct{ scalar, mapping, sequence value }

func (f forms) all() []value {
	var all []value
	for _, v := range []value{f.scalar, f.mapping, f.sequence} {
		if v != nil {
			all = append(all, v)
		}
	}
	return all
}

// link is an object in the reference page.
var link = regexp.MustCompile(`\[[^\]]*\]\(#[^)]*\)`)

func (f forms) decode(d *decoder, n *yaml.Node, path string) {
	v := f.scalar
	switch follow(n).Kind {
	case yaml.MappingNode:
		v = f.mapping
	case yaml.SequenceNode:
		v = f.sequence
	}
	if v == nil {
		d.wrong(d.enter(n, path), path, link.ReplaceAllString(f.describe().text, "a mapping"))
		return
	}
	v.decode(d, n, path)
}

func (f forms) describe() description {
	var out description
	var texts []string
	var schemas []any
	for _, v := range f.all() {
		e := v.describe()
		texts, schemas = append(texts, e.text), append(schemas, e.schema)
		out.objects = append(out.objects, e.objects...)
	}
	out.text, out.schema = strings.Join(texts, ", or "), map[string]any{"anyOf": schemas}
	return out
}

// optional allocates the place only where the file has the key.
type optional[T any] struct {
	dst  **T
	elem func(*T) value
}

func (o optional[T]) decode(d *decoder, n *yaml.Node, path string) {
	*o.dst = new(T)
	o.elem(*o.dst).decode(d, n, path)
}

func (o optional[T]) describe() description { return o.elem(new(T)).describe() }
