package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/expr"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/featurelog"
)

// check finds what is wrong between keys. What decoding has already faulted is left out, so that one
// mistake gives one message.
func (d *decoder) check(u *UseCase) {
	d.checkEvent(u)
	d.checkSources(u)
	s := d.schemaOf(u)
	if s == nil {
		return
	}
	d.checkLabel(u, s)
	s = d.checkFeatures(u, s)
	if s == nil {
		return
	}
	d.checkModels(u, s)
	d.checkSinks(u, s)
	d.checkTraining(u, s)
}

// names lists the columns of a schema.
func columns(s *event.Schema) []string {
	var names []string
	for _, f := range s.Fields {
		names = append(names, f.Name)
	}
	return names
}

func (d *decoder) checkEvent(u *UseCase) {
	e := &u.Event
	var names []string
	find := func(name string) *decode.Field {
		for i := range e.Fields {
			if e.Fields[i].Name == name {
				return &e.Fields[i]
			}
		}
		return nil
	}
	for _, f := range e.Fields {
		names = append(names, f.Name)
	}
	for i, id := range e.ID {
		p := "event.id"
		if d.has("event.id[0]") {
			p = fmt.Sprintf("event.id[%d]", i)
		}
		f := find(id)
		switch {
		case id == "" || len(names) == 0 || d.bad(p) || d.bad("event.fields."+id):
		case f == nil:
			d.faultAt(p, "no field %s%s", id, hint(id, names))
		case f.Kind != event.ID && len(e.ID) == 1:
			d.faultAt(p, "field %s is of type %v, wants id", id, f.Kind)
		case f.Optional:
			d.faultAt(p, "field %s is optional; an event without an id cannot be kept apart", id)
		case slices.Contains(e.ID[:i], id):
			d.faultAt(p, "%s stands twice", id)
		}
	}
	if t := find(e.Time); e.Time != "" && len(names) > 0 && !d.bad("event.time") && !d.bad("event.fields."+e.Time) {
		switch {
		case t == nil:
			d.faultAt("event.time", "no field %s%s", e.Time, hint(e.Time, names))
		case t.Kind != event.Timestamp:
			d.faultAt("event.time", "field %s is of type %v, wants timestamp", e.Time, t.Kind)
		case t.Optional:
			d.faultAt("event.time", "field %s is optional; an event without a time has no place", e.Time)
		}
	}
	for _, f := range e.Fields {
		d.checkField(f, "event.fields."+f.Name)
	}
	if find("id") != nil && len(e.ID) > 1 {
		d.faultAt("event.fields.id", "is the name of the compound id; choose another, with path: id")
	}
}

// checkField reports keys that mean nothing for the field's type.
func (d *decoder) checkField(f decode.Field, path string) {
	if f.Kind == 0 || d.bad(path) {
		return
	}
	fit := map[string][]event.Kind{
		"scale":   {event.Decimal, event.List},
		"of":      {event.List},
		"min":     {event.Int, event.Decimal, event.Float},
		"max":     {event.Int, event.Decimal, event.Float},
		"enum":    {event.Category, event.String, event.ID, event.Int},
		"pattern": {event.Category, event.String, event.ID},
		"format":  {event.Timestamp},
		"zone":    {event.Timestamp},
	}
	for _, name := range []string{"scale", "of", "min", "max", "enum", "pattern", "format", "zone"} {
		if d.has(path+"."+name) && !slices.Contains(fit[name], f.Kind) {
			d.faultAt(path+"."+name, "means nothing for a %v", f.Kind)
		}
	}
	if f.Kind == event.List && f.Elem == 0 {
		d.faultAt(path, "a list needs the type of its elements: {type: list, of: category}")
	}
	if f.Min != nil && f.Max != nil && *f.Min > *f.Max {
		d.faultAt(path+".min", "%v is above max, %v", *f.Min, *f.Max)
	}
}

