package decode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

func ptr(v float64) *float64 { return &v }

// fraud are the fields of the handbook's transactions.
func fraud(kind string) Params {
	return Params{
		Format: kind,
		Fields: []Field{
			{Name: "TRANSACTION_ID", Kind: event.ID},
			{Name: "TX_DATETIME", Kind: event.Timestamp},
			{Name: "CUSTOMER_ID", Kind: event.ID},
			{Name: "TERMINAL_ID", Kind: event.ID},
			{Name: "TX_AMOUNT", Kind: event.Decimal, Scale: 2, Min: ptr(0)},
			{Name: "TX_FRAUD", Kind: event.Bool, Optional: true},
		},
		ID: []string{"TRANSACTION_ID"}, Time: "TX_DATETIME", UseCase: "fraud", Fingerprint: "f1",
	}
}

type result struct {
	batches []event.Batch
	letters []deadletter.Letter
	stats   Stats
}

func (r result) batch(t testing.TB) event.Batch {
	t.Helper()
	b, err := event.Concat(r.batches)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readAll(t testing.TB, p Params, input string) result {
	t.Helper()
	return readRange(t, p, strings.NewReader(input), Source{Name: "in", End: -1})
}

func readRange(t testing.TB, p Params, r interface{ Read([]byte) (int, error) }, src Source) result {
	t.Helper()
	d, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	var out result
	out.stats, err = d.Read(r, src,
		func(b event.Batch) error { out.batches = append(out.batches, b); return nil },
		func(l deadletter.Letter) error { out.letters = append(out.letters, l); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const good = `{"TRANSACTION_ID":7,"TX_DATETIME":"2018-04-01T00:00:31Z","CUSTOMER_ID":596,"TERMINAL_ID":3156,"TX_AMOUNT":57.16,"TX_FRAUD":0}`

func TestJSONLine(t *testing.T) {
	t.Parallel()
	want := []any{int64(7), int64(1522540831000000), int64(596), int64(3156), int64(5716), int64(0)}
	for name, line := range map[string]string{
		"plain":      good,
		"spaces":     " { \"TRANSACTION_ID\" : 7 ,\t\"TX_DATETIME\": \"2018-04-01T00:00:31Z\" , \"CUSTOMER_ID\":596,\"TERMINAL_ID\":3156,\"TX_AMOUNT\":57.16,\"TX_FRAUD\":0 } \r",
		"reordered":  `{"TX_FRAUD":false,"TX_AMOUNT":57.160,"TERMINAL_ID":"3156","CUSTOMER_ID":596,"TX_DATETIME":"2018-04-01 02:00:31.000+02:00","TRANSACTION_ID":"7"}`,
		"unknown":    `{"x":[1,{"a":null}],"TRANSACTION_ID":7,"y":"\ud83d\ude00","TX_DATETIME":"2018-04-01T00:00:31","CUSTOMER_ID":596,"TERMINAL_ID":3156,"TX_AMOUNT":5716e-2,"TX_FRAUD":0,"z":{}}`,
		"escapedKey": `{"TRANSACTION_\u0049D":7,"TX_DATETIME":"2018-04-01T00:00:31\u005a","CUSTOMER_ID":596,"TERMINAL_ID":3156,"TX_AMOUNT":57.16,"TX_FRAUD":0}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := readAll(t, fraud("json"), line).batch(t)
			var got []any
			for i := range b.Cols {
				got = append(got, b.Cols[i].Ints[0])
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBadLines: each fault has its class and a message that names the field.
func TestBadLines(t *testing.T) {
	t.Parallel()
	set := func(key, value string) string {
		var out []string
		for _, part := range strings.Split(strings.Trim(good, "{}"), `,"`) {
			part = strings.TrimPrefix(part, `"`)
			if strings.HasPrefix(part, key+`"`) {
				if value == "" {
					continue
				}
				part = key + `":` + value
			}
			out = append(out, `"`+part)
		}
		return "{" + strings.Join(out, ",") + "}"
	}
	for _, tc := range []struct {
		name, line string
		class      deadletter.Class
		says       string
	}{
		{"truncated", good[:60], deadletter.Decode, "a key"},
		{"cut", good[:20], deadletter.Decode, "record ends"},
		{"trailing", good + "x", deadletter.Decode, "end of the line"},
		{"two objects", good + good, deadletter.Decode, "end of the line"},
		{"array", "[1]", deadletter.Decode, "an object"},
		{"binary", "\x00\x01\xff", deadletter.Decode, "an object"},
		{"duplicate key", `{"TX_FRAUD":1,` + good[1:], deadletter.Decode, `"TX_FRAUD" stands twice`},
		{"trailing comma", strings.TrimSuffix(good, "}") + ",}", deadletter.Decode, "a key"},
		{"NaN", set("TX_AMOUNT", "NaN"), deadletter.Decode, "NaN"},
		{"-Infinity", set("TX_AMOUNT", "-Infinity"), deadletter.Decode, "a number"},
		{"leading zero", set("TX_AMOUNT", "057.1"), deadletter.Decode, "a number"},
		{"bare dot", set("TX_AMOUNT", "1."), deadletter.Decode, "a number"},
		{"single quotes", strings.ReplaceAll(good, `"`, `'`), deadletter.Decode, "a key"},
		{"bad utf-8", set("CUSTOMER_ID", "\"a\xffb\""), deadletter.Decode, "UTF-8"},
		{"control", set("CUSTOMER_ID", "\"a\x01b\""), deadletter.Decode, "a string"},
		{"last control", set("CUSTOMER_ID", "\"a\x1fb\""), deadletter.Decode, "a string"},
		{"bad escape", set("CUSTOMER_ID", `"\x41"`), deadletter.Decode, "a string"},
		{"deep", `{"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + "," + good[1:], deadletter.Decode, "deeper"},
		{"deep unclosed", `{"x":` + strings.Repeat(`{"a":`, 100000), deadletter.Decode, "deeper"},
		{"quoted amount", set("TX_AMOUNT", `"57.16"`), deadletter.Schema, "TX_AMOUNT"},
		{"object amount", set("TX_AMOUNT", `{"v":1}`), deadletter.Schema, "TX_AMOUNT"},
		{"null amount", set("TX_AMOUNT", "null"), deadletter.Schema, "TX_AMOUNT"},
		{"missing amount", set("TX_AMOUNT", ""), deadletter.Schema, "TX_AMOUNT"},
		{"fraction id", set("TRANSACTION_ID", "7.5"), deadletter.Schema, "TRANSACTION_ID"},
		{"exponent id", set("TRANSACTION_ID", "7e3"), deadletter.Schema, "TRANSACTION_ID"},
		{"empty id", set("TRANSACTION_ID", `""`), deadletter.Range, "TRANSACTION_ID"},
		{"bool id", set("TRANSACTION_ID", "true"), deadletter.Schema, "TRANSACTION_ID"},
		{"places", set("TX_AMOUNT", "57.165"), deadletter.Range, "2 decimal places"},
		{"negative", set("TX_AMOUNT", "-0.01"), deadletter.Range, "at least 0"},
		{"huge", set("TX_AMOUNT", "1e300"), deadletter.Range, "TX_AMOUNT"},
		{"huger", set("TX_AMOUNT", "1e999999999999"), deadletter.Range, "TX_AMOUNT"},
		{"long", set("TX_AMOUNT", strings.Repeat("9", 5000)), deadletter.Range, "more"},
		{"flag 2", set("TX_FRAUD", "2"), deadletter.Schema, "TX_FRAUD"},
		{"flag text", set("TX_FRAUD", `"true"`), deadletter.Schema, "TX_FRAUD"},
		{"february 30", set("TX_DATETIME", `"2018-02-30T00:00:00Z"`), deadletter.Range, "2018-02-30"},
		{"hour 24", set("TX_DATETIME", `"2018-02-20T24:00:00Z"`), deadletter.Range, "TX_DATETIME"},
		{"slashes", set("TX_DATETIME", `"2018/02/20 10:00:00"`), deadletter.Schema, "RFC 3339"},
		{"date only", set("TX_DATETIME", `"2018-02-20"`), deadletter.Schema, "RFC 3339"},
		{"time number", set("TX_DATETIME", `1522540831`), deadletter.Schema, "RFC 3339"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := readAll(t, fraud("json"), good+"\n"+tc.line+"\n\n"+good+"\n")
			if b := r.batch(t); b.N != 2 || b.Cols[4].Ints[1] != 5716 {
				t.Fatalf("got %d good rows, want 2", b.N)
			}
			if len(r.letters) != 1 {
				t.Fatalf("got %d letters, want 1", len(r.letters))
			}
			l := r.letters[0]
			if l.Class != tc.class || !strings.Contains(l.Message, tc.says) {
				t.Errorf("got %s: %s; want %s with %q", l.Class, l.Message, tc.class, tc.says)
			}
			if len(l.Message) > 400 {
				t.Errorf("message of %d bytes", len(l.Message))
			}
			want := deadletter.Place{Source: "in", Offset: int64(len(good)) + 1, Length: int64(len(tc.line)), Line: 2}
			if l.Place != want {
				t.Errorf("place %+v, want %+v", l.Place, want)
			}
			if string(l.Original) != tc.line[:min(len(tc.line), 64<<10)] || l.Stage != "decode" || l.UseCase != "fraud" {
				t.Errorf("letter %+v", l)
			}
			if r.stats.Blank != 1 || r.stats.Rows != 2 || r.stats.Rejected != 1 || r.stats.Lines != 3 {
				t.Errorf("stats %+v", r.stats)
			}
		})
	}
}

func TestLetterKnowsIDAndTime(t *testing.T) {
	t.Parallel()
	line := `{"TX_AMOUNT":"x",` + strings.Replace(good, `"TX_AMOUNT":57.16,`, "", 1)[1:]
	r := readAll(t, fraud("json"), line)
	if l := r.letters[0]; l.ID != "7" || l.EventTime != "2018-04-01T00:00:31Z" {
		t.Errorf("id %q, time %q", l.ID, l.EventTime)
	}
}

// TestKinds: values at the edges of each kind, through JSON and CSV.
func TestKinds(t *testing.T) {
	t.Parallel()
	ok, no := true, false
	for _, tc := range []struct {
		field Field
		text  string // as JSON
		good  bool
		want  any
	}{
		{Field{Kind: event.Int}, "9007199254740992", ok, int64(1 << 53)},
		{Field{Kind: event.Int}, "-9007199254740992", ok, int64(-1 << 53)},
		{Field{Kind: event.Int}, "9007199254740993", no, nil},
		{Field{Kind: event.Int}, "18446744073709551617", no, nil},
		{Field{Kind: event.Int}, "1.0", no, nil},
		{Field{Kind: event.Int}, "-0", ok, int64(0)},
		{Field{Kind: event.Int, Min: ptr(0.5), Max: ptr(2.5)}, "1", ok, int64(1)},
		{Field{Kind: event.Int, Min: ptr(0.5), Max: ptr(2.5)}, "0", no, nil},
		{Field{Kind: event.Int, Min: ptr(0.5), Max: ptr(2.5)}, "3", no, nil},
		{Field{Kind: event.Int, Min: ptr(-2.5)}, "-3", no, nil},
		{Field{Kind: event.Int, Min: ptr(-2.5)}, "-2", ok, int64(-2)},
		{Field{Kind: event.Int, Enum: []string{"1", "2"}}, "2", ok, int64(2)},
		{Field{Kind: event.Int, Enum: []string{"1", "2"}}, "3", no, nil},
		{Field{Kind: event.ID}, "9223372036854775807", ok, int64(math.MaxInt64)},
		{Field{Kind: event.ID}, "-9223372036854775808", ok, int64(math.MinInt64)},
		{Field{Kind: event.ID}, "9223372036854775808", ok, "9223372036854775808"},
		{Field{Kind: event.ID}, `"007"`, ok, "007"},
		{Field{Kind: event.ID}, `"é|x"`, ok, "é|x"},
		{Field{Kind: event.ID, Pattern: "^c[0-9]+$"}, `"c12"`, ok, "c12"},
		{Field{Kind: event.ID, Pattern: "^c[0-9]+$"}, `"d12"`, no, nil},
		{Field{Kind: event.Decimal, Scale: 2, Max: ptr(0.1)}, "0.1", ok, int64(10)},
		{Field{Kind: event.Decimal, Scale: 2, Max: ptr(0.1)}, "0.11", no, nil},
		{Field{Kind: event.Decimal, Scale: 2}, "92233720368547758.07", ok, int64(math.MaxInt64)},
		{Field{Kind: event.Decimal, Scale: 2}, "92233720368547758.08", no, nil},
		{Field{Kind: event.Decimal, Scale: 2}, "1.2300000000000000000000000000", ok, int64(123)},
		{Field{Kind: event.Decimal, Scale: 2}, "1.2300000000000000000000000001", no, nil},
		{Field{Kind: event.Decimal, Scale: 0}, "-1e3", ok, int64(-1000)},
		{Field{Kind: event.Decimal, Scale: 18}, "0.000000000000000001", ok, int64(1)},
		{Field{Kind: event.Decimal, Scale: 2}, "0e-400", ok, int64(0)},
		{Field{Kind: event.Float}, "1e999", no, nil},
		{Field{Kind: event.Float}, "-1e-999", ok, 0.0},
		{Field{Kind: event.Float}, "0.1", ok, 0.1},
		{Field{Kind: event.Float}, "1.7976931348623157e308", ok, math.MaxFloat64},
		{Field{Kind: event.Float, Min: ptr(0), Max: ptr(1)}, "1.0000001", no, nil},
		{Field{Kind: event.Category, Enum: []string{"a", "b"}}, `"b"`, ok, "b"},
		{Field{Kind: event.Category, Enum: []string{"a", "b"}}, `"c"`, no, nil},
		{Field{Kind: event.String}, `"tab\there, \"q\" \u00e9"`, ok, "tab\there, \"q\" é"},
		{Field{Kind: event.String}, `""`, ok, ""},
		{Field{Kind: event.String}, `"\ud800"`, ok, "\ufffd"},
		{Field{Kind: event.String}, "5", no, nil},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_s"}, "1522540831.25", ok, int64(1522540831250000)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_s"}, "-0.0000001", ok, int64(-1)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_ms"}, "1522540831123", ok, int64(1522540831123000)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_us"}, "1522540831123456", ok, int64(1522540831123456)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_s"}, "1e300", no, nil},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_ns"}, "1522540831123456789", ok, int64(1522540831123456)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_ns"}, "-1", ok, int64(-1)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_days"}, "17622", ok, int64(17622 * 86400e6)},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_days"}, "17622.5", no, nil},
		{Field{Kind: event.Timestamp, TimeFormat: "unix_days"}, "1000000000000", no, nil},
		{Field{Kind: event.Timestamp, TimeFormat: "step"}, "31", ok, int64(31000000)},
		{Field{Kind: event.Timestamp, TimeFormat: "step"}, "31.5", no, nil},
		{Field{Kind: event.Timestamp, TimeFormat: "02/01/2006 15:04", Zone: "Europe/Paris"}, `"01/07/2018 14:00"`, ok, int64(1530446400000000)},
		{Field{Kind: event.Timestamp, Zone: "Europe/Paris"}, `"2018-07-01 14:00:00"`, ok, int64(1530446400000000)},
		{Field{Kind: event.Timestamp, Zone: "Europe/Paris"}, `"2018-07-01T14:00:00Z"`, ok, int64(1530453600000000)},
		{Field{Kind: event.Timestamp}, `"2016-02-29T23:59:59.1234567Z"`, ok, int64(1456790399123456)},
		{Field{Kind: event.Timestamp}, `"2018-04-01T00:00:31.Z"`, no, nil},
		{Field{Kind: event.Timestamp}, `"0000-01-01T00:00:00+01:00"`, no, nil},
	} {
		for _, kind := range []string{"json", "csv"} {
			tc.field.Name = "f"
			p := Params{Format: kind, Fields: []Field{tc.field}}
			input := `{"f":` + tc.text + "}"
			if kind == "csv" {
				var s string
				if json.Unmarshal([]byte(tc.text), &s) != nil {
					s = tc.text
				} else if tc.text[0] == '"' {
					s = `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
				}
				if s == "5" {
					continue // text in CSV
				}
				input = "f\n" + s
			}
			r := readAll(t, p, input)
			if (len(r.batches) == 1) != tc.good {
				t.Errorf("%s %v %s: good = %t; letters %v", kind, tc.field.Kind, tc.text, len(r.batches) == 1, r.letters)
				continue
			}
			if !tc.good {
				if c := r.letters[0].Class; c == deadletter.Decode {
					t.Errorf("%s %v %s: class %s", kind, tc.field.Kind, tc.text, c)
				}
				continue
			}
			if got := at(&r.batches[0].Cols[0], 0); got != tc.want {
				t.Errorf("%s %v %s: got %v, want %v", kind, tc.field.Kind, tc.text, got, tc.want)
			}
		}
	}
}

func at(c *event.Column, row int) any {
	switch {
	case c.Null(row):
		return nil
	case c.Elems != nil:
		from, to := c.Span(row)
		out := []any{}
		for k := from; k < to; k++ {
			out = append(out, at(c.Elems, k))
		}
		return out
	case c.Floats != nil:
		return c.Floats[row]
	case c.Ints != nil:
		return c.Ints[row]
	}
	return string(c.Raw(row))
}

func TestNestedListsNullsAndCompoundIDs(t *testing.T) {
	t.Parallel()
	p := Params{
		Format: "json",
		Fields: []Field{
			{Name: "shop", Kind: event.String},
			{Name: "nr", Kind: event.Int},
			{Name: "amount", Kind: event.Decimal, Scale: 2, Path: "payment.amount", Optional: true},
			{Name: "card", Kind: event.ID, Path: "payment.card.id", Optional: true},
			{Name: "items", Kind: event.List, Elem: event.ID, Optional: true},
		},
		ID: []string{"shop", "nr"},
	}
	r := readAll(t, p, strings.Join([]string{
		`{"payment":{"card":{"id":4,"x":1},"amount":1.5},"shop":"a|b","nr":1,"items":[1,2]}`,
		`{"shop":"a","nr":2,"items":[]}`,
		`{"shop":"a","nr":3,"items":[7,"x",8.5]}`, // bad: rolls back the list and its change to text
		`{"shop":"a\\","nr":4,"payment":null,"items":["x"]}`,
		`{"shop":"a","nr":5,"payment":{"card":{"id":"z"}},"items":null}`,
		`{"shop":"a","nr":6,"payment":{"card":5}}`, // bad: no object
		`{"shop":"a","nr":7,"payment":{"amount":1},"payment":{}}`,
	}, "\n"))
	var got [][]any
	b := r.batch(t)
	for row := range b.N {
		var values []any
		for i := range b.Cols {
			values = append(values, at(&b.Cols[i], row))
		}
		got = append(got, values)
	}
	want := [][]any{
		{"a|b", int64(1), int64(150), "4", []any{"1", "2"}, `a\|b|1`},
		{"a", int64(2), nil, nil, []any{}, "a|2"},
		{`a\`, int64(4), nil, nil, []any{"x"}, `a\\|4`},
		{"a", int64(5), nil, "z", nil, "a|5"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var classes []string
	for _, l := range r.letters {
		classes = append(classes, string(l.Class))
	}
	if diff := cmp.Diff([]string{"schema", "schema", "decode"}, classes); diff != "" {
		t.Error(diff)
	}
}

func TestRejectUnknown(t *testing.T) {
	t.Parallel()
	p := fraud("json")
	p.RejectUnknown = true
	r := readAll(t, p, good+"\n"+`{"other":{"a":1},`+good[1:])
	if len(r.letters) != 1 || r.letters[0].Class != deadletter.Schema || !strings.Contains(r.letters[0].Message, `"other"`) || r.letters[0].ID != "7" {
		t.Errorf("%+v", r.letters)
	}
}

// TestIDsStayIntegers: a record that failed leaves nothing behind, not even the form of a column.
func TestIDsStayIntegers(t *testing.T) {
	t.Parallel()
	bad := strings.Replace(strings.Replace(good, ":7,", `:"abc",`, 1), "57.16", "true", 1)
	b := readAll(t, fraud("json"), good+"\n"+bad+"\n"+strings.Replace(good, ":7,", ":8,", 1)).batch(t)
	if diff := cmp.Diff([]int64{7, 8}, b.IDs().Ints); diff != "" {
		t.Error(diff)
	}
}

// oracle says what encoding/json makes of a line, for fields of the fuzz test.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		good, `{"i":1,"f":1.5e3,"s":"a\u00e9\ud83d\ude00","d":1.25,"b":true,"t":"2018-04-01T00:00:31Z","l":[1,2],"n":{"x":"y"}}`,
		`{"i":-0,"f":0.1,"s":"","d":-3,"b":0,"t":"2018-04-01 00:00:31.5+01:30","l":[],"n":null,"q":[{},[],"",0]}`,
		`{"i":9007199254740993}`, `{"s":"\ud800\u0041"}`, `{"f":123456789012345678901234567890.5e-10}`, `{"d":0.00000000000000000000001e25}`, "{\"s\":\"\xff\"}", `{`, `{"l":[1,`, `{"s":"\u12`,
	} {
		f.Add([]byte(s))
	}
	p := Params{Format: "json", Fields: []Field{
		{Name: "i", Kind: event.Int, Optional: true},
		{Name: "f", Kind: event.Float, Optional: true},
		{Name: "s", Kind: event.String, Optional: true},
		{Name: "d", Kind: event.Decimal, Scale: 2, Optional: true},
		{Name: "b", Kind: event.Bool, Optional: true},
		{Name: "t", Kind: event.Timestamp, Optional: true},
		{Name: "l", Kind: event.List, Elem: event.Float, Optional: true},
		{Name: "x", Kind: event.ID, Path: "n.x", Optional: true},
	}}
	d, err := New(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		line = bytes.ReplaceAll(line, []byte("\n"), nil)
		var got []event.Batch
		if _, err := d.Read(bytes.NewReader(line), Source{End: -1},
			func(b event.Batch) error { got = append(got, b); return nil },
			func(deadletter.Letter) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return
		}
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
		var want map[string]json.RawMessage
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("accepted what encoding/json doesn't: %v", err)
		}
		b := got[0]
		for i, fd := range p.Fields {
			raw := want[fd.Name]
			if fd.Name == "x" {
				var m map[string]json.RawMessage
				if want["n"] != nil {
					if err := json.Unmarshal(want["n"], &m); err != nil {
						t.Fatal(err)
					}
				}
				raw = m["x"]
			}
			value := at(&b.Cols[i], 0)
			if raw == nil || string(raw) == "null" {
				if value != nil {
					t.Fatalf("field %s: got %v, want null", fd.Name, value)
				}
				continue
			}
			if w := oracle(t, fd, raw); !cmp.Equal(w, value) {
				t.Fatalf("field %s: got %v, want %v", fd.Name, value, w)
			}
		}
	})
}

func oracle(t *testing.T, f Field, raw json.RawMessage) any {
	must := func(err error) {
		if err != nil {
			t.Fatalf("field %s: accepted %q: %v", f.Name, raw, err)
		}
	}
	switch f.Kind {
	case event.Int:
		var v int64
		must(json.Unmarshal(raw, &v))
		return v
	case event.Float:
		var v float64
		must(json.Unmarshal(raw, &v))
		return v
	case event.String:
		var v string
		must(json.Unmarshal(raw, &v))
		return v
	case event.Decimal:
		r, ok := new(big.Rat).SetString(string(raw))
		if !ok {
			t.Fatalf("decimal %q", raw)
		}
		r.Mul(r, big.NewRat(100, 1))
		if !r.IsInt() || !r.Num().IsInt64() {
			t.Fatalf("accepted decimal %q", raw)
		}
		return r.Num().Int64()
	case event.Bool:
		switch string(raw) {
		case "1", "true":
			return int64(1)
		case "0", "-0", "false":
			return int64(0)
		}
		t.Fatalf("accepted bool %q", raw)
	case event.Timestamp:
		var s string
		must(json.Unmarshal(raw, &s))
		if len(s) < 19 {
			t.Fatalf("accepted time %q", s)
		}
		s = strings.ToUpper(s[:10] + "T" + s[11:])
		if c := s[len(s)-1]; c != 'Z' && s[len(s)-6] != '+' && s[len(s)-6] != '-' || len(s) < 20 || len(s) == 19 {
			s += "Z"
		}
		v, err := time.Parse(time.RFC3339Nano, s)
		must(err)
		return v.UnixMicro()
	case event.List:
		var v []float64
		must(json.Unmarshal(raw, &v))
		out := []any{}
		for _, x := range v {
			out = append(out, x)
		}
		return out
	case event.ID:
		var s string
		if json.Unmarshal(raw, &s) != nil {
			s = string(raw)
		}
		if s == "-0" && raw[0] != '"' {
			s = "0"
		}
		if v, ok := event.CanonicalInt([]byte(s)); ok {
			return v
		}
		return s
	}
	return nil
}

// TestFloatsAgainstStrconv: the short way to a float gives the bits of the long one.
func TestFloatsAgainstStrconv(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		var text string
		switch rng.IntN(3) {
		case 0:
			text = strconv.FormatFloat(math.Float64frombits(rng.Uint64()), 'g', -1, 64)
			if strings.ContainsAny(text, "NI") {
				continue
			}
		case 1:
			text = fmt.Sprintf("%d.%0*d", rng.Int64N(1e6), 1+rng.IntN(14), rng.Int64N(10))
		default:
			text = fmt.Sprintf("%d.%de%d", rng.Int64N(1e12), rng.Int64N(1e12), rng.IntN(60)-30)
		}
		want, err := strconv.ParseFloat(text, 64)
		n, end := format.ScanNumber([]byte(text+"\n"), 0)
		if end != len(text) {
			t.Fatalf("%s: end %d", text, end)
		}
		got, fault := n.Float([]byte(text))
		if (fault == format.OK) != (err == nil) || err == nil && math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("%s: got %v, want %v", text, got, want)
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	var in []byte
	lines := 0
	for ; len(in) < 480<<10; lines++ {
		in = fmt.Appendf(in, `{"TRANSACTION_ID":%d,"TX_DATETIME":"2018-04-01T%02d:%02d:31Z","CUSTOMER_ID":%d,"TERMINAL_ID":%d,"TX_AMOUNT":%d.%02d,"TX_FRAUD":0}`+"\n",
			lines, lines/200%24, lines%60, 596+lines%4000, lines*7919%10000, lines%200, lines%100)
	}
	benchmark(b, fraud("json"), nil, in, lines)
}

func BenchmarkCSV(b *testing.B) {
	var in []byte
	lines := 0
	for ; len(in) < 200<<10; lines++ {
		in = fmt.Appendf(in, "%d,2018-04-01T%02d:%02d:31Z,%d,%d,%d.%02d,0,0\n",
			lines, lines/200%24, lines%60, 596+lines%4000, lines*7919%10000, lines%200, lines%100)
	}
	benchmark(b, fraud("csv"), []byte("TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO"), in, lines)
}

// BenchmarkRead measures all of Read, with its goroutines.
func BenchmarkRead(b *testing.B) {
	in := []byte(strings.Repeat(good+"\n", 100000))
	d, err := New(fraud("json"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(in)))
	before := cpu()
	for b.Loop() {
		rows := 0
		_, err := d.Read(bytes.NewReader(in), Source{End: -1},
			func(b event.Batch) error { rows += b.N; return nil }, func(deadletter.Letter) error { return nil })
		if err != nil || rows != 100000 {
			b.Fatal(rows, err)
		}
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/100000, "cpu-ns/event")
}

// benchmark measures one goroutine.
func benchmark(b *testing.B, p Params, head, in []byte, lines int) {
	d, err := New(p)
	if err != nil {
		b.Fatal(err)
	}
	var h header
	if head != nil {
		if h, err = d.parseHeader(head); err != nil {
			b.Fatal(err)
		}
	}
	w := d.workers.Get().(*worker)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		blk := &block{data: in, lines: lines}
		w.block(h, blk, "")
		if int(blk.stats.Rows) != lines {
			b.Fatal(blk.letters[0].Message)
		}
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/float64(lines), "cpu-ns/event")
}

// cpu is the time the process has computed, which a busy machine lengthens less than the clock's.
func cpu() int64 {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return ru.Utime.Nano() + ru.Stime.Nano()
}
