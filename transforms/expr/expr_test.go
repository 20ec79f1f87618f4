package expr

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
)

func testSchema(t testing.TB) *event.Schema {
	t.Helper()
	s, err := event.NewSchema([]event.Field{
		{Name: "id", Kind: event.ID},
		{Name: "at", Kind: event.Timestamp},
		{Name: "x", Kind: event.Float},
		{Name: "n", Kind: event.Int},
		{Name: "TX_AMOUNT", Kind: event.Decimal, Scale: 2},
		{Name: "flag", Kind: event.Bool},
		{Name: "colour", Kind: event.Category},
		{Name: "note", Kind: event.String},
		{Name: "other", Kind: event.ID},
		{Name: "tags", Kind: event.List, Elem: event.Category},
		{Name: "peers", Kind: event.List, Elem: event.ID},
		{Name: "pay.sum", Kind: event.Float},
		{Name: "y", Kind: event.Float},
	}, "id", "at")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testBatch has row 0 without nulls, row 1 null in all but id and at, row 2 with other values.
func testBatch(t testing.TB) event.Batch {
	b := event.New(testSchema(t), 3)
	sunday := time.Date(2018, 4, 1, 6, 59, 59, 123456000, time.UTC).UnixMicro()
	newYear := time.Date(1969, 12, 31, 23, 30, 0, 0, time.UTC).UnixMicro()
	c := b.Cols
	c[8].Ints = nil // ids that are not all integers
	c[0].Ints = []int64{7, 8, 9}
	c[1].Ints = []int64{sunday, sunday, newYear}
	c[2].Floats = []float64{1.5, 0, -4}
	c[3].Ints = []int64{3, 0, 0}
	c[4].Ints = []int64{5716, 0, 25000}
	c[5].Ints = []int64{1, 0, 0}
	for _, v := range []string{"red", "", "blue"} {
		c[6].AppendRaw([]byte(v))
	}
	for _, v := range []string{"hello", "", "12.5"} {
		c[7].AppendRaw([]byte(v))
	}
	for _, v := range []string{"7", "", "k9"} {
		c[8].AppendRaw([]byte(v))
	}
	c[9].Ends = []uint32{2, 2, 2}
	c[9].Elems.AppendRaw([]byte("a"))
	c[9].Elems.AppendRaw([]byte("bb"))
	c[10].Ends = []uint32{2, 2, 3}
	c[10].Elems.Ints = []int64{7, 5, 1}
	c[11].Floats = []float64{2, 0, 3}
	c[12].Floats = []float64{0, 0, 2}
	for i := 2; i < len(c); i++ {
		c[i].SetNull(1, 3)
	}
	b.N = 3
	return b
}

// show writes a column as text, null as "-".
func show(c event.Column, k event.Kind, n int) []string {
	out := make([]string, n)
	for i := range out {
		switch {
		case c.Null(i):
			out[i] = "-"
		case k == event.Float:
			out[i] = fmt.Sprint(c.Floats[i])
		case k == event.String:
			out[i] = string(c.Raw(i))
		case k == event.ID:
			out[i] = string(c.AppendID(nil, i))
		default:
			out[i] = fmt.Sprint(c.Ints[i])
		}
	}
	return out
}

func TestEval(t *testing.T) {
	const kernels, byRow = true, false
	for _, tt := range []struct {
		src    string
		kernel bool
		kind   event.Kind
		want   string
	}{
		{"TX_AMOUNT / 2", kernels, event.Float, "28.58 - 125"},
		{"n / 2", kernels, event.Float, "1.5 - 0"},
		{"7 / 2", kernels, event.Float, "3.5 3.5 3.5"},
		{"n + TX_AMOUNT * x - 1", kernels, event.Float, "87.74 - -1001"},
		{"n % 2", kernels, event.Float, "1 - 0"},
		{"-7 % 4 + 0 * x", kernels, event.Float, "-3 - -3"},
		{"x / y", kernels, event.Float, "- - -2"},
		{"coalesce(x / y, 0)", kernels, event.Float, "0 0 -2"},
		{"isNull(x / y)", kernels, event.Bool, "1 1 0"},
		{"x / y > 5", kernels, event.Bool, "- - 0"},
		{"log(x)", kernels, event.Float, "0.4054651081081644 - -"},
		{"exp(1000 * n)", kernels, event.Float, "- - 1"},
		{"max(x, y, n)", kernels, event.Float, "3 - 2"},
		{"min(x, y)", kernels, event.Float, "0 - -4"},
		{"floor(x) + 10 * ceil(x) + 100 * abs(x)", kernels, event.Float, "171 - 356"},
		{"sqrt(y * 2) + pow(y, 3)", kernels, event.Float, "0 - 10"},
		{"floor(1000 * log1p(y))", kernels, event.Float, "0 - 1098"},
		{"-x", kernels, event.Float, "-1.5 - 4"},
		{"TX_AMOUNT > 220", kernels, event.Bool, "0 - 1"},
		{"TX_AMOUNT == 57.16", kernels, event.Bool, "1 - 0"},
		{"at.getDayOfWeek() in [0, 6]", kernels, event.Bool, "1 1 0"},
		{"at.getHours() <= 6", kernels, event.Bool, "1 1 0"},
		{"at.getDayOfWeek()", kernels, event.Float, "0 0 3"},
		{"at.getHours() * 10000 + at.getMinutes() * 100 + at.getSeconds()", kernels, event.Float, "65959 65959 233000"},
		{"at.getMilliseconds()", kernels, event.Float, "123 123 0"},
		{"at.getHours('Europe/Paris')", kernels, event.Float, "8 8 0"},
		{"at.getHours('+02:30')", byRow, event.Float, "9 9 2"},
		{"at.getFullYear() * 10000 + at.getMonth() * 100 + at.getDate()", kernels, event.Float, "2.0180301e+07 2.0180301e+07 1.9691131e+07"},
		{"at.getDayOfYear()", kernels, event.Float, "90 90 364"},
		{"at > timestamp('2000-01-01T00:00:00Z')", byRow, event.Bool, "1 1 0"},
		{"at + duration('1s') < at", byRow, event.Bool, "0 0 0"},
		{"(at - timestamp('2018-04-01T00:00:00Z')).getMinutes()", byRow, event.Float, "419 419 -2.537571e+07"},
		{"flag && x > 0", kernels, event.Bool, "1 - 0"},
		{"flag && false", kernels, event.Bool, "0 0 0"},
		{"flag || true", kernels, event.Bool, "1 1 1"},
		{"isNull(x) || x > 0", kernels, event.Bool, "1 1 0"},
		{"!flag", kernels, event.Bool, "0 - 1"},
		{"flag == (x > 0)", kernels, event.Bool, "1 - 1"},
		{"isNull(flag) ? 1 : x", kernels, event.Float, "1.5 1 -4"},
		{"flag ? 1 : 0", kernels, event.Float, "1 - 0"},
		{"colour == 'red'", kernels, event.Bool, "1 - 0"},
		{"colour in ['blue', 'green']", kernels, event.Bool, "0 - 1"},
		{"'blue' != colour", kernels, event.Bool, "1 - 0"},
		{"id == 7", kernels, event.Bool, "1 0 0"},
		{"id != '7'", kernels, event.Bool, "0 1 1"},
		{"id in [9, '8', 'x']", kernels, event.Bool, "0 1 1"},
		{"id == '07'", kernels, event.Bool, "0 0 0"},
		{"other == 'k9'", kernels, event.Bool, "0 - 1"},
		{"id == other", kernels, event.Bool, "1 - 0"},
		{"(flag ? id : other) == 7", byRow, event.Bool, "1 - 0"},
		{"7 in peers", byRow, event.Bool, "1 - 0"},
		{"id in peers", byRow, event.Bool, "1 - 0"},
		{"note.startsWith('he')", byRow, event.Bool, "1 - 0"},
		{"size(note) + 1", byRow, event.Float, "6 - 5"},
		{"double(note)", byRow, event.Float, "- - 12.5"},
		{"coalesce(note, 'none')", byRow, event.String, "hello none 12.5"},
		{"note + '!'", byRow, event.String, "hello! - 12.5!"},
		{"note.matches('^[0-9.]+$')", byRow, event.Bool, "0 - 1"},
		{"tags.exists(t, size(t) == 2)", byRow, event.Bool, "1 - 0"},
		{"tags.exists_one(x, x == 'a')", byRow, event.Bool, "1 - 0"},
		{"tags[1]", byRow, event.String, "bb - -"},
		{"size(tags.filter(t, t != 'a'))", byRow, event.Float, "1 - 0"},
		{"int(x)", byRow, event.Float, "1 - -4"},
		{"pay.sum * 2", kernels, event.Float, "4 - 6"},
		{"double(n) / 2", kernels, event.Float, "1.5 - 0"},
		{"TX_AMOUNT", kernels, event.Float, "57.16 - 250"},
		{"n", kernels, event.Float, "3 - 0"},
		{"colour", kernels, event.String, "red - blue"},
		{"id", kernels, event.ID, "7 8 9"},
	} {
		t.Run(tt.src, func(t *testing.T) {
			t.Parallel()
			b := testBatch(t)
			p, err := Compile(tt.src, b.Schema)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind() != tt.kind {
				t.Errorf("kind %v, want %v", p.Kind(), tt.kind)
			}
			if got := p.rows == nil; got != tt.kernel {
				t.Errorf("runs as a kernel: %v, want %v", got, tt.kernel)
			}
			got, err := p.Eval(&b)
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(show(got, tt.kind, b.N), " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

func TestCompileErrors(t *testing.T) {
	t.Parallel()
	s := testSchema(t)
	for _, tt := range []struct{ src, want string }{
		{"TX_AMOUT > 5", `column 1: no field or function "TX_AMOUT"; near it: TX_AMOUNT`},
		{"1 + colur == 'a'", `column 5: no field or function "colur"; near it: colour`},
		{"x > 'a'", "column 3: no such operation: > applied to '(double, string)'"},
		{"x +", "column 4"},
		{"id < 5", "applied to '(id, double)'"},
		{"id + 1", "applied to '(id, double)'"},
		{"id == x", "applied to '(id, double)'"},
		{"id == 1.5", "applied to '(id, double)'"},
		{"size(id)", "applied to '(id)'"},
		{"string(id)", "applied to '(id)'"},
		{"flag ? id : id", "it gives a id"},
		{"note.matches('(')", "column"},
		{"at.getHours('Mars/Olympus')", "column 13: unknown time zone"},
		{"1e400 * x", "column 1"},
		{"zzz(1)", "the functions are"},
		{"qqqqqqq", "the fields are"},
		{"x > 1 && bad1 && bad2", `"bad2"`},
		{"tags.all(a, tags.all(b, tags.all(c, a + b + c != '')))", "it may cost"},
		{strings.Repeat("(", 200) + "x" + strings.Repeat(")", 200), "recursion"},
		{"x" + strings.Repeat(" + x", 10000), "size"},
		{"", "column 1"},
	} {
		_, err := Compile(tt.src, s)
		if !errors.Is(err, ErrExpression) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40s: error %v, want one with %q", tt.src, err, tt.want)
		}
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	s := testSchema(t)
	form := func(src string) string {
		p, err := Compile(src, s)
		if err != nil {
			t.Fatal(err)
		}
		return p.Canonical()
	}
	for _, same := range [][]string{
		{"TX_AMOUNT/2", " ( TX_AMOUNT ) / 2.0", "TX_AMOUNT / 20e-1", "double(TX_AMOUNT) / 2"},
		{"x > 1 && flag && n == 3", "flag && (3 == n && 1 < x)", "(flag && flag) && (1 < x && n == 3)"},
		{"x + y * 2", "2 * y + x"},
		{"id in [1, '2']", "id in ['2', 1, 1]"},
		{"note == \"a\"", "'a' == note"},
		{"x >= y", "y <= x"},
		{"max(x, y)", "max(y, x)"},
	} {
		for _, src := range same[1:] {
			if a, b := form(same[0]), form(src); a != b {
				t.Errorf("%s is %s, but %s is %s", same[0], a, src, b)
			}
		}
	}
	seen := map[string]string{}
	for _, src := range []string{
		"x - y", "y - x", "x / y", "y / x", "x < y", "x <= y", "y < x", "x", "y", "x + y", "pow(x, y)", "pow(y, x)",
		"note + 'a'", "'a' + note", "note == '1'", "id == 1", "other == 1", "flag && x > 1", "flag || x > 1",
		"x % y", "x * y", "flag ? x : y", "flag ? y : x", "coalesce(x, y)", "coalesce(y, x)", "at.getHours()",
		"at.getHours('Europe/Paris')", "x in [1, 2]", "x in [1, 3]", "(x - y) - 1", "x - (y - 1)",
		"tags.exists(t, t == 'a')", "tags.all(t, t == 'a')", "at > timestamp('2000-01-01T00:00:00Z')", "at > timestamp('2000-01-02T00:00:00Z')",
	} {
		f := form(src)
		if other, ok := seen[f]; ok {
			t.Errorf("%s and %s are both %s", src, other, f)
		}
		seen[f] = src
	}
	if got, want := form("TX_AMOUNT / 2 > 1"), "(< 1 (/ TX_AMOUNT 2))"; got != want {
		t.Errorf("got %s, want %s: fingerprints of stored models would change", got, want)
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	p, err := Compile("x > n && pay.sum > 1 && tags.exists(y, y == colour)", testSchema(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"colour", "n", "pay.sum", "tags", "x"}, p.Fields()); diff != "" {
		t.Error(diff)
	}
	if p.Field() != -1 {
		t.Errorf("Field() = %d", p.Field())
	}
	if p, err = Compile(" (other) ", testSchema(t)); err != nil || p.Field() != 8 {
		t.Errorf("Field() = %d, %v; want 8", p.Field(), err)
	}
}

func TestEvalOtherSchema(t *testing.T) {
	t.Parallel()
	b := testBatch(t)
	p, err := Compile("x + n", b.Schema)
	if err != nil {
		t.Fatal(err)
	}
	wider, err := b.Schema.With(event.Field{Name: "more", Kind: event.Float})
	if err != nil {
		t.Fatal(err)
	}
	w := b.With(wider, event.Column{Floats: []float64{1, 2, 3}})
	if got, err := p.Eval(&w); err != nil || got.Floats[0] != 4.5 {
		t.Errorf("got %v, %v", got, err)
	}
	narrow, err := b.Schema.Only("n", "x")
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.Only(narrow)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Eval(&o); !errors.Is(err, event.ErrSchema) {
		t.Errorf("error %v, want ErrSchema", err)
	}
}

func TestEvalLeavesBatch(t *testing.T) {
	t.Parallel()
	for _, src := range []string{"x", "n", "note", "tags", "-x", "!flag", "isNull(x)"} {
		b := testBatch(t)
		p, err := Compile(src, b.Schema)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Eval(&b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got.Floats {
			got.Floats[i] = 99
		}
		for i := range got.Bytes {
			got.Bytes[i] = 'z'
		}
		for i := range got.Nulls {
			got.Nulls[i] = 0
		}
		if diff := cmp.Diff(testBatch(t).Cols, b.Cols); diff != "" {
			t.Errorf("%s: the batch changed: %s", src, diff)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	b := testBatch(t)
	for _, src := range []string{"x + n > 1 ? x : coalesce(y, 2)", "note + '!'"} {
		p, err := Compile(src, b.Schema)
		if err != nil {
			t.Fatal(err)
		}
		want, err := p.Eval(&b)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					if _, err := Compile(src, b.Schema); err != nil {
						t.Error(err)
					}
					got, err := p.Eval(&b)
					if diff := cmp.Diff(want, got); err != nil || diff != "" {
						t.Errorf("%v: %s", err, diff)
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestFieldNamedLikeType(t *testing.T) {
	t.Parallel()
	s, err := event.NewSchema([]event.Field{{Name: "string", Kind: event.Float}, {Name: "v", Kind: event.Float}}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile("v + 1", s); err != nil {
		t.Error(err)
	}
}

// numbers and bools draw expressions of the common forms.
func numbers(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom([]string{
			"x", "n", "d", "y", "0", "1", "-2", "2.5", "3", "at.getHours()", "at.getDayOfWeek()", "at.getMinutes()", "at.getSeconds()",
			"at.getMonth()", "at.getHours('America/New_York')", "at.getDayOfYear()", "at.getFullYear()", "at.getMilliseconds()", "at.getDate()",
		}).Draw(t, "leaf")
	}
	a := func() string { return numbers(t, depth-1) }
	switch rapid.IntRange(0, 6).Draw(t, "number") {
	case 0, 1:
		op := rapid.SampledFrom([]string{"+", "-", "*", "/", "%"}).Draw(t, "op")
		return "(" + a() + " " + op + " " + a() + ")"
	case 2:
		return rapid.SampledFrom([]string{"abs", "log", "log1p", "exp", "sqrt", "floor", "ceil", "-", "double"}).Draw(t, "fn") + "(" + a() + ")"
	case 3:
		return rapid.SampledFrom([]string{"min", "max", "pow", "coalesce"}).Draw(t, "fn") + "(" + a() + ", " + a() + ")"
	case 4:
		return "(" + bools(t, depth-1) + " ? " + a() + " : " + a() + ")"
	default:
		return numbers(t, 0)
	}
}

func bools(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom([]string{
			"flag", "true", "false", "(k == 3)", "(k in [1, '2', 'x'])", "(k != j)", "(k == j)", "(j == 'x')", "(j in [1, 2])", "(c == 'a')", "(c in ['a', 'bb'])",
			"('a' != c)", "isNull(k)", "isNull(c)", "isNull(x)", "isNull(at)", "(n in [0, 1, 2.5])",
		}).Draw(t, "leaf")
	}
	a := func() string { return bools(t, depth-1) }
	n := func() string { return numbers(t, depth-1) }
	switch rapid.IntRange(0, 8).Draw(t, "bool") {
	case 0, 1:
		return "(" + n() + rapid.SampledFrom([]string{" < ", " <= ", " > ", " >= ", " == ", " != "}).Draw(t, "cmp") + n() + ")"
	case 2, 3:
		return "(" + a() + rapid.SampledFrom([]string{" && ", " || ", " == ", " != "}).Draw(t, "op") + a() + ")"
	case 4:
		return "!(" + a() + ")"
	case 5:
		return "(" + a() + " ? " + a() + " : " + a() + ")"
	case 6:
		return rapid.SampledFrom([]string{"isNull(" + n() + ")", "isNull(" + a() + ")", "coalesce(" + a() + ", " + a() + ")"}).Draw(t, "null")
	case 7:
		return "(" + n() + " in [0, 1, -2, 2.5])"
	default:
		return bools(t, 0)
	}
}

func randomBatch(t *rapid.T) event.Batch {
	s, err := event.NewSchema([]event.Field{
		{Name: "k", Kind: event.ID}, {Name: "j", Kind: event.ID}, {Name: "at", Kind: event.Timestamp},
		{Name: "x", Kind: event.Float}, {Name: "y", Kind: event.Float}, {Name: "n", Kind: event.Int},
		{Name: "d", Kind: event.Decimal, Scale: 3}, {Name: "flag", Kind: event.Bool}, {Name: "c", Kind: event.Category},
	}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	n := rapid.SampledFrom([]int{0, 1, 63, 64, 65, 200, 1024, 1025, 1100}).Draw(t, "rows")
	// A small generator of its own draws the rows: rapid's would be too slow for so many.
	seed := rapid.Uint64().Draw(t, "seed")
	next := func(k int) int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed >> 33 % uint64(k))
	}
	b := event.New(s, n)
	b.N = n
	b.Cols[1].Ints = nil
	floats := []float64{0, 1, -1, 2.5, 3, -2, 1e308, 5e-324, 700, 0.1}
	texts := []string{"a", "bb", "", "x", "1", "2", "3", "02"}
	for range n {
		b.Cols[0].Ints = append(b.Cols[0].Ints, int64(next(5)))
		b.Cols[1].AppendRaw([]byte(texts[next(len(texts))]))
		b.Cols[2].Ints = append(b.Cols[2].Ints, int64(next(4e9))*1e6*int64(1-2*next(2))+int64(next(1e6)))
		b.Cols[3].Floats = append(b.Cols[3].Floats, floats[next(len(floats))])
		b.Cols[4].Floats = append(b.Cols[4].Floats, floats[next(len(floats))])
		b.Cols[5].Ints = append(b.Cols[5].Ints, int64(next(7)-3))
		b.Cols[6].Ints = append(b.Cols[6].Ints, int64(next(9000)-3000))
		b.Cols[7].Ints = append(b.Cols[7].Ints, int64(next(2)))
		b.Cols[8].AppendRaw([]byte(texts[next(len(texts))]))
	}
	for i := range b.Cols {
		if rate := next(4); rate > 0 {
			for r := range n {
				if next(4) < rate {
					b.Cols[i].SetNull(r, n)
				}
			}
		}
	}
	return b
}

func TestKernelsEqualRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := randomBatch(t)
		depth := rapid.IntRange(0, 4).Draw(t, "depth")
		kind, src := event.Float, ""
		if rapid.Bool().Draw(t, "boolean") {
			kind, src = event.Bool, bools(t, depth)
		} else {
			src = numbers(t, depth)
		}
		c, err := check(src, b.Schema)
		if err != nil {
			t.Fatal(err)
		}
		k := newKernel(c)
		if k == nil {
			t.Fatalf("%s has no kernel", src)
		}
		r, err := newRows(c, kind)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second run meets used registers
			got, want := show(k.eval(&b), kind, b.N), show(r.eval(&b), kind, b.N)
			if !slices.Equal(got, want) {
				for i := range got {
					if got[i] != want[i] {
						t.Fatalf("%s, row %d of %d: kernel %s, cel-go %s", src, i, b.N, got[i], want[i])
					}
				}
			}
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"x + 1", "id == 7 && tags.exists(t, t == 'a')", "coalesce(x, y, 0)", "at.getHours('UTC') % 2", "[1, 2][0]", "{1: 2}[1]", "max()", "x.min(y)"} {
		f.Add(s)
	}
	b := testBatch(f)
	f.Fuzz(func(t *testing.T, src string) {
		p, err := Compile(src, b.Schema)
		if err != nil {
			return
		}
		c, err := p.Eval(&b)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range c.Floats {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%q: row %d is %v", src, i, v)
			}
		}
	})
}

func benchmark(b *testing.B, src string) {
	batch := event.New(testSchema(b), 4096)
	for i := range 4096 {
		for k := range 5 {
			if c := &batch.Cols[k]; c.Ints != nil {
				c.Ints = append(c.Ints, int64(i)*1e9)
			} else {
				c.Floats = append(c.Floats, float64(i%17))
			}
		}
		batch.Cols[7].AppendRaw([]byte("hello"))
	}
	batch.N = 4096
	p, err := Compile(src, batch.Schema)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Eval(&batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/row")
}

func BenchmarkDivide(b *testing.B)  { benchmark(b, "TX_AMOUNT / x") }
func BenchmarkWeekend(b *testing.B) { benchmark(b, "at.getDayOfWeek() in [0, 6]") }
func BenchmarkRows(b *testing.B)    { benchmark(b, "note.startsWith('he')") }

func Example() {
	s, _ := event.NewSchema([]event.Field{{Name: "amount", Kind: event.Decimal, Scale: 2}, {Name: "mean", Kind: event.Float}}, "", "")
	p, _ := Compile("amount / mean", s)
	b := event.Batch{Schema: s, N: 2, Cols: []event.Column{{Ints: []int64{1250, 300}}, {Floats: []float64{5, 0}}}}
	c, _ := p.Eval(&b)
	fmt.Println(p.Kind(), c.Floats[0], c.Null(1))
	// Output: float 2.5 true
}

func BenchmarkCompile(b *testing.B) {
	s := testSchema(b)
	for b.Loop() {
		if _, err := Compile("TX_AMOUNT / x > 2 && at.getHours() <= 6", s); err != nil {
			b.Fatal(err)
		}
	}
}
