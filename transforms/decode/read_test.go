package decode

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/testing/shareddata"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// TestRanges: however a file is cut, each line is read once, by the range its first byte is in, with the
// same place.
func TestRanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]string{"json", "csv"}).Draw(rt, "kind")
		n := rapid.IntRange(0, 40).Draw(rt, "lines")
		p := Params{Format: kind, Fields: []Field{{Name: "i", Kind: event.Int}, {Name: "s", Kind: event.String, Optional: true}}, MaxEvent: 120, BatchRows: 7}
		var file []byte
		if kind == "csv" {
			file = append(file, "i,s\n"...)
		}
		type at struct{ id, offset int64 }
		var want []at
		var bad []int64
		var blank, blanks int64
		for i := range n {
			start := int64(len(file))
			pad := strings.Repeat("x", rapid.IntRange(0, 300).Draw(rt, "pad"))
			line := fmt.Sprintf(`{"i":%d,"s":"%s"}`, i, pad)
			if kind == "csv" {
				line = fmt.Sprintf("%d,%s", i, pad)
			}
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				line = ""
				blanks++
			case 1:
				line, bad = "{bad,,,", append(bad, start)
			default:
				if len(line) > 120 {
					bad = append(bad, start)
				} else {
					want = append(want, at{int64(i), start})
				}
			}
			file = append(append(file, line...), '\n')
		}
		if rapid.Bool().Draw(rt, "open end") && bytes.HasSuffix(file, []byte("}\n")) {
			file = file[:len(file)-1]
		}
		cuts := []int64{0}
		for c := int64(0); c < int64(len(file)); {
			c += rapid.Int64Range(2, 600).Draw(rt, "cut")
			cuts = append(cuts, min(c, int64(len(file))))
		}
		cuts = append(cuts, int64(len(file))+10)
		d, err := New(p)
		if err != nil {
			rt.Fatal(err)
		}
		var got []at
		var gotBad []int64
		for k := 1; k < len(cuts); k++ {
			from, to := cuts[k-1], cuts[k]
			if from == to || from == 1 { // a file of one byte: no range begins there, see Source
				continue
			}
			src := Source{Offset: max(from-1, 0), End: to, Header: []byte("i,s")}
			r := io.Reader(bytes.NewReader(file[src.Offset:]))
			if rapid.Bool().Draw(rt, "slow") {
				r = iotest.HalfReader(r)
			}
			stats, err := d.Read(r, src, func(b event.Batch) error {
				for i := range b.N {
					got = append(got, at{id: b.Cols[0].Ints[i]})
				}
				return nil
			}, func(l deadletter.Letter) error {
				gotBad = append(gotBad, l.Place.Offset)
				if end := l.Place.Offset + l.Place.Length; !bytes.Equal(l.Original, file[l.Place.Offset:end]) {
					rt.Fatalf("letter at %d isn't what stands there", l.Place.Offset)
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			blank += stats.Blank
		}
		if blank != blanks {
			rt.Fatalf("%d blank lines, want %d", blank, blanks)
		}
		for i := range want {
			want[i].offset = 0
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(at{})); diff != "" {
			rt.Fatal(diff)
		}
		if diff := cmp.Diff(bad, gotBad); diff != "" {
			rt.Fatal("bad lines: ", diff)
		}
	})
}

// TestBlocks: a file of many blocks comes out in order and whole, with line numbers right to the end.
func TestBlocks(t *testing.T) {
	t.Parallel()
	var in bytes.Buffer
	const lines = 60000
	for i := range lines {
		if i%10007 == 0 {
			in.WriteString("oops\n")
			continue
		}
		in.WriteString(strings.Replace(good, ":7,", ":"+strconv.Itoa(i)+",", 1) + "\n")
	}
	r := readRange(t, fraud("json"), iotest.TimeoutReader(bytes.NewBuffer(nil)), Source{End: 0})
	if r.stats != (Stats{}) {
		t.Errorf("an empty range read %+v", r.stats)
	}
	size := int64(in.Len())
	r = readRange(t, fraud("json"), &in, Source{Name: "big", End: -1})
	if r.stats.Bytes != size || r.stats.Lines != lines || len(r.letters) != 6 {
		t.Fatalf("stats %+v of %d bytes, %d letters", r.stats, size, len(r.letters))
	}
	if l := r.letters[5]; l.Place.Line != 5*10007+1 {
		t.Errorf("place %+v", l.Place)
	}
	next := int64(0)
	for _, b := range r.batches {
		if b.N > DefaultBatchRows || b.N == 0 {
			t.Errorf("batch of %d rows", b.N)
		}
		for _, id := range b.IDs().Ints {
			if next%10007 == 0 {
				next++
			}
			if id != next {
				t.Fatalf("id %d, want %d", id, next)
			}
			next++
		}
	}
	if next != lines {
		t.Errorf("ended at %d", next)
	}
}

