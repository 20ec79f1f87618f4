package feature

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
)

// record is an event as the oracle sees it. Pointers are nil for null.
type record struct {
	t      int64
	id     int64
	entity *int64
	cents  *int64
	x      *float64
	label  *bool
	word   *string
	item   *int64
}

func before(a, b record) int { return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.id, b.id)) }

func testFields() []event.Field {
	return []event.Field{
		{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "e", Kind: event.ID},
		{Name: "cents", Kind: event.Decimal, Scale: 2}, {Name: "x", Kind: event.Float}, {Name: "label", Kind: event.Bool},
		{Name: "word", Kind: event.String}, {Name: "item", Kind: event.ID},
	}
}

func toBatch(t interface{ Fatal(...any) }, p Params, rs []record) event.Batch {
	s, err := event.NewSchema(p.Fields, p.ID, p.Time)
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, len(rs))
	b.N = len(rs)
	for i, r := range rs {
		ints := func(col int, v *int64) {
			if v == nil {
				v = new(int64)
				b.Cols[col].SetNull(i, b.N)
			}
			b.Cols[col].Ints = append(b.Cols[col].Ints, *v)
		}
		ints(0, &r.id)
		ints(1, &r.t)
		ints(2, r.entity)
		ints(3, r.cents)
		if r.x == nil {
			b.Cols[4].Floats = append(b.Cols[4].Floats, 0)
			b.Cols[4].SetNull(i, b.N)
		} else {
			b.Cols[4].Floats = append(b.Cols[4].Floats, *r.x)
		}
		var label *int64
		if r.label != nil {
			label = new(int64)
			if *r.label {
				*label = 1
			}
		}
		ints(5, label)
		if r.word == nil {
			b.Cols[6].AppendRaw(nil)
			b.Cols[6].SetNull(i, b.N)
		} else {
			b.Cols[6].AppendRaw([]byte(*r.word))
		}
		ints(7, r.item)
	}
	return b
}

// oracle is the value of a column at rs[i]: nil, a float64 or a []any.
func oracle(p Params, f Feature, a Aggregate, w Window, rs []record, i int) any {
	r := rs[i]
	if r.entity == nil {
		return nil
	}
	end := r.t - f.Delay.Microseconds()
	var at []record // the entity's rows up to the window's newer edge
	for _, q := range rs {
		if q.entity == nil || *q.entity != *r.entity || q.t > end || before(q, r) > 0 || f.ExcludeCurrent && before(q, r) == 0 {
			continue
		}
		at = append(at, q)
	}
	slices.SortFunc(at, before)
	switch {
	case w.Duration > 0:
		at = slices.DeleteFunc(at, func(q record) bool { return q.t <= end-w.Duration.Microseconds() })
	case w.Last > 0:
		at = at[max(0, len(at)-w.Last):]
	case w.Session > 0:
		k, next := len(at), end
		for ; k > 0 && next-at[k-1].t <= w.Session.Microseconds(); k-- {
			next = at[k-1].t
		}
		at = at[k:]
	}
	var times []int64
	var vals []float64
	var keys []any
	exact := new(big.Rat)
	for _, q := range at {
		if a.Arg == "label" && q.t+p.LabelDelay.Microseconds() > r.t {
			continue
		}
		if a.Where == "cents > 1.0" && (q.cents == nil || float64(*q.cents)/100 <= 1) {
			continue
		}
		if a.Where == "label" && (q.label == nil || !*q.label) {
			continue
		}
		if a.Func == "time_since_last" && before(q, r) == 0 {
			continue
		}
		var key any
		switch a.Arg {
		case "":
			key = 1.0
		case "cents":
			if q.cents != nil {
				key = float64(*q.cents) / 100
				exact.Add(exact, big.NewRat(*q.cents, 100))
			}
		case "x":
			if q.x != nil {
				key = *q.x
			}
		case "label":
			if q.label != nil {
				key = 0.0
				if *q.label {
					key = 1.0
					exact.Add(exact, big.NewRat(1, 1))
				}
			}
		case "word":
			if q.word != nil {
				key = *q.word
			}
		case "item":
			if q.item != nil {
				key = fmt.Sprint(*q.item)
			}
		}
		if key == nil {
			continue
		}
		keys, times = append(keys, key), append(times, q.t)
		if v, ok := key.(float64); ok {
			vals = append(vals, v)
		}
	}
	n := len(keys)
	if a.Func == "count" {
		return float64(n)
	}
	if n == 0 {
		if a.Empty != nil {
			return *a.Empty
		}
		return nil
	}
	sum := 0.0
	for _, v := range vals {
		sum += v
	}
	if a.Arg == "cents" || a.Arg == "label" {
		sum, _ = exact.Float64()
	}
	mean := sum / float64(n)
	switch a.Func {
	case "sum":
		return sum
	case "mean":
		if a.Arg == "cents" || a.Arg == "label" {
			m, _ := exact.Quo(exact, big.NewRat(int64(n), 1)).Float64()
			return m
		}
		return mean
	case "min":
		return slices.Min(vals)
	case "max":
		return slices.Max(vals)
	case "range":
		return slices.Max(vals) - slices.Min(vals)
	case "first":
		return vals[0]
	case "last":
		return vals[n-1]
	case "var", "std":
		if n < 2 {
			return nil
		}
		ss := 0.0
		for _, v := range vals {
			ss += (v - mean) * (v - mean)
		}
		if a.Func == "std" {
			return math.Sqrt(ss / float64(n-1))
		}
		return ss / float64(n-1)
	case "time_since_last":
		return float64(r.t-times[n-1]) / 1e6
	case "quantile":
		slices.Sort(vals)
		return vals[int(a.Args[0]*float64(n-1))]
	case "distinct":
		set := map[any]bool{}
		for _, k := range keys {
			set[k] = true
		}
		return float64(len(set))
	case "sequence":
		return keys[max(0, n-int(a.Args[0])):]
	case "top_k":
		count, last := map[any]int{}, map[any]int{}
		for j, k := range keys {
			count[k]++
			last[k] = j
		}
		var ks []any
		for k := range count {
			ks = append(ks, k)
		}
		slices.SortFunc(ks, func(a, b any) int {
			return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(last[b], last[a]))
		})
		return ks[:min(len(ks), int(a.Args[0]))]
	case "ewma":
		num, den := 0.0, 0.0
		for j, v := range vals {
			wt := math.Exp2(-float64(r.t-times[j]) / 1e6 / a.Args[0])
			num, den = num+wt*v, den+wt
		}
		return num / den
	case "slope": // the closed form over all pairs: sum of (ti-tj)(xi-xj) over sum of (ti-tj)^2
		num, den := 0.0, 0.0
		for j := range vals {
			for k := range vals {
				d := float64(times[j]-times[k]) / 1e6
				num, den = num+d*(vals[j]-vals[k]), den+d*d
			}
		}
		if den == 0 {
			return nil
		}
		return num / den
	}
	panic(a.Func)
}

