package calibration

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/gbdt"
	"github.com/millrace-ml/millrace/models/internal/tree/treetest"
)

type rows struct{ scores, labels, weights []float32 }

// draw gives scores between 0 and 1 with ties; some weights are 0.
func draw(r *rapid.T) rows {
	var d rows
	for range rapid.IntRange(1, 60).Draw(r, "rows") {
		d.scores = append(d.scores, float32(rapid.IntRange(0, 40).Draw(r, "score"))/40)
		d.labels = append(d.labels, float32(rapid.IntRange(0, 1).Draw(r, "label")))
		d.weights = append(d.weights, rapid.SampledFrom([]float32{1, 1, 1, 2.5, 0}).Draw(r, "weight"))
	}
	return d
}

func (d rows) loss(probability func(score float64) float64) float64 {
	sum := 0.0
	for i, s := range d.scores {
		p := probability(float64(s))
		if d.labels[i] == 0 {
			p = 1 - p
		}
		if d.weights[i] > 0 {
			sum -= float64(d.weights[i]) * math.Log(p)
		}
	}
	return sum
}

// naive is isotonic regression by its definition: the value of group i is the maximum over groups
// j <= i of the minimum over groups k >= i of the mean of groups j to k.
func naive(d rows) (scores, values []float64) {
	weight, positives := map[float64]float64{}, map[float64]float64{}
	for i, s := range d.scores {
		if w := float64(d.weights[i]); w > 0 {
			weight[float64(s)] += w
			positives[float64(s)] += w * float64(d.labels[i])
		}
	}
	for s := range weight {
		scores = append(scores, s)
	}
	slices.Sort(scores)
	for i := range scores {
		best := math.Inf(-1)
		for j := 0; j <= i; j++ {
			least, w, p := math.Inf(1), 0.0, 0.0
			for k := j; k < len(scores); k++ {
				w, p = w+weight[scores[k]], p+positives[scores[k]]
				if k >= i {
					least = min(least, p/w)
				}
			}
			best = max(best, least)
		}
		values = append(values, best)
	}
	return scores, values
}

func total(d rows) (n float64) {
	for _, w := range d.weights {
		n += float64(w)
	}
	return n
}

func TestIsotonicAgainstDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		d := draw(r)
		c, err := Fit(Isotonic, d.scores, d.labels, d.weights)
		if total(d) == 0 {
			if !errors.Is(err, models.ErrShape) {
				r.Fatalf("no weight: %v", err)
			}
			return
		}
		if err != nil {
			r.Fatal(err)
		}
		least := 1 / (total(d) + 2)
		scores, values := naive(d)
		for i, s := range scores {
			if want := max(least, min(1-least, values[i])); math.Abs(c.Apply(s)-want) > 1e-9 {
				r.Fatalf("score %v: %v, by definition %v", s, c.Apply(s), want)
			}
		}
		clipped := func(s float64) float64 { return max(least, min(1-least, s)) }
		if got, before := d.loss(c.Apply), d.loss(clipped); got > before+1e-9 {
			r.Fatalf("log loss %v, before %v", got, before)
		}
	})
}

// TestRises checks every kind of fit between and beyond the rows too.
func TestRises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		d := draw(r)
		for _, method := range []string{Platt, Isotonic} {
			c, err := Fit(method, d.scores, d.labels, d.weights)
			if err != nil {
				if method == Platt && !errors.Is(err, ErrNoSignal) {
					r.Fatal(err)
				}
				continue
			}
			if err := c.Validate(); err != nil {
				r.Fatalf("%s: %v", method, err)
			}
			last := -1.0
			for s := -0.2; s <= 1.2; s += 0.003 {
				p := c.Apply(s)
				if !(p >= last && p >= 0 && p <= 1) {
					r.Fatalf("%s: %v after %v at %v", method, p, last, s)
				}
				if method == Platt && s > 0.01 && s < 0.99 && p == last && p > 1e-12 && p < 1-1e-12 {
					r.Fatalf("%v is tied with the score before", s)
				}
				last = p
			}
		}
	})
}

func TestPlattIsNotWorse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		d := draw(r)
		c, err := Fit(Platt, d.scores, d.labels, d.weights)
		if err != nil {
			return // no signal; TestRises looks at that
		}
		clipped := func(s float64) float64 { return max(1e-6, min(1-1e-6, s)) }
		if got, before := d.loss(c.Apply), d.loss(clipped); got > before+1e-6 {
			r.Fatalf("log loss %v, before %v", got, before)
		}
	})
}

