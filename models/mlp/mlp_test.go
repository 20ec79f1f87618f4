package mlp

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
)

// mixed is a problem with a number that has nulls and a category: the label follows from both.
func mixed(rows int, seed uint64) models.Dataset {
	rng := rand.New(rand.NewPCG(seed, 2))
	d := models.Dataset{Features: []models.Feature{
		{Name: "amount", Type: models.Number},
		{Name: "country", Type: models.Category, Categories: []string{"a", "b", "c"}},
	}}
	for range rows {
		v, c := rng.NormFloat64()*20+100, rng.IntN(4)
		y := float32(0)
		if (v > 100) == (c%2 == 0) {
			y = 1
		}
		x := float32(v)
		if rng.IntN(10) == 0 {
			x, y = float32(math.NaN()), 1
		}
		d.X = append(d.X, x, float32(c))
		d.Y = append(d.Y, y)
	}
	return d
}

func train1(t testing.TB, d models.Dataset, seed uint64, given map[string]any) models.Model {
	t.Helper()
	k, err := models.Lookup(Kind)
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Complete(given)
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.Train(t.Context(), models.Training{Train: d, Params: p, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var quick = map[string]any{"layers": []any{16}, "epochs": 30, "batch": 64, "rate": 0.01}

func TestTrainStoreLoad(t *testing.T) {
	d := mixed(1500, 1)
	m := train1(t, d, 1, quick)
	if diff := cmp.Diff(d.Features, m.Inputs()); diff != "" {
		t.Error(diff)
	}
	fresh := mixed(500, 2)
	scores, right := score(t, m, fresh.X), 0
	for i, y := range fresh.Y {
		if (scores[i] > 0.5) == (y == 1) {
			right++
		}
	}
	if right < 460 {
		t.Errorf("%d of 500 fresh rows are right", right)
	}

	files, err := m.Files()
	if err != nil {
		t.Fatal(err)
	}
	k, _ := models.Lookup(Kind)
	read, err := k.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(scores, score(t, read, fresh.X), same) {
		t.Error("the loaded model scores otherwise")
	}
	again, err := read.Files()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, again); diff != "" {
		t.Error("the loaded model is stored otherwise")
	}
	other, _ := train1(t, d, 1, quick).Files()
	if diff := cmp.Diff(files, other); diff != "" {
		t.Error("the same training gave other bytes")
	}
	if other, _ := train1(t, d, 2, quick).Files(); cmp.Equal(files, other) {
		t.Error("another seed gave the same bytes")
	}
}

// Values far from 0 and far apart: only standardised labels are learnt in so few steps.
func TestSquaredLoss(t *testing.T) {
	d := mixed(1500, 3)
	for i, y := range d.Y {
		d.Y[i] = 5000 + 1000*y
	}
	given := maps.Clone(quick)
	given["loss"] = "squared"
	m := train1(t, d, 1, given)
	var miss, spread float64
	for i, v := range score(t, m, d.X) {
		miss += math.Pow(float64(v-d.Y[i]), 2)
		spread += math.Pow(float64(d.Y[i]-5500), 2)
	}
	if miss > 0.25*spread {
		t.Errorf("%.2f of the variance is unexplained", miss/spread)
	}
}

func TestClassWeightRaisesScores(t *testing.T) {
	d := mixed(800, 4)
	given := maps.Clone(quick)
	mean := func(m models.Model) (sum float64) {
		for _, v := range score(t, m, d.X) {
			sum += float64(v)
		}
		return sum / float64(d.Rows())
	}
	given["epochs"] = 3
	plain := mean(train1(t, d, 1, given))
	given["class_weight"] = 20.0
	if heavy := mean(train1(t, d, 1, given)); heavy < plain+0.1 {
		t.Errorf("mean score %v, with heavy positives %v", plain, heavy)
	}
}

func TestScoreRefusesShapes(t *testing.T) {
	m := network(t, 1, binary, 3, 1)
	for _, c := range []struct{ x, rows, out int }{{2, 1, 1}, {3, 1, 2}, {3, -1, 1}, {0, 1, 1}} {
		if err := m.Score(t.Context(), make([]float32, c.x), c.rows, make([]float32, c.out)); !errors.Is(err, models.ErrShape) {
			t.Errorf("%+v gave %v", c, err)
		}
	}
	if err := m.Score(t.Context(), nil, 0, nil); err != nil {
		t.Errorf("no rows gave %v", err)
	}
}

func TestTrainRefuses(t *testing.T) {
	k, _ := models.Lookup(Kind)
	p, _ := k.Complete(nil)
	d := mixed(10, 1)
	d.Y[3] = 2
	if _, err := k.Train(t.Context(), models.Training{Train: d, Params: p}); err == nil {
		t.Error("a label of 2 gave no error")
	}
	if _, err := k.Train(t.Context(), models.Training{Train: models.Dataset{Features: d.Features}, Params: p}); !errors.Is(err, models.ErrShape) {
		t.Errorf("no rows gave %v", err)
	}
}

func stored(t testing.TB) models.Files {
	t.Helper()
	f, err := network(t, 1, binary, 2, 3, 1).Files()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLoadRefuses(t *testing.T) {
	k, _ := models.Lookup(Kind)
	wide, _ := network(t, 1, binary, 3, 3, 1).Files()
	noOutput := network(t, 1, binary, 2, 3)
	for name, change := range map[string]func(models.Files){
		"no model":       func(f models.Files) { delete(f, "model.json") },
		"extra file":     func(f models.Files) { f["x"] = nil },
		"other version":  func(f models.Files) { f["model.json"] = []byte(`{"version":2,"kind":"mlp","loss":"binary"}`) },
		"other kind":     func(f models.Files) { f["model.json"] = []byte(`{"version":1,"kind":"mlq","loss":"binary"}`) },
		"other loss":     func(f models.Files) { f["model.json"] = []byte(`{"version":1,"kind":"mlp","loss":"hinge"}`) },
		"unknown field":  func(f models.Files) { f["model.json"] = []byte(`{"version":1,"kind":"mlp","loss":"binary","a":1}`) },
		"two documents":  func(f models.Files) { f["model.json"] = append(f["model.json"], "{}"...) },
		"other encoder":  func(f models.Files) { f["encoder.json"] = wide["encoder.json"] },
		"other weights":  func(f models.Files) { f["weights.safetensors"] = wide["weights.safetensors"] },
		"torn weights":   func(f models.Files) { f["weights.safetensors"] = f["weights.safetensors"][:100] },
		"several scores": func(f models.Files) { maps.Copy(f, must(noOutput.Files())) },
		"no units":       func(f models.Files) { maps.Copy(f, must(network(t, 1, binary, 2, 0, 1).Files())) },
		"NaN weight": func(f models.Files) {
			b := f["weights.safetensors"]
			copy(b[len(b)-4:], []byte{0, 0, 0xc0, 0x7f})
		},
	} {
		f := stored(t)
		change(f)
		if _, err := k.Load(f); !errors.Is(err, models.ErrFiles) {
			t.Errorf("%s gave %v", name, err)
		}
	}
}

func must(f models.Files, err error) models.Files {
	if err != nil {
		panic(err)
	}
	return f
}

func FuzzLoad(f *testing.F) {
	s := stored(f)
	f.Add(s["model.json"], s["encoder.json"], s["weights.safetensors"], float32(1), float32(2))
	k, _ := models.Lookup(Kind)
	f.Fuzz(func(t *testing.T, model, encoder, weights []byte, a, b float32) {
		m, err := k.Load(models.Files{"model.json": model, "encoder.json": encoder, "weights.safetensors": weights})
		if err != nil {
			if !errors.Is(err, models.ErrFiles) {
				t.Fatal(err)
			}
			return
		}
		n := len(m.Inputs())
		x := make([]float32, 5*n)
		for i := range x {
			x[i] = []float32{a, b}[i%2]
		}
		got := score(t, m, x)
		plainly(func() {
			for i, v := range score(t, m, x) {
				if !same(v, got[i]) {
					t.Fatalf("row %d: %v and %v", i, got[i], v)
				}
			}
		})
	})
}

func Example() {
	kind, err := models.Lookup(Kind)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range kind.Params[:3] {
		fmt.Println(p.Name, p.Default)
	}
	// Output:
	// layers [64 32]
	// loss binary
	// epochs 10
}
