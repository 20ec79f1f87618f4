package predict

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

func init() {
	beam.RegisterDoFn(&scoreFn{})
	register.Emitter1[event.Batch]()
	register.Emitter1[deadletter.Letter]()
}

var (
	scoredRows   = beam.NewCounter("predict", "scored")
	unscoredRows = beam.NewCounter("predict", "unscored")
	canaryRows   = beam.NewCounter("predict", "canary")
	shadowRows   = beam.NewCounter("predict", "shadow")
	swapped      = beam.NewCounter("predict", "swapped")
	refused      = beam.NewCounter("predict", "refused")
	unreachable  = beam.NewCounter("predict", "unreachable")
	misfits      = beam.NewCounter("predict", "misfit")
)

// The columns that Score appends.
const (
	ModelColumn    = "model"
	ScoreColumn    = "score"
	ClassColumn    = "class"
	DecisionColumn = "decision"

	// These are appended where a model has a shadow; they are null where it did not score.
	ShadowModelColumn = "shadow_model"
	ShadowClassColumn = "shadow_class"
	ShadowScoreColumn = "shadow_score"
)

// Params configures Score.
type Params struct {
	// UseCase is stamped on dead letters.
	UseCase string
	// Models score every row, each for itself.
	Models []Model
	// Run sets the pollers of aliases apart from those of other runs in a process; the default is a
	// random name, given when the graph is built.
	Run string
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
	// Alias, instead of Version and Digest, names the version that the alias points at from time to
	// time: for streams. Poll is the time between two looks at it; the default is 10 s.
	Alias string
	Poll  time.Duration
	// Canary takes its share of the rows from Alias. It needs an Alias and events with ids.
	Canary Canary
	// Shadow is the alias of a version that scores every row too, into columns of its own, and decides
	// nothing. It needs an Alias.
	Shadow string
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

// Canary is a version that is tried on some of the events.
type Canary struct {
	// Alias names it; empty for none. While the alias points nowhere, all rows are the champion's.
	Alias string
	// Share is the part of the events that it scores, above 0 to 1. An event's id alone decides: a
	// replayed event goes the same way, and a larger share keeps the events of a smaller one.
	Share float64
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
		if m.Registry != "" && (m.Version > 0) == (m.Alias != "") {
			errs = append(errs, fmt.Errorf("models[%d]: give either a version, which a bounded run resolves first, or an alias", i))
		}
		if m.Scorer != "" && m.Alias != "" {
			errs = append(errs, fmt.Errorf("models[%d]: an alias goes with a registry, not with a scorer", i))
		}
		if m.Alias == "" && (m.Canary.Alias != "" || m.Shadow != "" || m.Poll != 0) {
			errs = append(errs, fmt.Errorf("models[%d]: canary, shadow and poll go with an alias", i))
		}
		if m.Poll < 0 {
			errs = append(errs, fmt.Errorf("models[%d].poll: %v is negative", i, m.Poll))
		}
		if c := m.Canary; c.Alias != "" && !(c.Share > 0 && c.Share <= 1) || c.Alias == "" && c.Share != 0 {
			errs = append(errs, fmt.Errorf("models[%d].canary: an alias goes with a share above 0 to 1, not %v", i, c.Share))
		}
		if a := m.Canary.Alias; a != "" && (a == m.Alias || a == m.Shadow) || m.Shadow != "" && m.Shadow == m.Alias {
			errs = append(errs, fmt.Errorf("models[%d]: alias, canary and shadow must be three, not %q, %q and %q", i, m.Alias, a, m.Shadow))
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
	if p.Run == "" && slices.ContainsFunc(p.Models, func(m Model) bool { return m.Alias != "" }) {
		p.Run = rand.Text()
	}
	return beam.ParDo2(s, &scoreFn{Params: p}, rows)
}

type scoreFn struct {
	Params Params

	lines []*line
}

func (f *scoreFn) Setup(ctx context.Context) error {
	for _, m := range f.Params.Models {
		l, err := newLine(ctx, m, f.Params.Run)
		if err != nil {
			return errors.Join(fmt.Errorf("loading model %s: %w", m.Name, err), f.Teardown())
		}
		f.lines = append(f.lines, l)
	}
	return nil
}

func (f *scoreFn) Teardown() error {
	for _, l := range f.lines {
		l.close()
	}
	f.lines = nil
	return nil
}

func (f *scoreFn) ProcessElement(ctx context.Context, rows event.Batch, scored func(event.Batch), unscored func(deadletter.Letter)) error {
	for _, l := range f.lines {
		good, letters, err := l.score(ctx, rows)
		if err != nil {
			return fmt.Errorf("scoring with model %s: %w", l.model.Name, err)
		}
		l.report(ctx)
		scoredRows.Inc(ctx, int64(good.N))
		unscoredRows.Inc(ctx, int64(len(letters)))
		telemetry.BatchRows("predict", rows.N)
		l.tell(good, letters)
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
