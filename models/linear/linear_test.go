package linear

import (
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
)

func number(names ...string) (out []models.Feature) {
	for _, n := range names {
		out = append(out, models.Feature{Name: n, Type: models.Number})
	}
	return out
}

func train1(t testing.TB, kind string, d models.Dataset, given map[string]any) *Model {
	t.Helper()
	k, err := models.Lookup(kind)
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Complete(given)
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.Train(t.Context(), models.Training{Train: d, Params: p})
	if err != nil {
		t.Fatal(err)
	}
	return m.(*Model)
}

func score(t testing.TB, m models.Scorer, x []float32) []float32 {
	t.Helper()
	rows := len(x) / len(m.Inputs())
	out := make([]float32, rows)
	if err := m.Score(t.Context(), x, rows, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func data(rows int) models.Dataset {
	rng := rand.New(rand.NewPCG(1, 2))
	d := models.Dataset{Features: append(number("a", "b"), models.Feature{Name: "c", Type: models.Category, Categories: []string{"x", "y"}})}
	for range rows {
		a, b, c := rng.NormFloat64()*50+1000, rng.NormFloat64(), rng.IntN(2)
		y := float32(0)
		if (a-1000)/50-b+float64(c)+rng.NormFloat64() > 0 {
			y = 1
		}
		x := float32(a)
		if rng.IntN(20) == 0 {
			x = float32(math.NaN())
		}
		d.X = append(d.X, x, float32(b), float32(c))
		d.Y = append(d.Y, y)
	}
	return d
}

// At the optimum of the unpenalised bias the mean score is the share of positives.
func TestLogisticIsCalibratedOnItsRows(t *testing.T) {
	d := data(2000)
	var scores, labels float64
	for i, s := range score(t, train1(t, Logistic, d, nil), d.X) {
		scores += float64(s)
		labels += float64(d.Y[i])
	}
	if math.Abs(scores-labels) > 1e-3*labels {
		t.Errorf("scores sum to %v, labels to %v", scores, labels)
	}
}

func TestLinearRecoversTheLine(t *testing.T) {
	d := models.Dataset{Features: number("a", "b")}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		a, b := rng.NormFloat64()*4+10, rng.NormFloat64()
		d.X = append(d.X, float32(a), float32(b))
		d.Y = append(d.Y, float32(7+3*a-2*b))
	}
	m := train1(t, Linear, d, map[string]any{"c": 1e9})
	got := score(t, m, []float32{0, 0, 1, 0, 0, 1})
	for i, want := range []float32{7, 10, 5} {
		if math.Abs(float64(got[i]-want)) > 1e-3 {
			t.Errorf("row %d: %v, want %v", i, got[i], want)
		}
	}
}

func TestRowsScoreAlikeAnywhere(t *testing.T) {
	d := data(67)
	m := train1(t, Logistic, d, nil)
	want := make([]float32, 67)
	for i := range want {
		want[i] = score(t, m, d.Row(i))[0]
	}
	for n := 1; n <= 67; n++ {
		for from := 0; from+n <= 67; from += 13 {
			if got := score(t, m, d.X[from*3:(from+n)*3]); !slices.Equal(got, want[from:from+n]) {
				t.Fatalf("batch of %d from %d scores otherwise", n, from)
			}
		}
	}
	out := make([]float32, 67)
	if n := testing.AllocsPerRun(50, func() { _ = m.Score(t.Context(), d.X, 67, out) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestStoreLoad(t *testing.T) {
	for _, kind := range []string{Logistic, Linear} {
		d := data(300)
		m := train1(t, kind, d, nil)
		files, err := m.Files()
		if err != nil {
			t.Fatal(err)
		}
		k, _ := models.Lookup(kind)
		read, err := k.Load(files)
		if err != nil {
			t.Fatal(err)
		}
		if read.Kind() != kind || !slices.Equal(score(t, m, d.X), score(t, read, d.X)) {
			t.Errorf("%s: the loaded model scores otherwise", kind)
		}
		again, err := train1(t, kind, d, nil).Files()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(files, again); diff != "" {
			t.Errorf("%s: the same training gave other bytes", kind)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	k, _ := models.Lookup(Logistic)
	files, err := train1(t, Logistic, data(50), nil).Files()
	if err != nil {
		t.Fatal(err)
	}
	other, err := train1(t, Linear, models.Dataset{Features: number("a"), X: []float32{1, 2}, Y: []float32{1, 2}}, nil).Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(models.Files){
		"no files":        func(f models.Files) { clear(f) },
		"extra file":      func(f models.Files) { f["x"] = nil },
		"another kind":    func(f models.Files) { f["model.json"] = other["model.json"] },
		"another encoder": func(f models.Files) { f["encoder.json"] = other["encoder.json"] },
		"other weights":   func(f models.Files) { f["weights.safetensors"] = other["weights.safetensors"] },
		"torn weights":    func(f models.Files) { f["weights.safetensors"] = f["weights.safetensors"][:90] },
		"NaN": func(f models.Files) {
			b := slices.Clone(f["weights.safetensors"])
			copy(b[len(b)-8:], []byte{0, 0, 0, 0, 0, 0, 0xf8, 0x7f})
			f["weights.safetensors"] = b
		},
	} {
		f := maps.Clone(files)
		change(f)
		if _, err := k.Load(f); !errors.Is(err, models.ErrFiles) {
			t.Errorf("%s gave %v", name, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	s, err := train1(f, Logistic, data(50), nil).Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s["model.json"], s["encoder.json"], s["weights.safetensors"])
	k, _ := models.Lookup(Logistic)
	f.Fuzz(func(t *testing.T, model, encoder, weights []byte) {
		m, err := k.Load(models.Files{"model.json": model, "encoder.json": encoder, "weights.safetensors": weights})
		if err != nil {
			if !errors.Is(err, models.ErrFiles) {
				t.Fatal(err)
			}
			return
		}
		if err := m.Score(t.Context(), make([]float32, len(m.Inputs())), 1, make([]float32, 1)); err != nil {
			t.Fatal(err)
		}
	})
}
