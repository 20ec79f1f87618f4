package skew

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/featurelog"
	"github.com/millrace-ml/millrace/transforms/label"
	"github.com/millrace-ml/millrace/transforms/source"
)

func init() {
	beam.RegisterDoFn(&pickFn{})
	beam.RegisterDoFn(&compareFn{})
	beam.RegisterDoFn(&concludeFn{})
	register.Function1x2(keyed)
	register.Function1x1(unreadable)
	register.Emitter2[int64, event.Batch]()
	register.Emitter1[string]()
	register.Emitter1[int64]()
	register.Iter1[event.Batch]()
	register.Iter1[string]()
}

// Options are what a comparison may say beside its use case.
type Options struct {
	// Logs are the addresses of the feature log; by default the use case's.
	Logs []string
	// Sources are the addresses of the history; by default the use case's.
	Sources []string
	// Sample is the share of the events that is compared, chosen by a hash of their ids; 0 means all.
	Sample float64
	// From and To bound the event times that are compared: From <= time < To. Zero times don't bound.
	From, To time.Time
	// Tolerance is the relative difference from which a value counts as beyond it.
	Tolerance float64
	// Memory and Local are as in package scoring.
	Memory int64
	Local  bool
	// Work is a folder for the report, which is there and which every worker sees.
	Work string
}

// Plan is everything a comparison is made of.
type Plan struct {
	Log, History source.Params
	Features     feature.Params
	Join         *label.Params // of labels; see scoring.Plan
	Options      Options
}

// New plans the comparison of a log with a history.
func New(u *spec.UseCase, o Options) (Plan, error) {
	p := Plan{Features: u.Features(), Join: u.LabelJoin(), Options: o}
	var errs []error
	if len(o.Logs) == 0 {
		if u.FeatureLog.URL == "" {
			return p, errors.New("there is no feature log: give one with --log, or let the use case keep one under sinks.feature_log")
		}
		url, err := u.FeatureLog.URL.Resolve()
		if err != nil {
			return p, fmt.Errorf("sinks.feature_log: %w", err)
		}
		p.Options.Logs = []string{url}
	}
	for _, name := range featurelog.Clashes(p.Features) {
		errs = append(errs, fmt.Errorf("a feature log has a column %s of its own: the field or feature needs another name", name))
	}
	if !(o.Sample >= 0 && o.Sample <= 1) {
		errs = append(errs, fmt.Errorf("a sample of %v: want a share from 0 to 1", o.Sample))
	}
	if !(o.Tolerance >= 0) {
		errs = append(errs, fmt.Errorf("a tolerance of %v: want a relative difference from 0", o.Tolerance))
	}
	decode, err := featurelog.Decode(p.Features)
	errs = append(errs, err)
	p.Log = source.Params{URLs: p.Options.Logs, Decode: decode}
	p.Log.Decode.UseCase = u.Name
	p.History, err = scoring.Source(u, o.Sources)
	errs = append(errs, err)
	for _, address := range append(p.History.URLs, p.Log.URLs...) {
		if source.Endless(address) {
			errs = append(errs, fmt.Errorf("%s has no end: give files of it", connect.Redact(address)))
		}
	}
	p.Features.Memory, p.Features.Local = o.Memory/4, o.Local
	p.Features.Keep = []string{p.Features.ID} // no field is compared, but one that is named is needed: none means all
	return p, errors.Join(errs...)
}

// Check looks, before anything starts, for addresses that are not there.
func (p Plan) Check(ctx context.Context) error {
	return errors.Join(source.Check(ctx, p.Log), source.Check(ctx, p.History))
}

// Size sets the number of shards by the size of the history; the report does not depend on it.
func (p Plan) Size(ctx context.Context) (Plan, error) {
	n, err := source.Estimate(ctx, p.History)
	if err != nil {
		return p, fmt.Errorf("sizing the shuffles: %w", err)
	}
	p.Features.Shards = scoring.Shards(n, 4*p.Features.Memory)
	return p, nil
}

// Build adds the comparison to s.
func Build(s beam.Scope, p Plan) {
	s = s.Scope("skew")
	logged, unread := source.Read(s.Scope("log"), p.Log)
	history := source.ReadAll(s.Scope("history"), p.History)
	labels, _ := scoring.Plan{Source: p.History, Join: p.Join}.Labels(s, history)
	computed, _ := feature.ComputeLabeled(s, history.Events, labels, p.Features)

	names := p.Features.Names()
	ours := p.pick(append([]string{featurelog.IDColumn, featurelog.TimeColumn, featurelog.FingerprintColumn}, names...))
	ours.Fingerprint = p.Features.Fingerprint()
	theirs := p.pick(append([]string{p.Features.ID, p.Features.Time}, names...))
	rows := beam.Flatten(s, beam.ParDo(s.Scope("logged"), ours, logged), beam.ParDo(s.Scope("computed"), theirs, computed))
	parts := beam.ParDo(s, &compareFn{Names: names, Tolerance: p.Options.Tolerance}, beam.GroupByKey(s, rows))

	parts = beam.Flatten(s, parts, beam.ParDo(s, unreadable, unread))
	beam.ParDo(s, &concludeFn{File: p.file()}, beam.GroupByKey(s, beam.ParDo(s, keyed, parts)))
}

