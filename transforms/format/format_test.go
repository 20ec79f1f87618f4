package format

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/event"
)

func schema(t testing.TB) *event.Schema {
	t.Helper()
	s, err := event.NewSchema([]event.Field{
		{Name: "id", Kind: event.ID},
		{Name: "time", Kind: event.Timestamp},
		{Name: "amount", Kind: event.Decimal, Scale: 2},
		{Name: "flag", Kind: event.Bool},
		{Name: "mean", Kind: event.Float},
		{Name: "name", Kind: event.String},
		{Name: "items", Kind: event.List, Elem: event.ID},
	}, "id", "time")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func batch(t testing.TB) event.Batch {
	b := event.New(schema(t), 2)
	b.N = 2
	b.Cols[0].Ints = append(b.Cols[0].Ints, 7, -8)
	b.Cols[1].Ints = append(b.Cols[1].Ints, 1522540831000000, -1)
	b.Cols[2].Ints = append(b.Cols[2].Ints, 5716, -5)
	b.Cols[3].Ints = append(b.Cols[3].Ints, 1, 0)
	b.Cols[4].Floats = append(b.Cols[4].Floats, 0.1, 0)
	b.Cols[4].SetNull(1, 2)
	b.Cols[5].AppendRaw([]byte("a \"b\",\n\x01é"))
	b.Cols[5].AppendRaw(nil)
	b.Cols[6] = event.Column{Ends: []uint32{2, 2}, Elems: &event.Column{Ends: []uint32{1, 3}, Bytes: []byte("x12")}}
	return b
}

func TestJSONLayout(t *testing.T) {
	t.Parallel()
	b := batch(t)
	e, err := NewEncoder("json", b.Schema, []Out{
		{Name: "id"}, {Name: "at", Column: "time"}, {Name: "amount", Object: "features"}, {Name: "mean", Object: "features"},
		{Name: "name"}, {Name: "flag", Object: "last"}, {Name: "list", Column: "items", Object: "last"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Append(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":7,"at":"2018-04-01T00:00:31Z","features":{"amount":57.16,"mean":0.1},"name":"a \"b\",\n\u0001é","last":{"flag":true,"list":["x",12]}}
{"id":-8,"at":"1969-12-31T23:59:59.999999Z","features":{"amount":-0.05,"mean":null},"name":"","last":{"flag":false,"list":[]}}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	for _, line := range bytes.Split(bytes.TrimSpace(got), []byte("\n")) {
		if !json.Valid(line) {
			t.Errorf("not JSON: %s", line)
		}
	}
	if e.Header() != nil {
		t.Error("JSON has no header")
	}
	if _, err := e.Append(nil, event.Batch{Schema: &event.Schema{}}); err == nil {
		t.Error("took a batch of another schema")
	}
}

func TestCSVLayout(t *testing.T) {
	t.Parallel()
	b := batch(t)
	e, err := NewEncoder("csv", b.Schema, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Append(e.Header(), b)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(got)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"id", "time", "amount", "flag", "mean", "name", "items"},
		{"7", "2018-04-01T00:00:31Z", "57.16", "true", "0.1", "a \"b\",\n\x01é", `["x",12]`},
		{"-8", "1969-12-31T23:59:59.999999Z", "-0.05", "false", "", "", "[]"},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
	if !bytes.Contains(got, []byte(`,,"",`)) {
		t.Errorf("null and the empty string are the same in %s", got)
	}
}

func TestParquetLayout(t *testing.T) {
	t.Parallel()
	b := batch(t)
	var file bytes.Buffer
	if err := WriteParquet(&file, b.Schema, []Out{{Name: "z", Column: "time"}, {Name: "a", Column: "amount"}, {Name: "mean", Object: "x"}},
		func(yield func(event.Batch, error) bool) { _ = yield(b, nil) && yield(b, nil) }); err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.Schema().Columns()); got != "[[z] [a] [mean]]" || f.NumRows() != 4 {
		t.Errorf("columns %s, %d rows", got, f.NumRows())
	}
	if s := f.Schema().String(); !strings.Contains(s, "DECIMAL(18,2)") || !strings.Contains(s, "TIMESTAMP(isAdjustedToUTC=true,unit=MICROS)") {
		t.Error(s)
	}
	boom := fmt.Errorf("boom")
	if err := WriteParquet(&file, b.Schema, nil, func(yield func(event.Batch, error) bool) { yield(b, boom) }); err != boom {
		t.Errorf("got %v", err)
	}
}

func TestEncoderFaults(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind string
		outs []Out
		says string
	}{
		{"avro", nil, "unknown format"},
		{"parquet", nil, "WriteParquet"},
		{"json", []Out{{Name: "id"}, {Name: "nope"}, {Name: "id"}}, `no column "nope"`},
		{"json", []Out{{Name: "id"}, {Name: "nope"}, {Name: "id"}}, `"id" stands twice`},
		{"json", []Out{{Name: "id", Object: "o"}, {Name: "time"}, {Name: "mean", Object: "o"}}, `object "o" stands twice`},
		{"json", []Out{{Name: "id"}, {Name: "time", Object: "id"}}, `"id" stands twice`},
		{"csv", []Out{{Name: "id", Object: "o"}, {Name: "id"}}, "stands twice"},
	} {
		if _, err := NewEncoder(tc.kind, schema(t), tc.outs); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s %v: got %v, want %q", tc.kind, tc.outs, err, tc.says)
		}
	}
}

// TestTimes: both directions against package time.
func TestTimes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		us := rapid.Int64Range(MinTime, MaxTime).Draw(rt, "us")
		want := time.UnixMicro(us).UTC()
		text := AppendTime(nil, us)
		if string(text) != want.Format(time.RFC3339Nano) {
			rt.Fatalf("got %s, want %s", text, want.Format(time.RFC3339Nano))
		}
		var p Times
		zone := time.FixedZone("", 60*rapid.IntRange(-23*60-59, 23*60+59).Draw(rt, "offset"))
		if local := want.In(zone); local.Year() >= 0 && local.Year() <= 9999 {
			text = []byte(local.Format("2006-01-02T15:04:05.999999-07:00"))
		}
		if got, fault := p.Parse(text); fault != OK || got != us {
			rt.Fatalf("%s: got %d %d, want %d", text, got, fault, us)
		}
	})
	var p Times // every date of 400 years and those that don't exist
	for y := 1900; y < 2300; y++ {
		for m := 0; m <= 13; m++ {
			for d := 0; d <= 32; d++ {
				text := fmt.Sprintf("%04d-%02d-%02dT12:00:00Z", y, m, d)
				got, fault := p.Parse([]byte(text))
				want, err := time.Parse(time.RFC3339, text)
				if (fault == OK) != (err == nil) || err == nil && got != want.UnixMicro() {
					t.Fatalf("%s: got %d %d, want %v", text, got, fault, err)
				}
			}
		}
	}
}

func TestStringsAgainstEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(rt, "s")
		text := AppendJSON(nil, []byte(s))
		var back string
		if err := json.Unmarshal(text, &back); err != nil {
			rt.Fatal(err)
		}
		if want := strings.ToValidUTF8(strings.Join(strings.Split(s, ""), ""), "\ufffd"); back != want && back != string([]rune(s)) {
			rt.Fatalf("got %q, want %q", back, want)
		}
		theirs, err := json.Marshal(s)
		if err != nil {
			rt.Fatal(err)
		}
		var scratch []byte
		got, end := ScanString(append(theirs, '\n'), 0, &scratch)
		if end != len(theirs) || string(got) != back {
			rt.Fatalf("%s: got %q, want %q", theirs, got, back)
		}
	})
}

func TestDecimals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		v, scale := rapid.Int64().Draw(rt, "v"), uint8(rapid.IntRange(0, 18).Draw(rt, "scale"))
		text := AppendDecimal(nil, v, scale)
		want := new(big.Rat).SetFrac(big.NewInt(v), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
		if got, ok := new(big.Rat).SetString(string(text)); !ok || got.Cmp(want) != 0 {
			rt.Fatalf("%d/10^%d written as %s", v, scale, text)
		}
		n, end := ScanNumber(append(text, '\n'), 0)
		if got, fault := n.Decimal(scale, text); end != len(text) || fault != OK || got != v {
			rt.Fatalf("%s: got %d, %d", text, got, fault)
		}
		// Any other scale and exponent: exact, or said not to be.
		to, e := uint8(rapid.IntRange(0, 18).Draw(rt, "to")), rapid.IntRange(-25, 25).Draw(rt, "e")
		text = fmt.Appendf(text, "%se%d", strings.Repeat("0", rapid.IntRange(0, 20).Draw(rt, "zeros")*min(int(scale), 1)), e)
		n, _ = ScanNumber(append(text, '\n'), 0)
		got, fault := n.Decimal(to, text)
		value, _ := new(big.Rat).SetString(string(text))
		value.Mul(value, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(to)), nil)))
		cut := new(big.Int).Quo(value.Num(), value.Denom())
		wantFault := OK
		switch {
		case !cut.IsInt64():
			wantFault = Overflow
		case !value.IsInt():
			wantFault = Inexact
		}
		if fault != wantFault || fault != Overflow && got != cut.Int64() {
			rt.Fatalf("%s at %d places: got %d, %d; want %v, %d", text, to, got, fault, cut, wantFault)
		}
	})
}

