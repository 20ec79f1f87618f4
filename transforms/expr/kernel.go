package expr

import (
	"bytes"
	"math"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/millrace-ml/millrace/transforms/event"
)

// chunk is how many rows a kernel works on at a time: few enough for its registers to stay in the
// cache, and a multiple of 64, so that chunks begin at words of the null bitmaps.
const (
	chunk = 1024
	words = chunk / 64
)

// register holds a chunk of numbers in f, or of bools in bits. Where nulls is set, f is any finite
// number and bits is any bit.
type register struct {
	f     [chunk]float64
	bits  [words]uint64
	nulls [words]uint64
}

// state is one evaluation: steps read rows [from, from+n) of batch.
type state struct {
	batch   *event.Batch
	from, n int
	regs    []register
}

type step func(*state)

// kernel is an expression as loops over chunks. Steps are in post-order: the operands of a step lie
// in registers d, d+1, ..., and its result in d.
type kernel struct {
	steps  []step
	kind   event.Kind
	states sync.Pool
}

// newKernel compiles an expression of the common forms, and returns nil for any other.
func newKernel(c *checked) *kernel {
	k := &compiler{checked: c}
	out := &kernel{}
	switch {
	case k.number(c.tree.Expr(), 0):
		out.kind = event.Float
	case k.bool(c.tree.Expr(), 0):
		out.kind = event.Bool
	default:
		return nil
	}
	out.steps = k.steps
	regs := k.regs
	out.states.New = func() any { return &state{regs: make([]register, regs)} }
	return out
}

func (k *kernel) eval(b *event.Batch) event.Column {
	var out event.Column
	if k.kind == event.Float {
		out.Floats = make([]float64, b.N)
	} else {
		out.Ints = make([]int64, b.N)
	}
	s := k.states.Get().(*state)
	s.batch = b
	for s.from = 0; s.from < b.N; s.from += chunk {
		s.n = min(chunk, b.N-s.from)
		for _, step := range k.steps {
			step(s)
		}
		k.store(&out, s)
	}
	s.batch = nil
	k.states.Put(s)
	return out
}

func (k *kernel) store(out *event.Column, s *state) {
	r := &s.regs[0]
	if k.kind == event.Float {
		copy(out.Floats[s.from:], r.f[:s.n])
	} else {
		ints := out.Ints[s.from : s.from+s.n]
		for i := range ints {
			ints[i] = int64(r.bits[i>>6] >> (i & 63) & 1)
		}
	}
	if tail := s.n & 63; tail != 0 {
		r.nulls[s.n>>6] &= 1<<tail - 1
	}
	for w := range (s.n + 63) / 64 {
		if r.nulls[w] == 0 {
			continue
		}
		if out.Nulls == nil {
			out.Nulls = make([]uint64, (s.batch.N+63)/64)
		}
		out.Nulls[s.from/64+w] = r.nulls[w]
		for i := w * 64; i < min(w*64+64, s.n); i++ {
			if r.nulls[w]>>(i&63)&1 != 0 {
				if out.Floats != nil {
					out.Floats[s.from+i] = 0
				} else {
					out.Ints[s.from+i] = 0
				}
			}
		}
	}
}

type compiler struct {
	*checked
	steps []step
	regs  int
}

// emit appends a step that uses n registers from d.
func (k *compiler) emit(d, n int, s step) bool {
	k.regs = max(k.regs, d+n)
	k.steps = append(k.steps, s)
	return true
}

func (k *compiler) kindOf(e ast.Expr) types.Kind { return k.tree.GetType(e.ID()).Kind() }

// column is the field that e names, if it does.
func (k *compiler) column(e ast.Expr) (ref, bool) {
	if e.Kind() != ast.IdentKind {
		return ref{}, false
	}
	i := k.schema.Index(e.AsIdent())
	if i < 0 {
		return ref{}, false
	}
	return ref{k.schema.Fields[i], i}, true
}

