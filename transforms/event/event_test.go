package event

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var allKinds = []Field{
	{Name: "id", Kind: ID}, {Name: "t", Kind: Timestamp}, {Name: "b", Kind: Bool}, {Name: "i", Kind: Int},
	{Name: "d", Kind: Decimal, Scale: 2}, {Name: "f", Kind: Float}, {Name: "c", Kind: Category},
	{Name: "s", Kind: String}, {Name: "l", Kind: List, Elem: Float}, {Name: "ids", Kind: List, Elem: ID},
}

func testSchema(t testing.TB) *Schema {
	s, err := NewSchema(allKinds, "id", "t")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawColumn(t *rapid.T, k, elem Kind, n int) Column {
	c := newColumn(k, n)
	text := k == String || k == Category || k == ID && rapid.Bool().Draw(t, "text")
	if text {
		c = newColumn(String, n)
	}
	for i := 0; i < n; i++ {
		switch {
		case k == Float:
			c.Floats = append(c.Floats, rapid.OneOf(rapid.Float64(), rapid.Map(rapid.IntRange(-3, 300), func(i int) float64 { return float64(i) })).Draw(t, "f"))
		case k == List:
			m := rapid.IntRange(0, 3).Draw(t, "m")
			c.Ends = append(c.Ends, uint32(m))
			if i > 0 {
				c.Ends[i] += c.Ends[i-1]
			}
		case text:
			c.AppendRaw([]byte(rapid.StringN(0, 5, 12).Draw(t, "s")))
		default:
			c.Ints = append(c.Ints, rapid.Int64().Draw(t, "i")>>rapid.IntRange(0, 63).Draw(t, "shift"))
		}
		if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
			c.SetNull(i, n)
		}
	}
	if k == List {
		m := 0
		if n > 0 {
			m = int(c.Ends[n-1])
		}
		e := drawColumn(t, elem, 0, m)
		c.Elems = &e
	}
	return c
}

func drawBatch(t *rapid.T, s *Schema) Batch {
	n := rapid.IntRange(0, 70).Draw(t, "n")
	b := Batch{Schema: s, N: n, Cols: make([]Column, len(s.Fields))}
	for i, f := range s.Fields {
		b.Cols[i] = drawColumn(t, f.Kind, f.Elem, n)
	}
	return b
}

// rows renders a batch value by value, so that two ways to keep the same rows compare equal.
func rows(b Batch) [][]any {
	out := make([][]any, b.N)
	for i := range out {
		for k, f := range b.Schema.Fields {
			out[i] = append(out[i], value(&b.Cols[k], f.Kind, f.Elem, i))
		}
	}
	return out
}

func value(c *Column, k, elem Kind, i int) any {
	switch {
	case c.Null(i):
		return nil
	case k == Float:
		return math.Float64bits(c.Floats[i])
	case k == List:
		from, to := c.Span(i)
		l := []any{}
		for e := from; e < to; e++ {
			l = append(l, value(c.Elems, elem, 0, e))
		}
		return l
	case k == ID:
		return string(c.AppendID(nil, i))
	case k == String || k == Category:
		return string(c.Raw(i))
	}
	return c.Ints[i]
}

func TestRoundTrip(t *testing.T) {
	s := testSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		b := drawBatch(t, s)
		got, err := Decode(Append(nil, b))
		if err != nil {
			t.Fatal(err)
		}
		if !got.Schema.Equal(s) {
			t.Fatalf("schema %v, want %v", got.Schema, s)
		}
		if d := cmp.Diff(rows(b), rows(got)); d != "" {
			t.Fatal(d)
		}
		if !bytes.Equal(Append(nil, b), Append(nil, got)) {
			t.Fatal("encoding is not stable")
		}
	})
}

func TestConcatGather(t *testing.T) {
	s := testSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawBatch(t, s), drawBatch(t, s)
		joined, err := Concat([]Batch{a, b})
		if err != nil {
			t.Fatal(err)
		}
		want := append(rows(a), rows(b)...)
		if d := cmp.Diff(want, rows(joined)); d != "" {
			t.Fatal(d)
		}
		if joined.N == 0 {
			return
		}
		var pick []int32
		var picked [][]any
		for range 10 {
			r := rapid.IntRange(0, joined.N-1).Draw(t, "row")
			pick, picked = append(pick, int32(r)), append(picked, want[r])
		}
		if d := cmp.Diff(picked, rows(joined.Gather(pick))); d != "" {
			t.Fatal(d)
		}
	})
}

