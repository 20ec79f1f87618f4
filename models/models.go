package models

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
)

var (
	// ErrShape reports a matrix, a label vector or an output that does not fit.
	ErrShape = errors.New("matrix does not fit the model")
	// ErrFiles reports stored files that are not a model of the kind: truncated, foreign or hostile.
	ErrFiles = errors.New("files are not a model of this kind")
	// ErrUnknownKind reports a kind that no linked package registered.
	ErrUnknownKind = errors.New("unknown model kind")
)

// FeatureType says how a model reads a column.
type FeatureType string

const (
	// Number is a real number; NaN is null.
	Number FeatureType = "number"
	// Category is a code into Feature.Categories.
	Category FeatureType = "category"
)

// Feature is one input column.
type Feature struct {
	Name string      `json:"name"`
	Type FeatureType `json:"type"`
	// Categories is the dictionary of a Category, fitted on the training rows: most frequent first,
	// ties bytewise. Empty for a Number.
	Categories []string `json:"categories,omitempty"`
}

// Scorer scores rows. It is safe for concurrent use and never retains x or out.
type Scorer interface {
	// Inputs are the columns that Score expects, in order. The caller must not alter the slice.
	Inputs() []Feature
	// Outputs names the values of a row: {"score"} for binary, regression and anomaly models, one
	// name a class for multiclass.
	Outputs() []string
	// Score reads rows x len(Inputs()) values, row-major, from x and writes rows x len(Outputs())
	// values to out, which the caller owns. It returns ErrShape if the lengths do not fit, and then
	// out is unspecified. ctx bounds remote scorers only.
	Score(ctx context.Context, x []float32, rows int, out []float32) error
}

// Files is a stored model: relative slash-separated names and contents.
type Files map[string][]byte

// Sub returns the files below dir, named relative to it.
func (f Files) Sub(dir string) Files {
	sub := Files{}
	for name, b := range f {
		if len(name) > len(dir)+1 && name[:len(dir)] == dir && name[len(dir)] == '/' {
			sub[name[len(dir)+1:]] = b
		}
	}
	return sub
}

// Model is a trained scorer that can be stored.
type Model interface {
	Scorer
	// Kind is the name under which Load finds the code that reads Files.
	Kind() string
	// Files returns the stored form. The same model gives the same bytes.
	Files() (Files, error)
}

// Dataset is a dense matrix with labels.
type Dataset struct {
	Features []Feature
	// X holds Rows() x len(Features) values, row-major, NaN for null.
	X []float32
	// Y holds a label a row: 0 or 1 for binary, the class index for multiclass, the value for
	// regression.
	Y []float32
	// W holds a weight a row; nil means 1 for all.
	W []float32
}

// Rows is the number of rows.
func (d Dataset) Rows() int { return len(d.Y) }

// Row is row i of X, shared with the dataset.
func (d Dataset) Row(i int) []float32 {
	n := len(d.Features)
	return d.X[i*n : (i+1)*n : (i+1)*n]
}

// Validate reports whether the lengths fit together.
func (d Dataset) Validate() error {
	if len(d.X) != len(d.Y)*len(d.Features) {
		return fmt.Errorf("%d values for %d rows of %d features: %w", len(d.X), len(d.Y), len(d.Features), ErrShape)
	}
	if d.W != nil && len(d.W) != len(d.Y) {
		return fmt.Errorf("%d weights for %d rows: %w", len(d.W), len(d.Y), ErrShape)
	}
	return nil
}

// Training is what a kind is given to learn from.
type Training struct {
	// Train is the data to fit.
	Train Dataset
	// Valid is later data for early stopping; it may have no rows, and then a kind that needs some
	// holds out the last tenth of Train.
	Valid Dataset
	// Params are the hyper-parameters by name, already checked against Kind.Params and completed
	// with their defaults.
	Params Params
	// Seed makes training repeatable: the same data, Params and Seed give the same model.
	Seed uint64
	// Workers bounds the goroutines; the default 0 means GOMAXPROCS. It never changes the result.
	Workers int
}

// Param declares a hyper-parameter of a kind.
type Param struct {
	Name string
	Doc  string
	// Default is an int, float64, bool, string or []int; its type is the parameter's type.
	Default any
	// Min and Max bound numbers, inclusive; both zero means no bounds.
	Min, Max float64
	// Enum lists the values a string may have; empty means any.
	Enum []string
}

// Params are hyper-parameters by name.
type Params map[string]any