// schemaOf is the schema that expressions are checked against; faulty fields are in it as floats. It is
// nil where there is nothing to check against.
func (d *decoder) schemaOf(u *UseCase) *event.Schema {
	if len(u.Event.Fields) == 0 {
		return nil
	}
	if !d.bad("event") {
		s, err := u.Schema()
		if err == nil {
			p := u.decodeParams()
			p.Changes = decode.Changes{} // each source has been told
			if p.Format == "" {
				p.Format = "json" // endings of names tell later; none of them allows more
			}
			err = p.Validate()
		}
		if err == nil {
			return s
		}
		d.faultsAt("event", err)
	}
	var fields []event.Field
	for _, f := range u.Event.Fields {
		x := event.Field{Name: f.Name, Kind: f.Kind, Scale: f.Scale, Elem: f.Elem}
		if x.Kind == 0 || (x.Kind == event.List) != (x.Elem != 0) || x.Scale > 18 {
			x = event.Field{Name: f.Name, Kind: event.Float}
		}
		fields = append(fields, x)
	}
	s, err := event.NewSchema(fields, "", "")
	if err != nil {
		return nil
	}
	return s
}

// checkSources holds that one format is enough, since one decoder reads them all.
func (d *decoder) checkSources(u *UseCase) {
	d.checkFormats(u.Source, "source")
	d.checkOps(u)
	if u.Label != nil {
		d.checkFormats(u.Label.Source, "label.source")
	}
}

// checkOps warns where several changes of a row would have one id.
func (d *decoder) checkOps(u *UseCase) {
	if len(u.Source) == 0 || d.bad("source") || d.bad("event") {
		return
	}
	ops := u.Source[0].Ops
	created := slices.Contains(ops, "create") || slices.Contains(ops, "snapshot")
	if !slices.Contains(ops, "update") && !(created && slices.Contains(ops, "delete")) {
		return
	}
	for _, f := range u.Event.Fields {
		if slices.Contains(u.Event.ID, f.Name) && strings.HasPrefix(f.Path, "$.") {
			return
		}
	}
	d.warn(u, "event.id", "is the same for all changes of a row, of which the first alone is an event and the others are duplicates; add what tells them apart, such as a field with path: $.source.lsn")
}

func (d *decoder) checkFormats(all []Source, path string) {
	for i, s := range all {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case s.Format != all[0].Format:
			d.faultAt(at, "all sources have one format, and the first has %q", all[0].Format)
		case !slices.Equal(s.Ops, all[0].Ops) || s.Decimals != all[0].Decimals:
			d.faultAt(at, "all sources have the same ops and decimals, and the first has others")
		}
		if s.Format == "debezium" || d.bad(at) || d.bad(path) {
			continue
		}
		for _, at := range []string{at, path} { // one source needs no list
			for _, key := range []string{".ops", ".decimals"} {
				if d.has(at + key) {
					d.faultAt(at+key, "is for format: debezium")
				}
			}
		}
	}
}

func (d *decoder) checkLabel(u *UseCase, s *event.Schema) {
	l := u.Label
	if l == nil {
		return
	}
	if d.has("label.source") {
		d.checkLabels(u, s)
		return
	}
	for _, k := range []string{"time", "id", "fields", "join"} {
		if d.has("label." + k) {
			d.faultAt("label."+k, "means nothing without source: the label is a field of the event")
		}
	}
	if l.Field == "" || d.bad("label.expr") {
		return
	}
	i := s.Index(l.Field)
	if i < 0 {
		d.faultAt("label.expr", "no field %s%s", l.Field, hint(l.Field, columns(s)))
		return
	}
	switch s.Fields[i].Kind {
	case event.Bool, event.Int, event.Decimal, event.Float, event.Category:
	default:
		d.faultAt("label.expr", "field %s is of type %v; a label is a bool, a number or a category", l.Field, s.Fields[i].Kind)
	}
}

