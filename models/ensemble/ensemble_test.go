package ensemble

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/forest"
	"github.com/millrace-ml/millrace/models/gbdt"
	"github.com/millrace-ml/millrace/models/internal/tree/treetest"
)

func trained(t testing.TB, k models.Kind, d models.Dataset, given map[string]any) models.Model {
	t.Helper()
	p, err := k.Complete(given)
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.Train(context.Background(), models.Training{Train: d, Params: p, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func members(t testing.TB) []Named {
	t.Helper()
	d := treetest.Synthetic(1000, 1)
	return []Named{
		{"boosted", trained(t, gbdt.Kind(), d, map[string]any{"trees": 30, "depth": 4})},
		{"forest", trained(t, forest.Kind(), d, map[string]any{"trees": 30, "depth": 8})},
		{"stumps", trained(t, gbdt.Kind(), d, map[string]any{"trees": 30, "depth": 1})},
	}
}

func logLoss(scores []float32, labels []float32) float64 {
	sum := 0.0
	for i, s := range scores {
		p := max(1e-6, min(1-1e-6, float64(s)))
		if labels[i] == 0 {
			p = 1 - p
		}
		sum -= math.Log(p)
	}
	return sum / float64(len(scores))
}

func TestBlend(t *testing.T) {
	t.Parallel()
	ms, d := members(t), treetest.Synthetic(600, 2)
	m, err := Blend(ms, []float64{3, 1, 0})
	if err != nil {
		t.Fatal(err)
	}
	a, b := treetest.Score(t, ms[0].Model, d.X, 600), treetest.Score(t, ms[1].Model, d.X, 600)
	for i, got := range treetest.Score(t, m, d.X, 600) {
		if want := 0.75*float64(a[i]) + 0.25*float64(b[i]); math.Abs(float64(got)-want) > 1e-7 {
			t.Fatalf("row %d: %v, expected %v", i, got, want)
		}
	}
	odds, err := BlendLogOdds(ms[:1], nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range treetest.Score(t, odds, d.X, 600) {
		if want := max(1e-6, min(1-1e-6, a[i])); math.Abs(float64(got-want)) > 1e-6 {
			t.Fatalf("row %d: blend of one %v, the one %v", i, got, want)
		}
	}
	treetest.SameAtAnyPlace(t, m, d)
}

func TestStack(t *testing.T) {
	t.Parallel()
	ms, held, test := members(t), treetest.Synthetic(2000, 3), treetest.Synthetic(2000, 4)
	m, err := Stack(t.Context(), ms, held)
	if err != nil {
		t.Fatal(err)
	}
	even, err := BlendLogOdds(ms, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, e := logLoss(treetest.Score(t, m, held.X, 2000), held.Y), logLoss(treetest.Score(t, even, held.X, 2000), held.Y); s > e+1e-7 {
		t.Errorf("log loss %v on the rows it was fitted to, even weights have %v", s, e)
	}
	weights, intercept := m.Weights()
	x := held.X[:3*len(held.Features)]
	for i, got := range treetest.Score(t, m, x, 3) {
		z := intercept
		for j, member := range ms {
			p := float64(treetest.Score(t, member.Model, x, 3)[i])
			z += weights[j] * math.Log(p/(1-p))
		}
		if want := 1 / (1 + math.Exp(-z)); math.Abs(float64(got)-want) > 1e-6 || intercept == 0 {
			t.Errorf("row %d: %v, expected %v with intercept %v", i, got, want, intercept)
		}
	}
	stacked := logLoss(treetest.Score(t, m, test.X, 2000), test.Y)
	for _, member := range ms {
		if alone := logLoss(treetest.Score(t, member.Model, test.X, 2000), test.Y); stacked > alone+0.003 {
			t.Errorf("log loss %v on unseen rows, %s alone has %v", stacked, member.Name, alone)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	ms, held := members(t), treetest.Synthetic(500, 5)
	inner, err := Stack(t.Context(), ms, held)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Blend([]Named{{"stack", inner}, {"stumps", ms[2].Model}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := m.Files()
	if err != nil {
		t.Fatal(err)
	}
	if files["members/00-stack/members/01-forest/forest.json"] == nil {
		t.Error("nested member is not in its folder")
	}
	kind, err := models.Lookup(KindName)
	if err != nil {
		t.Fatal(err)
	}
	again, err := kind.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	treetest.SameScores(t, m, again, held.X)
	second, err := again.Files()
	if err != nil || len(second) != len(files) {
		t.Fatal(err)
	}
	for name, b := range files {
		if !bytes.Equal(b, second[name]) {
			t.Errorf("%s changes on its way", name)
		}
	}
	delete(files, "members/00-stack/members/01-forest/forest.json")
	if _, err := kind.Load(files); !errors.Is(err, models.ErrFiles) {
		t.Errorf("a member's file is missing: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	ms := members(t)
	d := treetest.Synthetic(100, 6)
	d.Features = append([]models.Feature{{Name: "other", Type: models.Number}}, d.Features[1:]...)
	stranger := Named{"stranger", trained(t, gbdt.Kind(), d, map[string]any{"trees": 1})}
	for name, f := range map[string]func() error{
		"no members":   func() error { _, err := Blend(nil, nil); return err },
		"weights":      func() error { _, err := Blend(ms, []float64{1}); return err },
		"negative":     func() error { _, err := Blend(ms, []float64{1, -1, 1}); return err },
		"all 0":        func() error { _, err := Blend(ms, []float64{0, 0, 0}); return err },
		"name":         func() error { _, err := Blend([]Named{{"../x", ms[0].Model}}, nil); return err },
		"same name":    func() error { _, err := Blend([]Named{ms[0], ms[0]}, nil); return err },
		"other inputs": func() error { _, err := Blend([]Named{ms[0], stranger}, nil); return err },
		"no rows": func() error {
			_, err := Stack(context.Background(), ms, models.Dataset{Features: d.Features})
			return err
		},
		"label": func() error {
			bad := d
			bad.Y = append([]float32{2}, d.Y[1:]...)
			_, err := Stack(context.Background(), ms, bad)
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	m, err := Blend(ms, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Score(t.Context(), make([]float32, 5), 2, make([]float32, 2)); !errors.Is(err, models.ErrShape) {
		t.Errorf("short matrix: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	ms := members(f)
	m, err := Blend(ms[:2], nil)
	if err != nil {
		f.Fatal(err)
	}
	files, err := m.Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(files[fileName])
	f.Add([]byte(`{"format":1,"method":"log_odds","members":[{"name":"boosted","kind":"ensemble","weight":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all := models.Files{}
		for name, b := range files {
			all[name] = b
		}
		all[fileName] = b
		m, err := load(all)
		if err != nil {
			if !errors.Is(err, models.ErrFiles) && !errors.Is(err, models.ErrUnknownKind) {
				t.Fatalf("%v is neither ErrFiles nor ErrUnknownKind", err)
			}
			return
		}
		treetest.Score(t, m, make([]float32, 5*3), 3)
	})
}
