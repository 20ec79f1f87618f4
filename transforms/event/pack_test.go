package event

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

type level uint8

type place struct {
	Country string `event:"country,category"`
}

type payment struct {
	ID       string    `event:"tx,id"`
	At       time.Time `event:"at,time"`
	Customer int32     `event:"customer,entity"`
	Amount   float64   `event:"amount,decimal=2"`
	Cents    int64     `event:"cents,decimal=2"`
	Ratio    float64
	Small    float32 `event:"small"`
	Level    level   `event:"level"`
	Fraud    *bool   `event:"fraud"`
	Note     *string `event:"note"`
	Partner  *string `event:"partner,entity"`
	Settled  *time.Time
	Past     []float64
	Tags     []string `event:"tags,category"`
	Kin      []int64  `event:"kin,entity"`
	place
	Skipped chan int `event:"-"`
	hidden  int
}

// NaN stands for null in a float, so it is drawn; infinities do not come back.
func drawPayment(t *rapid.T) payment {
	micro := rapid.Map(rapid.Int64Range(-1e15, 1e16), func(us int64) time.Time { return time.UnixMicro(us).UTC() })
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "7", "-12", "007"}))
	float := rapid.OneOf(rapid.Float64(), rapid.Just(math.NaN()))
	list := func(n int) bool { return n > 0 }
	p := payment{
		ID: text.Draw(t, "id"), At: micro.Draw(t, "at"), Customer: rapid.Int32().Draw(t, "customer"),
		Amount: float64(rapid.Int64Range(-1e12, 1e12).Draw(t, "amount")) / 100, Cents: rapid.Int64().Draw(t, "cents"),
		Ratio: float.Draw(t, "ratio"), Small: rapid.Float32().Draw(t, "small"), Level: level(rapid.Uint8().Draw(t, "level")),
		Fraud: rapid.Ptr(rapid.Bool(), true).Draw(t, "fraud"), Note: rapid.Ptr(text, true).Draw(t, "note"),
		Partner: rapid.Ptr(text, true).Draw(t, "partner"), Settled: rapid.Ptr(micro, true).Draw(t, "settled"),
		place: place{Country: text.Draw(t, "country")},
	}
	if list(rapid.IntRange(0, 2).Draw(t, "past")) {
		p.Past = rapid.SliceOfN(float, 0, 3).Draw(t, "pasts")
	}
	if list(rapid.IntRange(0, 2).Draw(t, "tags")) {
		p.Tags = rapid.SliceOfN(text, 0, 3).Draw(t, "tagged")
	}
	if list(rapid.IntRange(0, 2).Draw(t, "kin")) {
		p.Kin = rapid.SliceOfN(rapid.Int64(), 0, 3).Draw(t, "kins")
	}
	return p
}

func TestPackRoundTrip(t *testing.T) {
	same := cmp.Options{cmp.AllowUnexported(payment{}), cmpopts.EquateNaNs()}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawPayment), 0, 70).Draw(t, "rows")
		b, err := Pack(want)
		if err != nil {
			t.Fatal(err)
		}
		// Through the binary form, so that every column is also one that the coder takes.
		if b, err = Decode(Append(nil, b)); err != nil {
			t.Fatal(err)
		}
		got, err := Unpack[payment](b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, same); d != "" {
			t.Fatal(d)
		}
	})
}