// checkLabels checks labels that come as events of their own; the entities that they must carry are found
// where aggregates use the label.
func (d *decoder) checkLabels(u *UseCase, s *event.Schema) {
	l := u.Label
	if d.has("label.delay") {
		d.faultAt("label.delay", "means nothing with source: label.time says when a label became known")
	}
	for _, k := range []string{"time", "fields"} {
		if !d.has("label." + k) {
			d.faultAt("label."+k, "is missing: a label that comes as an event of its own needs it")
		}
	}
	if len(l.Fields) == 0 || d.bad("label.fields") {
		return
	}
	var names []string
	kinds := map[string]event.Kind{}
	for _, f := range l.Fields {
		d.checkField(f, "label.fields."+f.Name)
		names, kinds[f.Name] = append(names, f.Name), f.Kind
	}
	own := func(path, name string, want ...event.Kind) {
		if name == "" || d.bad(path) {
			return
		}
		if k, ok := kinds[name]; !ok {
			d.faultAt(path, "no field %s in label.fields%s", name, hint(name, names))
		} else if !slices.Contains(want, k) {
			d.faultAt(path, "field %s is of type %v, wants %v", name, k, want[0])
		}
	}
	own("label.time", l.Time, event.Timestamp)
	own("label.id", l.ID, event.ID)
	own("label.expr", l.Field, event.Bool, event.Int, event.Decimal, event.Float, event.Category)
	if s.Index(l.Field) >= 0 && l.Field != "" && !d.bad("label.expr") {
		d.faultAt("label.expr", "%s is a field of the event too; with source the label is in label.fields alone", l.Field)
	}
	if l.Time != "" && l.Time == u.Event.Time {
		d.faultAt("label.time", "%s is the time of the event that a label is of; name the field that says when the label became known", l.Time)
	}
	for _, id := range u.Event.ID {
		d.carries(u, s, id, "a label needs the id of its event")
	}
	if l.Join == nil {
		d.carries(u, s, u.Event.Time, "a label needs the time of its event, or a join")
	} else if b := l.Join.Bytes(); b > maxJoin && !d.bad("label.join") {
		d.faultAt("label.join", "would keep %.1f GiB: %g events/s for %s at about 48 bytes each, and 2 GiB is the bound; let labels carry the time and the entities of their events, or shorten the horizon",
			b/(1<<30), l.Join.Rate, FormatDuration(l.Join.Horizon))
	}
	if !d.bad("event") && !d.bad("label") {
		p := u.labelParams()
		p.Changes = decode.Changes{}
		if p.Format == "" {
			p.Format = "json"
		}
		if err := p.Validate(); err != nil {
			d.faultsAt("label.fields", err)
		}
	}
}

// maxJoin bounds what a join keeps: 256 MiB in each of eight shards.
const maxJoin = 2 << 30

// carries checks that a label has a field of the event, of the same type.
func (d *decoder) carries(u *UseCase, s *event.Schema, name, why string) {
	i := s.Index(name)
	if i < 0 || name == "" || d.bad("event.fields."+name) || d.bad("label.fields."+name) {
		return
	}
	for _, f := range u.Label.Fields {
		if f.Name != name {
			continue
		}
		if f.Kind != s.Fields[i].Kind {
			d.faultAt("label.fields."+name, "is of type %v, and of type %v in events", f.Kind, s.Fields[i].Kind)
		}
		return
	}
	d.faultAt("label.fields."+name, "is missing: %s", why)
}

// labelSchema is a schema with the label, where it isn't in the events.
func labelSchema(u *UseCase, s *event.Schema) *event.Schema {
	if !u.HasLabels() {
		return s
	}
	for _, f := range u.Label.Fields {
		if f.Name == u.Label.Field {
			if w := with(s, event.Field{Name: f.Name, Kind: f.Kind, Scale: f.Scale, Elem: f.Elem}); w != nil {
				return w
			}
		}
	}
	return s
}

// compile type-checks an expression at a path. want is 0 for any kind.
func (d *decoder) compile(src, path string, s *event.Schema, want event.Kind) *expr.Program {
	if src == "" || d.bad(path) {
		return nil
	}
	p, err := expr.Compile(src, s)
	if err != nil {
		d.faultAt(path, "%v", err)
		return nil
	}
	if want != 0 && p.Kind() != want {
		d.faultAt(path, "%q gives a %v, wants a %v", src, p.Kind(), want)
		return nil
	}
	return p
}