func TestOversize(t *testing.T) {
	t.Parallel()
	long := `{"x":"` + strings.Repeat("é", 5<<20) + `"}`
	for _, tail := range []string{"", "\n", "\n" + good} {
		input := good + "\n" + long + tail
		r := readAll(t, fraud("json"), input)
		sum := sha256.Sum256([]byte(long))
		if len(r.letters) != 1 {
			t.Fatalf("%d letters", len(r.letters))
		}
		l := r.letters[0]
		if l.Class != deadletter.Decode || l.Digest != hex.EncodeToString(sum[:]) || string(l.Original) != long[:64<<10] {
			t.Errorf("class %s, digest %s, %d bytes", l.Class, l.Digest, len(l.Original))
		}
		if want := (deadletter.Place{Source: "in", Offset: int64(len(good)) + 1, Length: int64(len(long)), Line: 2}); l.Place != want {
			t.Errorf("place %+v, want %+v", l.Place, want)
		}
		if want := int64(1 + strings.Count(tail, "{")); r.stats.Rows != want || r.stats.Bytes != int64(len(input)) {
			t.Errorf("tail %q: %+v", tail, r.stats)
		}
	}
}

func TestReadStopsAtErrors(t *testing.T) {
	t.Parallel()
	d, err := New(fraud("json"))
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	many := strings.Repeat(good+"\n", 20000)
	none := func(deadletter.Letter) error { return nil }
	if _, err := d.Read(strings.NewReader(many), Source{End: -1}, func(event.Batch) error { return boom }, none); !errors.Is(err, boom) {
		t.Errorf("emit: %v", err)
	}
	rows := 0
	count := func(b event.Batch) error { rows += b.N; return nil }
	broken := io.MultiReader(strings.NewReader(many), iotest.ErrReader(boom))
	if _, err := d.Read(broken, Source{Name: "f", End: -1}, count, none); !errors.Is(err, boom) || !strings.Contains(err.Error(), "reading f") {
		t.Errorf("read: %v", err)
	}
	if rows < 10000 {
		t.Errorf("%d rows before the error", rows)
	}
	if _, err := d.Read(strings.NewReader("x"), Source{End: -1}, count, func(deadletter.Letter) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("reject: %v", err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(many)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	cut, err := gzip.NewReader(bytes.NewReader(zipped.Bytes()[:zipped.Len()-20]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(cut, Source{End: -1}, count, none); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut gzip: %v", err)
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	const head = "\ufeffTX_FRAUD,TX_AMOUNT,TRANSACTION_ID,\"TX_DATETIME\",CUSTOMER_ID,TERMINAL_ID,extra\r\n"
	row := func(s string) string { return s + "\r\n" }
	r := readAll(t, fraud("csv"), head+
		row(`0,57.16,7,2018-04-01T00:00:31Z,596,3156,"a, ""b"""`)+
		row(`,"57.10","8",2018-04-01 00:00:31,"c,1",3156,`)+
		"\r\n"+
		row(`1,57.16,7,2018-04-01T00:00:31Z,596`)+ // too few
		row(`1,57.16,7,2018-04-01T00:00:31Z,596,1,2,3`)+ // too many
		row(`1,,9,2018-04-01T00:00:31Z,596,1,2`)+ // required
		row(`1,NaN,9,2018-04-01T00:00:31Z,596,1,2`)+
		row(`1,57.16,9,2018-04-01T00:00:31Z,596,1,"open`)+
		row(`1,57.16,9,2018-04-01T00:00:31Z,59"6,1,x`)+
		row(`yes,57.16,9,2018-04-01T00:00:31Z,596,1,x`)+
		`true,0.5,10,2018-04-01T00:00:31Z,5,1,x`)
	b := r.batch(t)
	var got [][]any
	for i := range b.N {
		got = append(got, []any{at(&b.Cols[0], i), at(&b.Cols[2], i), at(&b.Cols[4], i), at(&b.Cols[5], i)})
	}
	want := [][]any{{int64(7), "596", int64(5716), int64(0)}, {int64(8), "c,1", int64(5710), nil}, {int64(10), "5", int64(50), int64(1)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var classes []deadletter.Class
	var ids string
	for _, l := range r.letters {
		classes = append(classes, l.Class)
		ids += l.ID + " "
	}
	if diff := cmp.Diff([]deadletter.Class{"schema", "schema", "schema", "range", "decode", "decode", "schema"}, classes); diff != "" {
		t.Error(diff)
	}
	if ids != "7 7 9 9 9 9 9 " {
		t.Errorf("ids %q", ids)
	}
	if r.letters[0].Place.Line != 5 || r.stats.Blank != 1 {
		t.Errorf("%+v, %+v", r.letters[0].Place, r.stats)
	}
}

func TestCSVHeaders(t *testing.T) {
	t.Parallel()
	p := fraud("csv")
	p.RejectUnknown = true
	d, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	read := func(in string, src Source) error {
		_, err := d.Read(strings.NewReader(in), src, func(event.Batch) error { return nil }, func(deadletter.Letter) error { return nil })
		return err
	}
	for _, tc := range []struct {
		in   string
		src  Source
		says []string
	}{
		{"TRANSACTION_ID,TX_DATETIME,odd,TX_AMOUNT\n1", Source{End: -1}, []string{`"odd" is unknown`, `no column "CUSTOMER_ID"`, `no column "TERMINAL_ID"`}},
		{"TX_AMOUNT,TX_AMOUNT", Source{End: -1}, []string{`"TX_AMOUNT" stands twice`}},
		{"1,2,3\n", Source{Offset: 5, End: -1}, []string{"needs its header"}},
	} {
		err := read(tc.in, tc.src)
		if !errors.Is(err, ErrFile) {
			t.Fatalf("%q: %v", tc.in, err)
		}
		for _, s := range tc.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q: %v; want %q", tc.in, err, s)
			}
		}
	}
	if err := read("", Source{End: -1}); err != nil {
		t.Errorf("empty file: %v", err)
	}
}

func TestParamsFaultsComeTogether(t *testing.T) {
	t.Parallel()
	err := Params{Format: "xml", Fields: []Field{
		{Name: "a", Kind: event.Category, Min: ptr(1)},
		{Name: "b", Kind: event.Int, Min: ptr(3), Max: ptr(2)},
		{Name: "c", Kind: event.String, Pattern: "("},
		{Name: "d", Kind: event.Timestamp, Zone: "Nowhere/Here"},
		{Name: "e", Kind: event.Int, Path: "p.q"},
		{Name: "g", Kind: event.Int, Path: "p"},
	}, ID: []string{"zz"}, Time: "yy", MaxEvent: -1}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, s := range []string{`"xml"`, `field "a": min`, `field "b": min 3`, `field "c": pattern`, `field "d": zone`, `"g" is an object to field "e"`, `id: no field "zz"`, `"yy"`, "MaxEvent"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("no %q in %v", s, err)
		}
	}
}

// TestHostile mixes good lines with every kind of bad one.
func TestHostile(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 14))
	replace := func(field, value string) string {
		i := strings.Index(good, `"`+field+`":`) + len(field) + 3
		end := i + strings.IndexAny(good[i:], ",}")
		return good[:i] + value + good[end:]
	}
	kinds := []struct {
		class string // those that are true
		line  func() string
	}{
		{"decode", func() string { return good[:1+rng.IntN(len(good)-1)] }},
		{"decode", func() string { return good + good[rng.IntN(len(good)-1):] }},
		{"decode", func() string {
			b := make([]byte, 1+rng.IntN(300))
			for i := range b {
				if b[i] = byte(rng.Uint32()); b[i] == '\n' {
					b[i] = 0
				}
			}
			return "\xfe" + string(b)
		}},
		{"schema", func() string {
			return replace("TX_AMOUNT", []string{`"57.16"`, "true", "null", "[1]", "{}", `""`}[rng.IntN(6)])
		}},
		{"decode", func() string {
			return replace("TX_AMOUNT", []string{"NaN", "Infinity", "-Infinity", "+1", "0x10", "1e", ".5", "--1", "1_000"}[rng.IntN(9)])
		}},
		{"range", func() string {
			return replace("TX_AMOUNT", []string{"1e999", "1e99999999999999", strings.Repeat("9", 1+30*rng.IntN(40)) + "99999999999999999999", "-1", "0.001"}[rng.IntN(5)])
		}},
		{"schema", func() string {
			return replace("CUSTOMER_ID", []string{"1.5", "1e3", "false", "null", "[]"}[rng.IntN(5)])
		}},
		{"range schema", func() string {
			return replace("TX_DATETIME", []string{`"2018-02-30T00:00:00Z"`, `"2018-13-01T00:00:00Z"`, `"yesterday"`, `""`, "0", `"2018-04-01T25:00:00Z"`, `"2018-04-01"`}[rng.IntN(7)])
		}},
		{"decode", func() string { return `{"TX_AMOUNT":1,` + good[1:] }},
		{"decode", func() string {
			return `{"deep":` + strings.Repeat([]string{"[", `{"a":`}[rng.IntN(2)], 1000+rng.IntN(3000)) + good[1:]
		}},
		{"schema", func() string { return `{"TRANSACTION_ID":1}` }},
		{"decode", func() string { return replace("CUSTOMER_ID", "\"\xc3\x28\"") }},
		{"decode", func() string { return replace("CUSTOMER_ID", `"\ud83"`) }},
		{"decode", func() string { return `{"pad":"` + strings.Repeat("z", 5000) + `",` + good[1:] }}, // too long
	}
	p := fraud("json")
	p.MaxEvent = 4500
	var in bytes.Buffer
	var classes []string
	var wantIDs []int64
	blanks := 0
	for i := range 20000 {
		switch rng.IntN(3) {
		case 0:
			wantIDs = append(wantIDs, int64(i))
			line := strings.Replace(good, ":7,", ":"+strconv.Itoa(i)+",", 1)
			if rng.IntN(4) == 0 {
				line = `{"unknown":{"a":[1,2,{"b":"\u00e9"}]},` + line[1:]
			}
			in.WriteString(line + "\n")
		case 1:
			k := kinds[rng.IntN(len(kinds))]
			classes = append(classes, k.class)
			in.WriteString(k.line() + "\n")
		default:
			if rng.IntN(5) == 0 {
				blanks++
				in.WriteString("  \t\r\n")
			}
		}
	}
	r := readAll(t, p, in.String())
	var ids []int64
	for _, b := range r.batches {
		ids = append(ids, b.IDs().Ints...)
		for row := range b.N {
			if b.Cols[4].Ints[row] != 5716 || b.Cols[1].Ints[row] != 1522540831000000 || b.Cols[2].Ints[row] != 596 {
				t.Fatal("a good event was changed")
			}
		}
	}
	if diff := cmp.Diff(wantIDs, ids); diff != "" {
		t.Error("good events differ: ", diff)
	}
	if len(r.letters) != len(classes) || r.stats.Blank != int64(blanks) {
		t.Fatalf("%d letters, want %d; %d blank lines, want %d", len(r.letters), len(classes), r.stats.Blank, blanks)
	}
	for i, l := range r.letters {
		if !strings.Contains(classes[i], string(l.Class)) {
			t.Errorf("letter %d is %s (%s), want %s: %.200s", i, l.Class, l.Message, classes[i], l.Original)
		}
	}
}

// TestRoundTrip: what an encoder writes is read as the same values, in every format.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	fields := []Field{
		{Name: "id", Kind: event.ID},
		{Name: "t", Kind: event.Timestamp},
		{Name: "i", Kind: event.Int, Optional: true},
		{Name: "d", Kind: event.Decimal, Scale: 3, Optional: true},
		{Name: "f", Kind: event.Float, Optional: true},
		{Name: "b", Kind: event.Bool, Optional: true},
		{Name: "s", Kind: event.String, Optional: true},
		{Name: "c", Kind: event.Category, Optional: true},
		{Name: "l", Kind: event.List, Elem: event.Decimal, Scale: 1},
	}
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]string{"json", "csv", "parquet"}).Draw(rt, "kind")
		p := Params{Format: kind, Fields: fields, ID: []string{"id"}, Time: "t", BatchRows: 5}
		text := rapid.String()
		if kind == "csv" {
			p.Fields = fields[:len(fields)-1]
			text = rapid.StringMatching(`[a-zé",;| ]{0,8}`)
		}
		d, err := New(p)
		if err != nil {
			rt.Fatal(err)
		}
		b := event.New(d.Schema(), 0)
		b.N = rapid.IntRange(1, 12).Draw(rt, "rows")
		textIDs := rapid.Bool().Draw(rt, "text ids")
		if textIDs {
			b.Cols[0] = event.Column{Ends: []uint32{}}
		}
		for i, f := range p.Fields {
			c := &b.Cols[i]
			for row := range b.N {
				null := f.Optional && rapid.IntRange(0, 3).Draw(rt, "null") == 0
				if null {
					c.SetNull(row, b.N)
				}
				switch f.Kind {
				case event.Float:
					v := rapid.Float64().Draw(rt, "f")
					c.Floats = append(c.Floats, v)
				case event.Bool:
					c.Ints = append(c.Ints, rapid.Int64Range(0, 1).Draw(rt, "b"))
				case event.Int:
					c.Ints = append(c.Ints, rapid.Int64Range(-1<<53, 1<<53).Draw(rt, "i"))
				case event.Timestamp:
					c.Ints = append(c.Ints, rapid.Int64Range(format.MinTime, format.MaxTime).Draw(rt, "t"))
				case event.Decimal:
					c.Ints = append(c.Ints, rapid.Int64().Draw(rt, "d"))
				case event.ID:
					if textIDs {
						c.AppendRaw([]byte("x" + text.Draw(rt, "id")))
					} else {
						c.Ints = append(c.Ints, rapid.Int64().Draw(rt, "id"))
					}
				case event.List:
					for range rapid.IntRange(0, 3).Draw(rt, "n") {
						c.Elems.Ints = append(c.Elems.Ints, rapid.Int64().Draw(rt, "e"))
					}
					c.Ends = append(c.Ends, uint32(len(c.Elems.Ints)))
				default:
					s := []byte(text.Draw(rt, "s"))
					if null {
						s = nil
					}
					c.AppendRaw(s)
				}
			}
		}
		var got []event.Batch
		emit := func(b event.Batch) error { got = append(got, b); return nil }
		reject := func(l deadletter.Letter) error { return fmt.Errorf("letter: %s: %s", l.Message, l.Original) }
		if kind == "parquet" {
			var file bytes.Buffer
			err = format.WriteParquet(&file, b.Schema, nil, func(yield func(event.Batch, error) bool) { yield(b, nil) })
			if err != nil {
				rt.Fatal(err)
			}
			cut := rapid.Int64Range(0, int64(b.N)).Draw(rt, "cut") // read in two parts, or in one
			if cut > 0 {
				_, err = d.ReadParquet(bytes.NewReader(file.Bytes()), int64(file.Len()), Source{End: cut}, emit, reject)
			}
			if err == nil {
				_, err = d.ReadParquet(bytes.NewReader(file.Bytes()), int64(file.Len()), Source{Offset: cut}, emit, reject)
			}
		} else {
			var e format.Encoder
			if e, err = format.NewEncoder(kind, b.Schema, nil); err != nil {
				rt.Fatal(err)
			}
			var file []byte
			if file, err = e.Append(e.Header(), b); err != nil {
				rt.Fatal(err)
			}
			_, err = d.Read(bytes.NewReader(file), Source{End: -1}, emit, reject)
		}
		if err != nil {
			rt.Fatal(err)
		}
		back, err := event.Concat(got)
		if err != nil {
			rt.Fatal(err)
		}
		if back.N != b.N {
			rt.Fatalf("%d rows, want %d", back.N, b.N)
		}
		for i, f := range p.Fields {
			for row := range b.N {
				want, have := at(&b.Cols[i], row), at(&back.Cols[i], row)
				if f.Kind == event.ID {
					want, have = string(b.Cols[i].AppendID(nil, row)), string(back.Cols[i].AppendID(nil, row))
				}
				if !cmp.Equal(want, have) {
					rt.Fatalf("%s, field %s, row %d: got %v, want %v", kind, f.Name, row, have, want)
				}
			}
		}
	})
}