// number compiles e, if it is a number of a common form, to steps that leave it in register d. On
// false, steps may have been added: the caller gives up.
func (k *compiler) number(e ast.Expr, d int) bool {
	if k.kindOf(e) != types.DoubleKind {
		return false
	}
	if f, ok := k.column(e); ok {
		return k.emit(d, 1, func(s *state) {
			r, c := &s.regs[d], &s.batch.Cols[f.at]
			loadNumbers(r.f[:s.n], c, f.Field, s.from)
			r.loadNulls(c, s)
		})
	}
	if e.Kind() == ast.LiteralKind {
		v := float64(e.AsLiteral().(types.Double))
		return k.emit(d, 1, func(s *state) {
			r := &s.regs[d]
			for i := range r.f[:s.n] {
				r.f[i] = v
			}
			r.nulls = [words]uint64{}
		})
	}
	if e.Kind() != ast.CallKind {
		return false
	}
	c := e.AsCall()
	name, args := c.FunctionName(), c.Args()
	switch name {
	case finite:
		return k.number(args[0], d)
	case "double":
		if k.kindOf(args[0]) == types.DoubleKind {
			return k.number(args[0], d)
		}
		return k.getter(args[0], d)
	case operators.Negate:
		return k.number(args[0], d) && k.emit(d, 1, func(s *state) {
			f := s.regs[d].f[:s.n]
			for i, v := range f {
				f[i] = -v
			}
		})
	case operators.Add, operators.Subtract, operators.Multiply, operators.Divide:
		return k.number(args[0], d) && k.number(args[1], d+1) && k.emit(d, 2, arithmetic(name, d))
	case operators.Conditional:
		return k.bool(args[0], d) && k.number(args[1], d+1) && k.number(args[2], d+2) && k.emit(d, 3, func(s *state) {
			c, a, b := &s.regs[d], &s.regs[d+1], &s.regs[d+2]
			for i := range c.f[:s.n] {
				if c.bits[i>>6]>>(i&63)&1 != 0 {
					c.f[i] = a.f[i]
				} else {
					c.f[i] = b.f[i]
				}
			}
			c.choose(a, b)
		})
	case "coalesce":
		return k.number(args[0], d) && k.number(args[1], d+1) && k.emit(d, 2, func(s *state) {
			a, b := &s.regs[d], &s.regs[d+1]
			for i := range a.f[:s.n] {
				if a.nulls[i>>6]>>(i&63)&1 != 0 {
					a.f[i] = b.f[i]
				}
			}
			for w := range a.nulls {
				a.nulls[w] &= b.nulls[w]
			}
		})
	}
	if fn, ok := unary[name]; ok {
		return k.number(args[0], d) && k.emit(d, 1, func(s *state) {
			r := &s.regs[d]
			f := r.f[:s.n]
			for i, v := range f {
				f[i] = fn(v)
			}
			r.dropInfinite(s.n)
		})
	}
	if fn, ok := binary[name]; ok {
		return k.number(args[0], d) && k.number(args[1], d+1) && k.emit(d, 2, func(s *state) {
			a, b := &s.regs[d], &s.regs[d+1]
			for i, v := range a.f[:s.n] {
				a.f[i] = fn(v, b.f[i])
			}
			a.mergeNulls(b)
			a.dropInfinite(s.n)
		})
	}
	return false
}

func arithmetic(op string, d int) step {
	return func(s *state) {
		r, o := &s.regs[d], &s.regs[d+1]
		a := r.f[:s.n]
		b := o.f[:len(a)]
		switch op {
		case operators.Add:
			for i := range a {
				a[i] += b[i]
			}
		case operators.Subtract:
			for i := range a {
				a[i] -= b[i]
			}
		case operators.Multiply:
			for i := range a {
				a[i] *= b[i]
			}
		case operators.Divide:
			for i := range a {
				a[i] /= b[i]
			}
		}
		r.mergeNulls(o)
		r.dropInfinite(s.n)
	}
}

// loadNumbers reads rows of a field that is a number.
func loadNumbers(dst []float64, c *event.Column, f event.Field, from int) {
	switch f.Kind {
	case event.Float:
		copy(dst, c.Floats[from:])
	case event.Decimal:
		// A division, not a multiplication by 0.01, gives the double nearest to the decimal.
		scale := math.Pow10(int(f.Scale))
		for i, v := range c.Ints[from : from+len(dst)] {
			dst[i] = float64(v) / scale
		}
	default:
		for i, v := range c.Ints[from : from+len(dst)] {
			dst[i] = float64(v)
		}
	}
}

func (r *register) loadNulls(c *event.Column, s *state) {
	r.nulls = [words]uint64{}
	if c.Nulls != nil {
		copy(r.nulls[:], c.Nulls[s.from/64:])
	}
}

