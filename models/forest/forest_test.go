package forest

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
	"github.com/millrace-ml/millrace/models/internal/tree/treetest"
)

func fit(t testing.TB, d models.Dataset, workers int, given map[string]any) *Model {
	t.Helper()
	m, err := Train(context.Background(), models.Training{Train: d, Params: complete(t, given), Seed: 5, Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// gini is the weighted impurity of the rows, each drawn so many times: W - (P^2 + N^2)/W.
func gini(d models.Dataset, times []uint32, rows []int, positive float64) float64 {
	var p, n float64
	for _, r := range rows {
		if d.Y[r] == 1 {
			p += positive * float64(times[r])
		} else {
			n += float64(times[r])
		}
	}
	return (p + n) - (p*p+n*n)/(p+n)
}

func divide(d models.Dataset, rows []int, feature int, threshold float32, missingLeft bool) (left, right []int) {
	for _, r := range rows {
		v := d.Row(r)[feature]
		if v < threshold || v != v && missingLeft {
			left = append(left, r)
		} else {
			right = append(right, r)
		}
	}
	return left, right
}

// TestAgainstExactGreedy grows a tree that looks at all features and checks every node against the
// slow way, for the very sample that the tree drew: the split leaves the lowest impurity there is,
// a leaf is pure, too deep or can't be divided, and holds its share of positives.
func TestAgainstExactGreedy(t *testing.T) {
	t.Parallel()
	nan := float32(math.NaN())
	rapid.Check(t, func(r *rapid.T) {
		rows := rapid.IntRange(1, 50).Draw(r, "rows")
		d := models.Dataset{Features: []models.Feature{{Name: "a", Type: models.Number}, {Name: "b", Type: models.Number}}}
		for range rows {
			d.X = append(d.X, rapid.SampledFrom([]float32{nan, -2, 0, 1, 3, 1e30}).Draw(r, "a"), rapid.Float32Range(-1, 1).Draw(r, "b"))
			d.Y = append(d.Y, float32(rapid.IntRange(0, 1).Draw(r, "y")))
		}
		depth := rapid.IntRange(1, 6).Draw(r, "depth")
		minLeaf := rapid.IntRange(1, 4).Draw(r, "least")
		positive := rapid.SampledFrom([]float64{1, 4}).Draw(r, "weight")
		seed := rapid.Uint64().Draw(r, "seed")
		p, err := Kind().Complete(map[string]any{"trees": 1, "depth": depth, "min_leaf": minLeaf, "features": All, "class_weight": positive})
		if err != nil {
			r.Fatal(err)
		}
		m, err := Train(context.Background(), models.Training{Train: d, Params: p, Seed: seed})
		if err != nil {
			r.Fatal(err)
		}
		times := make([]uint32, rows)
		newSampling(d, 0).draw(tree.NewRandom(seed, 0), times)
		var sample []int
		for i, n := range times {
			if n > 0 {
				sample = append(sample, i)
			}
		}
		count := func(rows []int) (n int) {
			for _, r := range rows {
				n += int(times[r])
			}
			return n
		}
		after := func(left, right []int) float64 {
			if len(left) == 0 || len(right) == 0 || count(left) < minLeaf || count(right) < minLeaf {
				return math.Inf(1)
			}
			return gini(d, times, left, positive) + gini(d, times, right, positive)
		}
		best := func(rows []int) float64 {
			least := math.Inf(1)
			for f := range d.Features {
				for _, row := range rows {
					for _, threshold := range []float32{d.Row(row)[f], math.MaxFloat32} {
						if threshold == threshold {
							for _, missingLeft := range []bool{false, true} {
								least = min(least, after(divide(d, rows, f, threshold, missingLeft)))
							}
						}
					}
				}
			}
			return least
		}
		nodes := m.trees.Nodes(0)
		var visit func(at int32, rows []int, deep int)
		visit = func(at int32, rows []int, deep int) {
			n := nodes[at]
			var positives, all float64
			for _, r := range rows {
				w := float64(times[r])
				if d.Y[r] == 1 {
					w *= positive
					positives += w
				}
				all += w
			}
			pure := positives == 0 || positives == all
			if n.Feature == tree.Leaf {
				if math.Abs(float64(n.Value)-positives/all) > 1e-6 {
					r.Fatalf("leaf %d is %v, expected %v", at, n.Value, positives/all)
				}
				if b := best(rows); !pure && deep < depth && !math.IsInf(b, 1) {
					r.Fatalf("leaf %d could split and leave %v of %v", at, b, gini(d, times, rows, positive))
				}
				return
			}
			left, right := divide(d, rows, int(n.Feature), n.Value, n.MissingLeft)
			if got, least := after(left, right), best(rows); pure || math.IsInf(got, 1) || got > least+1e-6 {
				r.Fatalf("node %d leaves %v, the least is %v", at, got, least)
			}
			visit(n.Left, left, deep+1)
			visit(n.Left+1, right, deep+1)
		}
		visit(0, sample, 0)
	})
}

func TestWorkersAndSeed(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(2000, 1)
	bytesOf := func(workers int, seed uint64) []byte {
		m, err := Train(context.Background(), models.Training{Train: d, Params: complete(t, map[string]any{"trees": 9}), Seed: seed, Workers: workers})
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
	for _, workers := range []int{2, 5} {
		if !bytes.Equal(one, bytesOf(workers, 5)) {
			t.Errorf("%d workers give another forest than one", workers)
		}
	}
	if bytes.Equal(one, bytesOf(1, 6)) {
		t.Error("another seed gives the same forest")
	}
}

func TestScoresAndFiles(t *testing.T) {
	t.Parallel()
	d := treetest.Synthetic(300, 2)
	m := fit(t, d, 2, map[string]any{"trees": 7, "depth": 0})
	treetest.SameAtAnyPlace(t, m, d)
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
	treetest.SameScores(t, m, again, d.X)
	for i, s := range treetest.Score(t, m, d.X, d.Rows()) {
		if s < 0 || s > 1 {
			t.Fatalf("row %d: score %v", i, s)
		}
	}
	if err := m.Score(t.Context(), d.X, 299, make([]float32, 299)); !errors.Is(err, models.ErrShape) {
		t.Errorf("short matrix: %v", err)
	}
}

// TestExclusiveOr needs splits that gain nothing by themselves.
func TestExclusiveOr(t *testing.T) {
	t.Parallel()
	d := models.Dataset{Features: []models.Feature{{Name: "a", Type: models.Number}, {Name: "b", Type: models.Number}}}
	for i := range 400 {
		a, b := i&1, i>>1&1
		d.X, d.Y = append(d.X, float32(a), float32(b)), append(d.Y, float32(a^b))
	}
	m := fit(t, d, 1, map[string]any{"trees": 20})
	for i, s := range treetest.Score(t, m, d.X[:8], 4) {
		if math.Abs(float64(s-d.Y[i])) > 0.01 {
			t.Errorf("row %d: %v, expected %v", i, s, d.Y[i])
		}
	}
}

func TestSampling(t *testing.T) {
	t.Parallel()
	d := models.Dataset{Y: make([]float32, 10_000)}
	for i := range 200 {
		d.Y[i*50] = 1
	}
	share := func(s sampling, seed uint64) (share float64, all uint32) {
		times := make([]uint32, d.Rows())
		s.draw(tree.NewRandom(seed, 0), times)
		var positives uint32
		for i, n := range times {
			all += n
			positives += n * uint32(d.Y[i])
		}
		return float64(positives) / float64(all), all
	}
	if got, all := share(newSampling(d, 0), 1); all != 10_000 || math.Abs(got-0.02) > 0.006 {
		t.Errorf("share %v of %d drawn rows, expected about 0.02 of 10000", got, all)
	}
	for _, want := range []float64{0.1, 0.5, 0.01} {
		got, all := share(newSampling(d, want), 2)
		if math.Abs(got-want) > 0.001 || all > 10_000 {
			t.Errorf("share %v of %d drawn rows, expected %v", got, all, want)
		}
	}
	// Weights: a row of weight 3 is drawn three times as often as one of weight 1, one of 0 never.
	d = models.Dataset{Y: make([]float32, 40_000), W: make([]float32, 40_000)}
	for i := range d.W {
		d.W[i] = []float32{0, 1, 3, 0}[i%4]
	}
	times := make([]uint32, d.Rows())
	newSampling(d, 0).draw(tree.NewRandom(3, 0), times)
	var sums [4]uint32
	for i, n := range times {
		sums[i%4] += n
	}
	if sums[0]+sums[3] != 0 || math.Abs(float64(sums[2])/float64(sums[1])-3) > 0.15 {
		t.Errorf("draws by weight 0, 1, 3, 0: %v", sums)
	}
}

func TestTrainRefuses(t *testing.T) {
	t.Parallel()
	good := treetest.Synthetic(20, 3)
	for name, change := range map[string]func(*models.Dataset){
		"no rows":      func(d *models.Dataset) { d.X, d.Y = nil, nil },
		"short matrix": func(d *models.Dataset) { d.X = d.X[1:] },
		"label of 2":   func(d *models.Dataset) { d.Y = append([]float32{2}, d.Y[1:]...) },
		"weight":       func(d *models.Dataset) { d.W = make([]float32, 20); d.W[3] = -1 },
		"no weight":    func(d *models.Dataset) { d.W = make([]float32, 20) },
	} {
		d := good
		change(&d)
		if _, err := Train(t.Context(), models.Training{Train: d, Params: complete(t, nil)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Train(ctx, models.Training{Train: good, Params: complete(t, nil)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	m := fit(f, treetest.Synthetic(60, 4), 1, map[string]any{"trees": 2, "depth": 2})
	files, err := m.Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(files[fileName])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Load(models.Files{fileName: b})
		if err != nil {
			if !errors.Is(err, models.ErrFiles) {
				t.Fatalf("%v is not ErrFiles", err)
			}
			return
		}
		treetest.Score(t, m, make([]float32, 5*len(m.Inputs())), 5)
	})
}
