package predict

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/live"
	"github.com/millrace-ml/millrace/transforms/event"
)

// lane is the way of one alias's versions, or of a pinned one, from a batch's columns to scores. It is
// compiled for the version and the schema that were seen last.
type lane struct {
	// newest returns the version to serve, or nil if there is none; it does not wait.
	newest func() *live.Version
	// own replaces the threshold of the versions, if it is not nil.
	own *float64
	// handle is behind newest, or nil.
	handle *live.Handle

	// What ready found out about version seen and schema in.
	seen *live.Version
	in   *event.Schema
	err  error

	// The version in use: the newest that fits the rows.
	version   *live.Version
	label     string
	threshold float64
	inputs    []input
	misfit    *live.Version // was reported

	x, y []float32
}

type input struct {
	col   int
	kind  event.Kind
	scale float64
	codes map[string]float32
}

var errNone = errors.New("there is no version yet")

// many reports a scorer that gives a value a class.
func many(s models.Scorer) bool { return len(s.Outputs()) > 1 }

// ready prepares for rows of schema s, or says in err why no version can score them. The newest version
// is passed over if it does not fit them, or if its outputs are of another shape than like's: then the
// one in use stays, and misfit says why, once.
func (l *lane) ready(s *event.Schema, like *live.Version) (misfit, err error) {
	v := l.newest()
	if v == l.seen && s == l.in && l.in != nil {
		return nil, l.err
	}
	l.seen, l.in, l.err = v, s, nil
	if v == nil {
		l.version, l.err = nil, errNone
		return nil, l.err
	}
	var inputs []input
	if like != nil && many(v.Scorer) != many(like.Scorer) {
		l.err = fmt.Errorf("%s has the outputs %v and %s has %v: publish it under a name of its own", v, v.Scorer.Outputs(), like, like.Scorer.Outputs())
	} else {
		inputs, l.err = compile(v.Scorer, s)
	}
	if l.err == nil {
		l.use(v, inputs)
		return nil, nil
	}
	if v != l.misfit {
		l.misfit, misfit = v, l.err
	}
	if l.version != nil && l.version != v {
		if inputs, err := compile(l.version.Scorer, s); err == nil {
			l.use(l.version, inputs)
			l.err = nil
		}
	}
	return misfit, l.err
}

func (l *lane) use(v *live.Version, inputs []input) {
	l.version, l.label, l.inputs = v, v.String(), inputs
	l.threshold = math.Inf(1)
	if v.Threshold != nil {
		l.threshold = *v.Threshold
	}
	if l.own != nil {
		l.threshold = *l.own
	}
}

// compile finds a scorer's inputs among the columns.
func compile(sc models.Scorer, s *event.Schema) ([]input, error) {
	var inputs []input
	for _, f := range sc.Inputs() {
		i := s.Index(f.Name)
		if i < 0 {
			return nil, fmt.Errorf("the model reads %q, which the rows don't have: retrain it on these features", f.Name)
		}
		in := input{col: i, kind: s.Fields[i].Kind, scale: math.Pow10(int(s.Fields[i].Scale))}
		if f.Type == models.Category {
			in.codes = make(map[string]float32, len(f.Categories))
			for code, c := range f.Categories {
				in.codes[c] = float32(code)
			}
		} else if in.kind > event.Float {
			return nil, fmt.Errorf("the model reads %q as a number, the rows have a %v", f.Name, in.kind)
		}
		inputs = append(inputs, in)
	}
	return inputs, nil
}

// score writes verdicts on the rows at pick, or on all if pick is nil.
func (l *lane) score(ctx context.Context, rows event.Batch, pick []int32, to *verdicts) error {
	l.fill(rows)
	n, w, outputs := rows.N, len(l.inputs), l.version.Scorer.Outputs()
	if pick != nil {
		n = len(pick)
		for k, row := range pick { // ascending, so that nothing is overwritten before it is read
			copy(l.x[k*w:(k+1)*w], l.x[int(row)*w:])
		}
	}
	l.y = grow(l.y, n*len(outputs))
	if err := scoreHalves(ctx, l.version.Scorer, l.x[:n*w], n, l.y); err != nil {
		return fmt.Errorf("%s: %w", l.label, err)
	}
	for k := range n {
		row := k
		if pick != nil {
			row = int(pick[k])
		}
		y := l.y[k*len(outputs) : (k+1)*len(outputs)]
		best, finite := 0, true
		for i, v := range y {
			finite = finite && v-v == 0 // not so for NaN and infinities
			if v > y[best] {
				best = i
			}
		}
		to.by[row], to.score[row] = l, math.NaN()
		if finite {
			to.score[row] = float64(y[best])
		}
		if to.class != nil {
			to.class[row] = outputs[best]
		}
	}
	return nil
}

// fill writes the inputs of all rows row by row into l.x.
func (l *lane) fill(rows event.Batch) {
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