// checkFeatures walks the entries in order and returns the schema with all features.
func (d *decoder) checkFeatures(u *UseCase, s *event.Schema) *event.Schema {
	for i, e := range u.Entries {
		path := fmt.Sprintf("features[%d]", i)
		before := len(d.faults)
		if !d.bad(path) {
			d.checkEntry(u, e, path, s)
		}
		var more []event.Field
		if len(d.faults) == before && !d.bad(path) && !d.bad("event") && !d.bad("label") {
			out, err := u.featureParams(s.Fields, []feature.Feature{e}).Output()
			if err == nil {
				more = out.Fields[len(s.Fields):]
			} else {
				d.faultsAt(path, err)
			}
		}
		if more == nil {
			more = assumed(e, s)
		}
		next, err := s.With(more...)
		if err != nil {
			d.faultAt(path, "%v", err)
			return nil
		}
		s = next
	}
	return s
}

// column is the feature that an aggregate gives over a window.
func column(a feature.Aggregate, w feature.Window) string {
	p := feature.Params{Features: []feature.Feature{{Entity: "e", Windows: []feature.Window{w}, Aggregates: []feature.Aggregate{a}}}}
	return p.Names()[0]
}

// assumed is what a faulty entry would have given.
func assumed(e feature.Feature, s *event.Schema) []event.Field {
	var out []event.Field
	have := map[string]bool{}
	add := func(name string) {
		if name != "" && s.Index(name) < 0 && !have[name] {
			have[name] = true
			out = append(out, event.Field{Name: name, Kind: event.Float})
		}
	}
	add(e.Name)
	for _, a := range e.Aggregates {
		for _, w := range e.Windows {
			add(column(a, w))
		}
	}
	return out
}

func (d *decoder) checkEntry(u *UseCase, e feature.Feature, path string, s *event.Schema) {
	derived, aggregated := d.has(path+".name") || d.has(path+".expr"), d.has(path+".entity")
	taken := func(name, at string) {
		if s.Index(name) >= 0 {
			d.faultAt(at, "the name %s is taken by a field or feature above", name)
		}
	}
	if derived == aggregated {
		d.faultAt(path, "wants either name and expr, or entity, windows and aggregates")
		return
	}
	if derived {
		for _, k := range []string{"windows", "session", "delay", "resolution", "current", "aggregates"} {
			if d.has(path + "." + k) {
				d.faultAt(path+"."+k, "means nothing without entity")
			}
		}
		for _, k := range []string{"name", "expr"} {
			if !d.has(path + "." + k) {
				d.faultAt(path+"."+k, "is missing")
			}
		}
		taken(e.Name, path+".name")
		p := d.compile(e.Expr, path+".expr", labelSchema(u, s), 0)
		if p != nil && u.Label != nil && u.Label.Field != "" && slices.Contains(p.Fields(), u.Label.Field) {
			d.faultAt(path+".expr", "uses the label %s, which is not known when the event is scored", u.Label.Field)
		}
		return
	}
	if i := s.Index(e.Entity); i < 0 {
		d.faultAt(path+".entity", "no field %s%s", e.Entity, hint(e.Entity, columns(s)))
	} else if k := s.Fields[i].Kind; k != event.ID && k != event.Category && k != event.String && !d.bad("event.fields."+e.Entity) {
		d.faultAt(path+".entity", "field %s is of type %v, wants id, category or string", e.Entity, k)
	}
	if len(e.Windows) == 0 {
		d.faultAt(path+".windows", "is missing")
	}
	if len(e.Aggregates) == 0 {
		d.faultAt(path+".aggregates", "is missing")
	}
	d.checkWindows(e, path)
	for _, a := range e.Aggregates {
		at := path + ".aggregates." + a.Name
		of := at
		if d.has(at + ".of") {
			of = at + ".of"
		}
		for _, w := range e.Windows {
			taken(column(a, w), at)
		}
		uses := map[string]bool{}
		s := labelSchema(u, s)
		for _, p := range []*expr.Program{d.compile(a.Arg, of, s, 0), d.compile(a.Where, at+".where", s, event.Bool)} {
			if p == nil {
				continue
			}
			for _, f := range p.Fields() {
				uses[f] = true
			}
		}
		if u.HasLabels() && uses[u.Label.Field] && e.Entity != "" && len(u.Label.Fields) > 0 {
			why := fmt.Sprintf("%s counts labels by it, and a label must tell whose it is, or join its event", a.Name)
			if u.Label.Join == nil {
				d.carries(u, s, e.Entity, why)
			} else if i := s.Index(e.Entity); i >= len(u.Event.Fields) {
				d.faultAt(path+".entity", "%s is a feature, which a join doesn't know: %s counts labels by it", e.Entity, a.Name)
			}
		}
		if l := u.Label; l != nil && uses[l.Field] && e.Delay < l.Delay {
			d.warn(u, of, "counts the label %s with a delay of %s, and it is known after %s: events whose label is not yet known are left out; give the entry delay: %s",
				l.Field, FormatDuration(e.Delay), FormatDuration(l.Delay), FormatDuration(l.Delay))
		}
	}
}