func (r *register) mergeNulls(o *register) {
	for w := range r.nulls {
		r.nulls[w] |= o.nulls[w]
	}
}

// choose makes r, which holds a condition, null where that or the chosen one of a and b is.
func (r *register) choose(a, b *register) {
	for w := range r.nulls {
		r.nulls[w] |= r.bits[w]&a.nulls[w] | ^r.bits[w]&b.nulls[w]
	}
}

func (r *register) dropInfinite(n int) {
	f := r.f[:n]
	for i, v := range f {
		if v-v != 0 {
			f[i] = 0
			r.nulls[i>>6] |= 1 << (i & 63)
		}
	}
}

// bool is number for bools.
func (k *compiler) bool(e ast.Expr, d int) bool {
	if k.kindOf(e) != types.BoolKind {
		return false
	}
	if f, ok := k.column(e); ok {
		return k.emit(d, 1, func(s *state) {
			r, c := &s.regs[d], &s.batch.Cols[f.at]
			r.bits = [words]uint64{}
			for i, v := range c.Ints[s.from : s.from+s.n] {
				r.bits[i>>6] |= uint64(v&1) << (i & 63)
			}
			r.loadNulls(c, s)
		})
	}
	if e.Kind() == ast.LiteralKind {
		var word uint64
		if e.AsLiteral() == types.True {
			word = math.MaxUint64
		}
		return k.emit(d, 1, func(s *state) {
			for w := range words {
				s.regs[d].bits[w], s.regs[d].nulls[w] = word, 0
			}
		})
	}
	if e.Kind() != ast.CallKind {
		return false
	}
	c := e.AsCall()
	name, args := c.FunctionName(), c.Args()
	switch name {
	case operators.LogicalNot:
		return k.bool(args[0], d) && k.not(d)
	case operators.LogicalAnd, operators.LogicalOr:
		if len(args) != 2 || !k.bool(args[0], d) || !k.bool(args[1], d+1) {
			return false
		}
		and := name == operators.LogicalAnd
		return k.emit(d, 2, func(s *state) {
			a, b := &s.regs[d], &s.regs[d+1]
			for w := range a.bits {
				ta, fa := a.bits[w]&^a.nulls[w], ^a.bits[w]&^a.nulls[w]
				tb, fb := b.bits[w]&^b.nulls[w], ^b.bits[w]&^b.nulls[w]
				t, f := ta|tb, fa&fb
				if and {
					t, f = ta&tb, fa|fb
				}
				a.bits[w], a.nulls[w] = t, ^(t | f)
			}
		})
	case operators.Conditional:
		return k.bool(args[0], d) && k.bool(args[1], d+1) && k.bool(args[2], d+2) && k.emit(d, 3, func(s *state) {
			c, a, b := &s.regs[d], &s.regs[d+1], &s.regs[d+2]
			c.choose(a, b)
			for w := range c.bits {
				c.bits[w] = c.bits[w]&a.bits[w] | ^c.bits[w]&b.bits[w]
			}
		})
	case "coalesce":
		return k.bool(args[0], d) && k.bool(args[1], d+1) && k.emit(d, 2, func(s *state) {
			a, b := &s.regs[d], &s.regs[d+1]
			for w := range a.bits {
				a.bits[w] = a.bits[w]&^a.nulls[w] | b.bits[w]&a.nulls[w]
				a.nulls[w] &= b.nulls[w]
			}
		})
	case "isNull":
		if f, ok := k.column(args[0]); ok {
			return k.emit(d, 1, func(s *state) {
				r := &s.regs[d]
				r.loadNulls(&s.batch.Cols[f.at], s)
				r.bits, r.nulls = r.nulls, [words]uint64{}
			})
		}
		if !k.number(args[0], d) && !k.bool(args[0], d) {
			return false
		}
		return k.emit(d, 1, func(s *state) {
			r := &s.regs[d]
			r.bits, r.nulls = r.nulls, [words]uint64{}
		})
	case operators.Less:
		return k.compare(args[0], args[1], d, false, false)
	case operators.Greater:
		return k.compare(args[0], args[1], d, true, false)
	case operators.LessEquals:
		return k.compare(args[0], args[1], d, true, true)
	case operators.GreaterEquals:
		return k.compare(args[0], args[1], d, false, true)
	case operators.Equals:
		return k.equal(args[0], args[1], d)
	case operators.NotEquals:
		return k.equal(args[0], args[1], d) && k.not(d)
	case operators.In:
		return k.in(args[0], args[1], d)
	}
	return false
}