// Int, Float, Bool, String and Ints return a parameter of that type; they panic on a name or type
// that the kind did not declare, which is a programming error, since Kind.Complete has checked them.
func (p Params) Int(name string) int       { return p[name].(int) }
func (p Params) Float(name string) float64 { return p[name].(float64) }
func (p Params) Bool(name string) bool     { return p[name].(bool) }
func (p Params) String(name string) string { return p[name].(string) }
func (p Params) Ints(name string) []int    { return p[name].([]int) }

// Kind is a family of models.
type Kind struct {
	Name   string
	Doc    string
	Params []Param
	// Train fits a model. It is nil for a kind that is only assembled from others.
	Train func(ctx context.Context, t Training) (Model, error)
	// Load reads what Files wrote. It must survive hostile bytes: no panic, no allocation beyond a
	// small multiple of the input, ErrFiles (wrapped) for whatever does not fit.
	Load func(files Files) (Model, error)
}

// Complete checks given against the declared parameters and fills in defaults. All faults are
// joined into one error; each names its parameter.
func (k Kind) Complete(given map[string]any) (Params, error) {
	out := Params{}
	var errs []error
	for _, p := range k.Params {
		out[p.Name] = p.Default
	}
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		i := slices.IndexFunc(k.Params, func(p Param) bool { return p.Name == name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s: kind %s has no such parameter", name, k.Name))
			continue
		}
		v, err := k.Params[i].convert(given[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		out[name] = v
	}
	return out, errors.Join(errs...)
}

func (p Param) convert(v any) (any, error) {
	inBounds := func(f float64) error {
		if !(p.Min == 0 && p.Max == 0) && (f < p.Min || f > p.Max) {
			return fmt.Errorf("%v is outside %v to %v", v, p.Min, p.Max)
		}
		return nil
	}
	switch p.Default.(type) {
	case int:
		switch n := v.(type) {
		case int:
			return n, inBounds(float64(n))
		case float64:
			if n == float64(int(n)) {
				return int(n), inBounds(n)
			}
		}
		return nil, fmt.Errorf("%v is not a whole number", v)
	case float64:
		switch n := v.(type) {
		case int:
			return float64(n), inBounds(float64(n))
		case float64:
			return n, inBounds(n)
		}
		return nil, fmt.Errorf("%v is not a number", v)
	case bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return nil, fmt.Errorf("%v is not true or false", v)
	case string:
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%v is not a string", v)
		}
		if len(p.Enum) > 0 && !slices.Contains(p.Enum, s) {
			return nil, fmt.Errorf("%q is not one of %v", s, p.Enum)
		}
		return s, nil
	case []int:
		switch l := v.(type) {
		case []int:
			return l, nil
		case []any:
			ints := make([]int, len(l))
			for i, e := range l {
				n, err := Param{Default: 0, Min: p.Min, Max: p.Max}.convert(e)
				if err != nil {
					return nil, err
				}
				ints[i] = n.(int)
			}
			return ints, nil
		}
		return nil, fmt.Errorf("%v is not a list of whole numbers", v)
	}
	return nil, fmt.Errorf("parameter has a default of type %T", p.Default)
}

var (
	kindsMu sync.RWMutex
	kinds   = map[string]Kind{}
)

// Register makes a kind known. Packages of kinds call it from init; a second registration of a
// name panics.
func Register(k Kind) {
	kindsMu.Lock()
	defer kindsMu.Unlock()
	if _, ok := kinds[k.Name]; ok {
		panic("models: kind " + k.Name + " registered twice")
	}
	kinds[k.Name] = k
}

// Lookup finds a registered kind, or returns ErrUnknownKind with the names that are linked.
func Lookup(name string) (Kind, error) {
	kindsMu.RLock()
	defer kindsMu.RUnlock()
	k, ok := kinds[name]
	if !ok {
		return Kind{}, fmt.Errorf("%w %q: this binary links %v", ErrUnknownKind, name, kindNames())
	}
	return k, nil
}

// Kinds lists the registered kinds by name.
func Kinds() []Kind {
	kindsMu.RLock()
	defer kindsMu.RUnlock()
	var out []Kind
	for _, name := range kindNames() {
		out = append(out, kinds[name])
	}
	return out
}

func kindNames() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// CheckShape is the length check that every Score begins with.
func CheckShape(inputs, outputs int, x []float32, rows int, out []float32) error {
	if rows < 0 || len(x) != rows*inputs || len(out) != rows*outputs {
		return fmt.Errorf("%d inputs and %d outputs for %d rows of %d and %d: %w", len(x), len(out), rows, inputs, outputs, ErrShape)
	}
	return nil
}
