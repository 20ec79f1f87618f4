package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/models"
)

var nan = float32(math.NaN())

var features = []models.Feature{
	{Name: "amount", Type: models.Number},
	{Name: "country", Type: models.Category, Categories: []string{"fr", "de", "it"}},
}

// counts is what must merge exactly: everything but the moments.
func counts(t interface{ Fatal(...any) }, p *Profile) string {
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var j profileJSON
	if err := json.Unmarshal(b, &j); err != nil {
		t.Fatal(err)
	}
	for _, c := range slices.Concat(j.Columns, j.Outputs) {
		if c.Number != nil {
			c.Number.Mean, c.Number.M2 = 0, 0
		}
	}
	b, _ = json.Marshal(j)
	return string(b)
}

func reference() *Profile {
	d := models.Dataset{Features: features}
	var scores []float32
	for i := range 100 {
		d.X = append(d.X, float32(i), float32(i%3))
		d.Y = append(d.Y, 0)
		scores = append(scores, float32(i)/100)
	}
	p, err := Of(d, []string{"score"}, scores)
	if err != nil {
		panic(err)
	}
	return p
}

func TestOf(t *testing.T) {
	p := reference()
	n := p.Columns[0].Number
	// Deciles of 0..99: the smallest value with 10, 20, ... values at or below it.
	if want := []float64{9, 19, 29, 39, 49, 59, 69, 79, 89}; !slices.Equal(n.Edges, want) {
		t.Errorf("edges are %v, want %v", n.Edges, want)
	}
	for i, c := range n.Histogram {
		if c != 10 {
			t.Errorf("bin %d counts %d, want 10", i, c)
		}
	}
	if n.Mean != 49.5 || math.Abs(n.Variance()-(100*100-1)/12.) > 1e-9 || n.Min != 0 || n.Max != 99 {
		t.Errorf("mean %v variance %v min %v max %v", n.Mean, n.Variance(), n.Min, n.Max)
	}
	if g := p.Columns[1].Category; !slices.Equal(g.Counts, []uint64{34, 33, 33}) {
		t.Errorf("counts are %v", g.Counts)
	}
	if q := p.Outputs[0].Number.Quantile(0.5); math.Abs(q-0.49) > 0.011 {
		t.Errorf("median score is %v", q)
	}
}

func TestNullsAndCodes(t *testing.T) {
	many := make([]string, topValues+10)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	p := New([]models.Feature{{Name: "n", Type: models.Number}, {Name: "c", Type: models.Category, Categories: many}}, nil)
	inf := float32(math.Inf(1))
	x := []float32{nan, nan, inf, 0, -inf, 255, 3, 256, -2, 265, 0, 266, 1e20, 1e20}
	if err := p.Add(x, 7, nil); err != nil {
		t.Fatal(err)
	}
	if c := p.Columns[0]; c.Count != 4 || c.Nulls != 3 || c.Number.Min != -2 || c.Number.Max != float64(float32(1e20)) {
		t.Errorf("number column is %+v %+v", c, c.Number)
	}
	c := p.Columns[1]
	if g := c.Category; c.Nulls != 1 || g.Counts[0] != 1 || g.Counts[255] != 1 || g.Rest != 2 || g.Unseen != 2 {
		t.Errorf("category column has %d nulls, %d rest, %d unseen", c.Nulls, g.Rest, g.Unseen)
	}
	if err := p.Add(x, 6, nil); !errors.Is(err, models.ErrShape) || p.Rows != 7 {
		t.Errorf("adding a ragged matrix: %v, %d rows", err, p.Rows)
	}
}

func TestMergeProperties(t *testing.T) {
	ref := reference()
	value := rapid.OneOf(
		rapid.Float32Range(-50, 150),
		rapid.SampledFrom([]float32{0, 9, 19, nan, 1e30, -1e30, math.SmallestNonzeroFloat32, math.MaxFloat32}),
	)
	rapid.Check(t, func(t *rapid.T) {
		parts := make([]*Profile, 3)
		all := ref.Empty()
		var xs, scores []float32
		for i := range parts {
			parts[i] = ref.Empty()
			for range rapid.IntRange(0, 8).Draw(t, "rows") {
				x := []float32{value.Draw(t, "x"), float32(rapid.IntRange(-1, 4).Draw(t, "code"))}
				s := []float32{value.Draw(t, "s")}
				xs, scores = append(xs, x...), append(scores, s...)
				if err := errors.Join(parts[i].Add(x, 1, s), all.Add(x, 1, s)); err != nil {
					t.Fatal(err)
				}
			}
		}
		merged := func(order ...*Profile) *Profile {
			out := ref.Empty()
			for _, p := range order {
				if err := out.Merge(p); err != nil {
					t.Fatal(err)
				}
			}
			return out
		}
		a, b, c := parts[0], parts[1], parts[2]
		want := counts(t, all)
		for name, p := range map[string]*Profile{
			"(ab)c": merged(a, b, c),
			"a(bc)": merged(a, merged(b, c)),
			"cba":   merged(c, b, a),
			"clone": merged(a, b, c).Clone(),
		} {
			if got := counts(t, p); got != want {
				t.Fatalf("%s differs from all rows at once: %s", name, cmp.Diff(want, got))
			}
			got, whole := p.Columns[0].Number, all.Columns[0].Number
			if math.Abs(got.Mean-whole.Mean) > 1e-9*math.Max(1, math.Max(math.Abs(got.Min), math.Abs(got.Max))) {
				t.Fatalf("%s has mean %v, all at once %v", name, got.Mean, whole.Mean)
			}
			if whole.count > 0 && math.Abs(got.Variance()-whole.Variance()) > 1e-9*math.Max(1, whole.Variance()) {
				t.Fatalf("%s has variance %v, all at once %v", name, got.Variance(), whole.Variance())
			}
		}
		// One call with all rows is the same profile as row by row, and survives a round trip.
		once := ref.Empty()
		if err := once.Add(xs, len(scores), scores); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(once)
		if err != nil {
			t.Fatal(err)
		}
		var back Profile
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		again, _ := json.Marshal(&back)
		whole, _ := json.Marshal(all)
		if string(again) != string(raw) || string(raw) != string(whole) {
			t.Fatal("round trip, or adding at once, changed the profile")
		}
		for _, q := range []float64{0, .1, .5, .99, 1} {
			if x, y := back.Columns[0].Number.Quantile(q), once.Columns[0].Number.Quantile(q); x != y && !math.IsNaN(x) {
				t.Fatalf("quantile %v is %v after a round trip, was %v", q, x, y)
			}
		}
	})
}

