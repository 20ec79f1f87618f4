package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/DataDog/sketches-go/ddsketch/store"

	"github.com/millrace-ml/millrace/models"
)

const (
	format = 1
	// maxIndex bounds a sketch's indices: beyond it lies no float32.
	maxIndex = 6000
	// maxCount keeps sums of counts exact in the sketch's float64.
	maxCount = 1 << 53
)

type profileJSON struct {
	Format  int          `json:"format"`
	Rows    uint64       `json:"rows"`
	Columns []columnJSON `json:"columns"`
	Outputs []columnJSON `json:"outputs"`
}

type columnJSON struct {
	Name     string             `json:"name"`
	Type     models.FeatureType `json:"type"`
	Count    uint64             `json:"count"`
	Nulls    uint64             `json:"nulls"`
	Number   *numberJSON        `json:"number,omitempty"`
	Category *categoryJSON      `json:"category,omitempty"`
}

type numberJSON struct {
	Mean      float64    `json:"mean"`
	M2        float64    `json:"m2"`
	Min       *float64   `json:"min,omitempty"`
	Max       *float64   `json:"max,omitempty"`
	Edges     []float64  `json:"edges"`
	Histogram []uint64   `json:"histogram"`
	Sketch    sketchJSON `json:"sketch"`
}

type sketchJSON struct {
	Accuracy float64    `json:"accuracy"`
	Zero     uint64     `json:"zero"`
	Negative [][2]int64 `json:"negative"`
	Positive [][2]int64 `json:"positive"`
}

type categoryJSON struct {
	Known  int      `json:"known"`
	Values []string `json:"values"`
	Counts []uint64 `json:"counts"`
	Rest   uint64   `json:"rest"`
	Unseen uint64   `json:"unseen"`
}

// MarshalJSON writes the package's format. Equal profiles give equal bytes.
func (p *Profile) MarshalJSON() ([]byte, error) {
	return json.Marshal(profileJSON{format, p.Rows, columnsJSON(p.Columns), columnsJSON(p.Outputs)})
}

func columnsJSON(columns []Column) []columnJSON {
	out := make([]columnJSON, len(columns))
	for i, c := range columns {
		j := columnJSON{Name: c.Name, Type: c.Type, Count: c.Count, Nulls: c.Nulls}
		if n := c.Number; n != nil {
			j.Number = &numberJSON{Mean: n.Mean, M2: n.M2, Edges: n.Edges, Histogram: n.Histogram, Sketch: sketchJSON{
				Accuracy: accuracy,
				Zero:     uint64(n.sketch.GetZeroCount()),
				Negative: bins(n.sketch.GetNegativeValueStore()),
				Positive: bins(n.sketch.GetPositiveValueStore()),
			}}
			if n.count > 0 {
				j.Number.Min, j.Number.Max = &n.Min, &n.Max
			}
		}
		if g := c.Category; g != nil {
			j.Category = &categoryJSON{g.known, g.Values, g.Counts, g.Rest, g.Unseen}
		}
		out[i] = j
	}
	return out
}

func bins(s store.Store) [][2]int64 {
	out := [][2]int64{}
	s.ForEach(func(index int, count float64) bool {
		if count > 0 {
			out = append(out, [2]int64{int64(index), int64(count)})
		}
		return false
	})
	slices.SortFunc(out, func(a, b [2]int64) int { return int(a[0] - b[0]) })
	return out
}

// UnmarshalJSON reads the package's format. It survives hostile bytes: whatever does not add up is
// ErrFormat.
func (p *Profile) UnmarshalJSON(b []byte) error {
	var j profileJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("reading a profile: %w: %w", ErrFormat, err)
	}
	if j.Format != format {
		return fmt.Errorf("reading a profile: %w: its format is %d, this version reads %d", ErrFormat, j.Format, format)
	}
	out := Profile{Rows: j.Rows}
	var err1, err2 error
	out.Columns, err1 = columnsOf(j.Columns, j.Rows)
	out.Outputs, err2 = columnsOf(j.Outputs, j.Rows)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("reading a profile: %w", err)
	}
	*p = out
	return nil
}