func (d *decoder) warn(u *UseCase, path, format string, args ...any) {
	kept := d.faults
	d.faults = nil
	d.faultAt(path, format, args...)
	u.Warnings = append(u.Warnings, d.faults...)
	d.faults = kept
}

func (d *decoder) checkWindows(e feature.Feature, path string) {
	seen := map[string]bool{}
	for j, w := range e.Windows {
		at := fmt.Sprintf("%s.windows[%d]", path, j)
		if w.Session > 0 {
			at = path + ".session"
		}
		if seen[w.String()] {
			d.faultAt(at, "%s stands twice", w)
		}
		seen[w.String()] = true
		if r := e.Resolution; r > 0 && w.Duration%r != 0 {
			d.faultAt(at, "%s is not a multiple of the resolution, %s", FormatDuration(w.Duration), FormatDuration(r))
		}
		if e.Resolution > 0 && w.Last > 0 {
			d.faultAt(at, "%s counts events, which panes do not keep; leave out resolution", w)
		}
	}
	if r := e.Resolution; r > 0 && e.Delay%r != 0 {
		d.faultAt(path+".delay", "%s is not a multiple of the resolution, %s", FormatDuration(e.Delay), FormatDuration(r))
	}
}

// reserved are the columns that scoring appends, and threshold, which decisions know.
var reserved = []string{"model", "score", "class", "decision", "threshold"}

// with adds columns that only exist after scoring; nil if the names are taken, which checkModels reports.
func with(s *event.Schema, more ...event.Field) *event.Schema {
	out, err := s.With(more...)
	if err != nil {
		return nil
	}
	return out
}

func (d *decoder) checkModels(u *UseCase, s *event.Schema) {
	if len(u.Models) == 0 {
		return
	}
	for _, name := range reserved {
		if s.Index(name) < 0 {
			continue
		}
		if path := "event.fields." + name; d.has(path) {
			d.faultAt(path, "is a name that scoring gives; choose another, with path: %s", name)
			continue
		}
		for i, e := range u.Entries {
			if e.Name == name {
				d.faultAt(fmt.Sprintf("features[%d].name", i), "is a name that scoring gives; choose another")
			}
		}
	}
	scored := with(s, event.Field{Name: "score", Kind: event.Float}, event.Field{Name: "threshold", Kind: event.Float})
	seen := map[string]bool{}
	for i, m := range u.Models {
		path := fmt.Sprintf("models[%d]", i)
		if seen[m.Name] && m.Name != "" {
			d.faultAt(path+".name", "%s stands twice", m.Name)
		}
		seen[m.Name] = true
		for j, x := range m.Decide {
			at := fmt.Sprintf("%s.decide[%d]", path, j)
			last := j == len(m.Decide)-1
			switch {
			case x.When == "" && !last && !d.bad(at):
				d.faultAt(at, "always holds, so that nothing below it can; add when, or put it last")
			case x.When != "" && last:
				d.faultAt(at, "must always hold, being the last; leave out when, or add {name: pass}")
			}
			if scored == nil {
				continue
			}
			p := d.compile(x.When, at+".when", scored, event.Bool)
			if p != nil && u.Label != nil && slices.Contains(p.Fields(), u.Label.Field) {
				d.faultAt(at+".when", "uses the label %s, which is not known when the event is scored", u.Label.Field)
			}
		}
	}
}

