package evaluate

import (
	"cmp"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// goldens are scikit-learn 1.9.1's figures on small arrays.
type golden struct {
	Name      string    `json:"name"`
	Scores    []float64 `json:"scores"`
	Labels    []float64 `json:"labels"`
	AUC       float64   `json:"auc"`
	AP        float64   `json:"ap"`
	LogLoss   float64   `json:"log_loss"`
	Brier     float64   `json:"brier"`
	MAE       float64   `json:"mae"`
	RMSE      float64   `json:"rmse"`
	ECE       float64   `json:"ece10"`
	FPR       []float64 `json:"fpr"`
	TPR       []float64 `json:"tpr"`
	Precision []float64 `json:"precision"`
	Recall    []float64 `json:"recall"`
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) <= 1e-12*math.Max(1, math.Abs(want))) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestSklearn(t *testing.T) {
	raw, err := os.ReadFile("testdata/sklearn.json")
	if err != nil {
		t.Fatal(err)
	}
	var goldens []golden
	if err := json.Unmarshal(raw, &goldens); err != nil {
		t.Fatal(err)
	}
	for _, g := range goldens {
		t.Run(g.Name, func(t *testing.T) {
			s, y := g.Scores, g.Labels
			near(t, "AUC", AUC(s, y), g.AUC)
			near(t, "average precision", AveragePrecision(s, y), g.AP)
			near(t, "log loss", LogLoss(s, y), g.LogLoss)
			near(t, "Brier", Brier(s, y), g.Brier)
			near(t, "MAE", MAE(s, y), g.MAE)
			near(t, "RMSE", RMSE(s, y), g.RMSE)
			near(t, "calibration error", CalibrationError(s, y, 10), g.ECE)
			roc := ROC(s, y)
			if len(roc) != len(g.FPR) {
				t.Fatalf("ROC has %d points, want %d", len(roc), len(g.FPR))
			}
			for i, p := range roc {
				near(t, "FPR", p.FPR, g.FPR[i])
				near(t, "TPR", p.TPR, g.TPR[i])
			}
			// scikit-learn leaves out the thresholds below full recall; we go on to the last score.
			pr := PrecisionRecall(s, y)
			if len(pr) < len(g.Recall) {
				t.Fatalf("precision-recall has %d points, want %d", len(pr), len(g.Recall))
			}
			for i, r := range g.Recall {
				near(t, "recall", pr[i].Recall, r)
				near(t, "precision", pr[i].Precision, g.Precision[i])
			}
			// The statistics, drawn once each, are the metrics.
			near(t, "AUC statistic", AUCStatistic(s, y).Value(), g.AUC)
			near(t, "AP statistic", AveragePrecisionStatistic(s, y).Value(), g.AP)
			near(t, "log loss statistic", LogLossStatistic(s, y).Value(), g.LogLoss)
			near(t, "Brier statistic", BrierStatistic(s, y).Value(), g.Brier)
			near(t, "MAE statistic", MAEStatistic(s, y).Value(), g.MAE)
			near(t, "RMSE statistic", RMSEStatistic(s, y).Value(), g.RMSE)
		})
	}
}

// naiveAUC asks every pair.
func naiveAUC(s []float32, y []float32) float64 {
	var won, pairs float64
	for i := range s {
		for j := range s {
			if y[i] == 1 && y[j] == 0 {
				pairs++
				switch {
				case s[i] > s[j]:
					won++
				case s[i] == s[j]:
					won += 0.5
				}
			}
		}
	}
	return won / pairs
}

// naiveAP recounts at every distinct threshold.
func naiveAP(s []float32, y []float32) float64 {
	thresholds := slices.Clone(s)
	slices.Sort(thresholds)
	thresholds = slices.Compact(thresholds)
	slices.Reverse(thresholds)
	var ap, before float64
	for _, t := range thresholds {
		var tp, alerts, p float64
		for i := range s {
			p += float64(y[i])
			if s[i] >= t {
				alerts++
				tp += float64(y[i])
			}
		}
		ap += (tp/p - before) * tp / alerts
		before = tp / p
	}
	return ap
}

