package scoring

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/featurelog"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

// Options are what a run may say beside its use case. The zero value takes all from the file.
type Options struct {
	// Sources, Sink and DeadLetters replace those of the file. Sink replaces all sinks by one.
	Sources     []string
	Sink        string
	DeadLetters string
	// Memory bounds the process, in bytes; 0 means the defaults of package feature.
	Memory int64
	// Shards of a shuffle; 0 means 16. Plan.Size sets it by the size of the source.
	Shards int
	// Local says that the runner's workers share this machine's disk; see feature.Params.
	Local bool
	// Registry and Model (name@version or name@alias) replace the file's.
	Registry string
	Model    string
	// WithFeatures adds the features to each scored line.
	WithFeatures bool
	// Stream reads without an end; nil reads what there is.
	Stream *Stream
}

// ErrOption reports an option that has no effect on this use case.
var ErrOption = errors.New("option without effect")

// Features plans a graph that computes features and scores nothing.
func Features(u *spec.UseCase, o Options) (Plan, error) {
	p, err := base(u, o)
	if err != nil {
		return Plan{}, err
	}
	if o.Sink == "" {
		return Plan{}, fmt.Errorf("features has no sink of its own in the use case: give one with --sink")
	}
	outs := []format.Out{{Name: "id", Column: u.IDColumn()}, {Name: "time", Column: u.Event.Time}}
	if u.Label != nil && !u.HasLabels() {
		outs = append(outs, format.Out{Name: u.Label.Field, Column: u.Label.Field, Number: true})
	}
	for _, e := range entities(p) {
		outs = append(outs, format.Out{Name: e, Column: e})
	}
	for _, n := range p.Features.Names() {
		outs = append(outs, format.Out{Name: n, Column: n, Number: true})
	}
	p.Sinks = []sink.Params{{URL: o.Sink, Outs: unique(outs), Stream: p.Roll}}
	return p, nil
}

// entities are the columns that features are grouped by, each once.
func entities(p Plan) []string {
	var names []string
	for _, f := range p.Features.Features {
		if f.Entity != "" {
			names = append(names, f.Entity)
		}
	}
	return names
}

func unique(outs []format.Out) []format.Out {
	seen := map[string]bool{}
	var kept []format.Out
	for _, o := range outs {
		if !seen[o.Name] {
			seen[o.Name] = true
			kept = append(kept, o)
		}
	}
	return kept
}

// New plans the graph that scores. It resolves the model's alias once and pins the version, so that a
// bounded run is of one version however the alias moves meanwhile.
func New(ctx context.Context, u *spec.UseCase, o Options) (Plan, error) {
	p, err := base(u, o)
	if err != nil {
		return Plan{}, err
	}
	if len(u.Models) == 0 {
		return Plan{}, fmt.Errorf("use case %s has no models to score with: add a models section, or run `millrace features`", u.Name)
	}
	where := o.Registry
	if where == "" {
		if where, err = u.Registry.Resolve(); err != nil {
			return Plan{}, fmt.Errorf("registry: %w", err)
		}
	}
	reg, err := registry.Open(ctx, where, nil)
	if err != nil {
		return Plan{}, err
	}
	defer reg.Close()
	p.Predict.UseCase, p.Predict.Run = u.Name, p.Run
	used := o.Model == ""
	for _, m := range u.Models {
		ref := m.Name + "@" + m.Serve
		if name, _, _ := strings.Cut(o.Model, "@"); name == m.Name {
			ref, used = o.Model, true
		}
		v, err := reg.Resolve(ctx, ref)
		if err != nil {
			return Plan{}, err
		}
		pinned := o.Stream == nil || ref == o.Model
		pm := predict.Model{Name: m.Name, Registry: where, Version: v.Version, Digest: v.Digest, Fingerprint: p.Features.Fingerprint()}
		manifest, err := reg.Manifest(ctx, v)
		if err != nil {
			return Plan{}, err
		}
		if err := manifest.CheckFingerprint(pm.Fingerprint); err != nil {
			return Plan{}, fmt.Errorf("model %s: %w", v, err)
		}
		if !pinned { // a stream serves what the alias names at the time
			pm.Version, pm.Digest, pm.Alias, pm.Poll, pm.Shadow = 0, "", m.Serve, u.Stream.Poll, m.Shadow
			if m.Canary != nil {
				pm.Canary = predict.Canary{Alias: m.Canary.Alias, Share: m.Canary.Share}
			}
		}
		for _, d := range m.Decide {
			pm.Decide = append(pm.Decide, predict.Decision{Name: d.Name, When: d.When})
		}
		p.Predict.Models = append(p.Predict.Models, pm)
		for _, f := range manifest.Features {
			p.Features.Keep = append(p.Features.Keep, f.Name)
		}
	}
	if !used {
		return Plan{}, fmt.Errorf("%w: --model %s: the use case has no model of that name", ErrOption, o.Model)
	}
	outs := u.Outputs(u.Models[0], o.WithFeatures)
	if p.Predict.Models[0].Shadow != "" {
		outs = append(outs, format.Out{Name: "shadow_model", Column: predict.ShadowModelColumn}, format.Out{Name: "shadow_score", Column: predict.ShadowScoreColumn})
	}
	if o.Sink != "" {
		p.Sinks = []sink.Params{{URL: o.Sink, Outs: outs, Stream: p.Roll}}
	} else {
		for _, s := range u.Sinks {
			url, err := s.URL.Resolve()
			if err != nil {
				return Plan{}, fmt.Errorf("sinks.%s: %w", s.Name, err)
			}
			p.Sinks = append(p.Sinks, sink.Params{Name: s.Name, URL: url, Format: s.Format, When: s.When, Outs: outs, Stream: p.Roll})
		}
	}
	if log := u.FeatureLog; log.URL != "" {
		url, err := log.URL.Resolve()
		if err != nil {
			return Plan{}, fmt.Errorf("sinks.feature_log: %w", err)
		}
		p.Log = &featurelog.Params{Sink: sink.Params{URL: url, When: log.When, Stream: p.Roll}, Features: u.Features()}
	}
	if len(p.Sinks) == 0 {
		return Plan{}, errors.New("there is no sink: add one to the use case, or give --sink")
	}
	p = p.keep(u, o.WithFeatures)
	if o.Stream != nil && u.Replay != "" {
		address, err := u.Replay.Resolve()
		if err != nil {
			return Plan{}, fmt.Errorf("replay: %w", err)
		}
		p = p.replaying(address)
	}
	return p, nil
}

