package predict

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
)

func init() {
	register.DoFn4x1[context.Context, event.Batch, func(event.Batch), func(deadletter.Letter), error](&scoreFn{})
	register.Emitter1[event.Batch]()
	register.Emitter1[deadletter.Letter]()
}

var (
	scoredRows   = beam.NewCounter("predict", "scored")
	unscoredRows = beam.NewCounter("predict", "unscored")
)

// The columns that Score appends.
const (
	ModelColumn    = "model"
	ScoreColumn    = "score"
	ClassColumn    = "class"
	DecisionColumn = "decision"
)

// Params configures Score.
type Params struct {
	// UseCase is stamped on dead letters.
	UseCase string
	// Models score every row, each for itself.
	Models []Model
}

// Model says what scores and what follows from a score.
type Model struct {
	// Name is the model's name in the registry and in the output.
	Name string
	// Registry, Version and Digest name a published bundle. Digest may be empty: then it is not
	// compared.
	Registry string
	Version  int
	Digest   string
	// Fingerprint is that of the feature section. A bundle that was trained on another one is
	// refused. Empty means: not compared.
	Fingerprint string
	// Scorer, instead of Registry, names a scorer that RegisterScorer has made known.
	Scorer string
	// Threshold is the variable of that name in Decide. Nil means the bundle's own.
	Threshold *float64
	// Decide lists decisions; the first whose condition holds is taken.
	Decide []Decision
}

// Decision is a name for what shall be done.
type Decision struct {
	Name string
	// When is an expression over the row's columns, score and threshold; empty always holds.
	When string
}

// Validate reports all that is wrong with p.
func (p Params) Validate() error {
	var errs []error
	if len(p.Models) == 0 {
		errs = append(errs, errors.New("models: at least one is needed"))
	}
	for i, m := range p.Models {
		if m.Name == "" {
			errs = append(errs, fmt.Errorf("models[%d].name: missing", i))
		}
		if (m.Registry == "") == (m.Scorer == "") {
			errs = append(errs, fmt.Errorf("models[%d]: give either a registry or a scorer", i))
		}
		if m.Registry != "" && m.Version <= 0 {
			errs = append(errs, fmt.Errorf("models[%d].version: resolve the alias first", i))
		}
	}
	return errors.Join(errs...)
}

// Score scores PCollection<event.Batch> and returns PCollection<event.Batch> with score columns and
// PCollection<deadletter.Letter>. It panics if p is not valid.
func Score(s beam.Scope, rows beam.PCollection, p Params) (scored, unscored beam.PCollection) {
	s = s.Scope("predict.Score")
	if err := p.Validate(); err != nil {
		panic(fmt.Errorf("configuring predict.Score: %w", err))
	}
	return beam.ParDo2(s, &scoreFn{Params: p}, rows)
}

type scoreFn struct {
	Params Params

	lines []*line
}

func (f *scoreFn) Setup(ctx context.Context) error {
	for _, m := range f.Params.Models {
		loaded, err := load(ctx, m)
		if err != nil {
			return fmt.Errorf("loading model %s: %w", m.Name, err)
		}
		f.lines = append(f.lines, &line{model: m, loaded: loaded})
	}
	return nil
}

func (f *scoreFn) ProcessElement(ctx context.Context, rows event.Batch, scored func(event.Batch), unscored func(deadletter.Letter)) error {
	for _, l := range f.lines {
		good, letters, err := l.score(ctx, rows)
		if err != nil {
			return fmt.Errorf("scoring with %s: %w", l.loaded.name, err)
		}
		scoredRows.Inc(ctx, int64(good.N))
		unscoredRows.Inc(ctx, int64(len(letters)))
		for _, letter := range letters {
			letter.UseCase = f.Params.UseCase
			unscored(letter)
		}
		if good.N > 0 {
			scored(good)
		}
	}
	return nil
}

// line is one model's way through a batch, compiled for the schema that was seen last.
type line struct {
	model  Model
	loaded *loaded

	in       *event.Schema
	inputs   []input
	out      *event.Schema
	deciding *event.Schema
	when     []*expr.Program
	x, y     []float32
}

type input struct {
	col   int
	kind  event.Kind
	scale float64
	codes map[string]float32
}