var rowsGen = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) [2]float32 {
	// A few distinct scores, so that most tie.
	return [2]float32{float32(rapid.IntRange(0, 6).Draw(t, "score")) / 6, float32(rapid.IntRange(0, 1).Draw(t, "label"))}
}), 1, 30)

func split(rows [][2]float32) (s, y []float32) {
	for _, r := range rows {
		s, y = append(s, r[0]), append(y, r[1])
	}
	return s, y
}

func same(a, b float64) bool {
	return math.Abs(a-b) <= 1e-12 || math.IsNaN(a) && math.IsNaN(b)
}

func TestRankingEqualsOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rowsGen.Draw(t, "rows")
		s, y := split(rows)
		if got, want := AUC(s, y), naiveAUC(s, y); !same(got, want) {
			t.Fatalf("AUC is %v, want %v", got, want)
		}
		if got, want := AveragePrecision(s, y), naiveAP(s, y); !same(got, want) {
			t.Fatalf("average precision is %v, want %v", got, want)
		}
		// Order of rows never shows.
		shuffled := rapid.Permutation(rows).Draw(t, "shuffled")
		s2, y2 := split(shuffled)
		if a, b := AveragePrecision(s, y), AveragePrecision(s2, y2); a != b && !math.IsNaN(a) {
			t.Fatalf("average precision is %v, shuffled %v", a, b)
		}
	})
}

// TestCountsEqualCopies holds the bootstrap's counted rows equal to rows that are really copied.
func TestCountsEqualCopies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, y := split(rowsGen.Draw(t, "rows"))
		counts := make([]uint32, len(s))
		var cs, cy []float32
		for i := range s {
			counts[i] = uint32(rapid.IntRange(0, 3).Draw(t, "count"))
			for range counts[i] {
				cs, cy = append(cs, s[i]), append(cy, y[i])
			}
		}
		for name, pair := range map[string][2]float64{
			"AUC":      {AUCStatistic(s, y).evaluator()(counts), AUC(cs, cy)},
			"AP":       {AveragePrecisionStatistic(s, y).evaluator()(counts), AveragePrecision(cs, cy)},
			"log loss": {LogLossStatistic(s, y).evaluator()(counts), LogLoss(cs, cy)},
			"RMSE":     {RMSEStatistic(s, y).evaluator()(counts), RMSE(cs, cy)},
		} {
			if !same(pair[0], pair[1]) {
				t.Fatalf("%s with counts %v, with copies %v", name, pair[0], pair[1])
			}
		}
	})
}

func TestUndefinedIsNaN(t *testing.T) {
	nan := math.NaN()
	for name, v := range map[string]float64{
		"AUC of one class":     AUC([]float64{1, 2}, []float64{1, 1}),
		"AUC of nothing":       AUC([]float64{}, []float64{}),
		"AUC with NaN":         AUC([]float64{nan, 1}, []float64{0, 1}),
		"AP without positives": AveragePrecision([]float64{1, 2}, []float64{0, 0}),
		"log loss of nothing":  LogLoss([]float64{}, []float64{}),
		"log loss with NaN":    LogLoss([]float64{nan}, []float64{1}),
		"ECE with NaN":         CalibrationError([]float64{nan, 1}, []float64{1, 1}, 10),
		"ECE of nothing":       CalibrationError([]float64{}, []float64{}, 10),
		"CP of nothing":        CardPrecision(CardRows[string, float64]{}, 100, 1).Mean,
	} {
		if !math.IsNaN(v) {
			t.Errorf("%s is %v, want NaN", name, v)
		}
	}
	if v := LogLoss([]float64{0}, []float64{1}); math.IsInf(v, 0) || v < 30 {
		t.Errorf("log loss of certain and wrong is %v, want large and finite", v)
	}
}

