package gbdt

import (
	"context"
	"testing"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree/treetest"
)

func complete(t testing.TB, given map[string]any) models.Params {
	t.Helper()
	p, err := Kind().Complete(given)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestHandbookBaseline compares with the Fraud Detection Handbook, chapter 3: XGBoost, 100 trees of
// depth 6. Its exact method sees every threshold; ours sees 255 bins.
func TestHandbookBaseline(t *testing.T) {
	t.Parallel()
	train, test := treetest.Baseline(t)
	m, err := Train(t.Context(), models.Training{Train: train.Dataset, Params: complete(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	treetest.Measure(t, m, test).Near(t, treetest.Figures{AUC: 0.862, AP: 0.639, CP: 0.273})
}

func BenchmarkTrainBaseline(b *testing.B) {
	train, _ := treetest.Baseline(b)
	params := complete(b, nil)
	treetest.BenchmarkTrain(b, func(workers int) error {
		_, err := Train(context.Background(), models.Training{Train: train.Dataset, Params: params, Workers: workers})
		return err
	})
}

func BenchmarkScoreBaseline(b *testing.B) {
	train, test := treetest.Baseline(b)
	m, err := Train(context.Background(), models.Training{Train: train.Dataset, Params: complete(b, nil)})
	if err != nil {
		b.Fatal(err)
	}
	treetest.BenchmarkScore(b, m, test)
}