func TestPackColumns(t *testing.T) {
	type row struct {
		ID     string    `event:"id,id"`
		At     time.Time `event:"at,time"`
		Amount float64   `event:"amount,decimal=2"`
		Ratio  float64   `event:"ratio"`
	}
	at := time.Date(2018, 4, 1, 0, 0, 31, 1999, time.FixedZone("", 3600))
	b, err := Pack([]row{{"12", at, 57.16, math.Inf(1)}, {"7", at, -0.005, 0.5}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.Schema.String(), "id:id* at:timestamp@ amount:decimal(2) ratio:float"; got != want {
		t.Errorf("schema %s, want %s", got, want)
	}
	if d := cmp.Diff([]int64{12, 7}, b.IDs().Ints); d != "" {
		t.Errorf("ids that are integers: %s", d)
	}
	if d := cmp.Diff([]int64{5716, -1}, b.Col("amount").Ints); d != "" {
		t.Error(d)
	}
	if got, want := b.Times()[0], int64(1522537231000001); got != want {
		t.Errorf("time %d, want %d", got, want)
	}
	if r := b.Col("ratio"); !r.Null(0) || r.Null(1) {
		t.Error("an infinity is null, 0.5 is not")
	}
}

func TestUnpackConverts(t *testing.T) {
	type out struct {
		ID     int     `event:"id,id"`
		Amount float64 `event:"amount"`
		Count  float32 `event:"count"`
		Word   string  `event:"word"`
	}
	s, err := NewSchema([]Field{
		{Name: "more", Kind: Bool}, {Name: "word", Kind: Category}, {Name: "count", Kind: Int}, {Name: "amount", Kind: Decimal, Scale: 3}, {Name: "id", Kind: ID},
	}, "id", "")
	if err != nil {
		t.Fatal(err)
	}
	b := Batch{Schema: s, N: 1, Cols: []Column{
		{Ints: []int64{1}}, {Ends: []uint32{1}, Bytes: []byte("x")}, {Ints: []int64{3}}, {Ints: []int64{1500}}, {Ends: []uint32{2}, Bytes: []byte("42")},
	}}
	got, err := Unpack[out](b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]out{{42, 1.5, 3, "x"}}, got); d != "" {
		t.Error(d)
	}
	b.Cols[4] = Column{Ends: []uint32{2}, Bytes: []byte("a1")}
	if _, err := Unpack[out](b); !errors.Is(err, ErrValue) {
		t.Errorf("text id in an int: %v", err)
	}
	b.Cols[4] = Column{Ints: []int64{1}, Nulls: []uint64{1}}
	if _, err := Unpack[out](b); !errors.Is(err, ErrValue) {
		t.Errorf("null in an int: %v", err)
	}
	if _, err := Unpack[payment](b); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), `no column "kin"`) {
		t.Errorf("missing columns: %v", err)
	}
	type small struct {
		Count int8 `event:"count"`
	}
	b.Cols[2].Ints[0] = 200
	if _, err := Unpack[small](b); !errors.Is(err, ErrValue) {
		t.Errorf("200 in an int8: %v", err)
	}
	type wrong struct {
		Count time.Time `event:"count"`
	}
	if _, err := Unpack[wrong](b); !errors.Is(err, ErrSchema) {
		t.Errorf("an int in a time: %v", err)
	}
}

func TestPackRefusesValues(t *testing.T) {
	type big struct{ N uint64 }
	type dec struct {
		X float64 `event:"x,decimal=18"`
	}
	type when struct{ T time.Time }
	for name, err := range map[string]error{
		"uint":    second(Pack([]big{{math.MaxUint64}})),
		"decimal": second(Pack([]dec{{10}})),
		"time":    second(Pack([]when{{time.Date(400_000, 1, 1, 0, 0, 0, 0, time.UTC)}})),
	} {
		if !errors.Is(err, ErrValue) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ Batch, err error) error { return err }

func TestSchemaOfRefuses(t *testing.T) {
	type inner struct{ A int }
	for want, typ := range map[string]any{
		"not a struct":          0,
		"no exported field":     struct{ a int }{},
		"map[string]int is not": struct{ M map[string]int }{},
		`tag option "id" does not`: struct {
			F float64 `event:"f,id"`
		}{},
		`tag option "time" does not`: struct {
			F int `event:"f,time"`
		}{},
		`tag option "index"`: struct {
			F int `event:"f,index"`
		}{},
		"decimal=19": struct {
			F int `event:"f,decimal=19"`
		}{},
		"is not exported": struct {
			f int `event:"f"`
		}{},
		"can't be null": struct {
			F *int `event:"f,id"`
		}{},
		"embedded by pointer": struct{ *inner }{},
		"stands twice": struct {
			A int `event:"x"`
			B int `event:"x"`
		}{},
		"the id already": struct {
			A int `event:"a,id"`
			B int `event:"b,id"`
		}{},
		"without a pointer": struct{ A *[]int }{},
	} {
		_, err := planOf(reflect.TypeOf(typ))
		if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v, want %q", typ, err, want)
		}
	}
	a, _ := SchemaOf[payment]()
	b, _ := SchemaOf[payment]()
	if a != b || a == nil {
		t.Error("a type has one schema")
	}
}

func BenchmarkPack(b *testing.B) {
	type row struct {
		ID                 int64     `event:"id,id"`
		At                 time.Time `event:"at,time"`
		Customer, Terminal int64
		Amount             float64 `event:"amount,decimal=2"`
	}
	rows := make([]row, 1024)
	for i := range rows {
		rows[i] = row{int64(i), time.UnixMicro(int64(i)), int64(i) % 50, int64(i) % 70, float64(i) / 4}
	}
	for b.Loop() {
		if _, err := Pack(rows); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/event")
}
