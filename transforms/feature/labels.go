package feature

import (
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/feature/internal/window"
)

// metColumn says of labels in copies whether they have met their rows.
const metColumn = "_met"

// stageLabels is how a stage reads labels: batches of the columns in the order below.
type stageLabels struct {
	operands []operand
	schema   *event.Schema
	value    *event.Schema // the label alone
	own      bool          // labels have ids
	copied   *event.Schema // with the column met
	first    bool          // no stage before uses labels: this one tells which have no event
}

// The columns of a stage's labels. The last, of labels' own ids, may be missing.
const (
	labelEvent = iota
	labelTime
	labelKnown
	labelEntity
	labelValue
	labelOwn
)

// Uses tells which entities' aggregates use the label: the fields that label events must carry beside the id
// and the time of their event. It is right for valid features only.
func (p Params) Uses() (entities []string) {
	c, err := compile(p)
	if err != nil {
		return nil
	}
	for _, s := range c.stages {
		if s.labels != nil && !slices.Contains(entities, s.name) {
			entities = append(entities, s.name)
		}
	}
	return entities
}

// checkLabels checks what labels carry.
func (c *compiler) checkLabels(input *event.Schema) {
	l := c.p.Labels
	s, err := event.NewSchema(l.Fields, c.p.ID, l.Time)
	if err != nil {
		c.fault("labels: %w", err)
		return
	}
	c.labels = s
	field := func(name, role string, kind event.Kind) {
		switch i := s.Index(name); {
		case i < 0:
			c.fault("labels: no field %q, %s", name, role)
		case kind != 0 && s.Fields[i].Kind != kind:
			c.fault("labels: field %q, %s, is a %v, not a %v", name, role, s.Fields[i].Kind, kind)
		}
	}
	field(c.p.Time, "the time of the event that a label is of", event.Timestamp)
	field(c.p.Label, "the label", 0)
	if l.Time == "" || l.Time == c.p.Time {
		c.fault("labels: the field that says when a label became known must be named, and be another than the event's time")
	}
	if l.ID != "" {
		field(l.ID, "a label's own id", 0)
	}
	if i := s.Index(c.p.Label); i >= 0 && (s.Fields[i].Kind == event.List || s.Fields[i].Kind == event.Timestamp || s.Fields[i].Kind == event.ID) {
		c.fault("labels: %q is a %v; a label is a bool, a number or a category", c.p.Label, s.Fields[i].Kind)
	}
	if input.Index(c.p.Label) >= 0 {
		c.fault("labels: %q is a field of events too; the label comes in one place", c.p.Label)
	}
	if c.p.LabelDelay != 0 {
		c.fault("labels: their own time says when they are known, and there is a delay of %v too", c.p.LabelDelay)
	}
}

// checkKey checks that labels carry an entity.
func (c *compiler) checkKey(at string, entity event.Field) {
	i := -1
	if c.labels != nil {
		i = c.labels.Index(entity.Name)
	}
	switch {
	case i < 0:
		c.fault("%s: labels have no field %q, by which they must find its rows", at, entity.Name)
	case c.labels.Fields[i].Kind != entity.Kind:
		c.fault("%s: %q is a %v in labels and a %v in events", at, entity.Name, c.labels.Fields[i].Kind, entity.Kind)
	}
}

// label is the schema of the label alone.
func (c *compiler) label() *event.Schema {
	i := c.labels.Index(c.p.Label)
	if i < 0 {
		return nil
	}
	s, err := event.NewSchema(c.labels.Fields[i:i+1], "", "")
	if err != nil {
		return nil
	}
	return s
}

// wide is a schema with the label, where it isn't in the events.
func (c *compiler) wide(s *event.Schema) *event.Schema {
	if c.labels == nil || c.label() == nil {
		return s
	}
	w, err := s.With(c.label().Fields[0])
	if err != nil {
		return s
	}
	return w
}

// side compiles an expression over the event's columns, or over the label alone.
func (c *compiler) side(src string, s *event.Schema) (p *expr.Program, isLabel bool, err error) {
	w := c.wide(s)
	if p, err = expr.Compile(src, w); err != nil || w == s {
		return p, false, err
	}
	switch fields := p.Fields(); {
	case !slices.Contains(fields, c.p.Label):
		p, err = expr.Compile(src, s)
		return p, false, err
	case len(fields) > 1:
		return nil, false, fmt.Errorf("%q joins the label %s with fields of the event, which come apart: one may be in the argument, the other in where", src, c.p.Label)
	}
	p, err = expr.Compile(src, c.label())
	return p, true, err
}

