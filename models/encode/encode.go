package encode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/models"
)

// These are part of the stored format's version 1: changing one needs a new version.
const (
	version = 1
	oneHot  = 32
	buckets = 8
	limit   = 1e6
	// smallest is the deviation below which a column counts as constant: its inverse must be a
	// float32.
	smallest = 1e-37
)

// Options change what Fit does.
type Options struct {
	// NoMissing leaves out the columns that say whether a number is null.
	NoMissing bool
}

// Encoder is a fitted encoding. It is immutable and safe for concurrent use.
type Encoder struct {
	features  []models.Feature
	columns   []column
	width     int
	plain     bool       // numbers only, a column each
	standards []standard // of each column
}

// column is the encoding of one feature.
type column struct {
	mean, std float64
	missing   bool
	standard  standard
	// codes maps a category's code to its output column; beyond it lie unseen and null.
	codes []int
	width int
}

// Fit learns the encoding of d's features. It needs no rows: without any value a mean is 0 and a
// deviation 1.
func Fit(d models.Dataset, o Options) (*Encoder, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("fitting encoder: %w", err)
	}
	stored := make([]stored, len(d.Features))
	for i, f := range d.Features {
		stored[i].Feature = f
		if f.Type != models.Number {
			continue
		}
		mean, std, missing := moments(d.X, i, len(d.Features))
		stored[i].Mean, stored[i].Std, stored[i].Missing = mean, std, missing && !o.NoMissing
	}
	e, err := assemble(stored)
	if err != nil {
		return nil, fmt.Errorf("fitting encoder: %w", err)
	}
	return e, nil
}

// moments are the mean and population deviation of the finite values in a column, and whether any
// value is not finite. Two passes, since one pass cancels where the mean is large.
func moments(x []float32, from, stride int) (mean, std float64, missing bool) {
	n := 0
	for i := from; i < len(x); i += stride {
		if v := float64(x[i]); v-v == 0 {
			mean += v
			n++
		} else {
			missing = true
		}
	}
	if n == 0 {
		return 0, 1, missing
	}
	mean /= float64(n)
	for i := from; i < len(x); i += stride {
		if v := float64(x[i]); v-v == 0 {
			std += (v - mean) * (v - mean)
		}
	}
	std = math.Sqrt(std / float64(n))
	// A constant column's deviation may be rounding of its mean.
	if std <= 1e-12*math.Abs(mean) || std < smallest {
		std = 1
	}
	return mean, std, missing
}

// Features are the inputs, in order. The caller must not alter the slice.
func (e *Encoder) Features() []models.Feature { return e.features }

// Width is the number of encoded columns.
func (e *Encoder) Width() int { return e.width }

// Encode writes rows x Width() values to dst, row-major, from rows x len(Features()) values in x.
// It panics if either is too short. It allocates nothing and retains neither.
func (e *Encoder) Encode(x []float32, rows int, dst []float32) {
	in := len(e.columns)
	if e.plain {
		for r := range rows {
			row, out := x[r*in:][:in], dst[r*in:][:in]
			standards := e.standards[:in]
			for i, v := range row {
				out[i] = standards[i].apply(v)
			}
		}
		return
	}
	for r := range rows {
		row, out := x[r*in:(r+1)*in], dst[r*e.width:(r+1)*e.width]
		for i := range e.columns {
			c := &e.columns[i]
			c.encode(row[i], out[:c.width])
			out = out[c.width:]
		}
	}
}

// standard is a mean and a deviation in float32, for speed: the mean in two parts, so that values
// near a large mean lose nothing.
type standard struct{ mean, rest, inverse float32 }

func newStandard(mean, std float64) standard {
	m := float32(mean)
	return standard{mean: m, rest: float32(mean - float64(m)), inverse: float32(1 / std)}
}

func (s standard) apply(v float32) float32 {
	z := (v - s.mean - s.rest) * s.inverse
	// One comparison for both signs and for NaN, whose bits are above all numbers'.
	if math.Float32bits(z)&^(1<<31) < limitBits {
		return z
	}
	return extreme(v, z)
}

var limitBits = math.Float32bits(limit)

func extreme(v, z float32) float32 {
	switch {
	case v-v != 0:
		return 0
	case z < 0:
		return -limit
	}
	return limit
}

func (c *column) encode(v float32, out []float32) {
	if c.codes == nil {
		out[0] = c.standard.apply(v)
		if c.missing {
			out[1] = 0
			if v-v != 0 {
				out[1] = 1
			}
		}
		return
	}
	clear(out)
	switch {
	case v-v != 0:
		out[c.width-1] = 1
	case v >= 0 && v < float32(len(c.codes)):
		out[c.codes[int(v)]] = 1
	default:
		out[c.width-2] = 1
	}
}

