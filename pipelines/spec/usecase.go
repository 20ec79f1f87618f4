package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/pipelines/spec/builtin"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/feature"
)

// UseCase is a use-case file, checked. The fields follow the file; its methods turn it into the Params
// of the transforms.
type UseCase struct {
	// Name stands in outputs, in bundles and in the names of transforms.
	Name  string
	Event Event
	// Source lists what is read; empty where the file names none and a flag has to.
	Source []Source
	// Stream says how a source without an end is read.
	Stream Stream
	// Label is nil where nothing is known to learn from.
	Label *Label
	// Entries are the features section, in order. The Resolution, Delay and Windows of an entry are
	// checked to fit together.
	Entries  []feature.Feature
	Models   []Model
	Registry Ref
	// Replay is where a stream looks for dead letters that shall be scored again; empty: nowhere.
	Replay Ref
	// Sinks are the outputs in the file's order, dead letters and the feature log apart.
	Sinks       []Sink
	DeadLetters Ref
	// FeatureLog keeps what was served, for skew and training; without a URL there is none.
	FeatureLog Sink
	// Training is nil where the file has none.
	Training *Training

	// File is the path or built-in name that was loaded, Text what it holds, without overrides.
	File string
	Text []byte
	// Warnings are what lint says of a file that is not wrong.
	Warnings Faults
}

// Event describes what is read.
type Event struct {
	// ID names one field, or several that make a compound id.
	ID     []string
	Time   string
	Fields []decode.Field
	// RejectUnknown makes a dead letter of an event with a field that is not declared.
	RejectUnknown bool
	// MaxEvent bounds an event, in bytes.
	MaxEvent int
}

// Source is one input.
type Source struct {
	URL Ref
	// Format is json, csv, parquet or debezium; empty means by the URL's ending.
	Format string
	// Ops and Decimals are of debezium, see decode.Changes.
	Ops      []string
	Decimals string
}

// Stream says how a source without an end is read.
type Stream struct {
	// Order is arrival or event_time.
	Order string
	// Lateness is how far events may come behind the newest of their partition.
	Lateness time.Duration
	// Idle is after how long an empty partition holds back nobody; 0: never.
	Idle time.Duration
	// Poll is how often the registry is asked.
	Poll time.Duration
	// Roll is the event time that a file of a sink holds.
	Roll time.Duration
}

// Label says what is learned, and when it is known.
type Label struct {
	// Field holds the label: a bool, or a number for regression.
	Field string
	// Delay is the time from an event to the knowledge of its label.
	Delay time.Duration
	// Source lists where labels are read that come as events of their own; empty: events hold them.
	Source []Source
	// Time is the field of a label that says when it became known, ID the one that identifies it; empty:
	// its event's id does.
	Time, ID string
	// Fields are those of a label.
	Fields []decode.Field
	// Join finds a label's event by its id; nil: labels carry what they need.
	Join *Join
}

// Join says how labels find their events.
type Join struct {
	// Horizon is how long after its event a label may become known.
	Horizon time.Duration
	// Rate is how many events a second there are, by which the state is estimated.
	Rate float64
}

// Bytes is about what a join keeps: each event's id, time and entities.
func (j Join) Bytes() float64 { return j.Rate * j.Horizon.Seconds() * 48 }

// Model is a model that scores every event.
type Model struct {
	Name string
	// Kind is binary, multiclass, regression, ranking or anomaly.
	Kind string
	// Serve is the alias that is scored with.
	Serve string
	// Canary scores a share of the events instead; nil: none.
	Canary *Canary
	// Shadow is the alias of a version that scores beside it; empty: none.
	Shadow string
	// Decide holds the decisions; the first that holds is taken.
	Decide []Decision
}

// Canary is a version on trial.
type Canary struct {
	Alias string
	Share float64
}

// Decision is a name for a range of scores.
type Decision struct {
	Name string
	// When is an expression over the event's fields, its features, score and threshold; empty always
	// holds.
	When string
}

// Sink is one output.
type Sink struct {
	Name string
	URL  Ref
	// Format is json, csv or parquet; empty means by the URL's ending.
	Format string
	// When is an expression over the event's fields, its features, score and decision; empty writes
	// every event.
	When string
}

// Training says how candidates are trained, chosen and published.
type Training struct {
	Window  Split
	Select  Folds
	Report  Folds
	Exclude *Exclude
	// Metrics has at least one element.
	Metrics    []Metric
	Candidates []CandidateEntry
	Gate       Gate
	Seed       uint64
}

// Split is the shape of a fold: train [a, a+Train), nothing for Gap, test for Test; the next fold
// begins Step later.
type Split struct{ Train, Gap, Test, Step time.Duration }

// Folds are consecutive folds.
type Folds struct {
	// From is when the first fold's training begins; the zero time counts back from now, so that
	// the last fold's test ends today.
	From  time.Time
	Count int
}

// Exclude takes the entities that are already known to be positive out of the test rows.
type Exclude struct {
	Entity string
	// PositiveSince is "train": positive events count from the fold's training start on.
	PositiveSince string
	// KnownAfter is the time from a positive event to its knowledge.
	KnownAfter time.Duration
	// Align rounds the time of knowledge up to a multiple: 1d for lists that are made at midnight.
	Align time.Duration
}