func (l *line) prepare(s *event.Schema) error {
	if s == l.in {
		return nil
	}
	l.inputs = l.inputs[:0]
	for _, f := range l.loaded.scorer.Inputs() {
		i := s.Index(f.Name)
		if i < 0 {
			return fmt.Errorf("the model reads %q, which the rows don't have: retrain it on these features", f.Name)
		}
		in := input{col: i, kind: s.Fields[i].Kind, scale: math.Pow10(int(s.Fields[i].Scale))}
		if f.Type == models.Category {
			in.codes = make(map[string]float32, len(f.Categories))
			for code, c := range f.Categories {
				in.codes[c] = float32(code)
			}
		} else if in.kind > event.Float {
			return fmt.Errorf("the model reads %q as a number, the rows have a %v", f.Name, in.kind)
		}
		l.inputs = append(l.inputs, in)
	}
	more := []event.Field{{Name: ModelColumn, Kind: event.Category}}
	if len(l.loaded.scorer.Outputs()) > 1 {
		more = append(more, event.Field{Name: ClassColumn, Kind: event.Category})
	}
	more = append(more, event.Field{Name: ScoreColumn, Kind: event.Float})
	base, err := s.With(more...)
	if err != nil {
		return err
	}
	l.out = base
	l.when = l.when[:0]
	if len(l.model.Decide) > 0 {
		if l.deciding, err = base.With(event.Field{Name: "threshold", Kind: event.Float}); err != nil {
			return err
		}
		for i, d := range l.model.Decide {
			src := d.When
			if src == "" {
				src = "true"
			}
			p, err := expr.Compile(src, l.deciding)
			if err != nil {
				return fmt.Errorf("compiling decide[%d].when: %w", i, err)
			}
			l.when = append(l.when, p)
		}
		if l.out, err = base.With(event.Field{Name: DecisionColumn, Kind: event.Category}); err != nil {
			return err
		}
	}
	l.in = s
	return nil
}

func (l *line) score(ctx context.Context, rows event.Batch) (event.Batch, []deadletter.Letter, error) {
	if err := l.prepare(rows.Schema); err != nil {
		return event.Batch{}, nil, err
	}
	l.fill(rows)
	outputs := l.loaded.scorer.Outputs()
	l.y = grow(l.y, rows.N*len(outputs))
	if err := scoreHalves(ctx, l.loaded.scorer, l.x, rows.N, l.y); err != nil {
		return event.Batch{}, nil, err
	}
	rows, letters := l.sift(rows, len(outputs))
	if rows.N == 0 {
		return rows, letters, nil
	}
	cols := []event.Column{constant(l.loaded.name, rows.N)}
	scores := event.Column{Floats: make([]float64, rows.N)}
	if len(outputs) == 1 {
		for i := range scores.Floats {
			scores.Floats[i] = float64(l.y[i])
		}
	} else {
		class := event.Column{Ends: make([]uint32, 0, rows.N)}
		for i := range scores.Floats {
			best := 0
			row := l.y[i*len(outputs) : (i+1)*len(outputs)]
			for k, v := range row {
				if v > row[best] {
					best = k
				}
			}
			scores.Floats[i] = float64(row[best])
			class.AppendRaw([]byte(outputs[best]))
		}
		cols = append(cols, class)
	}
	cols = append(cols, scores)
	if len(l.when) > 0 {
		decision, err := l.decide(rows, cols)
		if err != nil {
			return event.Batch{}, nil, err
		}
		cols = append(cols, decision)
	}
	return rows.With(l.out, cols...), letters, nil
}