// everything is each function over each form of window, delayed or not.
func everything(label time.Duration) Params {
	minus := -1.0
	aggregates := []Aggregate{
		{Name: "n", Func: "count"}, {Name: "nx", Func: "count", Arg: "x"}, {Name: "nbig", Func: "count", Where: "cents > 1.0"},
		{Name: "sum", Func: "sum", Arg: "cents"}, {Name: "sumx", Func: "sum", Arg: "x"}, {Name: "sumbig", Func: "sum", Arg: "x", Where: "cents > 1.0"},
		{Name: "mean", Func: "mean", Arg: "cents", Empty: &minus}, {Name: "meanx", Func: "mean", Arg: "x"}, {Name: "risk", Func: "mean", Arg: "label"},
		{Name: "min", Func: "min", Arg: "x"}, {Name: "max", Func: "max", Arg: "cents"}, {Name: "var", Func: "var", Arg: "x"}, {Name: "std", Func: "std", Arg: "cents"},
		{Name: "first", Func: "first", Arg: "x"}, {Name: "last", Func: "last", Arg: "cents"}, {Name: "range", Func: "range", Arg: "x"},
		{Name: "words", Func: "distinct", Arg: "word"}, {Name: "xs", Func: "distinct", Arg: "x"}, {Name: "items", Func: "distinct", Arg: "item"},
		{Name: "median", Func: "quantile", Arg: "x", Args: []float64{0.5}}, {Name: "p90", Func: "quantile", Arg: "cents", Args: []float64{0.9}},
		{Name: "top", Func: "top_k", Arg: "word", Args: []float64{2}}, {Name: "since", Func: "time_since_last"}, {Name: "sincex", Func: "time_since_last", Arg: "x"},
		{Name: "slope", Func: "slope", Arg: "x"}, {Name: "ewma", Func: "ewma", Arg: "x", Args: []float64{3}},
		{Name: "items3", Func: "sequence", Arg: "item", Args: []float64{3}}, {Name: "seqx", Func: "sequence", Arg: "x", Args: []float64{2}},
	}
	named := func(suffix string) []Aggregate {
		out := slices.Clone(aggregates)
		for i := range out {
			out[i].Name += suffix
		}
		return out
	}
	windows := []Window{{Duration: 10 * time.Second}, {Duration: 3 * time.Second}, {Last: 3}, {All: true}, {Session: 2 * time.Second}}
	return Params{
		Fields: testFields(), ID: "id", Time: "t", Label: "label", LabelDelay: label,
		Features: []Feature{
			{Entity: "e", Windows: windows, Aggregates: named("")},
			{Entity: "e", Windows: windows, Delay: 4 * time.Second, Aggregates: named("_late")},
			{Entity: "e", Windows: windows, ExcludeCurrent: true, Aggregates: named("_before")},
		},
	}
}

