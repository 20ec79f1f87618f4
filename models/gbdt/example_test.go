package gbdt_test

import (
	"context"
	"fmt"
	"math"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/gbdt"
)

// Payments above 220 are fraud here, and so are those whose amount is unknown.
func Example() {
	train := models.Dataset{Features: []models.Feature{{Name: "amount", Type: models.Number}}}
	for i := range 400 {
		amount, fraud := float32(i), float32(0)
		if amount > 220 {
			fraud = 1
		}
		if i%20 == 0 {
			amount, fraud = float32(math.NaN()), 1
		}
		train.X, train.Y = append(train.X, amount), append(train.Y, fraud)
	}
	params, err := gbdt.Kind().Complete(map[string]any{"trees": 20, "depth": 2})
	if err != nil {
		panic(err)
	}
	model, err := gbdt.Train(context.Background(), models.Training{Train: train, Params: params})
	if err != nil {
		panic(err)
	}
	scores := make([]float32, 3)
	if err := model.Score(context.Background(), []float32{35, 300, float32(math.NaN())}, 3, scores); err != nil {
		panic(err)
	}
	for _, s := range scores {
		fmt.Printf("%.1f\n", s)
	}
	// Output:
	// 0.0
	// 1.0
	// 1.0
}