func TestIDs(t *testing.T) {
	ints := Column{Ints: []int64{12, -5, 0, math.MaxInt64, math.MinInt64}}
	var text Column
	for i := range ints.Ints {
		text.AppendRaw(ints.AppendID(nil, i))
	}
	for i := range ints.Ints {
		if CompareIDs(&ints, i, &text, i) != 0 || ints.HashID(i) != text.HashID(i) {
			t.Errorf("id %d differs from its own text", ints.Ints[i])
		}
	}
	for _, s := range []string{"", "-", "-0", "007", "+1", "1.0", "9223372036854775808", "18446744073709551616", "a"} {
		if _, ok := CanonicalInt([]byte(s)); ok {
			t.Errorf("%q passes for a canonical integer", s)
		}
	}
	var mixed Column
	mixed.AppendRaw([]byte("9"))
	mixed.AppendRaw([]byte("10"))
	mixed.AppendRaw([]byte("a"))
	if CompareIDs(&mixed, 0, &mixed, 1) >= 0 || CompareIDs(&mixed, 1, &mixed, 2) >= 0 {
		t.Error("want 9 < 10 < a")
	}
}

func TestCompareIDsIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Column
		for range 3 {
			c.AppendRaw([]byte(rapid.StringOfN(rapid.SampledFrom([]rune("019a-")), 0, 3, -1).Draw(t, "id")))
		}
		if CompareIDs(&c, 0, &c, 1) < 0 && CompareIDs(&c, 1, &c, 2) < 0 && CompareIDs(&c, 0, &c, 2) >= 0 {
			t.Fatalf("%q < %q < %q, and not %[1]q < %[3]q", c.Raw(0), c.Raw(1), c.Raw(2))
		}
		if CompareIDs(&c, 0, &c, 1) != -CompareIDs(&c, 1, &c, 0) {
			t.Fatalf("%q against %q is not the reverse of the reverse", c.Raw(0), c.Raw(1))
		}
	})
}

func TestMinTime(t *testing.T) {
	s, _ := NewSchema([]Field{{Name: "t", Kind: Timestamp}}, "", "t")
	for in, want := range map[int64]int64{1999: 1, 0: 0, -1: -1, -1000: -1, -1001: -2} {
		b := Batch{Schema: s, N: 1, Cols: []Column{{Ints: []int64{in}}}}
		if got := b.MinTime(); got != want {
			t.Errorf("%d us: %d ms, want %d", in, got, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	s := testSchema(t)
	good := Append(nil, New(s, 0))
	later := bytes.Clone(good)
	later[2] = version + 1
	if _, err := Decode(later); !errors.Is(err, ErrVersion) {
		t.Errorf("later version: %v", err)
	}
	for n := range good {
		if _, err := Decode(good[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := Decode(append(bytes.Clone(good), 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("trailing byte: %v", err)
	}
	// A billion rows in a few bytes: all columns of width 0.
	one, _ := NewSchema([]Field{{Name: "i", Kind: Int}}, "", "")
	bomb := appendSchema([]byte{'M', 'B', version}, one)
	bomb = append(bomb, 0x80, 0x94, 0xeb, 0xdc, 0x03, 0, 0, 0, 0)
	if _, err := Decode(bomb); !errors.Is(err, ErrCorrupt) {
		t.Errorf("bomb: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	s := testSchema(f)
	f.Add(Append(nil, New(s, 0)))
	one, _ := NewSchema([]Field{{Name: "i", Kind: Int}, {Name: "s", Kind: String}}, "", "")
	b := New(one, 2)
	b.Cols[0].Ints = append(b.Cols[0].Ints, 1, 300)
	b.Cols[1].AppendRaw([]byte("a"))
	b.Cols[1].AppendRaw(nil)
	b.N = 2
	f.Add(Append(nil, b))
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := Decode(p)
		if err != nil {
			return
		}
		if b.Size() > 64*len(p)+1<<17 {
			t.Fatalf("%d bytes became %d", len(p), b.Size())
		}
		if again, err := Decode(Append(nil, b)); err != nil || again.N != b.N {
			t.Fatalf("what was read can't be written and read again: %v", err)
		}
	})
}

func benchBatch() Batch {
	s, _ := NewSchema([]Field{
		{Name: "id", Kind: ID}, {Name: "t", Kind: Timestamp}, {Name: "customer", Kind: ID}, {Name: "terminal", Kind: ID},
		{Name: "amount", Kind: Decimal, Scale: 2}, {Name: "fraud", Kind: Bool}, {Name: "mean", Kind: Float}, {Name: "count", Kind: Float},
	}, "id", "t")
	b := New(s, 1024)
	for i := int64(0); i < 1024; i++ {
		for k, v := range []int64{i, 1522540800e6 + i*9e6, i * 7919 % 5000, i * 104729 % 10000, i * 31 % 20000, i & 1} {
			b.Cols[k].Ints = append(b.Cols[k].Ints, v)
		}
		b.Cols[6].Floats = append(b.Cols[6].Floats, float64(i)/3)
		b.Cols[7].Floats = append(b.Cols[7].Floats, float64(i%90))
	}
	b.N = 1024
	return b
}

func BenchmarkEncode(b *testing.B) {
	batch := benchBatch()
	var buf []byte
	for b.Loop() {
		buf = Append(buf[:0], batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/event")
	b.ReportMetric(float64(len(buf))/1024, "bytes/event")
}

func BenchmarkDecode(b *testing.B) {
	buf := Append(nil, benchBatch())
	for b.Loop() {
		if _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/event")
}