func TestParquetFaults(t *testing.T) {
	t.Parallel()
	s, err := event.NewSchema([]event.Field{{Name: "TRANSACTION_ID", Kind: event.ID}, {Name: "TX_AMOUNT", Kind: event.Float}, {Name: "TX_DATETIME", Kind: event.Int}, {Name: "x", Kind: event.String}}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, 3)
	b.N = 3
	b.Cols[0].Ints = []int64{1, 2, 3}
	b.Cols[1].Floats = []float64{57.16, 57.165, -1}
	b.Cols[2].Ints = []int64{1522540831, 1522540832, 1522540833}
	for range 3 {
		b.Cols[3].AppendRaw([]byte("q"))
	}
	var file bytes.Buffer
	if err := format.WriteParquet(&file, s, nil, func(yield func(event.Batch, error) bool) { yield(b, nil) }); err != nil {
		t.Fatal(err)
	}
	read := func(p Params, data []byte) (result, error) {
		d, err := New(p)
		if err != nil {
			t.Fatal(err)
		}
		var out result
		out.stats, err = d.ReadParquet(bytes.NewReader(data), int64(len(data)), Source{Name: "f.parquet"},
			func(b event.Batch) error { out.batches = append(out.batches, b); return nil },
			func(l deadletter.Letter) error { out.letters = append(out.letters, l); return nil })
		return out, err
	}
	p := fraud("parquet")
	_, err = read(p, file.Bytes())
	for _, want := range []string{`no column "CUSTOMER_ID"`, "name its unit"} {
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	p.Fields = []Field{p.Fields[0], p.Fields[1], p.Fields[4]}
	p.Fields[1].TimeFormat = "unix_s"
	r, err := read(p, file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if b := r.batch(t); b.N != 1 || b.Cols[2].Ints[0] != 5716 || b.Times()[0] != 1522540831000000 {
		t.Errorf("%+v", b)
	}
	if len(r.letters) != 2 || r.letters[0].Class != deadletter.Range || r.letters[1].ID != "3" || r.letters[1].Place.Line != 3 ||
		string(r.letters[0].Original) != `{"TRANSACTION_ID":"2","TX_DATETIME":1522540832,"TX_AMOUNT":57.165}` {
		t.Errorf("%+v %s", r.letters, r.letters[0].Original)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 300 { // corrupt files are refused or read, but never crash
		data := bytes.Clone(file.Bytes())
		for range 1 + rng.IntN(4) {
			data[rng.IntN(len(data))] = byte(rng.Uint32())
		}
		_, _ = read(p, data[:len(data)-rng.IntN(2)*rng.IntN(len(data))])
	}
	if _, err := read(p, []byte("PAR1")); !errors.Is(err, ErrFile) {
		t.Errorf("no parquet: %v", err)
	}
}

// TestHandbook reads the first rows of the published transactions against encoding/csv.
func TestHandbook(t *testing.T) {
	t.Parallel()
	f, err := os.Open(shareddata.Path(t, "fraud-handbook/transactions.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := io.CopyN(&text, z, 4<<20); err != nil {
		t.Fatal(err)
	}
	text.Truncate(bytes.LastIndexByte(text.Bytes(), '\n') + 1)
	rows, err := csv.NewReader(bytes.NewReader(text.Bytes())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	r := readRange(t, fraud("csv"), &text, Source{End: -1})
	b := r.batch(t)
	if len(r.letters) != 0 || b.N != len(rows)-1 {
		t.Fatalf("%d rows, %d letters, want %d rows", b.N, len(r.letters), len(rows)-1)
	}
	for i, row := range rows[1:] {
		when, err := time.Parse(time.RFC3339, row[1])
		if err != nil {
			t.Fatal(err)
		}
		cents, err := strconv.ParseInt(strings.Replace(row[4], ".", "", 1), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintln(b.Cols[0].Ints[i], b.Times()[i], b.Cols[2].Ints[i], b.Cols[3].Ints[i], b.Cols[4].Ints[i], b.Cols[5].Ints[i])
		if want := fmt.Sprintln(row[0], when.UnixMicro(), row[2], row[3], cents, row[5]); got != want {
			t.Fatalf("row %d: got %s, want %s", i, got, want)
		}
	}
}
