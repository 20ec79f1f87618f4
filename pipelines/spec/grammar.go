package spec

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/format"
)

// This file declares the use-case file. Each function gives an object bound to the place that it
// decodes into.

func grammar(u *UseCase) value {
	u.Registry = "${env:MILLRACE_REGISTRY:-file://./millrace/registry}"
	return object{name: "Use case", doc: "The file as a whole.", keys: []key{
		{name: "name", value: name(&u.Name), required: true, example: "fraud",
			doc: "Names the use case in outputs, bundles and metrics."},
		{name: "event", value: eventObject(&u.Event), required: true,
			doc: "What an event is."},
		{name: "source", value: sources(&u.Source), example: "kafka://broker:9092/transactions?group=fraud",
			doc: "Where events are read. `--source` overrides it."},
		{name: "stream", value: streamObject(&u.Stream),
			doc: "How a source without an end is read. A run that reads to the end has no use for it."},
		{name: "label", value: optional[Label]{&u.Label, labelObject},
			doc: "What is learned. Without it nothing can be trained."},
		{name: "features", value: list[feature.Feature]{dst: &u.Entries, elem: featureObject, least: 1}, required: true,
			doc: "The features, in order. An entry may use the event's fields and every feature above it."},
		{name: "models", value: list[Model]{dst: &u.Models, elem: modelObject},
			doc: "The models that score every event."},
		{name: "registry", value: url(&u.Registry), def: "`" + string(u.Registry) + "`", example: "gs://bucket/registry",
			doc: "Where bundles lie. `--registry` overrides it."},
		{name: "replay", value: url(&u.Replay), example: "kafka://broker:9092/fraud-replay",
			doc: "A topic or a folder that a stream reads beside its source: `millrace replay` sends dead letters there. Without it a replay is a run of its own over the history."},
		{name: "sinks", value: sinks(u), example: "{scores: scores.jsonl, dead_letters: ./dead/}",
			doc: "Where results go, by names of your choice. `dead_letters` takes what could not be used, `feature_log` what was served: a Parquet table with each event's features as the model got them, its score and decision, for `millrace skew` and for training."},
		{name: "training", value: optional[Training]{&u.Training, trainingObject},
			doc: "How models are trained, chosen and published."},
	}}
}

func eventObject(e *Event) value {
	e.MaxEvent = 1 << 20
	unknown := "ignore"
	return object{name: "Event", doc: "The shape of an event.", keys: []key{
		{name: "id", value: list[string]{dst: &e.ID, elem: func(s *string) value { return name(s) }, lone: true, least: 1}, required: true, example: "TRANSACTION_ID",
			doc: "The field that identifies an event, for deduplication, canaries and idempotent writes. Several make a compound id, the column `id`."},
		{name: "time", value: name(&e.Time), required: true, example: "TX_DATETIME",
			doc: "The timestamp field that gives the event time."},
		{name: "fields", value: dict[decode.Field]{dst: &e.Fields, elem: fieldValue, least: 1}, required: true, example: "{TX_AMOUNT: {type: decimal, scale: 2, min: 0}}",
			doc: "The fields, by name. Expressions use these names."},
		{name: "unknown", value: then(enum(&unknown, "ignore", "reject"), func() { e.RejectUnknown = unknown == "reject" }), def: "ignore",
			doc: "What to do with an event that has a field not declared here: ignore the field, or reject the event as a dead letter."},
		{name: "max_event", value: size(&e.MaxEvent, 1<<10, 64<<20), def: "1MiB",
			doc: "The longest event. A longer one is a dead letter."},
	}}
}