// bounded is everything without windows that keep all rows, so that rows are dropped.
func bounded(p Params) Params {
	p.Features = slices.Clone(p.Features)
	for i := range p.Features {
		p.Features[i].Windows = slices.DeleteFunc(slices.Clone(p.Features[i].Windows), func(w Window) bool { return w.All })
	}
	p.Features = append(p.Features, Feature{Entity: "e", Windows: []Window{{All: true}}, Aggregates: []Aggregate{
		{Name: "n_ever", Func: "count"}, {Name: "sum_ever", Func: "sum", Arg: "cents"}, {Name: "nx_ever", Func: "count", Arg: "x"},
	}})
	return p
}

func drawRecords(t *rapid.T, n int) []record {
	opt := func(name string) bool { return rapid.IntRange(0, 5).Draw(t, name) > 0 }
	var rs []record
	at := int64(1_522_540_800_000_000)
	for i := range n {
		at += rapid.SampledFrom([]int64{0, 0, 1, 500_000, 1_000_000, 2_000_000, 2_000_001, 7_000_000}).Draw(t, "gap")
		r := record{t: at, id: int64(i*7919) % 10007}
		if opt("e") {
			v := int64(rapid.IntRange(0, 1).Draw(t, "entity"))
			r.entity = &v
		}
		if opt("c") {
			v := rapid.SampledFrom([]int64{0, -5, 99, 100, 101, 12345, 1e15}).Draw(t, "cents")
			r.cents = &v
		}
		if opt("x") {
			v := rapid.SampledFrom([]float64{0, -1.5, 0.1, 0.2, 3, 1e15, -1e15}).Draw(t, "x")
			r.x = &v
		}
		if opt("l") {
			v := rapid.Bool().Draw(t, "label")
			r.label = &v
		}
		if opt("w") {
			v := rapid.SampledFrom([]string{"", "a", "bc", "12"}).Draw(t, "word")
			r.word = &v
		}
		if opt("i") {
			v := rapid.SampledFrom([]int64{1, 2, 33}).Draw(t, "item")
			r.item = &v
		}
		rs = append(rs, r)
	}
	return rs
}

func got(b *event.Batch, name string, i int) any {
	k := b.Schema.Index(name)
	c, f := &b.Cols[k], b.Schema.Fields[k]
	switch {
	case c.Null(i):
		return nil
	case f.Kind == event.List:
		from, to := c.Span(i)
		out := []any{}
		for j := from; j < to; j++ {
			if f.Elem == event.Float {
				out = append(out, c.Elems.Floats[j])
			} else {
				out = append(out, string(c.Elems.AppendID(nil, j)))
			}
		}
		return out
	}
	return c.Floats[i]
}

// near allows for another order of additions: relative to the values, or to what cancelled out.
func near(a, b any, scale float64) bool {
	x, ok := a.(float64)
	y, ok2 := b.(float64)
	if !ok || !ok2 {
		return fmt.Sprint(a) == fmt.Sprint(b)
	}
	return math.Abs(x-y) <= 1e-12*max(math.Abs(x), math.Abs(y), scale)
}

func checkAll(t *rapid.T, p Params, rs []record, out []event.Batch, seen func(row int) []record) {
	most := 1.0
	for _, b := range out {
		for _, x := range b.Col("x").Floats {
			most = max(most, math.Abs(x))
		}
	}
	row := 0
	for _, b := range out {
		for i := range b.N {
			rs := rs
			if seen != nil {
				rs = seen(row)
			}
			me := slices.IndexFunc(rs, func(r record) bool { return r.id == b.IDs().Ints[i] })
			for _, f := range p.Features {
				for _, a := range f.Aggregates {
					for _, w := range f.Windows {
						name := a.Name + "_" + w.suffix()
						scale := 0.0
						switch a.Func {
						case "ewma", "var", "std":
							scale = most
						case "slope":
							scale = most / 1e-6 // times are microseconds apart
						}
						if want, is := oracle(p, f, a, w, rs, me), got(&b, name, i); !near(want, is, scale) {
							t.Fatalf("%s at row %d (t %d): %v, want %v", name, row, b.Times()[i], is, want)
						}
					}
				}
			}
			row++
		}
	}
}