func (p Plan) pick(columns []string) *pickFn {
	f := &pickFn{Columns: columns, From: math.MinInt64, To: math.MaxInt64, Sample: p.Options.Sample}
	if t := p.Options.From; !t.IsZero() {
		f.From = t.UnixMicro()
	}
	if t := p.Options.To; !t.IsZero() {
		f.To = t.UnixMicro()
	}
	return f
}

func (p Plan) file() string { return filepath.Join(p.Options.Work, "skew.json") }

// Report is what the job has found, once it is done.
func (p Plan) Report() (Report, error) {
	r := Report{Fingerprint: p.Features.Fingerprint(), Tolerance: p.Options.Tolerance}
	text, err := os.ReadFile(p.file())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil // there was no row
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("reading the report: %w", err)
	}
	return r, nil
}

// ErrFeatures reports a log of other features.
var ErrFeatures = errors.New("the log is of other features")

const (
	shards    = 64
	batchRows = 4096
)

// pickFn takes the rows and columns that are compared, and deals them to shards by id.
type pickFn struct {
	Columns []string
	// Fingerprint is the one that rows of a log must have; rows that are computed have none.
	Fingerprint string
	From, To    int64 // microseconds
	Sample      float64

	in, out *event.Schema
	held    [shards][]event.Batch
	rows    [shards]int
}

func (f *pickFn) StartBundle(func(int64, event.Batch)) {
	f.held, f.rows = [shards][]event.Batch{}, [shards]int{}
}

func (f *pickFn) ProcessElement(rows event.Batch, emit func(int64, event.Batch)) error {
	if rows.N == 0 {
		return nil
	}
	if f.in != rows.Schema {
		out, err := rows.Schema.Only(f.Columns...)
		if err != nil {
			return fmt.Errorf("comparing features: %w", err)
		}
		if f.out == nil || !f.out.Equal(out) {
			f.out = out
		}
		f.in = rows.Schema
	}
	small, err := rows.Only(f.out)
	if err != nil {
		return err
	}
	var picked [shards][]int32
	for i, t := range small.Times() {
		h := small.IDs().HashID(i)
		if t < f.From || t >= f.To || f.Sample > 0 && float64(h>>11)/(1<<53) >= f.Sample {
			continue
		}
		if f.Fingerprint != "" {
			if got := string(small.Col(featurelog.FingerprintColumn).Raw(i)); got != f.Fingerprint {
				return fmt.Errorf("%w: %s at %s was served with features %s, and those of the use case are %s; compare with the use case that served it, or leave such rows out with --from and --to",
					ErrFeatures, small.IDs().AppendID(nil, i), time.UnixMicro(t).UTC().Format(time.RFC3339Nano), got, f.Fingerprint)
			}
		}
		picked[h%shards] = append(picked[h%shards], int32(i))
	}
	for k, some := range picked {
		if len(some) == 0 {
			continue
		}
		f.held[k], f.rows[k] = append(f.held[k], small.Gather(some)), f.rows[k]+len(some)
		if f.rows[k] >= batchRows {
			if err := f.give(k, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *pickFn) give(k int, emit func(int64, event.Batch)) error {
	all, err := event.Concat(f.held[k])
	if err != nil {
		return err
	}
	f.held[k], f.rows[k] = nil, 0
	emit(int64(k), all)
	return nil
}

func (f *pickFn) FinishBundle(emit func(int64, event.Batch)) error {
	for k := range f.held {
		if f.rows[k] > 0 {
			if err := f.give(k, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

// compareFn joins the rows of a shard and gives a report of them.
type compareFn struct {
	Names     []string
	Tolerance float64
}

func (f *compareFn) ProcessElement(_ int64, next func(*event.Batch) bool, emit func(string)) error {
	var logged, computed []event.Batch
	for b := (event.Batch{}); next(&b); {
		if b.Schema.Index(featurelog.FingerprintColumn) >= 0 {
			logged = append(logged, b)
		} else {
			computed = append(computed, b)
		}
	}
	text, err := json.Marshal(compare(f.Names, f.Tolerance, logged, computed))
	if err != nil {
		return fmt.Errorf("reporting a shard: %w", err)
	}
	emit(string(text))
	return nil
}

func unreadable(deadletter.Letter) string { return `{"unreadable":1}` }

func keyed(part string) (int64, string) { return 0, part }

// concludeFn adds up the reports of shards.
type concludeFn struct{ File string }

func (f *concludeFn) ProcessElement(_ int64, next func(*string) bool, emit func(int64)) error {
	var all Report
	for text := ""; next(&text); {
		var r Report
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return fmt.Errorf("adding up: %w", err)
		}
		all.add(r)
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(f.File, text, 0o644) // who asked may be another user than the worker
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: workers don't see the folder: give one that all of them see and may write (--work)", err)
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	emit(all.Compared)
	return nil
}
