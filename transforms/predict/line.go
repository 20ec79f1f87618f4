package predict

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

// line is one model's way through a batch: its champion and canary score a row between them, its shadow
// scores it again. What follows from the schema is compiled for the one that was seen last.
type line struct {
	model                    Model
	champion, canary, shadow *lane // canary and shadow may be nil
	salt                     uint64

	in       *event.Schema
	out      *event.Schema // with all columns
	deciding *event.Schema // with those that a decision may read
	many     bool
	when     []*expr.Program

	// Since the last report.
	misfits, canaries, shadowed int64
	shadowFailed                bool
}

// verdicts are what was scored, a row each.
type verdicts struct {
	by    []*lane
	score []float64 // NaN where it was not finite
	class []string  // nil for models with one output
}

func newVerdicts(n int, many bool) verdicts {
	v := verdicts{by: make([]*lane, n), score: make([]float64, n)}
	if many {
		v.class = make([]string, n)
	}
	return v
}

func (v *verdicts) keep(rows []int32) {
	for k, row := range rows {
		v.by[k], v.score[k] = v.by[row], v.score[row]
		if v.class != nil {
			v.class[k] = v.class[row]
		}
	}
	v.by, v.score = v.by[:len(rows)], v.score[:len(rows)]
	if v.class != nil {
		v.class = v.class[:len(rows)]
	}
}

func (l *line) score(ctx context.Context, rows event.Batch) (event.Batch, []deadletter.Letter, error) {
	if err := l.prepare(rows.Schema); err != nil {
		return event.Batch{}, nil, err
	}
	v := newVerdicts(rows.N, l.many)
	theirs, mine := l.split(rows)
	if len(theirs) > 0 {
		if err := l.canary.score(ctx, rows, theirs, &v); err != nil {
			return event.Batch{}, nil, fmt.Errorf("canary %w", err)
		}
		l.canaries += int64(len(theirs))
	}
	if len(theirs) < rows.N {
		if err := l.champion.score(ctx, rows, mine, &v); err != nil {
			return event.Batch{}, nil, err
		}
	}
	rows, letters := l.sift(rows, &v)
	if rows.N == 0 {
		return rows, letters, nil
	}
	cols := v.columns()
	if len(l.when) > 0 {
		decision, err := l.decide(rows, cols, v.by)
		if err != nil {
			return event.Batch{}, nil, err
		}
		cols = append(cols, decision)
	}
	if l.shadow != nil {
		cols = append(cols, l.shade(ctx, rows)...)
	}
	return rows.With(l.out, cols...), letters, nil
}

// prepare compiles what has to be, for the newest versions and the schema.
func (l *line) prepare(s *event.Schema) error {
	misfit, err := l.champion.ready(s, l.champion.version)
	if err != nil {
		return err
	}
	l.passOver(l.champion, misfit)
	if l.canary != nil && s.ID < 0 {
		return errors.New("a canary is chosen by the event's id, and the rows have none: name the id column, or leave the canary out")
	}
	if s == l.in {
		return nil
	}
	l.many = many(l.champion.version.Scorer)
	fields := []event.Field{{Name: ModelColumn, Kind: event.Category}}
	shadow := []event.Field{{Name: ShadowModelColumn, Kind: event.Category}}
	if l.many {
		fields = append(fields, event.Field{Name: ClassColumn, Kind: event.Category})
		shadow = append(shadow, event.Field{Name: ShadowClassColumn, Kind: event.Category})
	}
	fields = append(fields, event.Field{Name: ScoreColumn, Kind: event.Float})
	shadow = append(shadow, event.Field{Name: ShadowScoreColumn, Kind: event.Float})
	base, err := s.With(fields...)
	if err != nil {
		return err
	}
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
		if base, err = base.With(event.Field{Name: DecisionColumn, Kind: event.Category}); err != nil {
			return err
		}
	}
	if l.shadow != nil {
		if base, err = base.With(shadow...); err != nil {
			return err
		}
	}
	l.in, l.out = s, base
	return nil
}

// passOver reports a version that is not used, if there is a reason.
func (l *line) passOver(lane *lane, reason error) {
	if reason != nil {
		l.misfits++
		slog.Error("model does not fit the rows: passed over", "model", lane.misfit.String(), "alias", lane.misfit.Alias, "error", reason)
	}
}

// usable reports whether a canary or shadow can score rows of schema s. It is no fault if it can't.
func (l *line) usable(other *lane, s *event.Schema) bool {
	if other == nil {
		return false
	}
	misfit, err := other.ready(s, l.champion.version)
	l.passOver(other, misfit)
	return err == nil
}

// split chooses the canary's rows. Without any, theirs is empty and mine nil, which means all.
func (l *line) split(rows event.Batch) (theirs, mine []int32) {
	if !l.usable(l.canary, rows.Schema) {
		return nil, nil
	}
	ids, share := rows.IDs(), l.model.Canary.Share
	for i := range rows.N {
		if chosen(ids.HashID(i), l.salt, share) {
			theirs = append(theirs, int32(i))
		} else {
			mine = append(mine, int32(i))
		}
	}
	if len(theirs) == 0 {
		return nil, nil
	}
	return theirs, mine
}