func TestFloats(t *testing.T) {
	t.Parallel()
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -1, 999999, 1e6, 1e21, 0.1, 1e-7, math.MaxFloat64, math.SmallestNonzeroFloat64, -123456.75} {
		text := AppendFloat(nil, v)
		var back float64
		if err := json.Unmarshal(text, &back); err != nil || math.Float64bits(back) != math.Float64bits(v) {
			t.Errorf("%v written as %s, read as %v (%v)", v, text, back, err)
		}
		if want := fmt.Sprint(json.Number(fmt.Sprintf("%g", v))); want != string(text) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}

// FuzzSkip: what is skipped as a value encoding/json holds valid, but for its bad UTF-8.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,null,true,"\u12aF\ud800"],"b":{}}`, `[[[]]]`, `"\`, `[1,]`, `{"a"}`, "-", `01`, `{"a":1,}`, "[1 ,\t2 ]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.ReplaceAll(b, []byte("\n"), nil)
		var scratch []byte
		end := SkipValue(append(bytes.Clone(b), '\n'), 0, 0, &scratch)
		ok := end > 0 && SkipSpace(append(bytes.Clone(b), '\n'), end) == len(b)
		if valid := json.Valid(b) && len(b) > 0 && b[0] > ' '; ok && !valid || valid && !ok && bytes.Equal(b, bytes.ToValidUTF8(b, nil)) && end != -2 {
			t.Fatalf("%q: skipped %t, valid %t", b, ok, valid)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	s, err := event.NewSchema([]event.Field{
		{Name: "TRANSACTION_ID", Kind: event.ID}, {Name: "TX_DATETIME", Kind: event.Timestamp}, {Name: "CUSTOMER_ID", Kind: event.ID},
		{Name: "TERMINAL_ID", Kind: event.ID}, {Name: "TX_AMOUNT", Kind: event.Decimal, Scale: 2}, {Name: "TX_FRAUD", Kind: event.Bool},
	}, "TRANSACTION_ID", "TX_DATETIME")
	if err != nil {
		b.Fatal(err)
	}
	in := event.New(s, 4096)
	in.N = 4096
	for i := range int64(in.N) {
		for k, v := range []int64{i, 1522540831000000 + i*1000000, i * 7919 % 5000, i * 104729 % 10000, i * 37 % 20000, i & 1} {
			in.Cols[k].Ints = append(in.Cols[k].Ints, v)
		}
	}
	for _, kind := range []string{"json", "csv"} {
		b.Run(kind, func(b *testing.B) {
			e, err := NewEncoder(kind, s, nil)
			if err != nil {
				b.Fatal(err)
			}
			var dst []byte
			before := cpu()
			for b.Loop() {
				if dst, err = e.Append(dst[:0], in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/float64(in.N), "cpu-ns/event")
		})
	}
}

// cpu is the time the process has computed, which a busy machine lengthens less than the clock's.
func cpu() int64 {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return ru.Utime.Nano() + ru.Stime.Nano()
}
