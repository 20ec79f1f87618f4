package calibration_test

import (
	"fmt"

	"github.com/millrace-ml/millrace/models/calibration"
)

// Of four held-out rows with a score of 0.9 one is positive, of four with 0.2 none.
func ExampleFit() {
	scores := []float32{0.9, 0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.2}
	labels := []float32{1, 0, 0, 0, 0, 0, 0, 0}
	c, err := calibration.Fit(calibration.Isotonic, scores, labels, nil)
	if err != nil {
		panic(err)
	}
	// Eight rows can't tell a probability below 1/10.
	fmt.Printf("%.2f %.2f %.2f\n", c.Apply(0.9), c.Apply(0.2), c.Apply(0.1))
	// Output: 0.25 0.10 0.10
}
