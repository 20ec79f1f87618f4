package decode

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// envelope is a change as Debezium 3.5 writes it without a schema.
func envelope(op, before, after string) string {
	return `{"before":` + before + `,"after":` + after + `,"source":{"version":"3.5.0.Final","connector":"postgresql","name":"cdc",` +
		`"ts_ms":1795631548379,"snapshot":"false","db":"bank","sequence":"[null,\"22218752\"]","ts_us":1795631548379174,` +
		`"ts_ns":1795631548379174000,"schema":"public","table":"tx","txId":729,"lsn":22218752,"xmin":null,"origin":null,"origin_lsn":null},` +
		`"transaction":null,"op":"` + op + `","ts_ms":1795631548636,"ts_us":1795631548636278,"ts_ns":1795631548636278847}`
}

// wrapped is a change with the schema that columns have, a JSON object each.
func wrapped(payload string, columns ...string) string {
	row := `"fields":[` + strings.Join(columns, ",") + `],"optional":true,"name":"cdc.public.tx.Value"`
	return `{"schema":{"type":"struct","fields":[{"type":"struct",` + row + `,"field":"before"},{"type":"struct",` + row + `,"field":"after"},` +
		`{"type":"struct","fields":[{"type":"int64","optional":false,"field":"ts_ms"},{"type":"string","optional":false,"field":"table"}],` +
		`"optional":false,"name":"io.debezium.connector.postgresql.Source","version":1,"field":"source"},` +
		`{"type":"string","optional":false,"field":"op"}],"optional":false,"name":"cdc.public.tx.Envelope","version":2},"payload":` + payload + `}`
}

func columnOf(kind, name, field string) string {
	return fmt.Sprintf(`{"type":%q,"optional":true,"name":%q,"version":1,"field":%q}`, kind, name, field)
}

func decimalOf(field string, scale int) string {
	return fmt.Sprintf(`{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,`+
		`"parameters":{"scale":"%d","connect.decimal.precision":"10"},"field":%q}`, scale, field)
}

