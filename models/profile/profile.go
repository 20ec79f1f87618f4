package profile

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"

	"github.com/millrace-ml/millrace/models"
)

var (
	// ErrMismatch reports profiles, or a profile and a matrix, whose columns differ.
	ErrMismatch = errors.New("profiles do not fit together")
	// ErrFormat reports bytes that are not a profile.
	ErrFormat = errors.New("not a profile")
)

const (
	// accuracy is the sketch's relative error.
	accuracy = 0.01
	// topValues bounds the counts of a category column.
	topValues = 256
	// histogramBins is how many equally filled bins Of makes.
	histogramBins = 10
)

// Profile summarises rows. It is not safe for concurrent use.
type Profile struct {
	// Rows is how many were added.
	Rows uint64
	// Columns are the model's inputs in order.
	Columns []Column
	// Outputs are the model's outputs in order, number columns all.
	Outputs []Column
}

// Column summarises a column; one of Number and Category is set.
type Column struct {
	Name string
	Type models.FeatureType
	// Count are the values, Nulls the rows without one.
	Count, Nulls uint64
	Number       *Number
	Category     *Category
}

// Number summarises the values of a number column.
type Number struct {
	// Mean and M2, the sum of squared deviations from it; 0 without values.
	Mean, M2 float64
	// Min and Max are +Inf and -Inf without values.
	Min, Max float64
	// Edges are ascending; Histogram[i] counts Edges[i-1] < v <= Edges[i].
	Edges     []float64
	Histogram []uint64

	count  uint64
	sketch *ddsketch.DDSketch
}

// Category counts the values of a category column.
type Category struct {
	// Values are the first of the dictionary and Counts how often each came.
	Values []string
	Counts []uint64
	// Rest counts the dictionary's other values, Unseen those that training did not see.
	Rest, Unseen uint64
	// known is the length of the dictionary.
	known int
}

// New returns a profile without rows and without edges.
func New(features []models.Feature, outputs []string) *Profile {
	p := &Profile{}
	for _, f := range features {
		c := Column{Name: f.Name, Type: f.Type}
		if f.Type == models.Category {
			values := slices.Clone(f.Categories[:min(len(f.Categories), topValues)])
			c.Category = &Category{Values: values, Counts: make([]uint64, len(values)), known: len(f.Categories)}
		} else {
			c.Number = newNumber(nil)
		}
		p.Columns = append(p.Columns, c)
	}
	for _, name := range outputs {
		p.Outputs = append(p.Outputs, Column{Name: name, Type: models.Number, Number: newNumber(nil)})
	}
	return p
}

// Of profiles a whole dataset with its scores (rows x outputs, row-major), and fixes the edges at
// the exact deciles of each number column and output. Equal deciles become one edge, so a column of
// few values has fewer bins. It returns models.ErrShape if the lengths do not fit.
func Of(d models.Dataset, outputs []string, scores []float32) (*Profile, error) {
	if err := errors.Join(d.Validate(), models.CheckShape(len(d.Features), len(outputs), d.X, d.Rows(), scores)); err != nil {
		return nil, fmt.Errorf("profiling a dataset: %w", err)
	}
	p := New(d.Features, outputs)
	for i := range p.Columns {
		p.Columns[i].setEdges(d.X, i, len(p.Columns))
	}
	for i := range p.Outputs {
		p.Outputs[i].setEdges(scores, i, len(p.Outputs))
	}
	return p, p.Add(d.X, d.Rows(), scores)
}

func (c *Column) setEdges(x []float32, at, width int) {
	if c.Number == nil {
		return
	}
	var values []float32
	for i := at; i < len(x); i += width {
		if !null(float64(x[i])) {
			values = append(values, x[i])
		}
	}
	slices.Sort(values)
	var edges []float64
	for b := 1; b < histogramBins && len(values) > 0; b++ {
		// The smallest value with at least b tenths of the values at or below it.
		edge := float64(values[(len(values)*b+histogramBins-1)/histogramBins-1])
		if len(edges) == 0 || edge > edges[len(edges)-1] {
			edges = append(edges, edge)
		}
	}
	c.Number = newNumber(edges)
}

// Empty returns a profile without rows that merges with p: same columns, dictionaries and edges.
func (p *Profile) Empty() *Profile {
	out := &Profile{}
	for _, c := range p.Columns {
		out.Columns = append(out.Columns, c.empty())
	}
	for _, c := range p.Outputs {
		out.Outputs = append(out.Outputs, c.empty())
	}
	return out
}

func (c Column) empty() Column {
	e := Column{Name: c.Name, Type: c.Type}
	if c.Number != nil {
		e.Number = newNumber(slices.Clone(c.Number.Edges))
	}
	if c.Category != nil {
		e.Category = &Category{Values: slices.Clone(c.Category.Values), Counts: make([]uint64, len(c.Category.Counts)), known: c.Category.known}
	}
	return e
}

// Clone returns a copy that shares nothing with p.
func (p *Profile) Clone() *Profile {
	out := p.Empty()
	if err := out.Merge(p); err != nil {
		panic(err) // an empty copy of p fits p
	}
	return out
}

// Add counts rows: x is rows x Columns, scores rows x Outputs, both row-major. It returns
// models.ErrShape if the lengths do not fit, and then p is unchanged.
func (p *Profile) Add(x []float32, rows int, scores []float32) error {
	if err := models.CheckShape(len(p.Columns), len(p.Outputs), x, rows, scores); err != nil {
		return fmt.Errorf("profiling rows: %w", err)
	}
	p.Rows += uint64(rows)
	add(p.Columns, x, rows)
	add(p.Outputs, scores, rows)
	return nil
}