func TestThresholds(t *testing.T) {
	s := []float32{0.9, 0.8, 0.8, 0.4, 0.1}
	y := []float32{1, 0, 1, 1, 0}
	got := Thresholds(s, y, []float64{0.5, 0.95}, 2)
	want := []ThresholdRow{
		{Threshold: 0.5, Alerts: 3, AlertsPerDay: 1.5, Precision: 2. / 3, Recall: 2. / 3, FPR: 0.5},
		{Threshold: 0.95},
	}
	if !slices.Equal(got, want) {
		t.Errorf("table is %+v, want %+v", got, want)
	}
	// F1 by hand: 0.9: P 1, R 1/3, F .5; 0.8: 2/3, 2/3; 0.4: 3/4, 1, F 6/7; 0.1: 3/5, 1, F 3/4.
	th, f := BestF(s, y, 1)
	if float32(th) != 0.4 {
		t.Errorf("best threshold is %v, want 0.4", th)
	}
	near(t, "F1", f, 6./7)
	if th := TopThreshold(s, 2); float32(th) != 0.8 {
		t.Errorf("threshold of two alerts is %v, want 0.8", th)
	}
	if th := TopThreshold(s, 6); !math.IsNaN(th) {
		t.Errorf("threshold of six alerts among five rows is %v, want NaN", th)
	}
}

// naiveCards follows the handbook's words, one period and one card at a time.
func naiveCards(rows CardRows[int, float64], k int, per int64) (precisions []float64) {
	detected := map[int]bool{}
	for p := slices.Min(rows.Time) / per; p <= slices.Max(rows.Time)/per; p++ {
		score, label := map[int]float64{}, map[int]float64{}
		for i, e := range rows.Entity {
			if rows.Time[i]/per != p || detected[e] {
				continue
			}
			if v, ok := score[e]; !ok || rows.Score[i] > v {
				score[e] = rows.Score[i]
			}
			label[e] = max(label[e], rows.Label[i])
		}
		if !slices.ContainsFunc(rows.Time, func(t int64) bool { return t/per == p }) {
			continue
		}
		var list []int
		for e := range score {
			list = append(list, e)
		}
		slices.SortFunc(list, func(a, b int) int { return cmp.Or(cmp.Compare(score[b], score[a]), cmp.Compare(a, b)) })
		hits := 0
		for _, e := range list[:min(k, len(list))] {
			if label[e] > 0 {
				hits++
				detected[e] = true
			}
		}
		precisions = append(precisions, float64(hits)/float64(k))
	}
	return precisions
}

func TestCardPrecisionEqualsOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rows CardRows[int, float64]
		for range rapid.IntRange(1, 40).Draw(t, "rows") {
			rows.Time = append(rows.Time, rapid.Int64Range(0, 49).Draw(t, "time"))
			rows.Entity = append(rows.Entity, rapid.IntRange(0, 8).Draw(t, "entity"))
			rows.Score = append(rows.Score, float64(rapid.IntRange(0, 5).Draw(t, "score")))
			rows.Label = append(rows.Label, float64(rapid.IntRange(0, 1).Draw(t, "label")))
		}
		k := rapid.IntRange(1, 5).Draw(t, "k")
		got, want := CardPrecision(rows, k, 10), naiveCards(rows, k, 10)
		if len(got.Periods) != len(want) {
			t.Fatalf("%d periods, want %d", len(got.Periods), len(want))
		}
		var sum float64
		for i, p := range got.Periods {
			if p.Precision != want[i] {
				t.Fatalf("period %d has %v, want %v", p.Period, p.Precision, want[i])
			}
			sum += want[i]
		}
		if !same(got.Mean, sum/float64(len(want))) {
			t.Fatalf("mean is %v, want %v", got.Mean, sum/float64(len(want)))
		}
		if v := CardPrecisionStatistic(rows, k, 10).Value(); v != got.Mean {
			t.Fatalf("statistic is %v, metric %v", v, got.Mean)
		}
		// An entity drawn n times is n entities next to each other in the tie order.
		counts := make([]uint32, CardPrecisionStatistic(rows, k, 10).Units())
		distinct := slices.Compact(slices.Sorted(slices.Values(rows.Entity)))
		var copies CardRows[int, float64]
		for u, e := range distinct {
			counts[u] = uint32(rapid.IntRange(0, 3).Draw(t, "count"))
			for c := range int(counts[u]) {
				for i := range rows.Entity {
					if rows.Entity[i] == e {
						copies.Time = append(copies.Time, rows.Time[i])
						copies.Entity = append(copies.Entity, e*10+c)
						copies.Score = append(copies.Score, rows.Score[i])
						copies.Label = append(copies.Label, rows.Label[i])
					}
				}
			}
		}
		counted := newCards(rows, k, 10).result(counts)
		byPeriod := map[int64]CardPeriod{}
		if len(copies.Time) > 0 {
			for _, p := range CardPrecision(copies, k, 10).Periods {
				byPeriod[p.Period] = p
			}
		}
		for _, p := range counted.Periods {
			// A period whose entities were not drawn has no rows among the copies.
			if want := byPeriod[p.Period]; p.Hits != want.Hits {
				t.Fatalf("period %d has %d hits with counts, %d with copies", p.Period, p.Hits, want.Hits)
			}
		}
	})
}