func (d *decoder) checkSinks(u *UseCase, s *event.Schema) {
	scored := with(s, event.Field{Name: "score", Kind: event.Float}, event.Field{Name: "decision", Kind: event.Category})
	kept := u.Sinks[:0:0]
	for _, x := range u.Sinks {
		path := "sinks." + x.Name
		if x.Name == "dead_letters" {
			u.DeadLetters = x.URL
			for _, k := range []string{"when", "format"} {
				if d.has(path + "." + k) {
					d.faultAt(path+"."+k, "means nothing for dead letters, which are JSON lines of every event that failed")
				}
			}
			continue
		}
		if scored != nil {
			d.compile(x.When, path+".when", scored, event.Bool)
		}
		if x.Name == "feature_log" {
			u.FeatureLog = x
			d.checkFeatureLog(u, path)
			continue
		}
		kept = append(kept, x)
	}
	u.Sinks = kept
}

// checkFeatureLog holds that the log is a table, with names that each stand for one thing.
func (d *decoder) checkFeatureLog(u *UseCase, path string) {
	if d.has(path + ".format") {
		d.faultAt(path+".format", "means nothing for the feature log, which is Parquet")
	}
	if len(u.Models) == 0 {
		d.faultAt(path, "there is no model that features are served to; add the models section, or run `millrace features`")
	}
	for _, f := range featurelog.Clashes(u.featureParams(nil, u.Entries)) {
		d.faultAt(path, "the log has a column %s of its own: give the field or feature another name", f)
	}
}

func (d *decoder) checkTraining(u *UseCase, s *event.Schema) {
	t := u.Training
	if t == nil {
		return
	}
	if u.Label == nil {
		d.faultAt("training", "there is no label to learn; add the label section")
	} else if d.has("training.window") && !d.bad("training.window") && t.Window.Gap < u.Label.Delay {
		d.faultAt("training.window.gap", "%s is shorter than label.delay, %s: the test would begin before the training labels are known",
			FormatDuration(t.Window.Gap), FormatDuration(u.Label.Delay))
	}
	if len(u.Models) == 0 {
		d.faultAt("training", "there is no model to train; add the models section")
	}
	d.checkFolds(t)
	entity := func(name, path string) {
		if name != "" && !d.bad(path) && s.Index(name) < 0 {
			d.faultAt(path, "no field %s%s", name, hint(name, columns(s)))
		}
	}
	if t.Exclude != nil {
		entity(t.Exclude.Entity, "training.exclude.entity")
	}
	var metrics []string
	for i, m := range t.Metrics {
		path := fmt.Sprintf("training.metrics[%d]", i)
		entity(m.Entity, path+".card_precision.entity")
		if slices.Contains(metrics, m.String()) && m.Name != "" {
			d.faultAt(path, "%s stands twice", m)
		}
		metrics = append(metrics, m.String())
	}
	if _, ok := t.MetricOf(t.Gate.Metric); !ok && !d.bad("training.metrics") && !d.bad("training.gate.metric") {
		d.faultAt("training.gate.metric", "%s is not among the metrics%s", t.Gate.Metric, hint(t.Gate.Metric, metrics))
	}
	d.checkCandidates(u, s)
}

func (d *decoder) checkFolds(t *Training) {
	if d.bad("training.window") || d.bad("training.select") || d.bad("training.report") ||
		!d.has("training.window") || !d.has("training.select") || !d.has("training.report") {
		return
	}
	if t.Select.From.IsZero() != t.Report.From.IsZero() {
		d.faultAt("training.report", "select and report both say from, or neither does")
		return
	}
	if t.Select.From.IsZero() {
		return
	}
	lastTest := t.Select.From.Add(time.Duration(t.Select.Count-1)*t.Window.Step + t.Window.Train + t.Window.Gap + t.Window.Test)
	firstTest := t.Report.From.Add(t.Window.Train + t.Window.Gap)
	if firstTest.Before(lastTest) {
		d.faultAt("training.report.from", "the first reported test begins on %s, before the last test of select ends on %s: candidates would be chosen on what is reported",
			firstTest.Format(time.DateOnly), lastTest.Format(time.DateOnly))
	}
}