func columnsOf(columns []columnJSON, rows uint64) ([]Column, error) {
	var out []Column
	for _, j := range columns {
		c := Column{Name: j.Name, Type: j.Type, Count: j.Count, Nulls: j.Nulls}
		var err error
		switch {
		case rows > maxCount || j.Count > rows || j.Count+j.Nulls != rows:
			err = fmt.Errorf("%d values and %d nulls in %d rows", j.Count, j.Nulls, rows)
		case j.Type == models.Number && j.Number != nil && j.Category == nil:
			c.Number, err = j.Number.number(j.Count)
		case j.Type == models.Category && j.Category != nil && j.Number == nil:
			c.Category, err = j.Category.category(j.Count)
		default:
			err = fmt.Errorf("a column of type %q has the wrong parts", j.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: column %q: %w", ErrFormat, j.Name, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func (j *numberJSON) number(count uint64) (*Number, error) {
	n := newNumber(j.Edges)
	if len(j.Histogram) != len(j.Edges)+1 || !slices.IsSorted(j.Edges) {
		return nil, fmt.Errorf("%d edges, ascending, need one bin more, not %d", len(j.Edges), len(j.Histogram))
	}
	if !adds(count, j.Histogram...) {
		return nil, fmt.Errorf("the histogram does not add up to %d", count)
	}
	if j.Sketch.Accuracy != accuracy {
		return nil, fmt.Errorf("the sketch has an accuracy of %v, not %v", j.Sketch.Accuracy, accuracy)
	}
	if count > 0 {
		if j.Min == nil || j.Max == nil || *j.Min > *j.Max || j.M2 < 0 {
			return nil, errors.New("minimum, maximum and variance do not fit")
		}
		n.Min, n.Max = *j.Min, *j.Max
	}
	n.Mean, n.M2, n.count = j.Mean, j.M2, count
	copy(n.Histogram, j.Histogram)
	counts := []uint64{j.Sketch.Zero}
	for _, list := range [][][2]int64{j.Sketch.Negative, j.Sketch.Positive} {
		last := int64(math.MinInt64)
		for _, bin := range list {
			if bin[0] <= last || bin[0] < -maxIndex || bin[0] > maxIndex || bin[1] <= 0 {
				return nil, fmt.Errorf("the sketch has a bin %v out of place", bin)
			}
			last = bin[0]
			counts = append(counts, uint64(bin[1]))
		}
	}
	if !adds(count, counts...) {
		return nil, fmt.Errorf("the sketch does not add up to %d", count)
	}
	for _, bin := range j.Sketch.Negative {
		n.sketch.GetNegativeValueStore().AddWithCount(int(bin[0]), float64(bin[1]))
	}
	for _, bin := range j.Sketch.Positive {
		n.sketch.GetPositiveValueStore().AddWithCount(int(bin[0]), float64(bin[1]))
	}
	if j.Sketch.Zero > 0 {
		if err := n.sketch.AddWithCount(0, float64(j.Sketch.Zero)); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (j *categoryJSON) category(count uint64) (*Category, error) {
	if len(j.Values) != len(j.Counts) || j.Known < len(j.Values) || len(j.Values) > topValues {
		return nil, fmt.Errorf("%d counts for %d of %d values", len(j.Counts), len(j.Values), j.Known)
	}
	if !adds(count, append([]uint64{j.Rest, j.Unseen}, j.Counts...)...) {
		return nil, fmt.Errorf("the values do not add up to %d", count)
	}
	return &Category{j.Values, j.Counts, j.Rest, j.Unseen, j.Known}, nil
}

// adds reports whether the counts sum to total, without overflow.
func adds(total uint64, counts ...uint64) bool {
	var sum uint64
	for _, c := range counts {
		if c > total-sum {
			return false
		}
		sum += c
	}
	return sum == total
}