func cut(t *rapid.T, rs []record) [][]record {
	var parts [][]record
	for len(rs) > 0 {
		n := rapid.IntRange(1, len(rs)).Draw(t, "batch")
		parts, rs = append(parts, rs[:n]), rs[n:]
	}
	return parts
}

func TestInOrder(t *testing.T) {
	var ps []Params
	var cs []*compiled
	for _, label := range []time.Duration{0, 3 * time.Second, 6 * time.Second} {
		for _, p := range []Params{everything(label), bounded(everything(label))} {
			c, err := compile(p)
			if err != nil {
				t.Fatal(err)
			}
			ps, cs = append(ps, p), append(cs, c)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		which := rapid.IntRange(0, len(ps)-1).Draw(t, "params")
		p, c := ps[which], cs[which]
		rs := drawRecords(t, rapid.IntRange(1, 30).Draw(t, "rows"))
		slices.SortFunc(rs, before)
		sh := c.stages[0].newShard()
		var out []event.Batch
		for _, part := range cut(t, rs) {
			b, dups, err := sh.apply(toBatch(t, p, part))
			if err != nil || len(dups) > 0 {
				t.Fatal(err, dups)
			}
			out = append(out, b)
			if rapid.Bool().Draw(t, "restart") {
				sh = copyOf(t, sh)
			}
		}
		checkAll(t, p, rs, out, nil)
	})
}

// copyOf is a shard made of a copy of sh.
func copyOf(t *rapid.T, sh *shard) *shard {
	out := sh.s.newShard()
	budget := rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(t, "budget")
	for slot, row, done := int64(0), int64(0), false; !done; {
		var b []byte
		b, slot, row, done = sh.w.Copy(nil, slot, row, budget)
		if err := out.w.Load(b); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestShuffled: each row is as of its own time over what has arrived before it.
func TestShuffled(t *testing.T) {
	p := everything(3 * time.Second)
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		rs := rapid.Permutation(drawRecords(t, rapid.IntRange(1, 25).Draw(t, "rows"))).Draw(t, "order")
		sh := c.stages[0].newShard()
		var out []event.Batch
		for _, part := range cut(t, rs) {
			b, dups, err := sh.apply(toBatch(t, p, part))
			if err != nil || len(dups) > 0 {
				t.Fatal(err, dups)
			}
			out = append(out, b)
			again, dups, err := sh.apply(toBatch(t, p, part)) // a second delivery changes nothing
			for i := range again.N {
				if null := again.Cols[2].Null(i); !null && !slices.Contains(dups, int32(i)) {
					t.Fatalf("row %d came twice unnoticed (%v)", i, err)
				}
			}
			if rapid.Bool().Draw(t, "restart") {
				sh = copyOf(t, sh)
			}
		}
		checkAll(t, p, nil, out, func(row int) []record { return rs[:row+1] })
	})
}

func TestNoTrace(t *testing.T) {
	p := Params{Fields: testFields(), ID: "id", Time: "t", Features: []Feature{{Entity: "e", Windows: []Window{{Duration: time.Second}}, Aggregates: []Aggregate{
		{Name: "sum", Func: "sum", Arg: "x"}, {Name: "mean", Func: "mean", Arg: "x"}, {Name: "n", Func: "sum", Arg: "cents"},
	}}}}
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	e, big, small, huge, ten := int64(1), 1e15, 0.1, int64(math.MaxInt64), int64(10)
	rs := []record{{t: 1, id: 1, entity: &e, x: &big, cents: &huge}, {t: 2, id: 2, entity: &e, x: &small, cents: &huge}, {t: 3, id: 3, entity: &e, cents: &huge}, {t: 1_000_002, id: 4, entity: &e, x: &small, cents: &ten}}
	b, _, err := c.stages[0].newShard().apply(toBatch(t, p, rs))
	if err != nil {
		t.Fatal(err)
	}
	if v := b.Col("sum_1s").Floats[3]; v != 0.1 {
		t.Errorf("the sum after 1e15 has left is %v", v)
	}
	if v, want := b.Col("n_1s").Floats[2], 3*float64(math.MaxInt64)/100; v != want {
		t.Errorf("a sum of three times the largest integer is %v, want %v", v, want)
	}
	if v := b.Col("n_1s").Floats[3]; v != (float64(math.MaxInt64)+10)/100 {
		t.Errorf("it left %v", v)
	}
}