// keep lets the shuffles drop what neither the models nor the sinks read. Conditions may name any
// column, so with one nothing is dropped.
func (p Plan) keep(u *spec.UseCase, all bool) Plan {
	if p.Log != nil {
		all = all || p.Log.Sink.When != ""
		p.Features.Keep = append(p.Features.Keep, p.Log.Columns()...)
	}
	for _, s := range p.Sinks {
		all = all || s.When != ""
		for _, o := range s.Outs {
			switch o.Column {
			case predict.ModelColumn, predict.ClassColumn, predict.ScoreColumn, predict.DecisionColumn,
				predict.ShadowModelColumn, predict.ShadowClassColumn, predict.ShadowScoreColumn:
			default:
				p.Features.Keep = append(p.Features.Keep, o.Column)
			}
		}
	}
	for _, m := range p.Predict.Models {
		for _, d := range m.Decide {
			if !simple(d.When) {
				all = true
			}
		}
	}
	if all {
		p.Features.Keep = nil
	}
	return p
}

// simple reports whether a condition reads nothing but the score and the threshold.
func simple(when string) bool {
	for _, word := range strings.FieldsFunc(when, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }) {
		if word != "score" && word != "threshold" && word != "true" {
			return false
		}
	}
	return true
}

// Shards is the number of shards of a shuffle of about so many bytes of text: one shard is computed at a
// time on each core, takes some times its text, and has to fit the memory.
func Shards(bytes, memory int64) int {
	const least, part = 16, 40
	if memory <= 0 {
		memory = 1 << 30
	}
	return int(max(least, (bytes+memory/part-1)/(memory/part)))
}

func base(u *spec.UseCase, o Options) (Plan, error) {
	p := Plan{Features: u.Features(), Join: u.LabelJoin(), DeadLetters: o.DeadLetters}
	// A quarter is for what shuffles hold; the rest is for the shards that are being computed.
	p.Features.Memory, p.Features.Local, p.Features.Shards = o.Memory/4, o.Local, o.Shards
	var err error
	if p.Source, err = Source(u, o.Sources); err != nil {
		return Plan{}, err
	}
	if p.DeadLetters == "" {
		if p.DeadLetters, err = u.DeadLetters.Resolve(); err != nil {
			return Plan{}, fmt.Errorf("sinks.dead_letters: %w", err)
		}
	}
	if p.DeadLetters == "" {
		p.DeadLetters = "./millrace/dead/"
	}
	if o.Stream != nil {
		p = p.stream(u, *o.Stream)
	}
	return p, nil
}

// Source is what the use case reads, or urls instead.
func Source(u *spec.UseCase, urls []string) (source.Params, error) {
	p := source.Params{URLs: urls, Decode: u.Decode()}
	p.Decode.UseCase = u.Name
	p.Decode.Fingerprint = u.Features().Fingerprint()
	if u.HasLabels() {
		p.Labels.Decode = u.Labels()
		for i, s := range u.Label.Source {
			url, err := s.URL.Resolve()
			if err != nil {
				return source.Params{}, fmt.Errorf("label.source[%d]: %w", i, err)
			}
			p.Labels.URLs = append(p.Labels.URLs, url)
		}
	}
	if len(urls) > 0 {
		return p, nil
	}
	for i, s := range u.Source {
		url, err := s.URL.Resolve()
		if err != nil {
			return source.Params{}, fmt.Errorf("source[%d]: %w", i, err)
		}
		p.URLs = append(p.URLs, url)
		p.Decode.Format = s.Format
	}
	if len(p.URLs) == 0 {
		return source.Params{}, errors.New("there is no source: add one to the use case, or give --source")
	}
	return p, nil
}

// Raw plans a graph that writes events as they are read, without features.
func Raw(u *spec.UseCase, o Options) (Plan, error) {
	p, err := base(u, o)
	if err != nil {
		return Plan{}, err
	}
	p.Features.Features = nil
	var outs []format.Out
	for _, f := range u.Event.Fields {
		outs = append(outs, format.Out{Name: f.Name, Column: f.Name, Number: true})
	}
	p.Sinks = []sink.Params{{URL: o.Sink, Outs: outs, Stream: p.Roll}}
	return p, nil
}