func streamObject(st *Stream) value {
	*st = Stream{Order: "arrival", Lateness: time.Minute, Idle: 10 * time.Second, Poll: 10 * time.Second, Roll: time.Minute}
	return object{name: "Stream", doc: "How a source without an end is read.", keys: []key{
		{name: "order", value: enum(&st.Order, "arrival", "event_time"), def: "arrival",
			doc: "`arrival` scores an event at once, with all that came before it. `event_time` waits until the watermark has passed it, so that features are those of a run over the whole history, to the last bit."},
		{name: "lateness", value: duration(&st.Lateness, 0), def: "1m",
			doc: "How far an event may come behind the newest of its partition. A later one is a dead letter of class `late`. With `order: event_time` every event waits so long; with `arrival` none does."},
		{name: "idle", value: duration(&st.Idle, 0), def: "10s",
			doc: "After how long a partition without records holds back the watermark no more; 0 means never."},
		{name: "poll", value: duration(&st.Poll, 100*time.Millisecond), def: "10s",
			doc: "How often the registry is asked whether an alias has moved."},
		{name: "roll", value: duration(&st.Roll, time.Second), def: "1m",
			doc: "The event time that a file of a sink holds, where sinks are folders."},
	}}
}

// then runs more after the scalar was set.
func then(s scalar, more func()) scalar {
	inner := s.set
	s.set = func(n *yaml.Node) error {
		if err := inner(n); err != nil {
			return err
		}
		more()
		return nil
	}
	return s
}

var sizeText = regexp.MustCompile(`^(\d+)(B|KiB|MiB|GiB)?$`)