// readLabels makes the stage ready for labels, if its aggregates use any.
func (s *stage) readLabels(c *compiler, cfg *window.Config) {
	if s.labels == nil {
		return
	}
	l := s.labels
	if len(l.operands) > window.MaxLabels {
		c.fault("%s: its aggregates make %d different things of the label; %d are possible", s.name, len(l.operands), window.MaxLabels)
		return
	}
	names := []string{c.p.ID, c.p.Time, c.p.Labels.Time, s.name, c.p.Label}
	if l.own = c.p.Labels.ID != "" && !slices.Contains(names, c.p.Labels.ID); l.own {
		names = append(names, c.p.Labels.ID)
	}
	var fields []event.Field
	for _, n := range names {
		fields = append(fields, c.labels.Fields[c.labels.Index(n)])
	}
	var err error
	if l.schema, err = event.NewSchema(fields, c.p.ID, c.p.Labels.Time); err != nil {
		c.fault("labels of %s: %w", s.name, err)
		return
	}
	if l.copied, err = l.schema.With(event.Field{Name: metColumn, Kind: event.Bool}); err != nil {
		c.fault("labels of %s: %w", s.name, err)
		return
	}
	l.value = c.label()
	cfg.Label = l.value.Fields[0].Kind
	for _, o := range l.operands {
		cfg.Labels = append(cfg.Labels, window.Operand{Kind: o.kind, Scale: o.scale})
	}
}

// input is labels as the engine takes them.
func (l *stageLabels) input(b *event.Batch) (window.LabelInput, error) {
	in := window.LabelInput{
		N: b.N, Times: b.Cols[labelTime].Ints, IDs: &b.Cols[labelEvent], Entity: &b.Cols[labelEntity],
		Known: b.Cols[labelKnown].Ints, Value: &b.Cols[labelValue],
	}
	if l.own {
		in.Own = &b.Cols[labelOwn]
	}
	if met := b.Col(metColumn); met != nil {
		for _, v := range met.Ints {
			in.Met = append(in.Met, v != 0)
		}
	}
	value := event.Batch{Schema: l.value, Cols: b.Cols[labelValue : labelValue+1], N: b.N}
	for i := range l.operands {
		v, err := l.operands[i].values(&value)
		if err != nil {
			return in, fmt.Errorf("computing what features make of the label: %w", err)
		}
		in.Operands = append(in.Operands, v)
	}
	return in, nil
}

// batch is labels as they were, with the column met.
func (l *stageLabels) batch(in *window.LabelInput) event.Batch {
	b := event.Batch{Schema: l.copied, N: in.N, Cols: []event.Column{*in.IDs, {Ints: in.Times}, {Ints: in.Known}, *in.Entity, *in.Value}}
	if l.own {
		b.Cols = append(b.Cols, *in.Own)
	}
	met := event.Column{Ints: make([]int64, in.N)}
	for i, v := range in.Met {
		if v {
			met.Ints[i] = 1
		}
	}
	b.Cols = append(b.Cols, met)
	return b
}

// isLabels tells whether a batch is of labels, before it is routed.
func (c *compiled) isLabels(b *event.Batch) bool { return c.labels != nil && b.Schema.Equal(c.labels) }

// isLabels tells whether a batch of a shard is of labels.
func (s *stage) isLabels(b *event.Batch) bool {
	return s.labels != nil && b.Schema.Equal(s.labels.schema)
}

// orphans are the letters of labels whose events never came.
func (s *stage) orphans(in *window.LabelInput, fingerprint string) (letters []deadletter.Letter) {
	if in.N == 0 {
		return nil
	}
	b := s.labels.batch(in)
	b = event.Batch{Schema: s.labels.schema, Cols: b.Cols[:len(s.labels.schema.Fields)], N: b.N}
	for i := range b.N {
		l := deadletter.FromRow(deadletter.LabelOrphan, &b, i)
		l.Stage, l.Fingerprint = "features", fingerprint
		l.Message = fmt.Sprintf("no event with the id, the time and the %s of this label has come", s.name)
		letters = append(letters, l)
	}
	return letters
}