// Metric is one figure of a model.
type Metric struct {
	// Name is auc, average_precision, card_precision, log_loss, brier, calibration_error, rmse or mae.
	Name string
	// Entity, K and Per belong to card_precision.
	Entity string
	K      int
	Per    time.Duration
}

// String is the metric's name in reports: card_precision_at_100.
func (m Metric) String() string {
	if m.Name == "card_precision" {
		return m.Name + "_at_" + strconv.Itoa(m.K)
	}
	return m.Name
}

// CandidateEntry is a candidate as the file has it: one model, or a grid of them.
type CandidateEntry struct {
	Name, Kind string
	Params     []Param
	Grid       []Axis
	// Of names the members of an ensemble; of an entry with a grid the best on the selection folds.
	Of []string
	// Features are the inputs; empty for all features.
	Features []string
	// Calibrate is platt or isotonic; empty leaves scores as they are.
	Calibrate string
}

// Param is a hyper-parameter with its value: an int, float64, bool, string or list of them.
type Param struct {
	Name  string
	Value any
}

// Axis is a hyper-parameter with the values that a grid tries.
type Axis struct {
	Name   string
	Values []any
}

// Gate says when a challenger replaces the champion.
type Gate struct {
	// Metric is the String of a metric.
	Metric string
	// Gain is the least gain, in the metric's own unit.
	Gain float64
	// Confidence is that of the bootstrap interval in which the gain must lie.
	Confidence float64
}

// Load reads a use case: a built-in's name, or the path of a file. sets are overrides such as
// "training.select.folds=2", applied in order; see override. The error is Faults where the use case is
// wrong, and wraps ErrNotFound where there is none.
func Load(ref string, sets []string) (*UseCase, error) {
	if text, ok := builtin.Text(ref); ok {
		return Parse(ref+".yaml", text, sets)
	}
	text, err := os.ReadFile(ref)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("loading use case %q: %w: it is neither a file nor built in; built in are %s%s",
			ref, ErrNotFound, strings.Join(builtin.Names(), ", "), neighbours(ref))
	}
	if err != nil {
		return nil, fmt.Errorf("loading use case: %w", err)
	}
	return Parse(ref, text, sets)
}

// neighbours names the YAML files that lie where ref should.
func neighbours(ref string) string {
	dir := filepath.Dir(ref)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Sprintf("; there is no folder %s", dir)
	}
	var found []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") && !strings.HasSuffix(e.Name(), "_test.yaml") {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	if len(found) == 0 {
		return fmt.Sprintf("; %s holds no .yaml file", dir)
	}
	return "; files are " + strings.Join(found, ", ")
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+)(?:, column (\d+))?: )?(.*)$`)

// Parse reads the text of a use case; file names it in faults. See Load.
func Parse(file string, text []byte, sets []string) (*UseCase, error) {
	d := &decoder{file: file, at: map[string]*yaml.Node{}, origin: map[*yaml.Node]string{}}
	root, ok := d.parse(text)
	if !ok {
		return nil, d.faults
	}
	for _, set := range sets {
		path, _, _ := strings.Cut(set, "=")
		if err := override(root, set, func(n *yaml.Node) { d.mark(n, path) }); err != nil {
			d.faults = append(d.faults, Fault{File: "--set " + path, Message: err.Error()})
		}
	}
	u := &UseCase{File: file, Text: text}
	grammar(u).decode(d, root, "")
	u.complete()
	d.check(u)
	if len(d.faults) > 0 {
		d.sort()
		return nil, d.faults
	}
	return u, nil
}

func (d *decoder) parse(text []byte) (*yaml.Node, bool) {
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF) || (err == nil && len(doc.Content) == 0):
		d.faults = append(d.faults, Fault{File: d.file, Line: 1, Col: 1, Message: "is empty, wants a use case"})
		return nil, false
	case err != nil:
		f := Fault{File: d.file, Line: 1, Col: 1, Message: err.Error()}
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			f.Message = "not YAML: " + m[3]
			if n, err := strconv.Atoi(m[1]); err == nil {
				f.Line = n
			}
		}
		d.faults = append(d.faults, f)
		return nil, false
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.fault(&more, "", "a second document follows; a use case is one")
	}
	return doc.Content[0], true
}

// sort puts faults into the order of the file, those of flags behind.
func (d *decoder) sort() {
	slices.SortStableFunc(d.faults, func(a, b Fault) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
}

// mark notes that a node and all below it came by flag.
func (d *decoder) mark(n *yaml.Node, path string) {
	d.origin[n] = path
	for _, c := range n.Content {
		d.mark(c, path)
	}
}

// complete fills in defaults that depend on other keys.
func (u *UseCase) complete() {
	t := u.Training
	if t == nil {
		return
	}
	if t.Window.Step == 0 {
		t.Window.Step = t.Window.Test
	}
	if len(t.Metrics) == 0 {
		t.Metrics = []Metric{{Name: "auc"}, {Name: "average_precision"}}
		if len(u.Models) > 0 && u.Models[0].Kind == "regression" {
			t.Metrics = []Metric{{Name: "rmse"}}
		}
	}
	if t.Gate.Metric == "" {
		t.Gate.Metric = t.Metrics[len(t.Metrics)-1].String()
		for _, m := range t.Metrics {
			if m.Name == "average_precision" {
				t.Gate.Metric = m.String()
			}
		}
	}
	if x := t.Exclude; x != nil && x.KnownAfter == 0 && u.Label != nil {
		x.KnownAfter = u.Label.Delay
	}
}
