package gbdt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
	"github.com/millrace-ml/millrace/models/internal/tree/treetest"
)

var nan = float32(math.NaN())

func fit(t testing.TB, d models.Dataset, workers int, given map[string]any) *Model {
	t.Helper()
	m, err := Train(context.Background(), models.Training{Train: d, Params: complete(t, given), Seed: 5, Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func score(t testing.TB, m *Model, x []float32, rows int) []float32 {
	t.Helper()
	return treetest.Score(t, m, x, rows)
}

func sameScores(t testing.TB, a, b *Model, x []float32) {
	t.Helper()
	treetest.SameScores(t, a, b, x)
}

func loss(d models.Dataset, p []float32) float64 {
	sum := 0.0
	for i, y := range d.Y {
		if y == 1 {
			sum -= math.Log(float64(p[i]))
		} else {
			sum -= math.Log1p(-float64(p[i]))
		}
	}
	return sum / float64(len(d.Y))
}

// exact is the slow way: every threshold between distinct values of every feature, missing values
// on either side, on plain floats.
type exact struct {
	growth
	d    models.Dataset
	g, h []float64
}

func (e exact) sums(rows []int) (g, h float64) {
	for _, r := range rows {
		g, h = g+e.g[r], h+e.h[r]
	}
	return g, h
}

func (e exact) score(g, h float64) float64 { return g * g / (h + e.lambda) }

// divide sends rows left and right of a threshold.
func (e exact) divide(rows []int, feature int, threshold float32, missingLeft bool) (left, right []int) {
	for _, r := range rows {
		v := e.d.Row(r)[feature]
		if v < threshold || v != v && missingLeft {
			left = append(left, r)
		} else {
			right = append(right, r)
		}
	}
	return left, right
}

// gain is the gain of a division, or less than nothing where it breaks a rule.
func (e exact) gain(rows, left, right []int) float64 {
	g, h := e.sums(rows)
	gl, hl := e.sums(left)
	gr, hr := e.sums(right)
	if len(left) == 0 || len(right) == 0 || hl < e.minChildWeight || hr < e.minChildWeight {
		return -1
	}
	return e.score(gl, hl) + e.score(gr, hr) - e.score(g, h)
}

func (e exact) best(rows []int) float64 {
	best := -1.0
	for f := range e.d.Features {
		for _, r := range rows {
			v := e.d.Row(r)[f]
			if v != v {
				continue
			}
			for _, threshold := range []float32{v, math.MaxFloat32} {
				for _, missingLeft := range []bool{false, true} {
					left, right := e.divide(rows, f, threshold, missingLeft)
					best = max(best, e.gain(rows, left, right))
				}
			}
		}
	}
	return best
}

// TestAgainstExactGreedy grows single trees on small data, where every distinct value has a bin, and
// checks every node: a split gains as much as the best that exists, a leaf has none left and its
// value is -G/(H+lambda) times the rate.
func TestAgainstExactGreedy(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		rows := rapid.IntRange(2, 60).Draw(r, "rows")
		d := models.Dataset{Features: []models.Feature{{Name: "a", Type: models.Number}, {Name: "b", Type: models.Number}, {Name: "c", Type: models.Number}}}
		value := rapid.SampledFrom([]float32{nan, -2, -1, 0, 0.25, 1, 3, 8, 1e30})
		for range rows {
			d.X = append(d.X, value.Draw(r, "a"), value.Draw(r, "b"), rapid.Float32Range(-1, 1).Draw(r, "c"))
			d.Y = append(d.Y, float32(rapid.IntRange(0, 1).Draw(r, "y")))
			d.W = append(d.W, rapid.SampledFrom([]float32{0.5, 1, 2}).Draw(r, "w"))
		}
		e := exact{d: d, growth: growth{
			depth: rapid.IntRange(1, 4).Draw(r, "depth"), rate: 0.5,
			lambda: rapid.SampledFrom([]float64{0.1, 1, 5}).Draw(r, "lambda"),
			gamma:  rapid.SampledFrom([]float64{0, 0.3}).Draw(r, "gamma"), minChildWeight: rapid.SampledFrom([]float64{0.1, 1}).Draw(r, "least"),
		}}
		p, err := Kind().Complete(map[string]any{"trees": 1, "depth": e.depth, "rate": e.rate, "lambda": e.lambda, "gamma": e.gamma, "min_child_weight": e.minChildWeight})
		if err != nil {
			r.Fatal(err)
		}
		for i, y := range d.Y {
			e.g, e.h = append(e.g, float64(d.W[i])*(0.5-float64(y))), append(e.h, float64(d.W[i])/4)
		}
		m, err := Train(context.Background(), models.Training{Train: d, Params: p})
		if err != nil {
			r.Fatal(err)
		}
		all := make([]int, rows)
		for i := range all {
			all[i] = i
		}
		nodes := m.trees.Nodes(0)
		var visit func(at int32, rows []int, depth int)
		visit = func(at int32, rows []int, depth int) {
			n, best := nodes[at], e.best(rows)
			if n.Feature == tree.Leaf {
				g, h := e.sums(rows)
				if want := -g / (h + e.lambda) * e.rate; math.Abs(want-float64(n.Value)) > 1e-6 {
					r.Fatalf("leaf %d is %v, expected %v", at, n.Value, want)
				}
				if depth < e.depth && best > max(1e-5, e.gamma+1e-6) {
					r.Fatalf("leaf %d could split for %v", at, best)
				}
				return
			}
			left, right := e.divide(rows, int(n.Feature), n.Value, n.MissingLeft)
			if gain := e.gain(rows, left, right); math.Abs(gain-best) > 1e-6 || gain < e.gamma-1e-6 {
				r.Fatalf("node %d gains %v, the best there is %v", at, gain, best)
			}
			visit(n.Left, left, depth+1)
			visit(n.Left+1, right, depth+1)
		}
		visit(0, all, 0)
	})
}

func TestLearns(t *testing.T) {
	t.Parallel()
	train, test := treetest.Synthetic(4000, 1), treetest.Synthetic(2000, 2)
	m := fit(t, train, 0, map[string]any{"trees": 40, "depth": 3, "rate": 0.2})
	got := loss(test, score(t, m, test.X, test.Rows()))
	// The entropy of the true odds is 0.395 on these rows; their base rate alone gives 0.57.
	if got > 0.45 {
		t.Errorf("log loss %.3f on unseen rows", got)
	}
	if m.Gains()[4] != 0 || m.Gains()[0] <= 0 {
		t.Errorf("gains %v: expected some for the first input and none for the constant", m.Gains())
	}
}

func TestSquaredLoss(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(3000, 3)
	for i := range d.Y {
		x := d.Row(i)
		d.Y[i] = 1000 + 50*x[0] - 7*x[1]
	}
	m := fit(t, d, 2, map[string]any{"loss": Squared, "rate": 0.3})
	sum := 0.0
	for i, p := range score(t, m, d.X, d.Rows()) {
		sum += math.Pow(float64(p-d.Y[i]), 2)
	}
	if rmse := math.Sqrt(sum / float64(d.Rows())); rmse > 3 {
		t.Errorf("root mean square error %.2f, the labels' deviation is 50", rmse)
	}
}

func TestWorkersAndSeed(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(20_000, 4) // more than one block of rows
	given := map[string]any{"trees": 8, "subsample": 0.5, "colsample": 0.6}
	bytesOf := func(workers int, seed uint64) []byte {
		m, err := Train(context.Background(), models.Training{Train: d, Params: complete(t, given), Seed: seed, Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		files, err := m.Files()
		if err != nil {
			t.Fatal(err)
		}
		return files[fileName]
	}
	one := bytesOf(1, 5)
	for _, workers := range []int{2, 3, 8} {
		if !bytes.Equal(one, bytesOf(workers, 5)) {
			t.Errorf("%d workers give another model than one", workers)
		}
	}
	if bytes.Equal(one, bytesOf(1, 6)) {
		t.Error("another seed gives the same model")
	}
}

// TestShuffledRows: whole-number sums make the model independent of the order of rows.
func TestShuffledRows(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(3000, 6)
	a := fit(t, d, 2, map[string]any{"trees": 10})
	width := len(d.Features)
	rand.New(rand.NewPCG(1, 2)).Shuffle(d.Rows(), func(i, j int) {
		d.Y[i], d.Y[j] = d.Y[j], d.Y[i]
		for k := range width {
			d.X[i*width+k], d.X[j*width+k] = d.X[j*width+k], d.X[i*width+k]
		}
	})
	sameScores(t, a, fit(t, d, 2, map[string]any{"trees": 10}), d.X)
}

func TestScoreAtAnyPlace(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(200, 7)
	treetest.SameAtAnyPlace(t, fit(t, d, 1, map[string]any{"trees": 11}), d)
}

// TestSumsMatchTrees walks the stored nodes by hand.
func TestSumsMatchTrees(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(300, 8)
	for i := 0; i < len(d.X); i += 17 {
		d.X[i] = []float32{nan, float32(math.Inf(1)), float32(math.Inf(-1))}[i%3]
	}
	m := fit(t, d, 1, map[string]any{"trees": 9, "depth": 8, "min_child_weight": 0.0})
	got := score(t, m, d.X, d.Rows())
	for i := range got {
		row, sum := d.Row(i), m.base
		s := 0.0
		for j := range m.trees.Len() {
			nodes, at := m.trees.Nodes(j), int32(0)
			for nodes[at].Feature != tree.Leaf {
				n, v := nodes[at], row[nodes[at].Feature]
				if v < n.Value || v != v && n.MissingLeft {
					at = n.Left
				} else {
					at = n.Left + 1
				}
			}
			s += float64(nodes[at].Value)
		}
		if want := float32(sigmoid(sum + s)); want != got[i] {
			t.Fatalf("row %d: %v, by hand %v", i, got[i], want)
		}
	}
}

// TestMissingDirection: where only nulls are positive, nulls get the high score and others the low.
func TestMissingDirection(t *testing.T) {
	t.Parallel()
	d := models.Dataset{Features: []models.Feature{{Name: "a", Type: models.Number}}}
	for i := range 200 {
		v, y := float32(i), float32(0)
		if i%4 == 0 {
			v, y = nan, 1
		}
		d.X, d.Y = append(d.X, v), append(d.Y, y)
	}
	m := fit(t, d, 1, map[string]any{"trees": 10})
	got := score(t, m, []float32{nan, 3, -50, 1e9}, 4)
	if got[0] < 0.9 || got[1] > 0.1 || got[2] > 0.1 || got[3] > 0.1 {
		t.Errorf("scores of null and three numbers: %v", got)
	}
}

// TestMissingUnseen: where training saw no null, nulls follow the heavier side of each split.
func TestMissingUnseen(t *testing.T) {
	t.Parallel()
	for _, heavy := range []float32{0, 1} {
		d := models.Dataset{Features: []models.Feature{{Name: "a", Type: models.Number}}}
		for i := range 100 {
			v := heavy
			if i%10 == 0 {
				v = 1 - heavy
			}
			d.X, d.Y = append(d.X, v), append(d.Y, v)
		}
		m := fit(t, d, 1, map[string]any{"trees": 1})
		if got := score(t, m, []float32{nan, heavy}, 2); got[0] != got[1] {
			t.Errorf("score %v for null, %v for the common value", got[0], got[1])
		}
	}
}

// TestClassWeight: weighting positives by 3 is the same as having each of them three times.
func TestClassWeight(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(1500, 9)
	three := models.Dataset{Features: d.Features}
	for i, y := range d.Y {
		for range int(1 + 2*y) {
			three.X, three.Y = append(three.X, d.Row(i)...), append(three.Y, y)
		}
	}
	// Depth 1 and few values: bins and ties are the same for both.
	for i := range d.X {
		d.X[i] = float32(math.Round(float64(d.X[i])))
	}
	for i := range three.X {
		three.X[i] = float32(math.Round(float64(three.X[i])))
	}
	a := fit(t, d, 1, map[string]any{"class_weight": 3.0, "trees": 20, "depth": 2})
	b := fit(t, three, 1, map[string]any{"trees": 20, "depth": 2})
	p, q := score(t, a, d.X, d.Rows()), score(t, b, d.X, d.Rows())
	for i := range p {
		if math.Abs(float64(p[i]-q[i])) > 1e-5 {
			t.Fatalf("row %d: %v weighted, %v repeated", i, p[i], q[i])
		}
	}
}

func TestEarlyStopping(t *testing.T) {
	t.Parallel()
	train, valid := treetest.Synthetic(600, 10), treetest.Synthetic(600, 11)
	given := map[string]any{"trees": 200, "early_stopping": 10, "depth": 6, "min_child_weight": 0.0, "lambda": 0.1}
	train1 := models.Training{Train: train, Valid: valid, Params: complete(t, given)}
	m, err := Train(t.Context(), train1)
	if err != nil {
		t.Fatal(err)
	}
	if m.Trees() >= 100 {
		t.Fatalf("%d trees on 600 noisy rows", m.Trees())
	}
	best := loss(valid, score(t, m, valid.X, valid.Rows()))
	for _, trees := range []int{m.Trees() + 1, m.Trees() + 9, max(1, m.Trees()-1)} {
		other := fit(t, train, 1, map[string]any{"trees": trees, "depth": 6, "min_child_weight": 0.0, "lambda": 0.1})
		if l := loss(valid, score(t, other, valid.X, valid.Rows())); trees != m.Trees() && l < best-1e-9 {
			t.Errorf("%d trees have %v on the validation rows, the chosen %d have %v", trees, l, m.Trees(), best)
		}
	}
	train1.Valid = models.Dataset{}
	if m, err := Train(t.Context(), train1); err != nil || m.Trees() >= 200 {
		t.Errorf("without validation rows: %v, expected a stop on the last tenth", err)
	}
}

func TestTrainRefuses(t *testing.T) {
	t.Parallel()
	good := treetest.Synthetic(20, 12)
	for name, change := range map[string]func(*models.Training){
		"no rows":       func(t *models.Training) { t.Train.X, t.Train.Y = nil, nil },
		"short matrix":  func(t *models.Training) { t.Train.X = t.Train.X[1:] },
		"label of 2":    func(t *models.Training) { t.Train.Y = append([]float32{2}, t.Train.Y[1:]...) },
		"NaN label":     func(t *models.Training) { t.Train.Y = append([]float32{nan}, t.Train.Y[1:]...) },
		"weight":        func(t *models.Training) { t.Train.W = make([]float32, 20); t.Train.W[3] = -1 },
		"class weight":  func(t *models.Training) { t.Params["loss"], t.Params["class_weight"] = Squared, 2.0 },
		"bad validator": func(t *models.Training) { t.Valid = models.Dataset{Features: t.Train.Features, Y: []float32{1}} },
		"other width": func(t *models.Training) {
			t.Valid = models.Dataset{Features: t.Train.Features[:1], X: []float32{1}, Y: []float32{1}}
		},
	} {
		tr := models.Training{Train: good, Params: complete(t, nil)}
		change(&tr)
		if _, err := Train(t.Context(), tr); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Train(ctx, models.Training{Train: good, Params: complete(t, nil)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestOneClass and rows without any feature must train to a constant, not to a fault.
func TestDegenerateData(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(50, 13)
	clear(d.Y)
	if p := score(t, fit(t, d, 1, nil), d.X, 50); p[0] > 0.05 {
		t.Errorf("score %v where training saw no positive", p[0])
	}
	for i := range d.X {
		d.X[i] = nan
	}
	d.Y[0] = 1
	if p := score(t, fit(t, d, 1, nil), d.X, 50); math.Abs(float64(p[7])-1./50) > 0.02 {
		t.Errorf("score %v where all is missing and 1 of 50 is positive", p[7])
	}
	none := models.Dataset{Y: []float32{0, 1}}
	if p := score(t, fit(t, none, 1, nil), nil, 2); p[0] != 0.5 {
		t.Errorf("score %v without features, expected 0.5", p[0])
	}
	huge := models.Dataset{Features: d.Features[:1], X: []float32{1, 2, 3, 4}, Y: []float32{-3e38, 3e38, 1, 3e38}}
	for _, v := range score(t, fit(t, huge, 1, map[string]any{"loss": Squared}), huge.X, 4) {
		if v != v {
			t.Error("NaN from huge labels")
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(500, 14)
	m := fit(t, d, 1, map[string]any{"trees": 12})
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
	sameScores(t, m, again.(*Model), d.X)
	second, err := again.Files()
	if err != nil || !bytes.Equal(files[fileName], second[fileName]) {
		t.Errorf("stored form changes on its way: %v", err)
	}
}

func TestExp(t *testing.T) {
	t.Parallel()
	for x := -40.0; x <= 40; x += 0.001 {
		if want := math.Exp(x); math.Abs(exp(x)-want) > 1e-10*want {
			t.Fatalf("exp(%v) is %v, expected %v", x, exp(x), want)
		}
	}
	if exp(-1e9) > 1e-17 || exp(math.Inf(1)) < 1e17 {
		t.Error("exp does not saturate")
	}
}

func TestScoreAllocatesNothing(t *testing.T) {
	d := treetest.Synthetic(128, 15)
	m := fit(t, d, 1, map[string]any{"trees": 3})
	out := make([]float32, 128)
	if n := testing.AllocsPerRun(200, func() {
		if err := m.Score(context.Background(), d.X, 128, out); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 {
		t.Errorf("%v allocations a call", n)
	}
	if err := m.Score(context.Background(), d.X, 127, out); !errors.Is(err, models.ErrShape) {
		t.Errorf("short output: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	d := treetest.Synthetic(60, 16)
	m := fit(f, d, 1, map[string]any{"trees": 2, "depth": 2})
	files, err := m.Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(files[fileName])
	one := stored{Format: 1, Loss: Squared, Inputs: d.Features[:1], Trees: []tree.Stored{{Feature: []int32{0, -1, -1}, Left: []int32{0, 0, 0}, Value: []float32{0, 1, 2}}}}
	cyclic, err := json.Marshal(one)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cyclic)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Load(models.Files{fileName: b})
		if err != nil {
			if !errors.Is(err, models.ErrFiles) {
				t.Fatalf("%v is not ErrFiles", err)
			}
			return
		}
		score(t, m, make([]float32, 5*len(m.Inputs())), 5)
	})
}
