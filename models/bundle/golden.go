package bundle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/millrace-ml/millrace/models"
)

const (
	// GoldenRows is how many golden rows a bundle has by convention.
	GoldenRows = 64

	maxGoldenRows   = 1024
	goldenTolerance = 1e-5
)

// PickGolden chooses up to GoldenRows rows of x (row-major, width values a row) that span the
// scores: evenly spaced by rank, the lowest and the highest among them. scores holds one value a
// row.
func PickGolden(x []float32, width int, scores []float32) []float32 {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[a], scores[b]) })
	n := min(GoldenRows, len(order))
	var out []float32
	for i := range n {
		at := order[0]
		if n > 1 {
			at = order[i*(len(order)-1)/(n-1)]
		}
		out = append(out, x[at*width:(at+1)*width]...)
	}
	return out
}

type goldenJSON struct {
	Inputs [][]nullable `json:"inputs"`
	Scores [][]nullable `json:"scores"`
}

// nullable is a float32 whose NaN is null.
type nullable float32

func (n nullable) MarshalJSON() ([]byte, error) {
	v := float64(n)
	if math.IsNaN(v) {
		return []byte("null"), nil
	}
	if math.IsInf(v, 0) {
		return nil, errors.New("an infinite value can't be stored")
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 32), nil
}

func (n *nullable) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = nullable(math.NaN())
		return nil
	}
	v, err := strconv.ParseFloat(string(b), 32)
	*n = nullable(v)
	return err
}

// encodeGolden scores the rows and stores both.
func encodeGolden(ctx context.Context, m models.Model, x []float32) ([]byte, error) {
	in, out := len(m.Inputs()), len(m.Outputs())
	if in == 0 || len(x) == 0 || len(x)%in != 0 || len(x)/in > maxGoldenRows {
		return nil, fmt.Errorf("%d golden values are not 1 to %d rows of %d inputs: %w", len(x), maxGoldenRows, in, models.ErrShape)
	}
	rows := len(x) / in
	scores := make([]float32, rows*out)
	if err := m.Score(ctx, x, rows, scores); err != nil {
		return nil, fmt.Errorf("scoring the golden rows: %w", err)
	}
	for i, s := range scores {
		if !finite(float64(s)) {
			return nil, fmt.Errorf("golden row %d has the score %v: the model is not fit to be stored", i/out, s)
		}
	}
	b, err := json.Marshal(goldenJSON{rowsOf(x, in), rowsOf(scores, out)})
	if err != nil {
		return nil, fmt.Errorf("encoding the golden rows: %w", err)
	}
	return append(b, '\n'), nil
}

func rowsOf(values []float32, width int) [][]nullable {
	var out [][]nullable
	for row := range slices.Chunk(values, width) {
		n := make([]nullable, len(row))
		for i, v := range row {
			n[i] = nullable(v)
		}
		out = append(out, n)
	}
	return out
}

// checkGolden scores the stored rows again.
func checkGolden(ctx context.Context, m models.Model, b []byte) (x []float32, err error) {
	var g goldenJSON
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", goldenName, err, ErrCorrupt)
	}
	rows, in, out := len(g.Inputs), len(m.Inputs()), len(m.Outputs())
	if rows == 0 || rows > maxGoldenRows || len(g.Scores) != rows {
		return nil, fmt.Errorf("%s has %d rows and %d scores: %w", goldenName, rows, len(g.Scores), ErrCorrupt)
	}
	var want []float32
	for i := range rows {
		if len(g.Inputs[i]) != in || len(g.Scores[i]) != out {
			return nil, fmt.Errorf("%s: row %d has %d inputs and %d scores, the model %d and %d: %w",
				goldenName, i, len(g.Inputs[i]), len(g.Scores[i]), in, out, ErrCorrupt)
		}
		for _, v := range g.Inputs[i] {
			x = append(x, float32(v))
		}
		for _, v := range g.Scores[i] {
			want = append(want, float32(v))
		}
	}
	got := make([]float32, len(want))
	if err := m.Score(ctx, x, rows, got); err != nil {
		return nil, fmt.Errorf("scoring the golden rows: %w", err)
	}
	for i, w := range want {
		// Written so that a NaN on either side differs.
		if diff := math.Abs(float64(got[i]) - float64(w)); !(diff <= goldenTolerance*math.Max(1, math.Abs(float64(w)))) {
			return nil, fmt.Errorf("golden row %d scores %v here and %v when it was trained: this build does not serve the model, retrain or use the version that trained it: %w",
				i/out, got[i], w, ErrCorrupt)
		}
	}
	return x, nil
}