// fill writes the model's inputs row by row into l.x.
func (l *line) fill(rows event.Batch) {
	w := len(l.inputs)
	l.x = grow(l.x, rows.N*w)
	null := float32(math.NaN())
	for k, in := range l.inputs {
		c := &rows.Cols[in.col]
		x := l.x[k:]
		switch {
		case in.codes != nil:
			unseen := float32(len(in.codes))
			var text [20]byte
			for i := 0; i < rows.N; i++ {
				var raw []byte
				if c.Ints != nil {
					raw = strconv.AppendInt(text[:0], c.Ints[i], 10)
				} else {
					raw = c.Raw(i)
				}
				code, ok := in.codes[string(raw)]
				if !ok {
					code = unseen
				}
				x[i*w] = code
			}
		case c.Floats != nil:
			for i, v := range c.Floats[:rows.N] {
				x[i*w] = float32(v)
			}
		case in.kind == event.Decimal:
			for i, v := range c.Ints[:rows.N] {
				x[i*w] = float32(float64(v) / in.scale)
			}
		default:
			for i, v := range c.Ints[:rows.N] {
				x[i*w] = float32(v)
			}
		}
		if c.Nulls != nil {
			for i := 0; i < rows.N; i++ {
				if c.Null(i) {
					x[i*w] = null
				}
			}
		}
	}
}

// sift takes out the rows whose score is not finite, which no decision can be based on.
func (l *line) sift(rows event.Batch, outputs int) (event.Batch, []deadletter.Letter) {
	var letters []deadletter.Letter
	var keep []int32
	for i := 0; i < rows.N; i++ {
		bad := false
		for _, v := range l.y[i*outputs : (i+1)*outputs] {
			bad = bad || v-v != 0 // true for NaN and infinities only
		}
		if bad && letters == nil {
			for k := 0; k < i; k++ {
				keep = append(keep, int32(k))
			}
			letters = []deadletter.Letter{}
		}
		switch {
		case bad:
			letters = append(letters, l.letter(rows, i))
		case letters != nil:
			keep = append(keep, int32(i))
		}
	}
	if letters == nil {
		return rows, nil
	}
	for k, r := range keep {
		copy(l.y[k*outputs:(k+1)*outputs], l.y[int(r)*outputs:(int(r)+1)*outputs])
	}
	return rows.Gather(keep), letters
}

func (l *line) letter(rows event.Batch, i int) deadletter.Letter {
	letter := deadletter.Letter{
		Stage: "predict", Class: deadletter.Score, Attempts: 1, Model: l.loaded.name, Fingerprint: l.model.Fingerprint,
		Message: "the score is not a finite number: look at the event's features",
	}
	if rows.Schema.ID >= 0 {
		letter.ID = string(rows.IDs().AppendID(nil, i))
	}
	return letter
}

func (l *line) decide(rows event.Batch, cols []event.Column) (event.Column, error) {
	threshold := event.Column{Floats: make([]float64, rows.N)}
	for i := range threshold.Floats {
		threshold.Floats[i] = l.loaded.threshold
	}
	full := rows.With(l.deciding, append(append([]event.Column{}, cols...), threshold)...)
	pick := make([]int, rows.N)
	for i := range pick {
		pick[i] = -1
	}
	for d, p := range l.when {
		holds, err := p.Eval(&full)
		if err != nil {
			return event.Column{}, err
		}
		for i := range pick {
			if pick[i] < 0 && holds.Ints[i] == 1 && !holds.Null(i) {
				pick[i] = d
			}
		}
	}
	out := event.Column{Ends: make([]uint32, 0, rows.N)}
	for i, d := range pick {
		if d < 0 {
			out.AppendRaw(nil)
			out.SetNull(i, rows.N)
			continue
		}
		out.AppendRaw([]byte(l.model.Decide[d].Name))
	}
	return out, nil
}

func constant(s string, n int) event.Column {
	c := event.Column{Ends: make([]uint32, 0, n), Bytes: make([]byte, 0, n*len(s))}
	for range n {
		c.AppendRaw([]byte(s))
	}
	return c
}

func grow(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}

// halfRows is the least number of rows that is worth a goroutine.
const halfRows = 512

// scoreHalves scores on two goroutines: the direct runner, and Prism within a bundle, use one.
func scoreHalves(ctx context.Context, sc models.Scorer, x []float32, rows int, y []float32) error {
	half := rows / 2
	if half < halfRows {
		return sc.Score(ctx, x, rows, y)
	}
	in, out := len(sc.Inputs()), len(sc.Outputs())
	done := make(chan error, 1)
	go func() { done <- sc.Score(ctx, x[:half*in], half, y[:half*out]) }()
	err := sc.Score(ctx, x[half*in:], rows-half, y[half*out:])
	return errors.Join(err, <-done)
}