func TestCardPrecisionByHand(t *testing.T) {
	// Day -1: cards a (fraud, .9), b (.8), c (fraud, .1). Two checked: a found. Day 0: a is gone
	// though it has fraud; b (.5), c (fraud, .4 and .6): both checked, c found.
	rows := CardRows[string, float32]{
		Time:   []int64{-1, -2, -10, 0, 1, 2, 9},
		Entity: []string{"a", "b", "c", "a", "b", "c", "c"},
		Score:  []float32{.9, .8, .1, .99, .5, .4, .6},
		Label:  []float32{1, 0, 1, 1, 0, 1, 0},
	}
	got := CardPrecision(rows, 2, 10)
	want := []CardPeriod{
		{Period: -1, Cards: 3, Positives: 2, Hits: 1, Precision: .5},
		{Period: 0, Cards: 2, Positives: 1, Hits: 1, Precision: .5},
	}
	if !slices.Equal(got.Periods, want) || got.Mean != .5 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	ceiling := CardCeiling(rows, 2, 10)
	if ceiling.Periods[0].Hits != 2 || ceiling.Periods[1].Hits != 0 || ceiling.Mean != .5 {
		t.Errorf("ceiling is %+v, want 2 hits and 0", ceiling)
	}
}

func TestBootstrapInterval(t *testing.T) {
	// The mean of n squared errors has a known standard error, so its 95 % interval must be close to
	// mean +- 1.96 s / sqrt(n).
	r := rand.New(rand.NewPCG(1, 2))
	s, y := make([]float64, 2000), make([]float64, 2000)
	for i := range s {
		s[i] = r.Float64()
		if r.Float64() < s[i] {
			y[i] = 1
		}
	}
	values := losses(s, y, brier)
	m := mean(values, nil)
	var v float64
	for _, x := range values {
		v += (x - m) * (x - m) / float64(len(values)-1)
	}
	se := math.Sqrt(v / float64(len(values)))
	b := Bootstrap{Replicates: 4000, Seed: 5}
	got := b.Interval(BrierStatistic(s, y))
	if got.Value != m || math.Abs(got.Low-(m-1.96*se)) > 0.15*se || math.Abs(got.High-(m+1.96*se)) > 0.15*se {
		t.Errorf("interval is %v [%v, %v], want %v +- %v", got.Value, got.Low, got.High, m, 1.96*se)
	}
	b.Workers = 1
	if again := b.Interval(BrierStatistic(s, y)); !slices.Equal(again.Replicates, got.Replicates) {
		t.Error("one worker gives other replicates than several")
	}
	b.Seed = 6
	if other := b.Interval(BrierStatistic(s, y)); slices.Equal(other.Replicates, got.Replicates) {
		t.Error("another seed gives the same replicates")
	}
	if above := got.Above(got.Replicates[1000]); above != 2999./4000 {
		t.Errorf("share above the 1001st of 4000 is %v, want 2999/4000", above)
	}
}

