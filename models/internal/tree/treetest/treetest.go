package treetest

import (
	"compress/gzip"
	"context"
	"encoding/csv"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/evaluate"
	"github.com/millrace-ml/millrace/testing/shareddata"
)

// Week is a part of the handbook's baseline data with what its metrics need.
type Week struct {
	models.Dataset
	// Time is the day, Card the customer.
	Time, Card []int64
}

var inputs = []string{
	"TX_AMOUNT", "TX_DURING_WEEKEND", "TX_DURING_NIGHT",
	"CUSTOMER_ID_NB_TX_1DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
	"CUSTOMER_ID_NB_TX_7DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
	"CUSTOMER_ID_NB_TX_30DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
	"TERMINAL_ID_NB_TX_1DAY_WINDOW", "TERMINAL_ID_RISK_1DAY_WINDOW",
	"TERMINAL_ID_NB_TX_7DAY_WINDOW", "TERMINAL_ID_RISK_7DAY_WINDOW",
	"TERMINAL_ID_NB_TX_30DAY_WINDOW", "TERMINAL_ID_RISK_30DAY_WINDOW",
}

// Baseline reads the handbook's training week and its test Week, the latter without the cards that
// were known for fraud by then.
func Baseline(t testing.TB) (train, test Week) {
	t.Helper()
	f, err := os.Open(shareddata.Path(t, "fraud-handbook/baseline_2018-07-25_2018-08-14.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, name := range rows[0] {
		at[name] = i
	}
	for _, name := range inputs {
		train.Features = append(train.Features, models.Feature{Name: name, Type: models.Number})
	}
	test.Features = train.Features
	number := func(row []string, name string) float64 {
		v, err := strconv.ParseFloat(row[at[name]], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	start := time.Date(2018, 7, 25, 0, 0, 0, 0, time.UTC)
	day := func(row []string) int {
		ts, err := time.Parse(time.RFC3339, row[at["TX_DATETIME"]])
		if err != nil {
			t.Fatal(err)
		}
		return int(ts.Sub(start).Hours()) / 24
	}
	// known is the first day from which a card's rows leave the test: at once for a fraud in the
	// training week, and seven days later for a fraud of the delay.
	known := map[string]int{}
	for _, row := range rows[1:] {
		if row[at["TX_FRAUD"]] != "1" {
			continue
		}
		from, d := 14, day(row)
		if d >= 7 {
			from = d + 8
		}
		if k, ok := known[row[at["CUSTOMER_ID"]]]; !ok || from < k {
			known[row[at["CUSTOMER_ID"]]] = from
		}
	}
	for _, row := range rows[1:] {
		d := day(row)
		to := &train
		if d >= 7 && d < 14 {
			continue
		}
		if d >= 14 {
			to = &test
			if k, ok := known[row[at["CUSTOMER_ID"]]]; ok && d >= k {
				continue
			}
		}
		for _, name := range inputs {
			to.X = append(to.X, float32(number(row, name)))
		}
		to.Y = append(to.Y, float32(number(row, "TX_FRAUD")))
		to.Time, to.Card = append(to.Time, int64(d)), append(to.Card, int64(number(row, "CUSTOMER_ID")))
	}
	return train, test
}

// Synthetic is a data set with rare positives, missing values, few-valued columns and a constant.
func Synthetic(rows int, seed uint64) models.Dataset {
	r := rand.New(rand.NewPCG(seed, 0))
	d := models.Dataset{Features: []models.Feature{
		{Name: "real", Type: models.Number}, {Name: "few", Type: models.Number},
		{Name: "colour", Type: models.Category, Categories: []string{"red", "green", "blue"}},
		{Name: "holes", Type: models.Number}, {Name: "constant", Type: models.Number},
	}}
	for range rows {
		real, few, colour, holes := float32(r.NormFloat64()), float32(r.IntN(4)), float32(r.IntN(4)), float32(r.ExpFloat64())
		z := float64(2*real) - 3 + float64(few)*float64(colour)/3
		if r.IntN(5) == 0 {
			z += 2
			holes = float32(math.NaN())
		}
		y := float32(0)
		if r.Float64() < 1/(1+math.Exp(-z)) {
			y = 1
		}
		d.X = append(d.X, real, few, colour, holes, 7)
		d.Y = append(d.Y, y)
	}
	return d
}

// Score scores rows.
func Score(t testing.TB, m models.Scorer, x []float32, rows int) []float32 {
	t.Helper()
	out := make([]float32, rows)
	if err := m.Score(context.Background(), x, rows, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// SameScores reports the first row that two models score with different bits.
func SameScores(t testing.TB, a, b models.Scorer, x []float32) {
	t.Helper()
	rows := len(x) / len(a.Inputs())
	p, q := Score(t, a, x, rows), Score(t, b, x, rows)
	for i := range p {
		if math.Float32bits(p[i]) != math.Float32bits(q[i]) {
			t.Fatalf("row %d: %v and %v", i, p[i], q[i])
		}
	}
}

// SameAtAnyPlace reports a row whose score has other bits in a batch than alone, for batches of 1 to
// 67 rows. It needs 127 rows.
func SameAtAnyPlace(t testing.TB, m models.Scorer, d models.Dataset) {
	t.Helper()
	width := len(d.Features)
	want := make([]float32, d.Rows())
	for i := range want {
		want[i] = Score(t, m, d.Row(i), 1)[0]
	}
	for rows := 1; rows <= 67; rows++ {
		for _, at := range []int{0, 1, 60} {
			for i, got := range Score(t, m, d.X[at*width:(at+rows)*width], rows) {
				if math.Float32bits(got) != math.Float32bits(want[at+i]) {
					t.Fatalf("row %d in a batch of %d: %v, alone %v", at+i, rows, got, want[at+i])
				}
			}
		}
	}
}

// Figures are area under the ROC curve, average precision and card precision at 100.
type Figures struct{ AUC, AP, CP float64 }

// Measure scores a test week.
func Measure(t testing.TB, m models.Scorer, test Week) Figures {
	t.Helper()
	scores := make([]float32, test.Rows())
	if err := m.Score(context.Background(), test.X, test.Rows(), scores); err != nil {
		t.Fatal(err)
	}
	cards := evaluate.CardPrecision(evaluate.CardRows[int64, float32]{Time: test.Time, Entity: test.Card, Score: scores, Label: test.Y}, 100, 1)
	return Figures{evaluate.AUC(scores, test.Y), evaluate.AveragePrecision(scores, test.Y), cards.Mean}
}

// Near reports figures that are not within 0.01 of the published ones, or a little more above: a
// better model is welcome, one better by a lot would mean a leak.
func (f Figures) Near(t testing.TB, published Figures) {
	t.Helper()
	t.Logf("AUC %.4f, AP %.4f, CP@100 %.4f; published %.3f, %.3f, %.3f", f.AUC, f.AP, f.CP, published.AUC, published.AP, published.CP)
	for _, d := range []float64{f.AUC - published.AUC, f.AP - published.AP, f.CP - published.CP} {
		if !(d > -0.0105 && d < 0.02) {
			t.Errorf("figures %+v, published %+v", f, published)
		}
	}
}

// CPU is the process's processor time, which other work on the machine disturbs less than wall time.
func CPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTrain trains with one and two workers and reports the least wall time of a run and the
// mean processor time.
func BenchmarkTrain(b *testing.B, train func(workers int) error) {
	for _, workers := range []int{1, 2} {
		b.Run("workers="+strconv.Itoa(workers), func(b *testing.B) {
			least, before := time.Hour, CPU()
			for b.Loop() {
				start := time.Now()
				if err := train(workers); err != nil {
					b.Fatal(err)
				}
				least = min(least, time.Since(start))
			}
			b.ReportMetric(least.Seconds()*1e3, "least-ms")
			b.ReportMetric((CPU()-before).Seconds()*1e3/float64(b.N), "cpu-ms")
		})
	}
}

// BenchmarkScore scores the test week in batches of several lengths.
func BenchmarkScore(b *testing.B, m models.Scorer, test Week) {
	width, out := len(test.Features), make([]float32, test.Rows())
	for _, rows := range []int{1, 64, 1024} {
		b.Run("rows="+strconv.Itoa(rows), func(b *testing.B) {
			b.ReportAllocs()
			at, before := 0, CPU()
			for b.Loop() {
				if at+rows > test.Rows() {
					at = 0
				}
				if err := m.Score(context.Background(), test.X[at*width:(at+rows)*width], rows, out[:rows]); err != nil {
					b.Fatal(err)
				}
				at += rows
			}
			b.ReportMetric(float64((CPU()-before).Nanoseconds())/float64(b.N)/float64(rows), "cpu-ns/row")
		})
	}
}