func (k *compiler) not(d int) bool {
	return k.emit(d, 1, func(s *state) {
		for w := range words {
			s.regs[d].bits[w] = ^s.regs[d].bits[w]
		}
	})
}

// compare compiles a < b, or b < a if swap is set, and its negation if negate is: nothing here is NaN.
func (k *compiler) compare(a, b ast.Expr, d int, swap, negate bool) bool {
	if !k.number(a, d) || !k.number(b, d+1) {
		return false
	}
	var flip uint64
	if negate {
		flip = math.MaxUint64
	}
	return k.emit(d, 2, func(s *state) {
		r, o := &s.regs[d], &s.regs[d+1]
		x, y := &r.f, &o.f
		if swap {
			x, y = y, x
		}
		for w := range (s.n + 63) / 64 {
			var word uint64
			xs, ys := x[w*64:w*64+64], y[w*64:w*64+64]
			for i := range xs {
				if xs[i] < ys[i] {
					word |= 1 << i
				}
			}
			r.bits[w] = word ^ flip
		}
		r.mergeNulls(o)
	})
}

func (k *compiler) equal(a, b ast.Expr, d int) bool {
	switch k.kindOf(a) {
	case types.DoubleKind:
		return k.number(a, d) && k.number(b, d+1) && k.emit(d, 2, func(s *state) {
			r, o := &s.regs[d], &s.regs[d+1]
			for w := range (s.n + 63) / 64 {
				var word uint64
				xs, ys := r.f[w*64:w*64+64], o.f[w*64:w*64+64]
				for i := range xs {
					if xs[i] == ys[i] {
						word |= 1 << i
					}
				}
				r.bits[w] = word
			}
			r.mergeNulls(o)
		})
	case types.BoolKind:
		return k.bool(a, d) && k.bool(b, d+1) && k.emit(d, 2, func(s *state) {
			r, o := &s.regs[d], &s.regs[d+1]
			for w := range r.bits {
				r.bits[w] = ^(r.bits[w] ^ o.bits[w])
			}
			r.mergeNulls(o)
		})
	}
	f, okF := k.column(a)
	g, okG := k.column(b)
	switch {
	case okF && okG && f.Kind == event.ID:
		return k.emit(d, 1, func(s *state) {
			r, x, y := &s.regs[d], &s.batch.Cols[f.at], &s.batch.Cols[g.at]
			r.loadNulls(x, s)
			for w := range r.nulls {
				if at := s.from/64 + w; at < len(y.Nulls) {
					r.nulls[w] |= y.Nulls[at]
				}
			}
			r.fill(s, func(i int) bool { return event.CompareIDs(x, i, y, i) == 0 })
		})
	case okF:
		return k.texts(f, []ast.Expr{b}, d)
	case okG:
		return k.texts(g, []ast.Expr{a}, d)
	}
	return false
}

// fill sets the bits of the rows that aren't null from a function of the row in the batch.
func (r *register) fill(s *state, f func(i int) bool) {
	r.bits = [words]uint64{}
	for i := range s.n {
		if r.nulls[i>>6]>>(i&63)&1 == 0 && f(s.from+i) {
			r.bits[i>>6] |= 1 << (i & 63)
		}
	}
}

// in compiles a membership among literals.
func (k *compiler) in(a, list ast.Expr, d int) bool {
	if list.Kind() != ast.ListKind {
		return false
	}
	elems := list.AsList().Elements()
	if f, ok := k.column(a); ok && k.kindOf(a) != types.DoubleKind {
		return k.texts(f, elems, d)
	}
	set := make([]float64, len(elems))
	for i, el := range elems {
		v, ok := literalNumber(el)
		if !ok {
			return false
		}
		set[i] = v
	}
	return k.number(a, d) && k.emit(d, 1, func(s *state) {
		r := &s.regs[d]
		r.bits = [words]uint64{}
		for i, v := range r.f[:s.n] {
			for _, m := range set {
				if v == m {
					r.bits[i>>6] |= 1 << (i & 63)
					break
				}
			}
		}
	})
}

func literalNumber(e ast.Expr) (float64, bool) {
	if e.Kind() != ast.LiteralKind {
		return 0, false
	}
	v, ok := e.AsLiteral().(types.Double)
	return float64(v), ok
}

