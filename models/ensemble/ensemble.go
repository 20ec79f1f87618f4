package ensemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sync"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/nested"
	"github.com/millrace-ml/millrace/models/internal/newton"
)

// KindName is the name of the kind.
const KindName = "ensemble"

const (
	fileName = "ensemble.json"
	format   = 1

	mean  = "mean"     // weighted mean of the scores
	logit = "log_odds" // sigmoid of the intercept and the weighted sum of the log odds
)

// maxMembers bounds the members of an ensemble.
const maxMembers = 100

func init() {
	models.Register(models.Kind{
		Name: KindName,
		Doc:  "Several models over the same inputs, blended or stacked.",
		Load: func(files models.Files) (models.Model, error) {
			m, err := load(files)
			if err != nil {
				return nil, fmt.Errorf("loading ensemble: %w", err)
			}
			return m, nil
		},
	})
}

// Named is a member. Its name consists of small letters, digits, - and _, and is at most 40 long.
type Named struct {
	Name  string
	Model models.Model
}

// Model is an ensemble.
type Model struct {
	members   []Named
	method    string
	weights   []float64
	intercept float64
	scratch   sync.Pool // of *[]float32
}

// Blend averages the members' scores. Weights are brought to a sum of 1; nil means even ones.
func Blend(members []Named, weights []float64) (*Model, error) {
	return blend(mean, members, weights)
}

// BlendLogOdds averages the log odds of the members' scores. Weights are brought to a sum of 1; nil
// means even ones.
func BlendLogOdds(members []Named, weights []float64) (*Model, error) {
	return blend(logit, members, weights)
}

func blend(method string, members []Named, weights []float64) (*Model, error) {
	if weights == nil {
		weights = slices.Repeat([]float64{1}, len(members))
	}
	if len(weights) != len(members) {
		return nil, fmt.Errorf("blending models: %d weights for %d members", len(weights), len(members))
	}
	sum := 0.0
	for i, w := range weights {
		if !(w >= 0) || math.IsInf(w, 0) {
			return nil, fmt.Errorf("blending models: weight %v of member %d is not a number from 0 up", w, i)
		}
		sum += w
	}
	if len(members) > 0 && !(sum > 0 && sum <= math.MaxFloat64) {
		return nil, fmt.Errorf("blending models: the weights' sum is %v", sum)
	}
	normal := make([]float64, len(weights))
	for i, w := range weights {
		normal[i] = w / sum
	}
	m, err := assemble(method, members, normal, 0)
	if err != nil {
		return nil, fmt.Errorf("blending models: %w", err)
	}
	return m, nil
}

// ridge draws a stack's weights to even ones, as one row's worth of evidence would.
const ridge = 1

// Stack fits the intercept and the members' weights to held, which must be rows that no member was
// trained on: else the stack trusts whichever member learned its rows by heart.
func Stack(ctx context.Context, members []Named, held models.Dataset) (*Model, error) {
	m, err := stack(ctx, members, held)
	if err != nil {
		return nil, fmt.Errorf("stacking models: %w", err)
	}
	return m, nil
}

func stack(ctx context.Context, members []Named, held models.Dataset) (*Model, error) {
	m, err := assemble(logit, members, make([]float64, len(members)), 0)
	if err != nil {
		return nil, err
	}
	if err := held.Validate(); err != nil {
		return nil, err
	}
	if held.Rows() == 0 || len(held.Features) != len(m.Inputs()) {
		return nil, fmt.Errorf("%d rows of %d features to fit %d inputs: %w", held.Rows(), len(held.Features), len(m.Inputs()), models.ErrShape)
	}
	for i, y := range held.Y {
		if y != 0 && y != 1 {
			return nil, fmt.Errorf("label %v of row %d is neither 0 nor 1", y, i)
		}
	}
	p := newton.Problem{
		X: make([]float64, held.Rows()*len(members)), Label: held.Y, Weight: held.W, Ridge: ridge,
		Prior: make([]float64, 1+len(members)),
	}
	out := make([]float32, held.Rows())
	for i, member := range members {
		p.Prior[1+i] = 1 / float64(len(members))
		if err := member.Model.Score(ctx, held.X, held.Rows(), out); err != nil {
			return nil, fmt.Errorf("scoring member %s: %w", member.Name, err)
		}
		for r, s := range out {
			p.X[r*len(members)+i] = newton.LogOdds(float64(s))
		}
	}
	at, err := p.Solve()
	if err != nil {
		return nil, err
	}
	m.intercept, m.weights = at[0], at[1:]
	return m, nil
}

var nameShape = regexp.MustCompile(`^[a-z0-9_-]{1,40}$`)

// assemble checks that the members fit together.
func assemble(method string, members []Named, weights []float64, intercept float64) (*Model, error) {
	if len(members) == 0 || len(members) > maxMembers {
		return nil, fmt.Errorf("%d members, expected 1 to %d", len(members), maxMembers)
	}
	inputs := members[0].Model.Inputs()
	for i, m := range members {
		if !nameShape.MatchString(m.Name) {
			return nil, fmt.Errorf("name %.60q of member %d: use small letters, digits, - and _", m.Name, i)
		}
		if n := len(m.Model.Outputs()); n != 1 {
			return nil, fmt.Errorf("member %s has %d outputs, expected 1: %w", m.Name, n, models.ErrShape)
		}
		if !slices.EqualFunc(inputs, m.Model.Inputs(), sameFeature) {
			return nil, fmt.Errorf("inputs of member %s differ from those of %s: %w", m.Name, members[0].Name, models.ErrShape)
		}
		for _, other := range members[:i] {
			if other.Name == m.Name {
				return nil, fmt.Errorf("two members called %s", m.Name)
			}
		}
	}
	return &Model{members: slices.Clone(members), method: method, weights: weights, intercept: intercept}, nil
}