// add goes column by column, so that a column's sketch stays in the processor's cache.
func add(columns []Column, x []float32, rows int) {
	for i := range columns {
		c := &columns[i]
		for r := range rows {
			c.add(float64(x[r*len(columns)+i]))
		}
	}
}

func null(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }

func (c *Column) add(v float64) {
	if null(v) {
		c.Nulls++
		return
	}
	c.Count++
	if c.Number != nil {
		c.Number.add(v)
		return
	}
	switch g := c.Category; {
	case v < 0 || v >= float64(g.known):
		g.Unseen++
	case int(v) < len(g.Counts):
		g.Counts[int(v)]++
	default:
		g.Rest++
	}
}

func newNumber(edges []float64) *Number {
	m, err := mapping.NewLogarithmicMapping(accuracy)
	if err != nil {
		panic(err) // a constant accuracy that is in range
	}
	return &Number{
		Min: math.Inf(1), Max: math.Inf(-1),
		Edges: edges, Histogram: make([]uint64, len(edges)+1),
		// Dense stores are bounded here: float32 values span fewer than 10,000 bins.
		sketch: ddsketch.NewDDSketch(m, store.NewDenseStore(), store.NewDenseStore()),
	}
}

func (n *Number) add(v float64) {
	n.count++
	delta := v - n.Mean
	n.Mean += delta / float64(n.count)
	n.M2 += delta * (v - n.Mean)
	n.Min, n.Max = math.Min(n.Min, v), math.Max(n.Max, v)
	n.Histogram[sort.SearchFloat64s(n.Edges, v)]++
	// A finite float32 is always within the sketch's range, so there is no error to see.
	_ = n.sketch.Add(v)
}

// Variance is the population variance; NaN without values.
func (n *Number) Variance() float64 {
	if n.count == 0 {
		return math.NaN()
	}
	return n.M2 / float64(n.count)
}

// Quantile is the value at q of 0 to 1, within 1 % of a value at that rank; NaN without values.
func (n *Number) Quantile(q float64) float64 {
	if n.count == 0 {
		return math.NaN()
	}
	v, err := n.sketch.GetValueAtQuantile(q)
	if err != nil {
		return math.NaN()
	}
	return math.Min(math.Max(v, n.Min), n.Max)
}

// Merge adds o's rows to p; o is unchanged and shares nothing with p afterwards. It returns
// ErrMismatch if the columns, dictionaries or edges differ, and then p is unchanged.
func (p *Profile) Merge(o *Profile) error {
	if err := p.fits(o); err != nil {
		return fmt.Errorf("merging profiles: %w", err)
	}
	p.Rows += o.Rows
	merge(p.Columns, o.Columns)
	merge(p.Outputs, o.Outputs)
	return nil
}

func (p *Profile) fits(o *Profile) error {
	if len(p.Columns) != len(o.Columns) || len(p.Outputs) != len(o.Outputs) {
		return fmt.Errorf("%d columns and %d outputs against %d and %d: %w",
			len(p.Columns), len(p.Outputs), len(o.Columns), len(o.Outputs), ErrMismatch)
	}
	for i, c := range slices.Concat(p.Columns, p.Outputs) {
		d := slices.Concat(o.Columns, o.Outputs)[i]
		switch {
		case c.Name != d.Name || c.Type != d.Type:
			return fmt.Errorf("%s %s against %s %s: %w", c.Type, c.Name, d.Type, d.Name, ErrMismatch)
		case c.Number != nil && !slices.Equal(c.Number.Edges, d.Number.Edges):
			return fmt.Errorf("%s has other edges; start from the reference's Empty: %w", c.Name, ErrMismatch)
		case c.Category != nil && (c.Category.known != d.Category.known || !slices.Equal(c.Category.Values, d.Category.Values)):
			return fmt.Errorf("%s has another dictionary: %w", c.Name, ErrMismatch)
		}
	}
	return nil
}

func merge(a, b []Column) {
	for i := range a {
		a[i].Count += b[i].Count
		a[i].Nulls += b[i].Nulls
		if n := a[i].Number; n != nil {
			n.merge(b[i].Number)
		}
		if g := a[i].Category; g != nil {
			h := b[i].Category
			addAll(g.Counts, h.Counts)
			g.Rest += h.Rest
			g.Unseen += h.Unseen
		}
	}
}

func (n *Number) merge(o *Number) {
	if o.count == 0 {
		return
	}
	na, nb := float64(n.count), float64(o.count)
	if n.count == 0 {
		// Exactly o's moments: the formula below would round them.
		n.Mean, n.M2 = o.Mean, o.M2
	} else {
		delta := o.Mean - n.Mean
		n.Mean += delta * nb / (na + nb)
		n.M2 += o.M2 + delta*delta*na*nb/(na+nb)
	}
	n.count += o.count
	n.Min, n.Max = math.Min(n.Min, o.Min), math.Max(n.Max, o.Max)
	addAll(n.Histogram, o.Histogram)
	// Both have the one mapping of newNumber, so there is no error to see.
	_ = n.sketch.MergeWith(o.sketch)
}

func addAll(a, b []uint64) {
	for i, v := range b {
		a[i] += v
	}
}
