package predict

import (
	"context"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/live"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
)

// halves scores a row with half its amount; a null amount gives no finite score.
type halves struct{}

func (halves) Inputs() []models.Feature {
	return []models.Feature{{Name: "amount", Type: models.Number}, {Name: "shop", Type: models.Category, Categories: []string{"a", "b"}}}
}
func (halves) Outputs() []string { return []string{"score"} }
func (halves) Score(_ context.Context, x []float32, rows int, out []float32) error {
	for i := range rows {
		out[i] = x[2*i]/2 + 10*x[2*i+1]
	}
	return models.CheckShape(2, 1, x, rows, out)
}

func TestScore(t *testing.T) {
	s, err := event.NewSchema([]event.Field{{Name: "id", Kind: event.ID}, {Name: "amount", Kind: event.Decimal, Scale: 2}, {Name: "shop", Kind: event.Category}}, "id", "")
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, 4)
	b.N = 4
	b.Cols[0].Ints = []int64{1, 2, 3, 4}
	b.Cols[1].Ints = []int64{150, 0, 400, 100}
	b.Cols[1].SetNull(1, 4)
	for _, shop := range []string{"a", "a", "b", "never seen"} {
		b.Cols[2].AppendRaw([]byte(shop))
	}
	twelve := 12.0
	v := &live.Version{Name: "m", Number: 3, Scorer: halves{}, Threshold: &twelve}
	l := &line{
		model:    Model{Name: "m", Decide: []Decision{{Name: "high", When: "score >= threshold && amount > 2"}, {Name: "low", When: "score < threshold"}}},
		champion: &lane{newest: func() *live.Version { return v }},
	}
	for range 2 { // the second time what was compiled is used again
		got, letters, err := l.score(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if len(letters) != 1 || letters[0].ID != "2" || letters[0].Class != deadletter.Score || letters[0].Model != "m@3" {
			t.Errorf("letters %+v: want one of event 2, class score", letters)
		}
		if d := cmp.Diff([]int64{1, 3, 4}, got.Col("id").Ints); d != "" {
			t.Error(d)
		}
		// 1.5/2, 4/2 + 10 x the code of b, 1/2 + 10 x the code of what training did not see.
		if d := cmp.Diff([]float64{0.75, 12, 20.5}, got.Col(ScoreColumn).Floats); d != "" {
			t.Error(d)
		}
		dec := got.Col(DecisionColumn)
		if string(dec.Raw(0)) != "low" || string(dec.Raw(1)) != "high" || !dec.Null(2) {
			t.Errorf("decisions %q %q null %v: want low, high, null", dec.Raw(0), dec.Raw(1), dec.Null(2))
		}
		if string(got.Col(ModelColumn).Raw(2)) != "m@3" {
			t.Errorf("model %q", got.Col(ModelColumn).Raw(2))
		}
	}
}

func TestHalvesAgree(t *testing.T) {
	const rows = 3000
	x, whole, split := make([]float32, 2*rows), make([]float32, rows), make([]float32, rows)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	if err := (halves{}).Score(t.Context(), x, rows, whole); err != nil {
		t.Fatal(err)
	}
	if err := scoreHalves(t.Context(), halves{}, x, rows, split); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(whole, split); d != "" {
		t.Error(d)
	}
}

func TestValidate(t *testing.T) {
	for _, p := range []Params{{}, {Models: []Model{{Name: "m"}}}, {Models: []Model{{Name: "m", Registry: "r"}}}, {Models: []Model{{Name: "m", Registry: "r", Version: 1, Scorer: "s"}}},
		{Models: []Model{{Name: "m", Registry: "r", Version: 1, Alias: "champion"}}},
		{Models: []Model{{Name: "m", Scorer: "s", Alias: "champion"}}},
		{Models: []Model{{Name: "m", Registry: "r", Version: 1, Shadow: "shadow"}}},
		{Models: []Model{{Name: "m", Registry: "r", Version: 1, Poll: 1}}},
		{Models: []Model{{Name: "m", Registry: "r", Alias: "champion", Poll: -1}}},
		{Models: []Model{{Name: "m", Registry: "r", Alias: "champion", Shadow: "champion"}}},
		{Models: []Model{{Name: "m", Registry: "r", Alias: "champion", Canary: Canary{Alias: "x"}}}},
		{Models: []Model{{Name: "m", Registry: "r", Alias: "champion", Canary: Canary{Alias: "x", Share: 1.5}}}},
		{Models: []Model{{Name: "m", Registry: "r", Alias: "champion", Canary: Canary{Share: 0.5}}}},
		{Models: []Model{{Name: "m", Registry: "r", Alias: "champion", Shadow: "x", Canary: Canary{Alias: "x", Share: 0.5}}}}} {
		if p.Validate() == nil {
			t.Errorf("%+v passes", p)
		}
	}
	good := Params{Models: []Model{
		{Name: "m", Registry: "r", Version: 1},
		{Name: "m", Registry: "r", Alias: "champion", Poll: 1, Shadow: "s", Canary: Canary{Alias: "c", Share: 0.05}},
	}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}