// TestPlattRecovers draws labels from a known sigmoid of the log odds, and from one of the scores.
func TestPlattRecovers(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, truth := range []Calibration{
		{Method: Platt, Slope: 0.5, Intercept: -1, LogOdds: true},
		{Method: Platt, Slope: 6, Intercept: -4},
		{Method: Platt, Slope: 0.02, Intercept: -4}, // scores far outside 0 and 1
	} {
		var scores, labels []float32
		for range 40_000 {
			s := r.Float32()
			if truth.Slope == 0.02 {
				s *= 400
			}
			y := float32(0)
			if r.Float64() < truth.Apply(float64(s)) {
				y = 1
			}
			scores, labels = append(scores, s), append(labels, y)
		}
		c, err := Fit(Platt, scores, labels, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.LogOdds != truth.LogOdds || math.Abs(c.Slope/truth.Slope-1) > 0.06 || math.Abs(c.Intercept-truth.Intercept) > 0.15 {
			t.Errorf("got %+v, expected %+v", *c, truth)
		}
	}
}

func TestFitRefuses(t *testing.T) {
	t.Parallel()
	nan := float32(math.NaN())
	for name, f := range map[string]func() error{
		"no rows":   func() error { _, err := Fit(Platt, nil, nil, nil); return err },
		"lengths":   func() error { _, err := Fit(Platt, []float32{1}, []float32{1, 0}, nil); return err },
		"NaN score": func() error { _, err := Fit(Isotonic, []float32{nan}, []float32{1}, nil); return err },
		"label":     func() error { _, err := Fit(Isotonic, []float32{1}, []float32{2}, nil); return err },
		"weight":    func() error { _, err := Fit(Isotonic, []float32{1}, []float32{1}, []float32{-1}); return err },
		"method":    func() error { _, err := Fit("beta", []float32{1}, []float32{1}, nil); return err },
		"falling scores": func() error {
			_, err := Fit(Platt, []float32{0.1, 0.9, 0.2, 0.8}, []float32{1, 0, 1, 0}, nil)
			return err
		},
	} {
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		} else if name == "falling scores" && !errors.Is(err, ErrNoSignal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func trained(t testing.TB) (models.Model, models.Dataset) {
	t.Helper()
	train, held := treetest.Synthetic(800, 1), treetest.Synthetic(800, 2)
	p, err := gbdt.Kind().Complete(map[string]any{"trees": 20})
	if err != nil {
		t.Fatal(err)
	}
	m, err := gbdt.Train(context.Background(), models.Training{Train: train, Params: p})
	if err != nil {
		t.Fatal(err)
	}
	return m, held
}

func TestWrap(t *testing.T) {
	t.Parallel()
	inner, held := trained(t)
	scores := treetest.Score(t, inner, held.X, held.Rows())
	for _, method := range []string{Platt, Isotonic} {
		c, err := Fit(method, scores, held.Y, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Wrap(inner, c)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range treetest.Score(t, m, held.X, held.Rows()) {
			if p != float32(c.Apply(float64(scores[i]))) {
				t.Fatalf("row %d: %v, expected %v", i, p, c.Apply(float64(scores[i])))
			}
		}
		treetest.SameAtAnyPlace(t, m, held)
		files, err := m.Files()
		if err != nil {
			t.Fatal(err)
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
		if err != nil || !bytes.Equal(files[fileName], second[fileName]) || len(files) != len(second) {
			t.Errorf("stored form changes on its way: %v", err)
		}
	}
	if _, err := Wrap(inner, &Calibration{Method: Platt, Slope: -1}); err == nil {
		t.Error("no error for a falling calibration")
	}
}

// TestNestingIsBounded wraps a model in itself until storing refuses, and loads files whose names
// pretend to nest further.
func TestNestingIsBounded(t *testing.T) {
	t.Parallel()
	inner, _ := trained(t)
	m := inner
	var files models.Files
	levels := 0
	for err := error(nil); ; levels++ {
		if m, err = Wrap(m, &Calibration{Method: Platt, Slope: 1}); err != nil {
			t.Fatal(err)
		}
		next, err := m.Files()
		if err != nil {
			break
		}
		files = next
	}
	if levels < 4 || levels > 20 {
		t.Errorf("%d levels", levels)
	}
	deeper := models.Files{fileName: files[fileName]}
	for name, b := range files {
		deeper[within+"/"+name] = b
	}
	if _, err := load(deeper); !errors.Is(err, models.ErrFiles) {
		t.Errorf("one level more: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	inner, _ := trained(f)
	files, err := inner.Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"format":1,"kind":"gbdt","method":"platt","slope":1,"intercept":0}`))
	f.Add([]byte(`{"format":1,"kind":"gbdt","method":"isotonic","scores":[0,1],"probabilities":[0.1,0.2]}`))
	f.Add([]byte(`{"format":1,"kind":"calibrated","method":"isotonic","scores":[0],"probabilities":[0.1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all := models.Files{fileName: b}
		for name, b := range files {
			all[within+"/"+name] = b
		}
		m, err := load(all)
		if err != nil {
			if !errors.Is(err, models.ErrFiles) && !errors.Is(err, models.ErrUnknownKind) {
				t.Fatalf("%v is neither ErrFiles nor ErrUnknownKind", err)
			}
			return
		}
		for _, p := range treetest.Score(t, m, make([]float32, 5*3), 3) {
			if !(p >= 0 && p <= 1) {
				t.Fatalf("probability %v", p)
			}
		}
	})
}
