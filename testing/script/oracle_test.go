package script

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/source/driver"

	"github.com/millrace-ml/millrace/transforms/deadletter"
)

// This file is the oracle: it decodes and evaluates expressions as the graph does, and counts, for each
// event anew, over all events that it may see.

// seen is an event that was taken in.
type seen struct {
	batch event.Batch // of one row, with what features came so far
	at    int64
	// args and holds are the values of aggregates' arguments and conditions, by entry and aggregate.
	args  map[[2]int]value
	holds map[[2]int]bool
}

// value is a number or null.
type value struct {
	null  bool
	float float64
	// exact is the number times 10^scale, where it is one.
	exact bool
	int   int64
	scale uint8
}

// result is what should become of a record.
type result struct {
	name, class string
	features    []any // nil, float64 or []any
}

// oracle gives what a run should give.
func (s *script) oracle(t *testing.T, run string) (all []result) {
	t.Helper()
	p := s.u.Decode()
	p.Format = "json"
	d, err := decode.New(p)
	if err != nil {
		t.Fatal(err)
	}
	read := func(st step) (row *seen, class deadletter.Class) {
		_, err := d.Records("", []driver.Record{{Value: []byte(st.text)}}, func(b event.Batch) error {
			row = &seen{batch: b, at: b.Times()[0], args: map[[2]int]value{}, holds: map[[2]int]bool{}}
			return nil
		}, func(l deadletter.Letter) error {
			class = l.Class
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return row, class
	}
	w := newWatermark(s)
	var rows []*seen
	names := map[*seen]string{}
	for i := 0; i < len(s.steps); i++ {
		if s.steps[i].what != "" {
			w.hear(s.steps[i])
			continue
		}
		group := s.steps[i : i+1]
		for ; i+1 < len(s.steps) && s.steps[i+1].together; i++ {
			group = s.steps[i+1-len(group) : i+2]
		}
		for _, st := range group {
			row, class := read(st)
			switch {
			case row == nil:
				all = append(all, result{name: st.name, class: string(class)})
				continue
			case run != "bounded" && row.at < w.at:
				all = append(all, result{name: st.name, class: string(deadletter.Late)})
			default:
				names[row] = st.name
				rows = append(rows, row)
			}
			w.read(st.partition, row.at)
		}
		w.advance()
	}
	if run != "arrival" {
		slices.SortStableFunc(rows, compare)
	}
	var before []*seen
	for _, row := range rows {
		if slices.ContainsFunc(before, func(old *seen) bool { return s.same(old, row) }) {
			all = append(all, result{name: names[row], class: string(deadletter.Duplicate)})
			continue
		}
		before = append(before, row)
		all = append(all, result{name: names[row], features: s.compute(t, row, before)})
	}
	return all
}

// watermark is that of a source, as the design has it.
type watermark struct {
	lateness int64
	at       int64
	newest   map[string]int64
	idle     map[string]bool
}

const never = math.MinInt64

func newWatermark(s *script) *watermark {
	w := &watermark{lateness: s.u.Stream.Lateness.Microseconds(), at: never, newest: map[string]int64{"0": never}, idle: map[string]bool{}}
	later := map[string]bool{}
	for _, st := range s.steps {
		if later[st.partition] = later[st.partition] || st.what == "partition"; !later[st.partition] && st.what == "" {
			w.newest[st.partition] = never
		}
	}
	return w
}

func (w *watermark) hear(st step) {
	switch st.what {
	case "partition":
		w.newest[st.partition] = never
	case "idle":
		for p := range w.newest {
			w.idle[p] = true
		}
		w.advance()
	}
}

func (w *watermark) read(partition string, at int64) {
	w.newest[partition] = max(w.newest[partition], at)
	w.idle[partition] = false
}

func (w *watermark) advance() {
	slowest, furthest := int64(math.MaxInt64), int64(never)
	for p, newest := range w.newest {
		furthest = max(furthest, newest)
		if !w.idle[p] {
			slowest = min(slowest, newest)
		}
	}
	if slowest == math.MaxInt64 { // all are idle
		slowest = furthest
	}
	if slowest != never && slowest != math.MaxInt64 {
		w.at = max(w.at, time.UnixMicro(slowest-w.lateness).Truncate(time.Millisecond).UnixMicro())
	}
}

// compare orders by time, id, and, of duplicates, their bytes.
func compare(a, b *seen) int {
	return cmp.Or(cmp.Compare(a.at, b.at), event.CompareIDs(a.batch.IDs(), 0, b.batch.IDs(), 0),
		strings.Compare(string(event.Append(nil, a.batch)), string(event.Append(nil, b.batch))))
}

// entity is whose event it is; ok is false for nobody's.
func (r *seen) entity(name string) (who string, ok bool) {
	c := r.batch.Col(name)
	if c.Null(0) {
		return "", false
	}
	return string(c.AppendID(nil, 0)), true
}

// same tells whether two events are one: of the same id, time and first entity.
func (s *script) same(a, b *seen) bool {
	for _, f := range s.u.Entries {
		if f.Entity != "" {
			x, ok1 := a.entity(f.Entity)
			y, ok2 := b.entity(f.Entity)
			return a.at == b.at && event.CompareIDs(a.batch.IDs(), 0, b.batch.IDs(), 0) == 0 && x == y && ok1 == ok2
		}
	}
	return false
}

// compute gives the features of a row, which is the last of those that are there.
func (s *script) compute(t *testing.T, row *seen, there []*seen) (features []any) {
	t.Helper()
	var label string
	if s.u.Label != nil {
		label = s.u.Label.Field
	}
	add := func(name string, v any) {
		features = append(features, v)
		if x, ok := v.(float64); ok || v == nil {
			c := event.Column{Floats: []float64{x}}
			if v == nil {
				c.SetNull(0, 1)
			}
			schema, err := row.batch.Schema.With(event.Field{Name: name, Kind: event.Float})
			if err != nil {
				t.Fatal(err)
			}
			row.batch = row.batch.With(schema, c)
		}
	}
	for e, f := range s.u.Entries {
		if f.Entity == "" {
			v, _ := row.eval(t, f.Expr, "")
			if v.null {
				add(f.Name, nil)
			} else {
				add(f.Name, v.float)
			}
			continue
		}
		sees := map[[2]int]int64{} // from when on an aggregate may see the row
		for a, agg := range f.Aggregates {
			at := [2]int{e, a}
			if agg.Arg != "" {
				var ofLabel bool
				if row.args[at], ofLabel = row.eval(t, agg.Arg, label); ofLabel {
					sees[at] = s.u.Label.Delay.Microseconds()
				}
			}
			row.holds[at] = true
			if agg.Where != "" {
				v, ofLabel := row.eval(t, agg.Where, label)
				if row.holds[at] = !v.null && v.float == 1; ofLabel {
					sees[at] = s.u.Label.Delay.Microseconds()
				}
			}
		}
		who, ok := row.entity(f.Entity)
		var own []*seen
		for _, r := range there {
			if other, is := r.entity(f.Entity); ok && is && other == who {
				own = append(own, r)
			}
		}
		slices.SortStableFunc(own, compare)
		for a, agg := range f.Aggregates {
			for _, w := range f.Windows {
				name := feature.Params{Features: []feature.Feature{{Entity: f.Entity, Windows: []feature.Window{w}, Aggregates: []feature.Aggregate{{Name: agg.Name}}}}}.Names()[0]
				if !ok {
					add(name, nil)
					continue
				}
				var counted []*seen
				var values []value
				for _, r := range window(f, w, row, own) {
					v := r.args[[2]int{e, a}]
					if r.holds[[2]int{e, a}] && r.at+sees[[2]int{e, a}] <= row.at && (agg.Arg == "" || !v.null) {
						counted, values = append(counted, r), append(values, v)
					}
				}
				v := aggregate(t, agg, row, counted, values)
				if v == nil && agg.Empty != nil && agg.Func != "time_since_last" {
					v = *agg.Empty
				}
				add(name, v)
			}
		}
	}
	return features
}

// window picks an entity's events, which are in order, that are in the window of a row.
func window(f feature.Feature, w feature.Window, row *seen, own []*seen) (in []*seen) {
	end := row.at - f.Delay.Microseconds()
	for _, r := range own {
		if r.at <= end && (f.Delay > 0 || compare(r, row) < 0 || r == row && !f.ExcludeCurrent) && (w.Duration == 0 || r.at > end-w.Duration.Microseconds()) {
			in = append(in, r)
		}
	}
	first := 0
	switch {
	case w.Last > 0:
		first = max(0, len(in)-w.Last)
	case w.Session > 0:
		for i := 1; i < len(in); i++ {
			if in[i].at-in[i-1].at > w.Session.Microseconds() {
				first = i
			}
		}
	}
	return in[first:]
}

// eval evaluates an expression, and tells whether it is of the label.
func (r *seen) eval(t *testing.T, src, label string) (v value, ofLabel bool) {
	t.Helper()
	p, err := expr.Compile(src, r.batch.Schema)
	if err != nil {
		t.Fatal(err)
	}
	ofLabel = label != "" && slices.Contains(p.Fields(), label)
	if i := p.Field(); i >= 0 && r.batch.Schema.Fields[i].Kind != event.Float {
		c, f := &r.batch.Cols[i], r.batch.Schema.Fields[i]
		if c.Null(0) {
			return value{null: true}, ofLabel
		}
		return value{exact: true, int: c.Ints[0], scale: f.Scale, float: float64(c.Ints[0]) / math.Pow10(int(f.Scale))}, ofLabel
	}
	c, err := p.Eval(&r.batch)
	switch {
	case err != nil:
		t.Fatal(err)
	case c.Null(0):
		v.null = true
	case c.Ints != nil:
		v.float = float64(c.Ints[0])
	default:
		v.float = c.Floats[0]
	}
	return v, ofLabel
}

// aggregate is a function of the rows that count, in order: nil, a number or a list.
func aggregate(t *testing.T, a feature.Aggregate, row *seen, counted []*seen, values []value) any {
	t.Helper()
	n := len(values)
	if a.Func == "count" {
		return float64(n)
	}
	if a.Func == "time_since_last" {
		counted = slices.DeleteFunc(slices.Clone(counted), func(r *seen) bool { return r == row })
		if len(counted) == 0 {
			return nil
		}
		return float64(row.at-counted[len(counted)-1].at) / 1e6
	}
	if n == 0 {
		return nil
	}
	var xs []float64
	sum, exact := 0.0, int64(0)
	for _, v := range values {
		xs = append(xs, v.float)
		sum += v.float
		exact += v.int
	}
	if values[0].exact {
		sum = float64(exact) / math.Pow10(int(values[0].scale))
	}
	switch a.Func {
	case "sum":
		return sum
	case "mean":
		return sum / float64(n)
	case "min":
		return slices.Min(xs)
	case "max":
		return slices.Max(xs)
	case "range":
		return slices.Max(xs) - slices.Min(xs)
	case "first":
		return xs[0]
	case "last":
		return xs[n-1]
	case "std":
		if n < 2 {
			return nil
		}
		squares := 0.0
		for _, x := range xs {
			squares += (x - sum/float64(n)) * (x - sum/float64(n))
		}
		return math.Sqrt(squares / float64(n-1))
	case "distinct":
		slices.Sort(xs)
		return float64(len(slices.Compact(xs)))
	case "sequence":
		var list []any
		for _, x := range xs[max(0, n-int(a.Args[0])):] {
			list = append(list, x)
		}
		return list
	}
	t.Fatalf("the oracle knows no %s: teach it", a.Func)
	return nil
}

// check holds what a run gave to the oracle.
func (s *script) check(t *testing.T, run string, got []string) (faults []string) {
	t.Helper()
	got = slices.Clone(got)
	for _, want := range s.oracle(t, run) {
		i := slices.IndexFunc(got, func(g string) bool { return want.is(g) })
		if i < 0 {
			faults = append(faults, fmt.Sprintf("%s: the oracle wants %+v", run, want))
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	for _, g := range got {
		faults = append(faults, fmt.Sprintf("%s: the oracle knows nothing of %q", run, g))
	}
	return faults
}

// is tells whether a line says the same, up to what rounding in another order makes.
func (r result) is(line string) bool {
	words := strings.Fields(line)
	if words[0] != r.name {
		return false
	}
	if r.class != "" {
		return len(words) == 2 && words[1] == r.class
	}
	if len(words) != 1+len(r.features) {
		return false
	}
	for i, want := range r.features {
		_, text, _ := strings.Cut(words[1+i], "=")
		switch want := want.(type) {
		case nil:
			if text != "null" {
				return false
			}
		case float64:
			if !near(text, want) {
				return false
			}
		case []any:
			items := strings.Split(strings.Trim(text, "[]"), ",")
			if len(items) != len(want) {
				return false
			}
			for k, item := range items {
				if !near(item, want[k].(float64)) {
					return false
				}
			}
		}
	}
	return true
}

func near(text string, want float64) bool {
	got, err := strconv.ParseFloat(text, 64)
	return err == nil && (got == want || math.Abs(got-want) <= 1e-14*math.Abs(want))
}