func TestQuantileEqualsOrderStatistic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := New(features[:1], nil)
	var all []float64
	for range 5000 {
		v := float32(math.Exp(r.NormFloat64()*2)) * float32(1-2*(r.IntN(4)/3))
		all = append(all, float64(v))
		if err := p.Add([]float32{v}, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	for _, q := range []float64{0, .01, .1, .25, .5, .75, .9, .99, 1} {
		want := all[int(q*float64(len(all)-1))]
		if got := p.Columns[0].Number.Quantile(q); math.Abs(got-want) > 0.0101*math.Abs(want) {
			t.Errorf("quantile %v is %v, want %v within 1 %%", q, got, want)
		}
	}
}

func TestMergeRefusesOthers(t *testing.T) {
	ref := reference()
	other := reference()
	other.Columns[0].Number.Edges[0]++
	dictionary := reference()
	dictionary.Columns[1].Category.Values[0] = "es"
	renamed := reference()
	renamed.Outputs[0].Name = "value"
	for name, p := range map[string]*Profile{
		"edges": other, "dictionary": dictionary, "name": renamed,
		"columns": New(features[:1], []string{"score"}), "no outputs": New(features, nil),
		"type": New([]models.Feature{features[0], {Name: "country", Type: models.Number}}, []string{"score"}),
	} {
		before := counts(t, ref)
		if err := ref.Merge(p); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: merged: %v", name, err)
		}
		if counts(t, ref) != before {
			t.Errorf("%s: a refused merge changed the profile", name)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	raw, err := json.Marshal(reference())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, s := range []string{
		`{}`, `{"format":2}`, `null`, `{"format":1,"rows":1,"columns":[{"name":"a","type":"number","count":1,"number":{"histogram":[1]}}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Add([]byte(strings.Replace(string(raw), `"rows":100`, `"rows":18446744073709551615`, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Profile
		if err := p.UnmarshalJSON(b); err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error is not ErrFormat: %v", err)
			}
			return
		}
		// What is read can be used.
		q := p.Clone()
		if err := q.Merge(&p); err != nil {
			t.Fatal(err)
		}
		for _, c := range slices.Concat(q.Columns, q.Outputs) {
			if c.Number != nil {
				c.Number.Quantile(.5)
			}
		}
		if _, err := json.Marshal(q); err != nil && !strings.Contains(err.Error(), "unsupported value") {
			t.Fatal(err)
		}
	})
}

func TestUnmarshalRefuses(t *testing.T) {
	raw, _ := json.Marshal(reference())
	for _, change := range [][2]string{
		{`"format":1`, `"format":2`},
		{`"rows":100`, `"rows":101`},
		{`"histogram":[10,`, `"histogram":[11,`},
		{`"histogram":[10,10,`, `"histogram":[20,`},
		{`"edges":[9,19`, `"edges":[19,9`},
		{`"accuracy":0.01`, `"accuracy":0.02`},
		{`"zero":1`, `"zero":2`},
		{`"positive":[[`, `"positive":[[-999999999,1],[`},
		{`"counts":[34,`, `"counts":[35,`},
		{`"counts":[34,`, `"counts":[`},
		{`"min":0,`, ``},
		{`"type":"number"`, `"type":"category"`},
	} {
		hostile := strings.Replace(string(raw), change[0], change[1], 1)
		if hostile == string(raw) {
			t.Fatalf("%s is not in %s", change[0], raw)
		}
		var p Profile
		if err := json.Unmarshal([]byte(hostile), &p); !errors.Is(err, ErrFormat) {
			t.Errorf("%s for %s: read, %v", change[1], change[0], err)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	features := make([]models.Feature, 15)
	for i := range features {
		features[i] = models.Feature{Name: fmt.Sprint(i), Type: models.Number}
	}
	d := models.Dataset{Features: features, Y: make([]float32, 256), X: make([]float32, 256*15)}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range d.X {
		d.X[i] = float32(r.ExpFloat64() * 100)
	}
	p, err := Of(d, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Add(d.X, 256, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256/15, "ns/value")
}