// records decodes records of a log.
func records(t *testing.T, p Params, text ...string) (rows []map[string]any, letters []deadletter.Letter, stats Stats) {
	t.Helper()
	d, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	var in []driver.Record
	for i, r := range text {
		in = append(in, driver.Record{Value: []byte(r), Offset: int64(i)})
	}
	stats, err = d.Records("cdc.public.tx/0", in, func(b event.Batch) error {
		for row := range b.N {
			m := map[string]any{}
			for i, f := range b.Schema.Fields {
				m[f.Name] = at(&b.Cols[i], row)
			}
			rows = append(rows, m)
		}
		return nil
	}, func(l deadletter.Letter) error {
		letters = append(letters, l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows, letters, stats
}

// TestChanges: which changes are events, and which image of the row they are.
func TestChanges(t *testing.T) {
	t.Parallel()
	p := Params{
		Format: "debezium", ID: []string{"id"}, Time: "committed",
		Fields: []Field{
			{Name: "id", Kind: event.ID}, {Name: "note", Kind: event.String, Optional: true},
			{Name: "op", Kind: event.Category, Path: "$.op"}, {Name: "table", Kind: event.Category, Path: "$.source.table"},
			{Name: "was", Kind: event.String, Path: "$.before.note", Optional: true},
			{Name: "committed", Kind: event.Timestamp, Path: "$.source.ts_ms", TimeFormat: "unix_ms"},
		},
	}
	text := []string{
		envelope("r", `null`, `{"id":1,"note":"there"}`),
		envelope("c", `null`, `{"id":2,"note":"new"}`),
		envelope("u", `{"id":2,"note":"new"}`, `{"id":2,"note":null}`),
		envelope("d", `{"id":2,"note":"last"}`, `null`),
		"",
		envelope("t", `null`, `null`),
		`{"op":"m","ts_ms":1795631548669,"source":{"table":""},"transaction":null,"message":{"prefix":"x","content":"aGVsbG8="}}`,
		`{"schema":null,"payload":null}`,
	}
	event := func(id int64, op string, note, was any) map[string]any {
		return map[string]any{"id": id, "note": note, "op": op, "table": "tx", "was": was, "committed": int64(1795631548379000)}
	}
	all := []map[string]any{event(1, "r", "there", nil), event(2, "c", "new", nil), event(2, "u", nil, "new"), event(2, "d", "last", "last")}
	for _, tc := range []struct {
		ops  []string
		want []map[string]any
	}{
		{nil, all[:2]},
		{[]string{"update"}, all[2:3]},
		{[]string{"create", "delete"}, []map[string]any{all[1], all[3]}},
		{[]string{"create", "update", "delete", "snapshot"}, all},
	} {
		p.Changes.Ops = tc.ops
		want := Stats{Blank: 1, Skipped: int64(7 - len(tc.want)), Rows: int64(len(tc.want)), Lines: int64(len(tc.want))}
		for _, r := range text {
			want.Bytes += int64(len(r))
		}
		rows, letters, stats := records(t, p, text...)
		if d := cmp.Diff(tc.want, rows) + cmp.Diff(want, stats); d != "" || len(letters) > 0 {
			t.Errorf("ops %v: %s %v", tc.ops, d, letters)
		}
		r := readAll(t, p, strings.Join(text, "\n")+"\n")
		if s := r.stats; s.Rows != want.Rows || s.Skipped != want.Skipped || s.Blank != 1 || len(r.letters) > 0 {
			t.Errorf("ops %v, lines: %+v, %v", tc.ops, s, r.letters)
		}
	}
	d, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	if d.Skips([]byte(text[0])) || !d.Skips([]byte(text[5])) || d.Skips([]byte("{")) {
		t.Error("what is skipped is not what Records skips")
	}
}

// TestChangeValues: what a column's values become, with a schema and without one.
func TestChangeValues(t *testing.T) {
	t.Parallel()
	const good = deadletter.Class("")
	dec := func(scale uint8) Field { return Field{Kind: event.Decimal, Scale: scale} }
	stamp := func(f string) Field { return Field{Kind: event.Timestamp, TimeFormat: f} }
	for _, tc := range []struct {
		field    Field
		decimals string
		schema   string // of the column; "" for none
		text     string
		class    deadletter.Class
		want     any
	}{
		// decimals, as handled: double, string, precise, and of variable scale
		{dec(2), "", "", `12.34`, good, int64(1234)},
		{dec(2), "", "", `12.345`, deadletter.Range, nil},
		{dec(2), "", "", `"12.34"`, deadletter.Schema, nil},
		{dec(2), "string", "", `"-12.34"`, good, int64(-1234)},
		{dec(2), "string", "", `"1234"`, good, int64(123400)},
		{dec(2), "string", "", `"NAN"`, deadletter.Range, nil},
		{dec(2), "string", "", `"12,34"`, deadletter.Schema, nil},
		{dec(2), "precise", "", `"BNI="`, good, int64(1234)},
		{dec(2), "precise", "", `"+y4="`, good, int64(-1234)},
		{dec(2), "precise", "", `"1234"`, good, int64(-2658824)},
		{dec(2), "precise", "", `"12.34"`, deadletter.Schema, nil},
		{dec(2), "precise", "", `"D5Uan6OihslPDnZsOQ=="`, deadletter.Range, nil},
		{dec(1), "", "", `{"scale":1,"value":"Dw=="}`, good, int64(15)},
		{dec(0), "", "", `{"scale":1,"value":"Dw=="}`, deadletter.Range, nil},
		{dec(1), "", "", `{"scale":1}`, deadletter.Schema, nil},
		{dec(2), "", decimalOf("f", 2), `"BNI="`, good, int64(1234)},
		{dec(3), "", decimalOf("f", 2), `"BNI="`, good, int64(12340)},
		{dec(1), "", decimalOf("f", 2), `"BNI="`, deadletter.Range, nil},
		{dec(2), "string", decimalOf("f", 2), `"BNI="`, good, int64(1234)},
		{dec(2), "precise", `{"type":"string","optional":true,"field":"f"}`, `"12.34"`, good, int64(1234)},
		{dec(2), "precise", `{"type":"double","optional":true,"field":"f"}`, `12.34`, good, int64(1234)},
		// other numbers
		{Field{Kind: event.Float}, "", "", `{"scale":1,"value":"D5Uan6OihslPDnZsOQ=="}`, good, 123456789012345678901234567890.5},
		{Field{Kind: event.Float}, "", decimalOf("f", 2), `"BNI="`, good, 12.34},
		{Field{Kind: event.Float}, "precise", "", `"BNI="`, deadletter.Schema, nil},
		{Field{Kind: event.Float}, "precise", "", `"Infinity"`, deadletter.Range, nil},
		{Field{Kind: event.Float}, "string", "", `"NaN"`, deadletter.Range, nil},
		{Field{Kind: event.Int}, "precise", "", `"BNI="`, good, int64(1234)},
		{Field{Kind: event.Int}, "", decimalOf("f", -2), `"BNI="`, good, int64(123400)},
		{Field{Kind: event.Int}, "", decimalOf("f", 2), `"BNI="`, deadletter.Schema, nil},
		{Field{Kind: event.ID}, "", decimalOf("f", 0), `"BNI="`, good, int64(1234)},
		{Field{Kind: event.ID}, "", "", `{"scale":0,"value":"BNI="}`, good, int64(1234)},
		{Field{Kind: event.ID}, "precise", "", `"BNI="`, good, "BNI="},
		{Field{Kind: event.List, Elem: event.Decimal, Scale: 2}, "string", "", `["1.5","2.25"]`, good, []any{int64(150), int64(225)}},
		// times
		{stamp(""), "", "", `"2026-11-22T10:00:00.500000Z"`, good, int64(1795341600500000)},
		{stamp(""), "", "", `1795348800123456`, deadletter.Schema, nil},
		{stamp("unix_us"), "", "", `1795348800123456`, good, int64(1795348800123456)},
		{stamp("unix_ms"), "", "", `-1`, good, int64(-1000)},
		{stamp("unix_ns"), "", "", `1795348800123456789`, good, int64(1795348800123456)},
		{stamp("unix_ns"), "", "", `-1`, good, int64(-1)},
		{stamp("unix_days"), "", "", `20779`, good, int64(20779 * 86400e6)},
		{stamp("unix_days"), "", "", `-1`, good, int64(-86400e6)},
		{stamp("unix_days"), "", "", `1.5`, deadletter.Schema, nil},
		{stamp("unix_days"), "", "", `2147483647`, deadletter.Range, nil},
		{stamp("unix_us"), "", "", `9223372036825200000`, deadletter.Range, nil}, // infinity
		{stamp(""), "", columnOf("int64", "io.debezium.time.MicroTimestamp", "f"), `1795348800123456`, good, int64(1795348800123456)},
		{stamp("unix_s"), "", columnOf("int64", "io.debezium.time.Timestamp", "f"), `1795348800123`, good, int64(1795348800123000)},
		{stamp(""), "", columnOf("int64", "io.debezium.time.NanoTimestamp", "f"), `1795348800123456789`, good, int64(1795348800123456)},
		{stamp(""), "", columnOf("int32", "io.debezium.time.Date", "f"), `20779`, good, int64(20779 * 86400e6)},
		{stamp(""), "", columnOf("int64", "org.apache.kafka.connect.data.Timestamp", "f"), `1795348800123`, good, int64(1795348800123000)},
		{stamp("unix_ms"), "", columnOf("int32", "org.apache.kafka.connect.data.Date", "f"), `20779`, good, int64(20779 * 86400e6)},
		{stamp("unix_ms"), "", columnOf("string", "io.debezium.time.ZonedTimestamp", "f"), `"2026-11-22T10:00:00.5Z"`, good, int64(1795341600500000)},
		// the rest
		{Field{Kind: event.Bool}, "", "", `true`, good, int64(1)},
		{Field{Kind: event.String}, "", columnOf("string", "io.debezium.data.Json", "f"), `"{\"a\": 1}"`, good, `{"a": 1}`},
		{Field{Kind: event.String}, "", "", `"__debezium_unavailable_value"`, deadletter.Schema, nil},
		{Field{Kind: event.Int, Optional: true}, "", "", `null`, good, nil},
		{Field{Kind: event.Int}, "", "", `null`, deadletter.Schema, nil},
		{Field{Kind: event.Float, Path: "at.x"}, "", "", `1,"at":{"x":2.5}`, good, 2.5},
	} {
		tc.field.Name = "f"
		p := Params{Format: "debezium", Fields: []Field{tc.field}, Changes: Changes{Decimals: tc.decimals}}
		text := envelope("c", "null", `{"f":`+tc.text+`}`)
		if tc.schema != "" {
			text = wrapped(text, `{"type":"int64","optional":false,"field":"id"}`, tc.schema)
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("the test is wrong: %s", text)
		}
		rows, letters, _ := records(t, p, text)
		name := fmt.Sprintf("%v, decimals %q, schema %q: %s", tc.field.Kind, tc.decimals, tc.schema, tc.text)
		switch {
		case tc.class != good && (len(letters) != 1 || letters[0].Class != tc.class || string(letters[0].Original) != text):
			t.Errorf("%s: want a letter of class %s with the record; %v %v", name, tc.class, rows, letters)
		case tc.class == good && len(rows) != 1:
			t.Errorf("%s: %v", name, letters)
		case tc.class == good:
			if d := cmp.Diff(tc.want, rows[0]["f"]); d != "" {
				t.Errorf("%s: %s", name, d)
			}
		}
	}
}

// TestBadChanges: what is no change, or has no row, is a letter with all of its bytes.
func TestBadChanges(t *testing.T) {
	t.Parallel()
	p := Params{
		Format: "debezium", ID: []string{"id"}, Time: "at", MaxEvent: 1000, Changes: Changes{Ops: []string{"create", "update", "delete"}},
		Fields: []Field{{Name: "id", Kind: event.ID}, {Name: "n", Kind: event.Int}, {Name: "at", Kind: event.Timestamp, Path: "$.source.ts_ms", TimeFormat: "unix_ms"}},
	}
	whole := envelope("c", "null", `{"id":7,"n":1}`)
	for _, tc := range []struct {
		text    string
		class   deadletter.Class
		message string
		id      string
	}{
		{`{`, deadletter.Decode, "record ends at byte 1", ""},
		{whole[:len(whole)-1], deadletter.Decode, "record ends", ""},
		{whole + `}`, deadletter.Decode, `stands "}"; want the end`, ""},
		{`[1]`, deadletter.Decode, "want an object", ""},
		{`7`, deadletter.Decode, "want an object", ""},
		{`{"ts_ms":1795631548669}`, deadletter.Decode, "it has no op", ""},
		{`{"id":7,"n":1}`, deadletter.Decode, "it has no op", ""},
		{`{"schema":null,"payload":{"id":7}}`, deadletter.Decode, "it has no op", ""},
		{`{"schema":null,"payload":7}`, deadletter.Decode, "want an object", ""},
		{`{"schema":{"fields":7},"payload":` + whole + `}`, deadletter.Decode, "reading its schema", "7"},
		{strings.Replace(whole, `"op":"c"`, `"op":"x"`, 1), deadletter.Decode, "want an op", ""},
		{strings.Replace(whole, `"op":"c"`, `"op":"create"`, 1), deadletter.Decode, "want an op", ""},
		{strings.Replace(whole, `"op":"c"`, `"op":1`, 1), deadletter.Decode, "want an op", ""},
		{strings.Replace(whole, `"op":"c"`, `"op":"c","op":"d"`, 1), deadletter.Decode, `key "op" stands twice`, ""},
		{strings.Replace(whole, `"id":7`, `"id":7,"id":8`, 1), deadletter.Decode, `key "id" stands twice`, "7"},
		{envelope("c", "null", "null"), deadletter.Schema, "the create has no row", ""},
		{envelope("d", "null", "null"), deadletter.Schema, "REPLICA IDENTITY FULL", ""},
		{envelope("d", `{"id":7,"n":null}`, "null"), deadletter.Schema, `field "n" is null`, "7"},
		{envelope("u", "null", `"row"`), deadletter.Decode, "want a row", ""},
		{envelope("c", "null", `{"id":7,"n":"1"}`), deadletter.Schema, `field "n" is "1"`, "7"},
		{envelope("c", "null", `{"id":7,"n":9007199254740993}`), deadletter.Range, "2^53", "7"},
		{envelope("c", "null", `{"id":7,"n":1,"x":"`+strings.Repeat("x", 900)+`"}`), deadletter.Decode, "the longest allowed is 1000", ""},
		{strings.Repeat(`{"a":`, 600) + `1` + strings.Repeat(`}`, 600), deadletter.Decode, "", ""},
	} {
		rows, letters, _ := records(t, p, envelope("c", "null", `{"id":1,"n":1}`), tc.text, envelope("c", "null", `{"id":2,"n":2}`))
		if len(rows) != 2 || len(letters) != 1 {
			t.Errorf("%s: %v, %v", tc.text, rows, letters)
			continue
		}
		if l := letters[0]; l.Class != tc.class || !strings.Contains(l.Message, tc.message) || l.ID != tc.id || string(l.Original) != tc.text || l.Place.Offset != 1 {
			t.Errorf("%s: class %s, message %q, id %q, place %v", tc.text, l.Class, l.Message, l.ID, l.Place)
		} else if tc.id != "" && l.EventTime != "2026-11-25T18:32:28.379Z" {
			t.Errorf("%s: event time %q", tc.text, l.EventTime)
		}
	}
}

// TestSchemasOfTables: each record is read by the schema that it brings, whatever came before it.
func TestSchemasOfTables(t *testing.T) {
	t.Parallel()
	p := Params{Format: "debezium", Fields: []Field{{Name: "f", Kind: event.Decimal, Scale: 3}, {Name: "t", Kind: event.Timestamp, TimeFormat: "unix_s"}}}
	row := `{"f":"BNI=","t":20779}`
	var text []string
	var want []map[string]any
	for i := range 3 * maxTypes {
		scale := i % (maxTypes + 1) // more schemas than are remembered, and none
		switch {
		case scale == 0:
			text = append(text, envelope("c", "null", `{"f":1.5,"t":20779}`))
			want = append(want, map[string]any{"f": int64(1500), "t": int64(20779e6)})
			continue
		case i%2 == 0:
			scale = 2
		default:
			scale = 1
		}
		text = append(text, wrapped(envelope("c", "null", row), decimalOf("f", scale), columnOf("int32", "io.debezium.time.Date", "t"),
			columnOf("string", "", fmt.Sprintf("unused%d", i))))
		want = append(want, map[string]any{"f": map[int]int64{1: 123400, 2: 12340}[scale], "t": int64(20779 * 86400e6)})
	}
	rows, letters, _ := records(t, p, text...)
	if d := cmp.Diff(want, rows); d != "" || len(letters) > 0 {
		t.Errorf("%s%v", d, letters)
	}
}

func TestChangesFaults(t *testing.T) {
	t.Parallel()
	p := Params{Format: "debezium", Fields: []Field{{Name: "f", Kind: event.Int}}, Changes: Changes{Ops: []string{"create", "truncate", "c"}, Decimals: "double"}}
	err := p.Validate()
	if err == nil {
		t.Fatal("no fault")
	}
	for _, want := range []string{`unknown op "truncate"`, `unknown op "c"`, `"double": want precise or string`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// FuzzChange holds a change to what encoding/json reads of it.
func FuzzChange(f *testing.F) {
	f.Add([]byte(envelope("c", "null", `{"id":1}`)))
	f.Add([]byte(envelope("d", `{"id":"x"}`, "null")))
	f.Add([]byte(wrapped(envelope("u", `{"id":1}`, `{"id":2}`), `{"type":"int64","field":"id"}`)))
	f.Add([]byte(`{"schema":null,"payload":null}`))
	f.Add([]byte(`{"op":"c","after":{"id":{"scale":0,"value":"AQ=="}}}`))
	d, err := New(Params{Format: "debezium", Fields: []Field{{Name: "id", Kind: event.ID}, {Name: "op", Kind: event.Category, Path: "$.op"}}, Changes: Changes{Ops: []string{"create", "update", "delete", "snapshot"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rows := 0
		var letters []deadletter.Letter
		stats, err := d.Records("", []driver.Record{{Value: text}}, func(b event.Batch) error {
			rows += b.N
			return nil
		}, func(l deadletter.Letter) error {
			letters = append(letters, l)
			return nil
		})
		if err != nil || int64(rows)+int64(len(letters))+stats.Blank+stats.Skipped != 1 {
			t.Fatalf("%d rows, %d letters, %+v, %v", rows, len(letters), stats, err)
		}
		if rows == 0 {
			return
		}
		var c map[string]json.RawMessage
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatalf("a row of what is no JSON: %v", err)
		}
		if c["op"] == nil {
			inner := map[string]json.RawMessage{}
			if err := json.Unmarshal(c["payload"], &inner); err != nil {
				t.Fatal(err)
			}
			c = inner
		}
		var op string
		if err := json.Unmarshal(c["op"], &op); err != nil || !strings.Contains("cudr", op) {
			t.Errorf("op %s, keys %v", c["op"], maps.Keys(c))
		}
	})
}
