package evaluate_test

import (
	"fmt"

	"github.com/millrace-ml/millrace/models/evaluate"
)

func Example() {
	labels := []float32{1, 0, 1, 0, 0, 1, 0, 0}
	champion := []float32{.9, .8, .7, .6, .5, .4, .3, .2}
	challenger := []float32{.9, .2, .8, .6, .5, .7, .3, .1}
	fmt.Printf("AUC %.3f against %.3f\n", evaluate.AUC(challenger, labels), evaluate.AUC(champion, labels))

	// Both are measured on the same resampled rows.
	d := evaluate.Bootstrap{Seed: 1}.Difference(
		evaluate.AveragePrecisionStatistic(challenger, labels),
		evaluate.AveragePrecisionStatistic(champion, labels))
	fmt.Printf("average precision gains %.3f; never loses: %v\n", d.Value, d.Low >= 0)
	// Output:
	// AUC 1.000 against 0.733
	// average precision gains 0.278; never loses: true
}

func ExampleCardPrecision() {
	const day = 86400
	rows := evaluate.CardRows[string, float32]{
		Time:   []int64{10, 20, 30, day + 10, day + 20},
		Entity: []string{"anna", "bert", "cleo", "anna", "cleo"},
		Score:  []float32{.9, .8, .1, .9, .7},
		Label:  []float32{1, 0, 1, 1, 1},
	}
	r := evaluate.CardPrecision(rows, 2, day)
	for _, p := range r.Periods {
		// Anna is detected on the first day, so on the second she does not count again.
		fmt.Printf("day %d: %d of %d compromised cards found among 2 checked\n", p.Period, p.Hits, p.Positives)
	}
	fmt.Println("mean", r.Mean)
	// Output:
	// day 0: 1 of 2 compromised cards found among 2 checked
	// day 1: 1 of 1 compromised cards found among 2 checked
	// mean 0.5
}
