package encode

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/models"
)

var nan = float32(math.NaN())

func number(name string) models.Feature { return models.Feature{Name: name, Type: models.Number} }

func fit(t testing.TB, d models.Dataset, o Options) *Encoder {
	t.Helper()
	e, err := Fit(d, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func encode(e *Encoder, x ...float32) []float32 {
	rows := len(x) / max(len(e.Features()), 1)
	out := make([]float32, rows*e.Width())
	for i := range out {
		out[i] = 77 // what a caller's buffer holds must not matter
	}
	e.Encode(x, rows, out)
	return out
}

func TestNumbers(t *testing.T) {
	d := models.Dataset{
		Features: []models.Feature{number("a"), number("constant"), number("holes")},
		X: []float32{
			1, 5, nan,
			2, 5, 10,
			3, 5, 30,
			6, 5, nan,
		},
		Y: make([]float32, 4),
	}
	e := fit(t, d, Options{})
	if e.Width() != 4 {
		t.Fatalf("width %d, want a column each and one for the nulls", e.Width())
	}
	// a: mean 3, deviation sqrt((4+1+0+9)/4) = sqrt(3.5); holes: mean 20, deviation 10.
	s := float32(math.Sqrt(3.5))
	want := []float32{-2 / s, 0, 0, 1, 3 / s, 0, 1, 0}
	got := encode(e, 1, 5, nan, 6, 5, 30)
	if !cmp.Equal(got, want, cmp.Comparer(func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-6 })) {
		t.Errorf("got %v, want %v", got, want)
	}
	if w := fit(t, d, Options{NoMissing: true}).Width(); w != 3 {
		t.Errorf("width %d without columns for nulls", w)
	}
}

func TestEncodedRowsAreFinite(t *testing.T) {
	d := models.Dataset{Features: []models.Feature{number("a")}, X: []float32{1e-20, 2e-20, 3e-20}, Y: make([]float32, 3)}
	got := encode(fit(t, d, Options{}), math.MaxFloat32, -math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)), nan)
	if want := []float32{1e6, -1e6, 0, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A mean far larger than the deviation: one-pass sums of squares in float32 lose it all.
func TestLargeMean(t *testing.T) {
	d := models.Dataset{Features: []models.Feature{number("a")}, X: []float32{1e7, 1e7 + 1, 1e7 + 2}, Y: make([]float32, 3)}
	got := encode(fit(t, d, Options{}), d.X...)
	s := float32(math.Sqrt(1.5))
	for i, want := range []float32{-s, 0, s} {
		if math.Abs(float64(got[i]-want)) > 1e-6 {
			t.Errorf("row %d: %v, want %v", i, got[i], want)
		}
	}
}

// Against the definition in float64: the error is that of rounding the result and the deviation.
func TestStandardIsAccurate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mean := rapid.Float64Range(-1e9, 1e9).Draw(t, "mean")
		std := rapid.Float64Range(1e-3, 1e9).Draw(t, "std")
		v := rapid.Float32Range(-1e12, 1e12).Draw(t, "v")
		got := float64(newStandard(mean, std).apply(v))
		want := (float64(v) - mean) / std
		want = max(-limit, min(limit, want))
		// What the two parts of the mean can't hold counts in deviations; next to 0 a float32 has
		// fewer digits.
		if math.Abs(got-want) > 3e-7*math.Abs(want)+math.Abs(mean)/std*1e-14+1e-38/min(std, 1) {
			t.Fatalf("mean %v, deviation %v: %v became %v, want %v", mean, std, v, got, want)
		}
	})
}

func TestCategories(t *testing.T) {
	f := models.Feature{Name: "colour", Type: models.Category, Categories: []string{"red", "green"}}
	e := fit(t, models.Dataset{Features: []models.Feature{f}}, Options{})
	// red, green, unseen (also far out and negative), null.
	got := encode(e, 0, 1, 2, 1e9, -1, nan)
	want := []float32{
		1, 0, 0, 0,
		0, 1, 0, 0,
		0, 0, 1, 0,
		0, 0, 1, 0,
		0, 0, 1, 0,
		0, 0, 0, 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestManyCategories(t *testing.T) {
	f := models.Feature{Name: "shop", Type: models.Category}
	for i := range 500 {
		f.Categories = append(f.Categories, fmt.Sprint("shop ", i))
	}
	e := fit(t, models.Dataset{Features: []models.Feature{f}}, Options{})
	if want := 32 + 8 + 2; e.Width() != want {
		t.Fatalf("width %d, want %d", e.Width(), want)
	}
	used := map[int]int{}
	for code := range 502 {
		x := float32(code)
		if code == 501 {
			x = nan
		}
		out := encode(e, x)
		at := slices.Index(out, 1)
		if n := slices.Index(out[at+1:], 1); n >= 0 {
			t.Fatalf("code %d has two columns", code)
		}
		if code < 32 && at != code || code == 500 && at != 40 || code == 501 && at != 41 {
			t.Errorf("code %d is in column %d", code, at)
		}
		used[at]++
	}
	if len(used) != e.Width() {
		t.Errorf("%d of %d columns are used", len(used), e.Width())
	}
	// The bucket follows from the value, not from its rank.
	f.Categories[400], f.Categories[450] = f.Categories[450], f.Categories[400]
	swapped := fit(t, models.Dataset{Features: []models.Feature{f}}, Options{})
	if !slices.Equal(encode(e, 400), encode(swapped, 450)) {
		t.Error("a value moved to another bucket with its rank")
	}
}

func TestStoredFormRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "features")
		d := models.Dataset{Y: make([]float32, rapid.IntRange(0, 6).Draw(t, "rows"))}
		for i := range n {
			f := number(fmt.Sprint("f", i))
			if rapid.Bool().Draw(t, "category") {
				f.Type = models.Category
				f.Categories = rapid.SliceOfDistinct(rapid.String(), func(s string) string { return s }).Draw(t, "categories")
			}
			d.Features = append(d.Features, f)
		}
		d.X = rapid.SliceOfN(rapid.Float32(), len(d.Y)*n, len(d.Y)*n).Draw(t, "x")
		e, err := Fit(d, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var read Encoder
		if err := json.Unmarshal(b, &read); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		again, err := json.Marshal(&read)
		if err != nil || string(again) != string(b) {
			t.Fatalf("stored %s, then %s, error %v", b, again, err)
		}
		if !slices.Equal(encode(e, d.X...), encode(&read, d.X...)) {
			t.Fatal("the read encoder encodes otherwise")
		}
		for i, v := range encode(&read, d.X...) {
			if v-v != 0 {
				t.Fatalf("value %d is %v", i, v)
			}
		}
	})
}