func TestBootstrapClusters(t *testing.T) {
	// 50 entities of 40 equal rows: the rows carry no more than 50 values do, so the interval is
	// sqrt(40) times as wide as independent rows would have.
	r := rand.New(rand.NewPCG(3, 4))
	var s, y []float64
	var entity []int
	for e := range 50 {
		v := r.NormFloat64()
		for range 40 {
			s, y, entity = append(s, v), append(y, 0), append(entity, e)
		}
	}
	b := Bootstrap{Replicates: 2000, Seed: 1}
	rows := b.Interval(MAEStatistic(s, y))
	clusters := b.Interval(Clustered(MAEStatistic(s, y), entity))
	if ratio := (clusters.High - clusters.Low) / (rows.High - rows.Low); math.Abs(ratio-math.Sqrt(40)) > 0.7 {
		t.Errorf("clustered interval is %v times as wide, want about %v", ratio, math.Sqrt(40))
	}
	if rows.Value != clusters.Value {
		t.Errorf("clustering changes the value from %v to %v", rows.Value, clusters.Value)
	}
}

func TestBootstrapDifferenceIsPaired(t *testing.T) {
	// Two scorers with a common noise and a small, sure advantage of the first.
	r := rand.New(rand.NewPCG(5, 6))
	n := 1000
	a, b, y := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range y {
		noise := r.NormFloat64()
		a[i], b[i] = noise, math.Abs(noise)+0.02
		a[i] = math.Abs(noise)
	}
	boot := Bootstrap{Seed: 1}
	d := boot.Difference(MAEStatistic(b, y), MAEStatistic(a, y))
	if math.Abs(d.Low-0.02) > 1e-9 || math.Abs(d.High-0.02) > 1e-9 || d.Above(0) != 1 || d.Above(0.03) != 0 {
		t.Errorf("difference is %v [%v, %v], want 0.02 without noise", d.Value, d.Low, d.High)
	}
	if single := boot.Interval(MAEStatistic(a, y)); single.High-single.Low < 0.02 {
		t.Errorf("a single scorer's interval is %v wide: the test shows nothing", single.High-single.Low)
	}
	same := boot.Difference(AUCStatistic(a, y), AUCStatistic(a, y))
	if len(same.Replicates) != 0 || !math.IsNaN(same.Low) {
		t.Errorf("undefined statistic gives %+v, want no replicates", same)
	}
}

func BenchmarkBootstrapAP(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	n := 58000
	s, y := make([]float32, n), make([]float32, n)
	for i := range s {
		s[i] = r.Float32()
		if r.Float32() < 0.007 {
			y[i] = 1
		}
	}
	stat := AveragePrecisionStatistic(s, y)
	for b.Loop() {
		Bootstrap{Replicates: 100, Workers: 1}.Interval(stat)
	}
}

func BenchmarkAUC(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	n := 58000
	s, y := make([]float32, n), make([]float32, n)
	for i := range s {
		s[i], y[i] = r.Float32(), float32(i%2)
	}
	for b.Loop() {
		AUC(s, y)
	}
}

func TestCalibrationBins(t *testing.T) {
	// Bounds belong to the upper bin, 1 to the last; what is outside [0, 1] to the nearest.
	got := Calibration([]float64{0, 0.25, 0.5, 0.6, 1, 1.5, -1}, []float64{0, 1, 0, 1, 1, 1, 0}, 4)
	want := []Bin{
		{Low: 0, High: .25, Rows: 2, Score: -.5},
		{Low: .25, High: .5, Rows: 1, Score: .25, Rate: 1},
		{Low: .5, High: .75, Rows: 2, Score: .55, Rate: .5},
		{Low: .75, High: 1, Rows: 2, Score: 1.25, Rate: 1},
	}
	if !slices.Equal(got, want) {
		t.Errorf("bins are %+v, want %+v", got, want)
	}
}
