package feature

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
	"github.com/millrace-ml/millrace/transforms/feature/internal/window"
)

// compiled is Params, checked and cut into stages.
type compiled struct {
	input, output *event.Schema
	// first are the derived features that need no entity; then come the stages.
	first   deriver
	stages  []*stage
	meaning []string // a line for each feature column
	// labels is the schema of labels; nil: they come in the events.
	labels *event.Schema
}

// deriver appends derived columns, and leaves only what is needed behind it.
type deriver struct {
	programs []*expr.Program
	schemas  []*event.Schema // with one more column each
	keep     *event.Schema
}

func (d *deriver) apply(b event.Batch) (event.Batch, error) {
	for i, p := range d.programs {
		col, err := p.Eval(&b)
		if err != nil {
			return event.Batch{}, fmt.Errorf("computing feature %q: %w", d.schemas[i].Fields[len(b.Cols)].Name, err)
		}
		b = b.With(d.schemas[i], col)
	}
	if b.Schema.Equal(d.keep) {
		return event.Batch{Schema: d.keep, Cols: b.Cols, N: b.N}, nil
	}
	return b.Only(d.keep)
}

// stage is a run of features of one entity, and the derived ones behind them.
type stage struct {
	name     string // of the entity
	entity   int
	rows     *event.Schema // that come in
	operands []operand
	plan     *window.Plan
	with     *event.Schema // input and the plan's outputs
	then     deriver
	meaning  []string     // a line for each feature that the rows kept depend on
	labels   *stageLabels // nil: the stage uses none
}

type operand struct {
	arg, where *expr.Program // nil: none
	field      event.Field   // of a bare arg, else of its result
	kind       window.Kind
	scale      float64
}

// compiler holds what one run of compile needs.
type compiler struct {
	p      Params
	errs   []error
	labels *event.Schema
}