// stored is a feature in the stored form.
type stored struct {
	models.Feature
	Mean    float64 `json:"mean,omitempty"`
	Std     float64 `json:"std,omitempty"`
	Missing bool    `json:"missing,omitempty"`
}

type document struct {
	Version  int      `json:"version"`
	Features []stored `json:"features"`
}

// assemble checks features and lays out their columns.
func assemble(features []stored) (*Encoder, error) {
	e := &Encoder{plain: true}
	for _, f := range features {
		c := column{width: 1}
		switch f.Type {
		case models.Number:
			c.mean, c.std, c.missing, c.standard = f.Mean, f.Std, f.Missing, newStandard(f.Mean, f.Std)
			if !(math.Abs(c.mean) <= math.MaxFloat32) || !(c.std >= smallest && c.std <= math.MaxFloat32) {
				return nil, fmt.Errorf("feature %q has the mean %v and the deviation %v: %w", f.Name, f.Mean, f.Std, models.ErrFiles)
			}
			if len(f.Categories) > 0 {
				return nil, fmt.Errorf("feature %q is a number with categories: %w", f.Name, models.ErrFiles)
			}
			if f.Missing {
				c.width, e.plain = 2, false
			}
		case models.Category:
			if f.Mean != 0 || f.Std != 0 || f.Missing {
				return nil, fmt.Errorf("feature %q is a category with a mean: %w", f.Name, models.ErrFiles)
			}
			c.codes = make([]int, len(f.Categories))
			seen := make(map[string]bool, len(f.Categories))
			for code, value := range f.Categories {
				// JSON would store other bytes, perhaps those of another category.
				if seen[value] || !utf8.ValidString(value) {
					return nil, fmt.Errorf("feature %q has the category %q twice or not in UTF-8: %w", f.Name, value, models.ErrFiles)
				}
				seen[value] = true
				c.codes[code] = code
				if code >= oneHot {
					h := fnv.New32a()
					io.WriteString(h, value)
					c.codes[code] = oneHot + int(h.Sum32()%buckets)
				}
			}
			c.width, e.plain = min(len(f.Categories), oneHot)+2, false
			if len(f.Categories) > oneHot {
				c.width += buckets
			}
		default:
			return nil, fmt.Errorf("feature %q has the type %q: %w", f.Name, f.Type, models.ErrFiles)
		}
		e.features = append(e.features, models.Feature{Name: f.Name, Type: f.Type, Categories: slices.Clone(f.Categories)})
		e.columns = append(e.columns, c)
		e.standards = append(e.standards, c.standard)
		e.width += c.width
	}
	return e, nil
}

// MarshalJSON returns the stored form. The same encoder gives the same bytes.
func (e *Encoder) MarshalJSON() ([]byte, error) {
	d := document{Version: version, Features: make([]stored, len(e.features))}
	for i, f := range e.features {
		c := e.columns[i]
		d.Features[i] = stored{Feature: f, Mean: c.mean, Std: c.std, Missing: c.missing}
	}
	return json.Marshal(d)
}

// UnmarshalJSON reads the stored form, strictly: unknown fields, other versions and values that Fit
// can't make are models.ErrFiles, and e is then unchanged. It allocates in proportion to b.
func (e *Encoder) UnmarshalJSON(b []byte) error {
	var d document
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return fmt.Errorf("reading encoder: %w: %w", models.ErrFiles, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("reading encoder: more than one document: %w", models.ErrFiles)
	}
	if d.Version != version {
		return fmt.Errorf("reading encoder: version %d, this release reads %d: %w", d.Version, version, models.ErrFiles)
	}
	read, err := assemble(d.Features)
	if err != nil {
		return fmt.Errorf("reading encoder: %w", err)
	}
	*e = *read
	return nil
}

// Dictionary lists the distinct values, most frequent first and ties bytewise, as Feature.Categories
// wants them. Values whose null is true don't count, and neither do values that aren't UTF-8, which no
// stored form can hold; nulls may be nil.
func Dictionary(values []string, nulls []bool) []string {
	counts := map[string]int{}
	for i, v := range values {
		if (nulls == nil || !nulls[i]) && utf8.ValidString(v) {
			counts[v]++
		}
	}
	out := make([]string, 0, len(counts))
	for v := range counts {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	return out
}

// Lookup maps the values of a dictionary to their codes. A value that isn't in it has the code
// len(categories).
func Lookup(categories []string) map[string]int {
	codes := make(map[string]int, len(categories))
	for code, value := range categories {
		codes[value] = code
	}
	return codes
}