// texts compiles the membership of an id, category or string among literals.
func (k *compiler) texts(f ref, elems []ast.Expr, d int) bool {
	if f.Kind != event.ID && f.Kind != event.Category && f.Kind != event.String {
		return false
	}
	var set [][]byte
	var ints []int64
	for _, el := range elems {
		if el.Kind() == ast.CallKind && el.AsCall().FunctionName() == toID {
			el = el.AsCall().Args()[0]
		}
		if el.Kind() != ast.LiteralKind {
			return false
		}
		v, ok := el.AsLiteral().(types.String)
		if !ok {
			return false
		}
		set = append(set, []byte(v))
		if n, ok := event.CanonicalInt([]byte(v)); ok {
			ints = append(ints, n)
		}
	}
	return k.emit(d, 1, func(s *state) {
		r, c := &s.regs[d], &s.batch.Cols[f.at]
		r.loadNulls(c, s)
		if c.Ints != nil {
			r.fill(s, func(i int) bool {
				v := c.Ints[i]
				for _, m := range ints {
					if v == m {
						return true
					}
				}
				return false
			})
			return
		}
		r.fill(s, func(i int) bool {
			v := c.Raw(i)
			for _, m := range set {
				if bytes.Equal(v, m) {
					return true
				}
			}
			return false
		})
	})
}

const (
	second = int64(1e6)
	day    = 86400 * second
)

// clock are the getters that need no calendar: a division of the time since 1970 and a remainder.
var clock = map[string]struct{ offset, unit, modulus int64 }{
	"getDayOfWeek":    {4, day, 7}, // 1970-01-01 was a Thursday
	"getHours":        {0, 3600 * second, 24},
	"getMinutes":      {0, 60 * second, 60},
	"getSeconds":      {0, second, 60},
	"getMilliseconds": {0, 1000, 1000},
}

var calendar = map[string]func(time.Time) int{
	"getFullYear":     time.Time.Year,
	"getMonth":        func(t time.Time) int { return int(t.Month()) - 1 },
	"getDate":         time.Time.Day,
	"getDayOfMonth":   func(t time.Time) int { return t.Day() - 1 },
	"getDayOfYear":    func(t time.Time) int { return t.YearDay() - 1 },
	"getDayOfWeek":    func(t time.Time) int { return int(t.Weekday()) },
	"getHours":        time.Time.Hour,
	"getMinutes":      time.Time.Minute,
	"getSeconds":      time.Time.Second,
	"getMilliseconds": func(t time.Time) int { return t.Nanosecond() / 1e6 },
}

// getter compiles a getter of a field that is a timestamp.
func (k *compiler) getter(e ast.Expr, d int) bool {
	if e.Kind() != ast.CallKind || !e.AsCall().IsMemberFunction() {
		return false
	}
	c := e.AsCall()
	f, ok := k.column(c.Target())
	if !ok || f.Kind != event.Timestamp {
		return false
	}
	if p, ok := clock[c.FunctionName()]; ok && len(c.Args()) == 0 {
		return k.emit(d, 1, func(s *state) {
			r, c := &s.regs[d], &s.batch.Cols[f.at]
			for i, v := range c.Ints[s.from : s.from+s.n] {
				q := v / p.unit
				if v%p.unit < 0 {
					q--
				}
				q = (q + p.offset) % p.modulus
				if q < 0 {
					q += p.modulus
				}
				r.f[i] = float64(q)
			}
			r.loadNulls(c, s)
		})
	}
	get, ok := calendar[c.FunctionName()]
	if !ok {
		return false
	}
	loc := time.UTC
	if len(c.Args()) == 1 {
		zone, ok := c.Args()[0], c.Args()[0].Kind() == ast.LiteralKind
		if !ok {
			return false
		}
		name, ok := zone.AsLiteral().(types.String)
		if !ok || strings.Contains(string(name), ":") { // an offset, of which CEL has its own reading
			return false
		}
		var err error
		if loc, err = time.LoadLocation(string(name)); err != nil {
			return false
		}
	}
	return k.emit(d, 1, func(s *state) {
		r, c := &s.regs[d], &s.batch.Cols[f.at]
		for i, v := range c.Ints[s.from : s.from+s.n] {
			r.f[i] = float64(get(time.UnixMicro(v).In(loc)))
		}
		r.loadNulls(c, s)
	})
}