func TestHostileForms(t *testing.T) {
	good := `{"version":1,"features":[{"name":"a","type":"number","mean":1,"std":2}]}`
	var e Encoder
	if err := json.Unmarshal([]byte(good), &e); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		`{}`, `[]`, `null`, `{"version":2,"features":[]}`, good + `x`, good + good,
		`{"version":1,"features":[{"name":"a","type":"number","mean":1}]}`,
		`{"version":1,"features":[{"name":"a","type":"number","std":-1}]}`,
		`{"version":1,"features":[{"name":"a","type":"number","std":1e-320}]}`,
		`{"version":1,"features":[{"name":"a","type":"number","std":1e999}]}`,
		`{"version":1,"features":[{"name":"a","type":"number","std":1,"categories":["x"]}]}`,
		`{"version":1,"features":[{"name":"a","type":"category","std":1}]}`,
		`{"version":1,"features":[{"name":"a","type":"category","categories":["x","x"]}]}`,
		`{"version":1,"features":[{"name":"a","type":"sequence"}]}`,
		`{"version":1,"features":[{"name":"a","type":"number","std":1,"extra":1}]}`,
	} {
		before := e
		if err := e.UnmarshalJSON([]byte(bad)); !errors.Is(err, models.ErrFiles) {
			t.Errorf("%s gave %v", bad, err)
		}
		if !slices.Equal(encode(&before, 7), encode(&e, 7)) {
			t.Errorf("%s altered the encoder", bad)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"version":1,"features":[{"name":"a","type":"number","mean":1,"std":2,"missing":true},{"name":"b","type":"category","categories":["x","y"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Encoder
		if err := e.UnmarshalJSON(b); err != nil {
			if !errors.Is(err, models.ErrFiles) {
				t.Fatal(err)
			}
			return
		}
		for _, v := range encode(&e, make([]float32, len(e.Features()))...) {
			if v-v != 0 {
				t.Fatal("not finite")
			}
		}
	})
}

func TestFitRefuses(t *testing.T) {
	if _, err := Fit(models.Dataset{Features: []models.Feature{number("a")}, X: []float32{1}}, Options{}); !errors.Is(err, models.ErrShape) {
		t.Errorf("a value without a row gave %v", err)
	}
	if _, err := Fit(models.Dataset{Features: []models.Feature{{Name: "a", Type: "sequence"}}}, Options{}); err == nil {
		t.Error("an unknown type gave no error")
	}
}

func TestDictionary(t *testing.T) {
	values := []string{"b", "c", "a", "c", "z", "z", "z", "b", "", "\xff", "\xff", "\xff"}
	nulls := []bool{4: true, 5: true, 8: true, 11: false}
	got := Dictionary(values, nulls)
	if diff := cmp.Diff([]string{"b", "c", "a", "z"}, got); diff != "" {
		t.Error(diff)
	}
	if got := Dictionary(values, nil); got[0] != "z" || len(got) != 5 {
		t.Errorf("without nulls %q", got)
	}
	codes := Lookup(got)
	for i, v := range got {
		if codes[v] != i {
			t.Errorf("%q has the code %d, want %d", v, codes[v], i)
		}
	}
}

func TestEncodeAllocatesNothing(t *testing.T) {
	d := models.Dataset{Features: []models.Feature{number("a"), {Name: "b", Type: models.Category, Categories: []string{"x"}}}}
	e := fit(t, d, Options{})
	x, out := make([]float32, 20), make([]float32, 10*e.Width())
	if n := testing.AllocsPerRun(10, func() { e.Encode(x, 10, out) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func ExampleFit() {
	e, err := Fit(models.Dataset{
		Features: []models.Feature{
			{Name: "amount", Type: models.Number},
			{Name: "country", Type: models.Category, Categories: []string{"FR", "DE"}},
		},
		X: []float32{10, 0, 30, 1},
		Y: []float32{0, 1},
	}, Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	out := make([]float32, e.Width())
	e.Encode([]float32{30, 1}, 1, out)
	fmt.Println(out)
	// Output: [1 0 1 0 0]
}

func BenchmarkEncode16(b *testing.B) {
	var d models.Dataset
	for i := range 16 {
		d.Features = append(d.Features, number(fmt.Sprint(i)))
	}
	e := fit(b, d, Options{})
	x, out := make([]float32, 256*16), make([]float32, 256*16)
	for b.Loop() {
		e.Encode(x, 256, out)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/row")
}