func size(dst *int, lo, hi int) scalar {
	s := map[string]any{"type": []string{"integer", "string"}, "pattern": sizeText.String()}
	return scalar{text: "a size in bytes", schema: s, tags: []string{"!!int", "!!str"}, set: func(n *yaml.Node) error {
		m := sizeText.FindStringSubmatch(n.Value)
		if m == nil {
			return fmt.Errorf("%q is not a size such as 65536, 64KiB or 1MiB", n.Value)
		}
		v, err := strconv.Atoi(m[1])
		shift := map[string]int{"KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
		if err != nil || v > hi>>shift || v<<shift < lo {
			return fmt.Errorf("%s is not from %d to %d bytes", n.Value, lo, hi)
		}
		*dst = v << shift
		return nil
	}}
}

// plain is the text of any scalar.
func plain(dst *string) scalar {
	s := map[string]any{"type": []string{"string", "number", "boolean"}}
	return scalar{text: "a value", schema: s, set: func(n *yaml.Node) error {
		*dst = n.Value
		return nil
	}}
}

func kindNames(list bool) []string {
	var names []string
	for k := event.Bool; k <= event.List; k++ {
		if k != event.List || list {
			names = append(names, k.String())
		}
	}
	return names
}

func kind(dst *event.Kind, list bool) scalar {
	var s string
	return then(enum(&s, kindNames(list)...), func() { *dst, _ = event.ParseKind(s) })
}

func fieldValue(name string, f *decode.Field) value {
	f.Name = name
	return forms{scalar: kind(&f.Kind, true), mapping: object{name: "Field", doc: "A field with more than a type. `TX_AMOUNT: decimal` is short for `TX_AMOUNT: {type: decimal}`.", keys: []key{
		{name: "type", value: kind(&f.Kind, true), required: true, example: "decimal",
			doc: "The type. In expressions int, decimal and float are doubles; ids only compare and name entities."},
		{name: "path", value: text(&f.Path), def: "the field's name", example: "payment.amount",
			doc: "Where the value lies in nested JSON, or the column's header in CSV."},
		{name: "optional", value: boolean(&f.Optional), def: "false",
			doc: "Whether the value may be absent or null. Otherwise such an event is a dead letter."},
		{name: "scale", value: integer(&f.Scale, 0, 18), def: "0", example: "2",
			doc: "Decimal places of a decimal, whose sums are exact."},
		{name: "of", value: kind(&f.Elem, false), example: "category",
			doc: "The type of a list's elements."},
		{name: "min", value: optionalNumber(&f.Min), example: "0",
			doc: "The least value of a number. A smaller one is a dead letter."},
		{name: "max", value: optionalNumber(&f.Max),
			doc: "The greatest value of a number."},
		{name: "enum", value: list[string]{dst: &f.Enum, elem: func(s *string) value { return plain(s) }, least: 1}, example: "[web, shop]",
			doc: "The values that a category, string, id or int may have."},
		{name: "pattern", value: parsed("a regular expression", "", func(s string) error {
			if _, err := regexp.Compile(s); err != nil {
				return fmt.Errorf("%q is not a regular expression (RE2): %w", s, err)
			}
			f.Pattern = s
			return nil
		}), example: "^[A-Z]{2}$", doc: "A regular expression (RE2) that a string, category or id matches somewhere."},
		{name: "format", value: text(&f.TimeFormat), def: "RFC 3339", example: "unix_ms",
			doc: "How a timestamp is written: `unix_s`, `unix_ms`, `unix_us`, `unix_ns`, `unix_days`, `step` (a count, as seconds), or a layout in Go's form, `2006-01-02 15:04:05`."},
		{name: "zone", value: parsed("a time zone", "", func(s string) error {
			if _, err := time.LoadLocation(s); err != nil {
				return fmt.Errorf("%q is not a time zone such as Europe/Paris", s)
			}
			f.Zone = s
			return nil
		}), def: "UTC", example: "Europe/Paris", doc: "The zone of timestamps that are written without one."},
	}}}
}

func sources(all *[]Source) value {
	one := func(s *Source) value {
		return forms{scalar: url(&s.URL), mapping: object{name: "Source", doc: "An input. A URL or path alone is short for `{url: ...}`.", keys: []key{
			{name: "url", value: url(&s.URL), required: true, example: "data/*.csv.gz", doc: "What is read: a path, a pattern, or a URL."},
			{name: "format", value: enum(&s.Format, "json", "csv", "parquet", "debezium"), def: "by the ending, else json", doc: "How events are written. `debezium` is changes of a database's table, as JSON with or without their schema: the event is the row, as it became or, where it was deleted, as it was. Fields are columns; a path that begins with `$.` is of the change itself, as `$.op`, `$.source.table`, `$.before.amount`, or `$.source.ts_ms`, when it was committed."},
			{name: "ops", value: list[string]{dst: &s.Ops, elem: func(op *string) value { return enum(op, format.RowOps()...) }, lone: true, least: 1}, def: "[create, snapshot]", example: "[create, update]",
				doc: "Of format debezium, the changes that are events. All others are skipped, and counted. Where a row can be several events, as with updates, `event.id` needs a field that tells them apart, such as one with `path: $.source.lsn`."},
			{name: "decimals", value: enum(&s.Decimals, "precise", "string"), example: "precise",
				doc: "Of format debezium, the connector's `decimal.handling.mode`, where it writes decimals as strings and no schema. `precise` gives them the scale of the field."},
		}}}
	}
	first := func() *Source { *all = make([]Source, 1); return &(*all)[0] }
	return forms{
		scalar:   lazy{func() value { return one(first()).(forms).scalar }},
		mapping:  lazy{func() value { return one(first()).(forms).mapping }},
		sequence: list[Source]{dst: all, elem: one, least: 1},
	}
}

// lazy makes its place only when it is decoded.
type lazy struct{ make func() value }

func (l lazy) decode(d *decoder, n *yaml.Node, path string) { l.make().decode(d, n, path) }
func (l lazy) describe() description                        { return l.make().describe() }

func labelObject(l *Label) value {
	return object{name: "Label", doc: "What is learned, and when it is known. Either the event holds its label, which is known some time later, `{expr: TX_FRAUD, delay: 7d}`; or labels come as events of their own, from `source`, and each says when it became known. Such a label carries the id and the time of the event that it is of, and the entities whose aggregates use the label, under the names that they have in events.", keys: []key{
		{name: "expr", value: name(&l.Field), required: true, example: "TX_FRAUD",
			doc: "The field that holds the label: a bool, or a number for regression."},
		{name: "delay", value: duration(&l.Delay, 0), def: "0", example: "7d",
			doc: "How long after the event its label is known. No feature sees a label before. Not with `source`."},
		{name: "source", value: sources(&l.Source), example: "kafka://broker:9092/chargebacks?group=fraud",
			doc: "Where labels are read that come as events of their own."},
		{name: "time", value: name(&l.Time), example: "REPORTED_AT",
			doc: "The field of a label that says when it became known. No feature sees it before."},
		{name: "id", value: name(&l.ID), def: "the event's id", example: "CHARGEBACK_ID",
			doc: "The field of a label that identifies it. Of an event's labels the last by time, then id, holds, so that a later one corrects; a null label takes back those before it."},
		{name: "fields", value: dict[decode.Field]{dst: &l.Fields, elem: fieldValue, least: 1}, example: "{TRANSACTION_ID: id, TX_DATETIME: timestamp, TERMINAL_ID: id, REPORTED_AT: timestamp, TX_FRAUD: bool}",
			doc: "The fields of a label, by name."},
		{name: "join", value: optional[Join]{&l.Join, joinObject}, example: "{horizon: 14d, rate: 20}",
			doc: "Finds a label's event by its id, where labels don't carry its time and entities. It costs memory and state for every event; labels that carry them need no join."},
	}}
}

func joinObject(j *Join) value {
	return object{name: "Join", doc: "How labels find their events by id: events leave their time and entities for as long as labels may come. A label that becomes known later than the horizon after its event, or whose event does not come, is a dead letter of class `label_orphan`.", keys: []key{
		{name: "horizon", value: duration(&j.Horizon, time.Second), required: true, example: "14d",
			doc: "How long after its event a label may become known."},
		{name: "rate", value: number(func(v float64) { j.Rate = v }, "a number above 0", 0, math.MaxFloat64, true), required: true, example: "20",
			doc: "Events a second, on average. What is kept is about rate x horizon x 48 bytes; more than 2 GiB is refused."},
	}}
}

func featureObject(f *feature.Feature) value {
	current := "include"
	var windows []feature.Window
	var session time.Duration
	merge := func() {
		f.Windows = slices.Clone(windows)
		if session > 0 {
			f.Windows = append(f.Windows, feature.Window{Session: session})
		}
	}
	return object{name: "Feature", doc: "Either a derived feature, with `name` and `expr`, or aggregates over an entity's events, with `entity`, `windows` and `aggregates`.", keys: []key{
		{name: "name", value: name(&f.Name), example: "night",
			doc: "The name of a derived feature."},
		{name: "expr", value: expression(&f.Expr), example: "TX_DATETIME.getHours() <= 6",
			doc: "What a derived feature is, in CEL. Null in gives null out; NaN and infinity give null."},
		{name: "entity", value: name(&f.Entity), example: "CUSTOMER_ID",
			doc: "The id whose events are aggregated."},
		{name: "windows", value: after{list[feature.Window]{dst: &windows, elem: windowValue, least: 1}, merge}, example: "[1d, 7d, 5n, all]",
			doc: "What is aggregated: `7d` the time (t-7d, t], `5n` the last five events, `all` every event so far."},
		{name: "session", value: after{duration(&session, time.Millisecond), merge}, example: "30m",
			doc: "A window more: the events since the last pause of this length."},
		{name: "delay", value: duration(&f.Delay, 0), def: "0", example: "7d",
			doc: "Shifts the windows back: a window is (t-delay-w, t-delay]."},
		{name: "resolution", value: duration(&f.Resolution, 0), def: "0, exact", example: "5m",
			doc: "Keeps one partial aggregate a pane of this length, which bounds memory; windows and delay must be multiples of it."},
		{name: "current", value: then(enum(&current, "include", "exclude"), func() { f.ExcludeCurrent = current == "exclude" }), def: "include",
			doc: "Whether the event itself counts."},
		{name: "aggregates", value: dict[feature.Aggregate]{dst: &f.Aggregates, elem: aggregateValue, least: 1}, example: "{customer_tx_mean: mean(TX_AMOUNT)}",
			doc: "The aggregates, by name. Each gives a feature a window: `customer_tx_mean_7d`."},
	}}
}

// after runs done once the value is decoded.
type after struct {
	value
	done func()
}

func (a after) decode(d *decoder, n *yaml.Node, path string) {
	a.value.decode(d, n, path)
	a.done()
}

func windowValue(w *feature.Window) value {
	return parsed("a window", `^(all|[1-9]\d*n|(session:)?(\d+(\.\d+)?(d|h|m|s|ms))+)$`, func(s string) (err error) {
		*w, err = feature.ParseWindow(s)
		return err
	})
}

func aggregateValue(name string, a *feature.Aggregate) value {
	a.Name = name
	call := parsed("an aggregate", "", func(s string) error { return parseAggregate(s, a) })
	return forms{scalar: call, mapping: object{name: "Aggregate", doc: "An aggregate with more than its call. `n: count()` is short for `n: {of: count()}`.", keys: []key{
		{name: "of", value: call, required: true, example: "mean(TX_FRAUD)",
			doc: "The call: its argument is any expression. See [Aggregates](#aggregates)."},
		{name: "where", value: expression(&a.Where), example: "TX_AMOUNT > 100",
			doc: "Only events for which this holds count."},
		{name: "empty", value: optionalNumber(&a.Empty), def: "0 for count, else null", example: "0",
			doc: "The value over an empty window."},
	}}}
}

func modelObject(m *Model) value {
	m.Serve = "champion"
	return object{name: "Model", doc: "A model that scores every event.", keys: []key{
		{name: "name", value: name(&m.Name), required: true, example: "fraud", doc: "Its name in the registry and in outputs."},
		{name: "kind", value: enum(&m.Kind, "binary", "multiclass", "regression", "ranking", "anomaly"), required: true, doc: "What it predicts."},
		{name: "serve", value: text(&m.Serve), def: "champion", doc: "The registry's alias whose version scores. `--model NAME@VERSION` overrides it."},
		{name: "canary", value: optional[Canary]{&m.Canary, canaryObject}, example: "{alias: challenger, share: 0.05}",
			doc: "A version that scores a share of the events instead, chosen by the event's id. In streams alone."},
		{name: "shadow", value: text(&m.Shadow), example: "shadow",
			doc: "An alias whose version scores every event too, and decides nothing. In streams alone."},
		{name: "decide", value: list[Decision]{dst: &m.Decide, elem: decisionObject}, example: "[{name: block, when: score >= threshold}, {name: pass}]",
			doc: "Names for scores: the first that holds is the event's `decision`. The last one must always hold."},
	}}
}

func canaryObject(c *Canary) value {
	return object{name: "Canary", doc: "A version on trial.", keys: []key{
		{name: "alias", value: text(&c.Alias), required: true, example: "challenger", doc: "The registry's alias."},
		{name: "share", value: number(func(v float64) { c.Share = v }, "a number between 0 and 1", 0, 1, true), required: true, example: "0.05", doc: "The share of the events."},
	}}
}

func decisionObject(d *Decision) value {
	return object{name: "Decision", doc: "A decision.", keys: []key{
		{name: "name", value: name(&d.Name), required: true, example: "block", doc: "What is decided."},
		{name: "when", value: expression(&d.When), def: "always", example: "score >= threshold",
			doc: "An expression over fields, features, `score`, and `threshold`, which comes with the bundle."},
	}}
}

func sinks(u *UseCase) value {
	return dict[Sink]{dst: &u.Sinks, elem: func(name string, s *Sink) value {
		s.Name = name
		return forms{scalar: url(&s.URL), mapping: object{name: "Sink", doc: "An output. A URL or path alone is short for `{url: ...}`.", keys: []key{
			{name: "url", value: url(&s.URL), required: true, example: "kafka://broker:9092/alerts", doc: "Where to write. A path that ends in `/` is written in parts, any other as one file."},
			{name: "format", value: enum(&s.Format, "json", "csv", "parquet"), def: "by the ending, else json", doc: "How lines are written."},
			{name: "when", value: expression(&s.When), def: "always", example: "decision == 'block'", doc: "Writes only events for which this holds: an expression over fields, features, `score` and `decision`."},
		}}}
	}}
}

func trainingObject(t *Training) value {
	t.Seed = 1
	t.Gate.Confidence = 0.95
	return object{name: "Training", doc: "How models are trained, chosen and published. Splits go by time only.", keys: []key{
		{name: "window", value: splitObject(&t.Window), required: true, example: "{train: 7d, gap: 7d, test: 7d}",
			doc: "The shape of a fold."},
		{name: "select", value: foldsObject(&t.Select), required: true, example: "{from: 2018-06-20, folds: 4}",
			doc: "The folds on which candidates are chosen."},
		{name: "report", value: foldsObject(&t.Report), required: true, example: "{from: 2018-07-25, folds: 4}",
			doc: "The later folds on which they are reported, and nothing is chosen."},
		{name: "exclude", value: optional[Exclude]{&t.Exclude, excludeObject},
			doc: "Takes entities that are already known to be positive out of the test rows."},
		{name: "metrics", value: list[Metric]{dst: &t.Metrics, elem: metricValue, least: 1}, def: "auc and average_precision, rmse for regression", example: "[auc, {card_precision: {entity: CUSTOMER_ID, k: 100, per: 1d}}]",
			doc: "What is measured."},
		{name: "candidates", value: list[CandidateEntry]{dst: &t.Candidates, elem: candidateObject, least: 1}, required: true,
			doc: "What is trained."},
		{name: "gate", value: gateObject(&t.Gate), doc: "When a challenger replaces the champion."},
		{name: "seed", value: integer(&t.Seed, 0, 1<<53), def: "1", doc: "Makes training repeatable: the same data and seed give the same weights."},
	}}
}

func splitObject(s *Split) value {
	return object{name: "Window", doc: "A fold: train for `train`, wait for `gap`, test for `test`.", keys: []key{
		{name: "train", value: duration(&s.Train, time.Second), required: true, example: "7d", doc: "How much is trained on."},
		{name: "gap", value: duration(&s.Gap, 0), def: "0", example: "7d", doc: "The time between training and test, in which labels become known: at least `label.delay`."},
		{name: "test", value: duration(&s.Test, time.Second), required: true, example: "7d", doc: "How much is tested on."},
		{name: "step", value: duration(&s.Step, time.Second), def: "`test`", example: "7d", doc: "How much later the next fold begins."},
	}}
}

func foldsObject(f *Folds) value {
	return object{name: "Folds", doc: "Consecutive folds.", keys: []key{
		{name: "from", value: date(&f.From), def: "counted back from now", example: "2018-06-20", doc: "When the first fold's training begins."},
		{name: "folds", value: integer(&f.Count, 1, 1000), required: true, example: "4", doc: "How many."},
	}}
}

func excludeObject(x *Exclude) value {
	x.PositiveSince = "train"
	return object{name: "Exclude", doc: "A test row is left out if its entity had a positive event that was known by then.", keys: []key{
		{name: "entity", value: name(&x.Entity), required: true, example: "CUSTOMER_ID", doc: "Whose events count."},
		{name: "positive_since", value: enum(&x.PositiveSince, "train"), def: "train", doc: "From when on positive events count: the start of the fold's training."},
		{name: "known_after", value: duration(&x.KnownAfter, 0), def: "`label.delay`", example: "7d", doc: "How long after the event it is known."},
		{name: "align", value: duration(&x.Align, 0), def: "0", example: "1d", doc: "Rounds the time of knowledge up to a multiple of this, in UTC: known at the next midnight."},
	}}
}

func metricValue(m *Metric) value {
	card := object{name: "Card precision", doc: "Of the `k` entities with the highest scores of a period, the share with a positive event in it; entities found are left out afterwards; the mean over periods.", keys: []key{
		{name: "entity", value: name(&m.Entity), required: true, example: "CUSTOMER_ID", doc: "What is ranked."},
		{name: "k", value: integer(&m.K, 1, 1_000_000), required: true, example: "100", doc: "How many can be looked at in a period."},
		{name: "per", value: duration(&m.Per, time.Second), required: true, example: "1d", doc: "The period."},
	}}
	return forms{
		scalar: enum(&m.Name, "auc", "average_precision", "log_loss", "brier", "calibration_error", "rmse", "mae"),
		mapping: object{name: "Metric", doc: "A metric with parameters.", keys: []key{
			{name: "card_precision", value: named{&m.Name, "card_precision", card}, required: true, example: "{entity: CUSTOMER_ID, k: 100, per: 1d}", doc: "Reported as `card_precision_at_100`."},
		}},
	}
}

// named notes which key was given.
type named struct {
	dst  *string
	name string
	value
}

func (v named) decode(d *decoder, n *yaml.Node, path string) {
	*v.dst = v.name
	v.value.decode(d, n, path)
}

var candidateText = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,39}$`)

// candidateName is narrower than a name: it stands in the paths of a bundle.
func candidateName(dst *string) scalar {
	s := map[string]any{"type": "string", "pattern": candidateText.String()}
	return scalar{text: "a name in small letters", schema: s, tags: []string{"!!str"}, set: func(n *yaml.Node) error {
		if !candidateText.MatchString(n.Value) {
			return fmt.Errorf("%q is not a name of at most 40 small letters, digits, _ and -, a letter first", n.Value)
		}
		*dst = n.Value
		return nil
	}}
}

func candidateObject(c *CandidateEntry) value {
	names := func(dst *[]string) value {
		return list[string]{dst: dst, elem: func(s *string) value { return candidateName(s) }, least: 1}
	}
	inputs := list[string]{dst: &c.Features, elem: func(s *string) value { return name(s) }, least: 1}
	return object{name: "Candidate", doc: "A model to train, or a grid of them.", keys: []key{
		{name: "name", value: candidateName(&c.Name), required: true, example: "trees", doc: "Its name in reports; the models of a grid add their values: `trees-50-3-0.1`."},
		{name: "kind", value: text(&c.Kind), required: true, example: "gbdt", doc: "The kind of model: `logistic`, `linear`, `mlp`, `gbdt`, `forest`, `ensemble`, or what else the binary links."},
		{name: "params", value: dict[Param]{dst: &c.Params, elem: func(name string, p *Param) value { p.Name = name; return parameter{&p.Value} }}, example: "{trees: 100}",
			doc: "Hyper-parameters; the kind says which there are."},
		{name: "grid", value: dict[Axis]{dst: &c.Grid, elem: func(name string, a *Axis) value {
			a.Name = name
			return list[any]{dst: &a.Values, elem: func(v *any) value { return parameter{v} }, least: 1}
		}}, example: "{depth: [3, 6], rate: [0.1, 0.3]}", doc: "Hyper-parameters with the values to try, in all combinations."},
		{name: "of", value: names(&c.Of), example: "[trees, forest]", doc: "The members of an ensemble, by name; of a grid the best."},
		{name: "features", value: inputs, def: "all features", doc: "The inputs of this candidate."},
		{name: "calibrate", value: enum(&c.Calibrate, "platt", "isotonic"), def: "scores as they are", example: "platt",
			doc: "Turns scores into probabilities: `platt` by a sigmoid, which keeps the ranking and needs few rows, `isotonic` by a rising line, which wants a thousand rows or more. It is fitted on the last fifth of the training window, which the model itself then does not train on."},
	}}
}

func gateObject(g *Gate) value {
	return object{name: "Gate", doc: "Challenger and champion score the same rows; the challenger must win.", keys: []key{
		{name: "metric", value: text(&g.Metric), def: "average_precision where it is measured, else the last metric", example: "average_precision", doc: "On which metric; candidates are chosen by it too."},
		{name: "gain", value: number(func(v float64) { g.Gain = v }, "a number from 0", 0, 1e308, false), def: "0", example: "0.002", doc: "By how much at least."},
		{name: "confidence", value: number(func(v float64) { g.Confidence = v }, "a number between 0 and 1", 0, 1, true), def: "0.95", doc: "With what confidence, by bootstrap."},
	}}
}
