package window

import (
	"cmp"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature/internal/aggregate"
)

// Kind says what rows keep of an operand.
type Kind uint8

const (
	// Counter keeps how many rows had a value: one word.
	Counter Kind = iota
	// Exact keeps the sum and number of integers: two words.
	Exact
	// Number keeps a float: one word.
	Number
	// Hash keeps the hash of a value: one word.
	Hash
	// Text keeps the hash and the text.
	Text
)

// Operand is an argument with its condition, shared by all aggregates that use it.
type Operand struct {
	Kind Kind
	// Scale divides an Exact value: 10^decimal places.
	Scale float64
}

// Reach is a window. Exactly one of its fields is set.
type Reach struct {
	Duration int64 // microseconds
	Last     int
	All      bool
	Session  int64 // microseconds
}

// Output is one feature column.
type Output struct {
	Func aggregate.Func
	// Operand is an index in Config.Operands; -1: every row counts.
	Operand int
	Args    []float64
	Reach   Reach
	// Delay moves the window back, Known its newer edge only (to where labels are known), both in
	// microseconds.
	Delay, Known   int64
	ExcludeCurrent bool
	// Empty, if not nil, stands for null over a window without counted rows.
	Empty *float64
	// Label is 1 plus an index in Config.Labels: only rows count whose label is known by the time of the row
	// that the window belongs to, and counts itself. The value is the row's, or where Operand is of kind
	// Counter or -1, the label's. 0: labels play no part.
	Label int
	// Elem is the kind of a list's elements; 0 for a number.
	Elem event.Kind
}

// Config describes a stage.
type Config struct {
	Operands []Operand
	Outputs  []Output
	// Lateness is for how long, in microseconds, rows stay beyond the windows of the newest row.
	Lateness int64
	// Label is the kind of the rows' labels, which come by Shard.Learn, and Labels is what is made of them, at
	// most MaxLabels.
	Label  event.Kind
	Labels []Operand
}

// span is a pair of edges: the rows behind lo up to hi.
type span struct {
	reach   Reach
	delay   int64
	exclude bool
	head    int // edge at delay; current if the delay is 0
	newer   int // edge where hi is; head unless labels come later
	tail    int // edge where lo is, for durations
	rows    bool
}

const current = -1

type column struct {
	Output
	span int
	at   int // operand's first word
	kind Kind
	// scale of an Exact operand
	scale float64
	out   int
	label labelColumn
}

// Plan is a compiled Config. It is immutable and may be shared by shards.
type Plan struct {
	cfg     Config
	stride  int
	at      []int   // first word of each operand
	texts   []int   // the words that are places of texts
	delays  []int64 // of each edge
	walked  int     // the edges that outputs use, which entities keep; the rest are found when needed
	spans   []span
	shown   int // the spans that outputs use; the rest only retain rows
	columns []column
	totals  bool  // of rows that were dropped matter
	horizon int64 // how far behind the newest row a row still matters; negative: for ever
	perRow  int   // about the bytes of a row in a copy, without texts
}

// NewPlan compiles a Config that has been checked.
func NewPlan(cfg Config) *Plan {
	p := &Plan{cfg: cfg, stride: 2, totals: cfg.keepsTotals(), horizon: cfg.reaches(), perRow: 6}
	for _, op := range cfg.Operands {
		p.at = append(p.at, p.stride)
		p.stride++
		switch op.Kind {
		case Exact:
			p.stride++
			p.perRow += 3
		case Text:
			p.texts = append(p.texts, p.stride)
			p.stride++
			p.perRow++
		case Number, Hash:
			p.perRow += 8
		}
	}
	for i, o := range cfg.Outputs {
		c := column{Output: o, out: i}
		rows := false
		if o.Operand >= 0 {
			op := cfg.Operands[o.Operand]
			c.at, c.kind, c.scale = p.at[o.Operand], op.Kind, op.Scale
			rows = !(op.Kind == Counter && o.Func == aggregate.Count || op.Kind == Exact && (o.Func == aggregate.Sum || o.Func == aggregate.Mean))
		}
		if o.Func == aggregate.TimeSinceLast || o.Label > 0 {
			rows = true
		}
		if o.Label > 0 {
			c.label = cfg.labelColumn(o)
		}
		c.span = p.addSpan(o, 0, rows)
		p.columns = append(p.columns, c)
	}
	p.shown, p.walked = len(p.spans), len(p.delays)
	if cfg.Lateness > 0 {
		for _, c := range p.columns {
			p.spans = append(p.spans, p.newSpan(c.Output, cfg.Lateness, p.spans[c.span].rows))
		}
	}
	// Aggregates over the same rows stand together, so that the rows are gathered once.
	slices.SortStableFunc(p.columns, func(a, b column) int {
		return cmp.Or(cmp.Compare(a.span, b.span), cmp.Compare(a.Operand, b.Operand), cmp.Compare(a.Label, b.Label))
	})
	return p
}

func (p *Plan) addSpan(o Output, late int64, rows bool) int {
	s := p.newSpan(o, late, false)
	for i := range p.spans {
		if p.spans[i].reach == s.reach && p.spans[i].delay == s.delay && p.spans[i].exclude == s.exclude && p.spans[i].newer == s.newer {
			p.spans[i].rows = p.spans[i].rows || rows
			return i
		}
	}
	s.rows = rows
	p.spans = append(p.spans, s)
	return len(p.spans) - 1
}

func (p *Plan) newSpan(o Output, late int64, rows bool) span {
	s := span{reach: o.Reach, delay: o.Delay + late, exclude: o.ExcludeCurrent, rows: rows}
	s.head = p.edge(s.delay)
	s.newer = p.edge(max(o.Delay, o.Known) + late)
	if o.Reach.Duration > 0 {
		s.tail = p.edge(add(s.delay, o.Reach.Duration))
	}
	return s
}

func (p *Plan) edge(delay int64) int {
	if delay == 0 {
		return current
	}
	if i := slices.Index(p.delays, delay); i >= 0 {
		return i
	}
	p.delays = append(p.delays, delay)
	return len(p.delays) - 1
}

// add saturates: a window of a hundred thousand years is one without end.
func add(a, b int64) int64 {
	if s := a + b; s >= a {
		return s
	}
	return math.MaxInt64
}