func (c *compiler) fault(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func compile(p Params) (*compiled, error) {
	c := &compiler{p: p}
	input, err := event.NewSchema(p.Fields, p.ID, p.Time)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	if p.ID == "" || p.Time == "" {
		c.fault("an event's id and time must be named: they order the rows of a window")
	}
	if p.Shards < 0 || p.Shards > 1<<16 {
		c.fault("shards: %d is not between 0 and 65,536", p.Shards)
	}
	if p.Memory < 0 {
		c.fault("memory: %d bytes", p.Memory)
	}
	if p.LabelDelay < 0 {
		c.fault("label: its delay is %v", p.LabelDelay)
	}
	switch {
	case p.Labels != nil:
		c.checkLabels(input)
	case p.Label != "" && input.Index(p.Label) < 0:
		c.fault("label: no field %q", p.Label)
	}
	if st := p.Stream; st != nil {
		if st.Order != "" && st.Order != Arrival && st.Order != EventTime {
			c.fault("order: %q; there are %s and %s", st.Order, Arrival, EventTime)
		}
		if st.Lateness < 0 {
			c.fault("lateness: it is %v", st.Lateness)
		}
	}
	for _, k := range p.Keep {
		if input.Index(k) < 0 && !slices.Contains(p.Names(), k) {
			c.fault("keep: no field or feature %q", k)
		}
	}
	out := &compiled{input: input, output: input, labels: c.labels}

	// First all columns, to learn which are used where.
	full := input
	uses, meanings := make([][]string, len(p.Features)), make([][]string, len(p.Features))
	for i, f := range p.Features {
		before := len(c.errs)
		fields, used, meaning := c.feature(i, f, full)
		uses[i], meanings[i], out.meaning = used, meaning, append(out.meaning, meaning...)
		if len(c.errs) > before {
			continue
		}
		if full, err = with(full, fields...); err != nil {
			c.fault("feature %d: %w", i, err)
			break
		}
	}
	if err := errors.Join(c.errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}

	// Then the stages, each over the columns that it or something behind it uses.
	need := func(from int, s *event.Schema) *event.Schema {
		var names []string
		for i, f := range s.Fields {
			keep := len(p.Keep) == 0 || i == s.ID || i == s.Time || slices.Contains(p.Keep, f.Name) || input.Index(f.Name) < 0
			for k := from; k < len(uses) && !keep; k++ {
				keep = slices.Contains(uses[k], f.Name)
			}
			if keep {
				names = append(names, f.Name)
			}
		}
		kept, err := s.Only(names...)
		if err != nil {
			c.fault("%w", err)
			return s
		}
		return kept
	}
	schema, at := input, 0
	derive := func() deriver {
		var d deriver
		for ; at < len(p.Features) && p.Features[at].Entity == ""; at++ {
			f := p.Features[at]
			program, err := expr.Compile(f.Expr, schema)
			if err != nil {
				c.fault("feature %q: %w", f.Name, err)
				continue
			}
			if schema, err = with(schema, result(f.Name, program, schema)); err != nil {
				c.fault("feature %q: %w", f.Name, err)
				continue
			}
			d.programs, d.schemas = append(d.programs, program), append(d.schemas, schema)
		}
		schema = need(at, schema)
		d.keep = schema
		return d
	}
	out.first = derive()
	for at < len(p.Features) && len(c.errs) == 0 {
		s := &stage{name: p.Features[at].Entity, entity: schema.Index(p.Features[at].Entity), rows: schema}
		cfg := window.Config{Lateness: p.kept()}
		var fields []event.Field
		from := at
		for ; at < len(p.Features) && p.Features[at].Entity == s.name && !c.uses(uses[at], from, at); at++ {
			fields = append(fields, c.outputs(s, &cfg, p.Features[at], schema)...)
		}
		for _, o := range s.operands {
			cfg.Operands = append(cfg.Operands, window.Operand{Kind: o.kind, Scale: o.scale})
		}
		s.readLabels(c, &cfg)
		s.plan = window.NewPlan(cfg)
		if schema, err = with(schema, fields...); err != nil {
			c.fault("%w", err)
			break
		}
		s.with = schema
		s.meaning = append(c.behind(from, at, uses, meanings), fmt.Sprintf("by %s of kind %v", s.name, schema.Fields[s.entity].Kind))
		s.then = derive()
		if s.labels != nil {
			s.labels.first = !slices.ContainsFunc(out.stages, func(s *stage) bool { return s.labels != nil })
		}
		out.stages = append(out.stages, s)
	}
	out.output = schema
	if err := errors.Join(c.errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	return out, nil
}

// with appends columns to a schema, whose roles stay.
func with(s *event.Schema, fields ...event.Field) (*event.Schema, error) { return s.With(fields...) }

// uses tells whether used names a column of features from..to, which then can't be in one stage.
func (c *compiler) uses(used []string, from, to int) bool {
	for _, n := range (Params{Features: c.p.Features[from:to]}).Names() {
		if slices.Contains(used, n) {
			return true
		}
	}
	return false
}

// behind lists what features from..to mean, and all those above that they use.
func (c *compiler) behind(from, to int, uses, meanings [][]string) []string {
	lines, used := slices.Concat(meanings[from:to]...), slices.Concat(uses[from:to]...)
	for i := from - 1; i >= 0; i-- {
		if c.uses(used, i, i+1) {
			lines, used = append(lines, meanings[i]...), append(used, uses[i]...)
		}
	}
	slices.Sort(lines)
	return lines
}

// result is the field that a derived feature gives.
func result(name string, p *expr.Program, s *event.Schema) event.Field {
	f := event.Field{Name: name, Kind: p.Kind()}
	if f.Kind == event.List {
		f.Elem = s.Fields[p.Field()].Elem
	}
	return f
}

// feature checks one feature, and tells its columns, the columns that it uses, and what it means.
func (c *compiler) feature(i int, f Feature, s *event.Schema) (fields []event.Field, used, meaning []string) {
	if f.Entity == "" {
		if f.Name == "" || f.Expr == "" {
			c.fault("feature %d (%q): give a name and an expression, or an entity with windows and aggregates", i, f.Name)
			return nil, nil, nil
		}
		if len(f.Windows)+len(f.Aggregates) > 0 || f.Delay != 0 || f.Resolution != 0 || f.ExcludeCurrent {
			c.fault("feature %q: windows, aggregates, delay and the like belong to an entity, and none is named", f.Name)
		}
		p, err := expr.Compile(f.Expr, c.wide(s))
		if err != nil {
			c.fault("feature %q: %w", f.Name, err)
			return nil, nil, nil
		}
		if c.p.Label != "" && slices.Contains(p.Fields(), c.p.Label) {
			c.fault("feature %q: it shows the event's own label %q, which is not known yet; use it in an aggregate", f.Name, c.p.Label)
		}
		return []event.Field{result(f.Name, p, s)}, p.Fields(), []string{fmt.Sprintf("%s = %s", f.Name, describe(p, c.wide(s)))}
	}
	where := fmt.Sprintf("feature %d (%s)", i, f.Entity)
	if f.Name != "" || f.Expr != "" {
		c.fault("%s: an entity's columns are named by its aggregates; name and expr belong to derived features", where)
	}
	used = []string{f.Entity}
	e := s.Index(f.Entity)
	switch {
	case e < 0:
		c.fault("%s: no field of that name to be an entity", where)
		return nil, nil, nil
	case s.Fields[e].Kind == event.Float || s.Fields[e].Kind == event.List:
		c.fault("%s: a %v can't be an entity", where, s.Fields[e].Kind)
	}
	if len(f.Windows) == 0 || len(f.Aggregates) == 0 {
		c.fault("%s: windows and aggregates are both needed", where)
	}
	if f.Delay < 0 {
		c.fault("%s: delay %v is negative", where, f.Delay)
	}
	if f.Resolution != 0 {
		c.fault("%s: resolution %v: windows in panes are not implemented yet; leave it out for exact ones", where, f.Resolution)
	}
	for _, w := range f.Windows {
		set := 0
		for _, is := range []bool{w.Duration != 0, w.Last != 0, w.All, w.Session != 0} {
			if is {
				set++
			}
		}
		if set != 1 || w.Duration < 0 || w.Last < 0 || w.Session < 0 || w.Last > math.MaxInt32 {
			c.fault("%s: window %+v: exactly one of duration, last, all and session, above 0", where, w)
		}
		if (w.Duration%time.Microsecond)+(w.Session%time.Microsecond)+(f.Delay%time.Microsecond) != 0 {
			c.fault("%s: window %v, delay %v: event times have microseconds, no finer", where, w, f.Delay)
		}
	}
	for _, a := range f.Aggregates {
		kind, ops, u, ok := c.aggregate(fmt.Sprintf("%s, aggregate %q", where, a.Name), a, s)
		used = append(used, u...)
		if !ok {
			continue
		}
		if ops.label != nil {
			c.checkKey(fmt.Sprintf("%s, aggregate %q", where, a.Name), s.Fields[e])
		}
		for _, w := range f.Windows {
			name := a.Name + "_" + w.suffix()
			field := event.Field{Name: name, Kind: event.Float}
			if kind != 0 {
				field.Kind, field.Elem = event.List, kind
			}
			fields = append(fields, field)
			meaning = append(meaning, c.meaning(name, f, a, w, u, s))
		}
	}
	return fields, used, meaning
}

// describe is an expression's meaning, with the types of what it reads.
func describe(p *expr.Program, s *event.Schema) string {
	var b strings.Builder
	b.WriteString(p.Canonical())
	for _, n := range p.Fields() {
		f := s.Fields[s.Index(n)]
		fmt.Fprintf(&b, " %s:%v/%d/%v", n, f.Kind, f.Scale, f.Elem)
	}
	return b.String()
}

func (c *compiler) meaning(name string, f Feature, a Aggregate, w Window, used []string, s *event.Schema) string {
	arg, where := "", ""
	s = c.wide(s)
	if p, err := expr.Compile(a.Arg, s); a.Arg != "" && err == nil {
		arg = describe(p, s)
	}
	if p, err := expr.Compile(a.Where, s); a.Where != "" && err == nil {
		where = describe(p, s)
	}
	known := ""
	switch uses := c.p.Label != "" && slices.Contains(used, c.p.Label); {
	case uses && c.p.Labels != nil:
		known = fmt.Sprintf("as labels come, own ids %v", c.p.Labels.ID != "")
	case uses:
		known = fmt.Sprint(max(c.p.LabelDelay, f.Delay))
	default:
		known = fmt.Sprint(time.Duration(0))
	}
	empty := "null"
	if a.Empty != nil {
		empty = fmt.Sprint(*a.Empty)
	}
	return fmt.Sprintf("%s = %s(%s; %v) where (%s) by %s over %v delay %v known %s exclude %v empty %s",
		name, a.Func, arg, constants(a), where, f.Entity, w, f.Delay, known, f.ExcludeCurrent, empty)
}

// constants are an aggregate's, with the defaults filled in.
func constants(a Aggregate) []float64 {
	switch {
	case len(a.Args) > 0:
		return a.Args
	case a.Func == "top_k":
		return []float64{10}
	case a.Func == "sequence":
		return []float64{100}
	}
	return nil
}

// operands are those of an aggregate: what it takes of the row, and of the row's label; nil: nothing.
type operands struct{ row, label *operand }

// aggregate checks one, and tells the kind of its list's elements (0: it gives a number), its operands,
// and the columns that it uses.
func (c *compiler) aggregate(at string, a Aggregate, s *event.Schema) (elem event.Kind, ops operands, used []string, ok bool) {
	before := len(c.errs)
	spec, known := aggregate.Lookup(a.Func)
	if !known {
		var names []string
		for _, f := range aggregate.Funcs {
			names = append(names, f.Name)
		}
		c.fault("%s: no function %q; there are %s", at, a.Func, strings.Join(names, ", "))
		return 0, ops, nil, false
	}
	if a.Name == "" {
		c.fault("%s: it needs a name", at)
	}
	if a.Arg == "" && !spec.NoArg {
		c.fault("%s: %s needs an argument", at, a.Func)
	}
	if n := len(a.Args); n < spec.Required || n > spec.Args {
		c.fault("%s: %s takes %d to %d constants, not %d", at, a.Func, spec.Required, spec.Args, n)
	} else if k := constants(a); len(k) > 0 {
		bad := k[0] <= 0 || k[0] != math.Trunc(k[0]) || k[0] > 1<<20
		switch spec.Func {
		case aggregate.Quantile:
			bad = !(k[0] >= 0 && k[0] <= 1)
		case aggregate.EWMA:
			bad = !(k[0] > 0 && k[0] <= math.MaxFloat64)
		}
		if bad {
			c.fault("%s: %v is no constant for %s", at, k[0], a.Func)
		}
	}
	if a.Empty != nil && (spec.List || math.IsNaN(*a.Empty) || math.IsInf(*a.Empty, 0)) {
		c.fault("%s: empty must be a finite number, and the function's result a number", at)
	}
	of := func(isLabel bool) **operand {
		to := &ops.row
		if isLabel {
			to = &ops.label
		}
		if *to == nil {
			*to = &operand{kind: window.Counter, scale: 1}
		}
		return to
	}
	if a.Arg != "" {
		p, isLabel, err := c.side(a.Arg, s)
		if err != nil {
			c.fault("%s: %w", at, err)
			return 0, operands{}, nil, false
		}
		op := *of(isLabel)
		op.arg, used = p, append(used, p.Fields()...)
		op.field = event.Field{Kind: p.Kind()}
		switch {
		case p.Field() >= 0 && isLabel:
			op.field = c.label().Fields[0]
		case p.Field() >= 0:
			op.field = s.Fields[p.Field()]
		}
		number := false
		switch op.field.Kind {
		case event.List:
			c.fault("%s: a list is no argument", at)
		case event.Bool, event.Int:
			number, op.kind = true, window.Exact
		case event.Decimal:
			number, op.kind, op.scale = true, window.Exact, math.Pow10(int(op.field.Scale))
		case event.Timestamp: // in seconds since 1970
			number, op.kind, op.scale = true, window.Exact, 1e6
		case event.Float:
			number, op.kind = true, window.Number
		}
		switch {
		case !number && !spec.AnyKind:
			c.fault("%s: %s is of numbers, and %q is a %v", at, a.Func, a.Arg, op.field.Kind)
		case spec.Func == aggregate.Count || spec.Func == aggregate.TimeSinceLast:
			op.kind, op.scale = window.Counter, 1
		case spec.Func == aggregate.Distinct:
			op.kind, op.scale = window.Hash, 1
		case spec.List && number:
			elem = event.Float
		case spec.List:
			op.kind, elem = window.Text, op.field.Kind
		}
	}
	if a.Where != "" {
		p, isLabel, err := c.side(a.Where, s)
		switch {
		case err != nil:
			c.fault("%s: where: %w", at, err)
		case p.Kind() != event.Bool:
			c.fault("%s: where %q is a %v, not a condition", at, a.Where, p.Kind())
		default:
			(*of(isLabel)).where, used = p, append(used, p.Fields()...)
		}
	}
	return elem, ops, used, len(c.errs) == before
}

// outputs adds a feature's columns to a stage.
func (c *compiler) outputs(s *stage, cfg *window.Config, f Feature, schema *event.Schema) []event.Field {
	var fields []event.Field
	for _, a := range f.Aggregates {
		elem, ops, used, ok := c.aggregate(a.Name, a, schema)
		if !ok {
			return nil
		}
		spec, _ := aggregate.Lookup(a.Func)
		o := window.Output{
			Func: spec.Func, Operand: -1, Args: constants(a), Delay: f.Delay.Microseconds(),
			ExcludeCurrent: f.ExcludeCurrent, Empty: a.Empty, Elem: elem,
		}
		if ops.row != nil {
			o.Operand = shared(&s.operands, *ops.row)
		}
		if ops.label != nil {
			if s.labels == nil {
				s.labels = &stageLabels{}
			}
			o.Label = 1 + shared(&s.labels.operands, *ops.label)
		}
		if c.p.Label != "" && slices.Contains(used, c.p.Label) {
			o.Known = c.p.LabelDelay.Microseconds()
		}
		for _, w := range f.Windows {
			o.Reach = window.Reach{Duration: w.Duration.Microseconds(), Last: w.Last, All: w.All, Session: w.Session.Microseconds()}
			cfg.Outputs = append(cfg.Outputs, o)
			field := event.Field{Name: a.Name + "_" + w.suffix(), Kind: event.Float}
			if elem != 0 {
				field.Kind, field.Elem = event.List, elem
			}
			fields = append(fields, field)
		}
	}
	return fields
}

// shared is the index of an operand, added where no equal one is there.
func shared(operands *[]operand, op operand) int {
	canonical := func(p *expr.Program) string {
		if p == nil {
			return ""
		}
		return p.Canonical()
	}
	for i, o := range *operands {
		if o.kind == op.kind && o.scale == op.scale && canonical(o.arg) == canonical(op.arg) && canonical(o.where) == canonical(op.where) {
			return i
		}
	}
	*operands = append(*operands, op)
	return len(*operands) - 1
}

// values evaluates an operand for the rows of a batch.
func (o *operand) values(b *event.Batch) (window.Values, error) {
	var v window.Values
	if o.arg != nil {
		var col event.Column
		if f := o.arg.Field(); f >= 0 {
			col = b.Cols[f]
		} else {
			var err error
			if col, err = o.arg.Eval(b); err != nil {
				return v, err
			}
		}
		v.Miss = col.Nulls
		switch o.field.Kind {
		case event.Bool, event.Int, event.Decimal, event.Timestamp:
			v.Ints = col.Ints
		case event.Float:
			v.Floats = col.Floats
		default:
			v.Col = &col
		}
	}
	if o.where == nil {
		return v, nil
	}
	cond, err := o.where.Eval(b)
	if err != nil {
		return v, err
	}
	miss := make([]uint64, (b.N+63)/64)
	for i := range b.N {
		if cond.Null(i) || cond.Ints[i] == 0 || v.Miss != nil && v.Miss[i>>6]&(1<<(i&63)) != 0 {
			miss[i>>6] |= 1 << (i & 63)
		}
	}
	v.Miss = miss
	return v, nil
}

// shard is the engine of a stage for some of its entities.
type shard struct {
	s *stage
	w *window.Shard
}

func (s *stage) newShard() *shard { return &shard{s, window.NewShard(s.plan)} }

// input is a batch as the engine takes it.
func (s *stage) input(b *event.Batch) (window.Input, error) {
	in := window.Input{N: b.N, Times: b.Times(), IDs: b.IDs(), Entity: &b.Cols[s.entity]}
	for i := range s.operands {
		v, err := s.operands[i].values(b)
		if err != nil {
			return in, fmt.Errorf("computing an argument of %s's features: %w", s.name, err)
		}
		in.Operands = append(in.Operands, v)
	}
	return in, nil
}

// apply takes the rows in, in order, and returns them with the stage's features, and the rows that
// came before.
func (sh *shard) apply(b event.Batch) (event.Batch, []int32, error) {
	in, err := sh.s.input(&b)
	if err != nil {
		return event.Batch{}, nil, err
	}
	cols, duplicates := sh.w.Apply(&in)
	out, err := sh.s.then.apply(b.With(sh.s.with, cols...))
	return out, duplicates, err
}
