package linear_test

import (
	"compress/gzip"
	"encoding/csv"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/evaluate"
	"github.com/millrace-ml/millrace/models/linear"
	"github.com/millrace-ml/millrace/models/mlp"
	"github.com/millrace-ml/millrace/testing/shareddata"
)

const day = 86400

// week is the baseline week of the Fraud Detection Handbook, chapter 3: trained on seven days, and
// tested seven days later without the cards whose fraud was known by then.
type week struct {
	train, test models.Dataset
	cards       evaluate.CardRows[int64, float32]
}

func baseline(t testing.TB) week {
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
	r := csv.NewReader(z)
	r.ReuseRecord = true
	lines := 0
	number := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatalf("line %d: %v", lines, err)
		}
		return v
	}

	var w week
	start := time.Date(2018, 7, 25, 0, 0, 0, 0, time.UTC).Unix()
	known := map[int64]bool{}
	frauds := make([]map[int64]bool, 21)
	for i := range frauds {
		frauds[i] = map[int64]bool{}
	}
	at := -1
	for {
		rec, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if lines++; lines == 1 {
			names := append([]string{rec[4]}, rec[7:]...)
			for _, n := range names {
				f := models.Feature{Name: strings.Clone(n), Type: models.Number}
				w.train.Features = append(w.train.Features, f)
				w.test.Features = append(w.test.Features, f)
			}
			continue
		}
		when, err := time.Parse(time.RFC3339, rec[1])
		if err != nil {
			t.Fatal(err)
		}
		card, label := int64(number(rec[2])), float32(number(rec[5]))
		d := int(when.Unix()-start) / day
		if d != at { // rows are in the order of time
			at = d
			if d == 14 {
				for _, f := range frauds[:7] {
					for c := range f {
						known[c] = true
					}
				}
			}
			if d >= 14 {
				for c := range frauds[d-8] {
					known[c] = true
				}
			}
		}
		if label == 1 {
			frauds[d][card] = true
		}
		set := &w.train
		switch {
		case d >= 14 && !known[card]:
			set = &w.test
			w.cards.Time = append(w.cards.Time, when.Unix())
			w.cards.Entity = append(w.cards.Entity, card)
		case d >= 7:
			continue
		}
		set.X = append(set.X, float32(number(rec[4])))
		for _, v := range rec[7:] {
			set.X = append(set.X, float32(number(v)))
		}
		set.Y = append(set.Y, label)
	}
	if w.train.Rows() != 67240 || w.test.Rows() != 58264 || len(w.train.Features) != 15 {
		t.Fatalf("%d rows to train on, %d to test, %d inputs", w.train.Rows(), w.test.Rows(), len(w.train.Features))
	}
	w.cards.Label = w.test.Y
	return w
}

type result struct{ auc, ap, cp float64 }

func (w week) result(t testing.TB, kind string, given map[string]any, seed uint64) result {
	t.Helper()
	k, err := models.Lookup(kind)
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Complete(given)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	m, err := k.Train(t.Context(), models.Training{Train: w.train, Params: p, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	wall := time.Since(start)
	scores := make([]float32, w.test.Rows())
	if err := m.Score(t.Context(), w.test.X, len(scores), scores); err != nil {
		t.Fatal(err)
	}
	w.cards.Score = scores
	r := result{
		auc: evaluate.AUC(scores, w.test.Y),
		ap:  evaluate.AveragePrecision(scores, w.test.Y),
		cp:  evaluate.CardPrecision(w.cards, 100, day).Mean,
	}
	t.Logf("%s %v: AUC %.4f, AP %.4f, CP@100 %.4f; trained in %v", kind, given, r.auc, r.ap, r.cp, wall)
	return r
}

// Published: chapter 3, logistic regression with the library's defaults.
func TestHandbookLogistic(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 200,000 rows and trains on 67,000")
	}
	w := baseline(t)
	got := w.result(t, linear.Logistic, nil, 0)
	for _, m := range []struct {
		name      string
		got, want float64
	}{{"AUC", got.auc, 0.871}, {"AP", got.ap, 0.606}, {"CP@100", got.cp, 0.291}} {
		if math.Abs(m.got-m.want) > 0.001 {
			t.Errorf("%s %.4f, published %.3f", m.name, m.got, m.want)
		}
	}
}

// Published for one hidden layer of 1,000 units: 0.864, 0.653 and 0.286, trained for 851 s. The
// kind's default network comes near that in ten epochs.
func TestHandbookNetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 200,000 rows and trains on 67,000 for ten epochs")
	}
	got := baseline(t).result(t, mlp.Kind, nil, 1)
	if got.auc < 0.85 || got.ap < 0.63 || got.cp < 0.28 {
		t.Errorf("AUC %.3f, AP %.3f, CP@100 %.3f", got.auc, got.ap, got.cp)
	}
}