// chosen reports whether an id is among the share. Shards are chosen by the same hash of ids: the salt
// and one more round make the two independent.
func chosen(hash, salt uint64, share float64) bool {
	x := hash ^ salt
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // the finaliser of splitmix64
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11)/(1<<53) < share
}

// salt is of the model alone, so that a canary that follows another one takes the same events.
func saltOf(model string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(model))
	return h.Sum64()
}

// sift takes out the rows whose score is not finite, which no decision can be based on.
func (l *line) sift(rows event.Batch, v *verdicts) (event.Batch, []deadletter.Letter) {
	var letters []deadletter.Letter
	var keep []int32
	for i, score := range v.score {
		if math.IsNaN(score) {
			if letters == nil {
				for k := range i {
					keep = append(keep, int32(k))
				}
			}
			letters = append(letters, l.letter(rows, i, v.by[i]))
		} else if letters != nil {
			keep = append(keep, int32(i))
		}
	}
	if letters == nil {
		return rows, nil
	}
	v.keep(keep)
	return rows.Gather(keep), letters
}

func (l *line) letter(rows event.Batch, i int, by *lane) deadletter.Letter {
	letter := deadletter.FromRow(deadletter.Score, &rows, i)
	letter.Stage, letter.Model, letter.Fingerprint = "predict", by.label, l.model.Fingerprint
	letter.Message = "the score is not a finite number: look at the event's features"
	return letter
}

// columns are model, class if there are classes, and score.
func (v *verdicts) columns() []event.Column {
	model := event.Column{Ends: make([]uint32, 0, len(v.by)), Bytes: make([]byte, 0, len(v.by)*len(v.by[0].label))}
	for i, l := range v.by {
		if math.IsNaN(v.score[i]) { // a shadow's, which becomes null
			model.AppendRaw(nil)
			continue
		}
		model.AppendRaw([]byte(l.label))
	}
	cols := []event.Column{model}
	if v.class != nil {
		class := event.Column{Ends: make([]uint32, 0, len(v.class))}
		for _, c := range v.class {
			class.AppendRaw([]byte(c))
		}
		cols = append(cols, class)
	}
	return append(cols, event.Column{Floats: v.score})
}

// shade is the shadow's columns. Whatever becomes of a shadow, the champion's row goes out: where the
// shadow has no finite score, or there is none, its columns are null.
func (l *line) shade(ctx context.Context, rows event.Batch) []event.Column {
	v := newVerdicts(rows.N, l.many)
	usable := l.usable(l.shadow, rows.Schema)
	if usable {
		if err := l.shadow.score(ctx, rows, nil, &v); err != nil {
			usable = false
			if !l.shadowFailed { // once an instance: a shadow that is down fails with each batch
				l.shadowFailed = true
				slog.Error("scoring with the shadow failed", "model", l.shadow.label, "error", err)
			}
		}
	}
	if !usable {
		for i := range v.by {
			v.by[i], v.score[i] = l.shadow, math.NaN()
		}
	}
	cols := v.columns()
	for i, score := range v.score {
		if !math.IsNaN(score) {
			l.shadowed++
			continue
		}
		v.score[i] = 0
		for k := range cols {
			cols[k].SetNull(i, rows.N)
		}
	}
	return cols
}

func (l *line) decide(rows event.Batch, cols []event.Column, by []*lane) (event.Column, error) {
	threshold := event.Column{Floats: make([]float64, rows.N)}
	for i := range threshold.Floats {
		threshold.Floats[i] = by[i].threshold
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

// report moves what happened since the last report into the counters.
func (l *line) report(ctx context.Context) {
	canaryRows.Inc(ctx, l.canaries)
	shadowRows.Inc(ctx, l.shadowed)
	misfits.Inc(ctx, l.misfits)
	l.canaries, l.shadowed, l.misfits = 0, 0, 0
	for _, lane := range l.lanes() {
		if lane.handle == nil {
			continue
		}
		n := lane.handle.Take()
		swapped.Inc(ctx, n.Swapped)
		refused.Inc(ctx, n.Refused)
		unreachable.Inc(ctx, n.Unreachable)
	}
}

// tell counts the scores of a batch by the version that gave them.
func (l *line) tell(good event.Batch, letters []deadletter.Letter) {
	if at := good.Schema.Index(ModelColumn); good.N > 0 && at >= 0 {
		versions := &good.Cols[at]
		from := 0
		for i := 1; i <= good.N; i++ {
			if i == good.N || !bytes.Equal(versions.Raw(i), versions.Raw(from)) {
				telemetry.Scored(string(versions.Raw(from)), i-from)
				from = i
			}
		}
	}
	for _, letter := range letters {
		telemetry.Unscored(letter.Model, 1)
	}
}
