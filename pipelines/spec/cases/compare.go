package cases

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/predict"
)

// scoreTolerance is that of a model's score, which is a float32 and of no exact decimal form.
const scoreTolerance = 1e-6

func compare(u *spec.UseCase, t *spec.Tests, c *spec.Case, out outcome) ([]Mismatch, error) {
	var all []Mismatch
	awaited := map[int]bool{} // letters that an expectation has found
	for _, e := range c.Expect {
		say := func(what, want, got string, why ...string) {
			all = append(all, Mismatch{Case: c.Name, Event: e.Name(), What: what, Want: want, Got: got, Why: why})
		}
		row, letters := out.row(e), out.lettersOf(e)
		found := false
		for _, i := range letters {
			awaited[i] = true
			found = found || out.letters[i].Class == e.DeadLetter
		}
		switch {
		case e.DeadLetter != "" && !found && len(letters) == 0:
			say("dead letter", string(e.DeadLetter), "none")
		case e.DeadLetter != "" && !found, e.DeadLetter == "" && len(letters) > 0:
			l := out.letters[letters[0]]
			say("dead letter", orNone(e.DeadLetter), string(l.Class), l.Message)
		}
		if row < 0 {
			if e.DeadLetter == "" && len(letters) == 0 {
				say("event", "features", "nothing: it did not come out")
			}
			continue
		}
		for _, f := range e.Features {
			got := value(&out.rows, f.Name, row)
			if equal(f.Want, got, t.Tolerance) {
				continue
			}
			why, err := explain(u, &out.rows, f.Name, row)
			if err != nil {
				return all, err
			}
			say(f.Name, show(f.Want), show(got), why...)
		}
		if e.Score != nil {
			if got := value(&out.rows, predict.ScoreColumn, row); !equal(*e.Score, got, max(t.Tolerance, scoreTolerance)) {
				say("score", show(*e.Score), show(got))
			}
		}
		if e.Decision != "" {
			if got := value(&out.rows, predict.DecisionColumn, row); got != any(e.Decision) {
				say("decision", e.Decision, show(got), "the score is "+show(value(&out.rows, predict.ScoreColumn, row)))
			}
		}
	}
	for i, l := range out.letters {
		if !awaited[i] {
			all = append(all, Mismatch{Case: c.Name, Event: nameOf(l), What: "dead letter", Want: "none", Got: string(l.Class), Why: []string{l.Message}})
		}
	}
	return all, nil
}

func orNone(c deadletter.Class) string {
	if c == "" {
		return "none"
	}
	return string(c)
}

func nameOf(l deadletter.Letter) string {
	if l.ID == "" {
		return "#" + strconv.FormatInt(l.Place.Line, 10)
	}
	return l.ID
}

// row is the event's row, or -1.
func (o outcome) row(e spec.Expectation) int {
	for i := range o.rows.N {
		if string(o.rows.IDs().AppendID(nil, i)) == e.ID {
			return i
		}
	}
	return -1
}

// lettersOf are the event's letters. Only decoding knows an event's place.
func (o outcome) lettersOf(e spec.Expectation) []int {
	var found []int
	for i, l := range o.letters {
		if e.Place > 0 && l.Place.Line > 0 {
			if l.Place.Line == int64(e.Place) {
				found = append(found, i)
			}
		} else if e.ID != "" && l.ID == e.ID {
			found = append(found, i)
		}
	}
	return found
}

// value is a row's value as a test file would have it; see spec.ExpectedFeature.
func value(b *event.Batch, column string, row int) any {
	i := b.Schema.Index(column)
	if i < 0 {
		return nil
	}
	return valueOf(b.Schema.Fields[i], &b.Cols[i], row)
}

func valueOf(f event.Field, c *event.Column, row int) any {
	if c.Null(row) {
		return nil
	}
	switch f.Kind {
	case event.Bool:
		return c.Ints[row] != 0
	case event.Int:
		return float64(c.Ints[row])
	case event.Decimal:
		return float64(c.Ints[row]) / math.Pow10(int(f.Scale))
	case event.Float:
		return c.Floats[row]
	case event.Timestamp:
		return string(format.AppendTime(nil, c.Ints[row]))
	case event.List:
		from, to := c.Span(row)
		list := make([]any, 0, to-from)
		for i := from; i < to; i++ {
			list = append(list, valueOf(event.Field{Kind: f.Elem, Scale: f.Scale}, c.Elems, i))
		}
		return list
	}
	return string(c.AppendID(nil, row))
}

// equal compares as a person would: true is 1, and numbers differ by no more than the tolerance.
func equal(want, got any, tolerance float64) bool {
	w, ok := number(want)
	g, also := number(got)
	if ok && also {
		return w == g || math.Abs(w-g) <= tolerance*max(math.Abs(w), math.Abs(g))
	}
	wl, ok := want.([]any)
	gl, also := got.([]any)
	if ok && also {
		if len(wl) != len(gl) {
			return false
		}
		for i := range wl {
			if !equal(wl[i], gl[i], tolerance) {
				return false
			}
		}
		return true
	}
	return !ok && !also && want == got
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = show(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v)
}