func (d *decoder) checkCandidates(u *UseCase, s *event.Schema) {
	t := u.Training
	groups, inputs, kinds := map[string]string{}, map[string][]string{}, []string{}
	for _, k := range models.Kinds() {
		kinds = append(kinds, k.Name)
	}
	for i, c := range t.Candidates {
		path := fmt.Sprintf("training.candidates[%d]", i)
		if _, ok := groups[c.Name]; ok && c.Name != "" {
			d.faultAt(path+".name", "%s stands twice", c.Name)
		}
		groups[c.Name], inputs[c.Name] = c.Kind, c.Features
		d.checkParams(c, path, kinds)
		for j, f := range c.Features {
			at := fmt.Sprintf("%s.features[%d]", path, j)
			if f == "" || d.bad(at) {
				continue
			}
			if k := s.Index(f); k < 0 || k < len(u.Event.Fields) {
				d.faultAt(at, "no feature %s%s", f, suggestion(f, columns(s)[len(u.Event.Fields):]))
			} else if slices.Contains(c.Features[:j], f) {
				d.faultAt(at, "%s stands twice", f)
			}
		}
	}
	for i, c := range t.Candidates {
		path := fmt.Sprintf("training.candidates[%d]", i)
		if len(c.Of) > 0 && len(c.Features) > 0 {
			d.faultAt(path+".features", "means nothing for an ensemble, whose inputs are its members'")
		}
		if c.Calibrate != "" && len(c.Of) > 0 {
			d.faultAt(path+".calibrate", "means nothing for an ensemble, whose members are calibrated each for itself")
		}
		if c.Calibrate != "" && len(u.Models) > 0 && u.Models[0].Kind != "binary" && u.Models[0].Kind != "" {
			d.faultAt(path+".calibrate", "means nothing for a model of kind %s, which gives no probability", u.Models[0].Kind)
		}
		if (c.Kind == "ensemble") != (len(c.Of) > 0) && !d.bad(path+".of") && !d.bad(path+".kind") && c.Kind != "" {
			d.faultAt(path, "an ensemble, and nothing else, says of which members")
		}
		for j, m := range c.Of {
			at := fmt.Sprintf("%s.of[%d]", path, j)
			kind, ok := groups[m]
			switch {
			case m == "" || d.bad(at):
			case !ok:
				known := map[string]bool{}
				for n := range groups {
					known[n] = n != c.Name
				}
				delete(known, c.Name)
				d.faultAt(at, "no candidate %s%s", m, hint(m, sorted(known)))
			case kind == "ensemble":
				d.faultAt(at, "%s is an ensemble itself", m)
			case slices.Contains(c.Of[:j], m):
				d.faultAt(at, "%s stands twice", m)
			case j > 0 && !slices.Equal(inputs[m], inputs[c.Of[0]]):
				d.faultAt(at, "%s has other features than %s; members share their inputs", m, c.Of[0])
			}
		}
	}
}

// maxGrid bounds the models of a grid: each is trained once a fold.
const maxGrid = 1000

// checkParams asks the kind, if the binary links any, each parameter on its own.
func (d *decoder) checkParams(c CandidateEntry, path string, kinds []string) {
	size := 1
	for _, a := range c.Grid {
		if size *= max(len(a.Values), 1); size > maxGrid {
			d.faultAt(path+".grid", "is more than %d models", maxGrid)
			break
		}
	}
	for _, a := range c.Grid {
		if slices.ContainsFunc(c.Params, func(p Param) bool { return p.Name == a.Name }) {
			d.faultAt(path+".grid."+a.Name, "stands in params too")
		}
	}
	if len(kinds) == 0 || c.Kind == "" || d.bad(path+".kind") {
		return
	}
	k, err := models.Lookup(c.Kind)
	if err != nil {
		d.faultAt(path+".kind", "this binary links no kind %s%s", c.Kind, hint(c.Kind, kinds))
		return
	}
	ask := func(at, name string, v any) {
		if d.bad(at) {
			return
		}
		if _, err := k.Complete(map[string]any{name: v}); err != nil {
			var known []string
			for _, p := range k.Params {
				known = append(known, p.Name)
			}
			message := strings.TrimPrefix(err.Error(), name+": ")
			if !slices.Contains(known, name) {
				message += hint(name, known)
			}
			d.faultAt(at, "%s", message)
		}
	}
	for _, p := range c.Params {
		ask(path+".params."+p.Name, p.Name, p.Value)
	}
	for _, a := range c.Grid {
		for j, v := range a.Values {
			ask(fmt.Sprintf("%s.grid.%s[%d]", path, a.Name, j), a.Name, v)
		}
	}
}