func sameFeature(a, b models.Feature) bool {
	return a.Name == b.Name && a.Type == b.Type && slices.Equal(a.Categories, b.Categories)
}

// Members are the models within. The caller must not alter the slice.
func (m *Model) Members() []Named { return m.members }

// Weights are the members' weights, and the intercept, which is 0 unless the models were stacked.
// The caller must not alter the slice.
func (m *Model) Weights() (weights []float64, intercept float64) { return m.weights, m.intercept }

// Inputs implements models.Scorer.
func (m *Model) Inputs() []models.Feature { return m.members[0].Model.Inputs() }

// Outputs implements models.Scorer.
func (m *Model) Outputs() []string { return []string{"score"} }

// Kind implements models.Model.
func (m *Model) Kind() string { return KindName }

// rowBlock bounds the rows that members score at a time, and with them the scratch.
const rowBlock = 256

type scratch struct {
	scores [rowBlock]float32
	sums   [rowBlock]float64
}

// Score implements models.Scorer. Sums run over the members in their order, in float64.
func (m *Model) Score(ctx context.Context, x []float32, rows int, out []float32) error {
	width := len(m.Inputs())
	if err := models.CheckShape(width, 1, x, rows, out); err != nil {
		return err
	}
	s, ok := m.scratch.Get().(*scratch)
	if !ok {
		s = new(scratch)
	}
	defer m.scratch.Put(s)
	for at := 0; at < rows; at += rowBlock {
		n := min(rowBlock, rows-at)
		if err := m.scoreBlock(ctx, s, x[at*width:(at+n)*width], n, out[at:at+n]); err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) scoreBlock(ctx context.Context, s *scratch, x []float32, rows int, out []float32) error {
	scores, sums := s.scores[:rows], s.sums[:rows]
	for i := range sums {
		sums[i] = m.intercept
	}
	for i, member := range m.members {
		if err := member.Model.Score(ctx, x, rows, scores); err != nil {
			return fmt.Errorf("scoring member %s: %w", member.Name, err)
		}
		for r, v := range scores {
			if m.method == mean {
				sums[r] += m.weights[i] * float64(v)
			} else {
				sums[r] += m.weights[i] * newton.LogOdds(float64(v))
			}
		}
	}
	for r, v := range sums {
		if m.method != mean {
			v = newton.Sigmoid(v)
		}
		out[r] = float32(v)
	}
	return nil
}

// stored is ensemble.json.
type stored struct {
	Format    int            `json:"format"`
	Method    string         `json:"method"`
	Intercept float64        `json:"intercept"`
	Members   []storedMember `json:"members"`
}

type storedMember struct {
	Name   string  `json:"name"`
	Kind   string  `json:"kind"`
	Weight float64 `json:"weight"`
}

func folder(i int, name string) string { return fmt.Sprintf("members/%02d-%s", i, name) }

// Files implements models.Model.
func (m *Model) Files() (models.Files, error) {
	s := stored{Format: format, Method: m.method, Intercept: m.intercept}
	files := models.Files{}
	for i, member := range m.members {
		s.Members = append(s.Members, storedMember{member.Name, member.Model.Kind(), m.weights[i]})
		if err := nested.Store(files, folder(i, member.Name), member.Model); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("storing ensemble: %w", err)
	}
	files[fileName] = append(b, '\n')
	return files, nil
}

func load(files models.Files) (*Model, error) {
	b, ok := files[fileName]
	if !ok {
		return nil, fmt.Errorf("no %s: %w", fileName, models.ErrFiles)
	}
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, errors.Join(err, models.ErrFiles)
	}
	switch {
	case s.Format != format:
		return nil, fmt.Errorf("format %d, this version reads %d: %w", s.Format, format, models.ErrFiles)
	case s.Method != mean && s.Method != logit:
		return nil, fmt.Errorf("method %.40q is neither %s nor %s: %w", s.Method, mean, logit, models.ErrFiles)
	case len(s.Members) > maxMembers:
		return nil, fmt.Errorf("%d members, expected at most %d: %w", len(s.Members), maxMembers, models.ErrFiles)
	}
	var members []Named
	var weights []float64
	for i, member := range s.Members {
		if !nameShape.MatchString(member.Name) {
			return nil, fmt.Errorf("name %.60q of member %d: %w", member.Name, i, models.ErrFiles)
		}
		inner, err := nested.Load(files, folder(i, member.Name), member.Kind)
		if err != nil {
			return nil, err
		}
		members, weights = append(members, Named{member.Name, inner}), append(weights, member.Weight)
	}
	m, err := assemble(s.Method, members, weights, s.Intercept)
	if err != nil {
		return nil, errors.Join(err, models.ErrFiles)
	}
	return m, nil
}
