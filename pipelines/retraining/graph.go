package retraining

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/label"
	"github.com/millrace-ml/millrace/transforms/source"
)

func init() {
	beam.RegisterDoFn(&sliceFn{})
	beam.RegisterDoFn(&collectFn{})
	beam.RegisterDoFn(&tasksFn{})
	beam.RegisterDoFn(&trainFn{})
	beam.RegisterDoFn(&chooseFn{})
	beam.RegisterDoFn(&concludeFn{})
	beam.RegisterDoFn(&labelFn{})
	beam.RegisterDoFn(&collectLabeledFn{})
	register.Emitter2[int64, event.Batch]()
	register.Emitter1[string]()
	register.Emitter1[Task]()
	register.Iter1[event.Batch]()
	register.Iter1[Trial]()
	register.Function1x2(keyTrial)
	beam.RegisterCoder(reflect.TypeOf((*Task)(nil)).Elem(), encodeTask, decodeTask)
	beam.RegisterCoder(reflect.TypeOf((*Trial)(nil)).Elem(), encodeTrial, decodeTrial)
}

// Build adds the retraining graph to s. It panics if p is not valid.
func Build(s beam.Scope, p Params) {
	s = s.Scope("retraining")
	if err := p.Validate(); err != nil {
		panic(fmt.Errorf("configuring retraining: %w", err))
	}
	in := source.ReadAll(s, p.Source)
	labels, lost := in.Labels, []beam.PCollection{in.Bad}
	if p.Join != nil {
		var orphans beam.PCollection
		labels, orphans = label.Join(s, in.Events, in.Labels, *p.Join)
		lost = append(lost, orphans)
	}
	rows, rejected := feature.ComputeLabeled(s, in.Events, labels, p.Features)
	if p.DeadLetters != "" {
		deadletter.Write(s, deadletter.Params{URL: p.DeadLetters}, append(lost, rejected)...)
	}
	set := collect(s, rows, labels, p)                  // the point-in-time training set, once
	tried := train(s.Scope("select"), tasks(s, set, p)) // every candidate on every selection fold
	best := choose(s, tried, p)                         // the best of each group, to be reported
	reported := train(s.Scope("report"), best)
	conclude(s, reported, p) // metrics, gate, publication, report
}

func collect(s beam.Scope, rows, labels beam.PCollection, p Params) beam.PCollection {
	s = s.Scope("training_set")
	rows = beam.ParDo(s, &sliceFn{Params: p}, rows)
	if p.Features.Labels == nil {
		return beam.ParDo(s, &collectFn{Params: p}, beam.GroupByKey(s, rows))
	}
	return beam.ParDo(s, &collectLabeledFn{Params: p}, beam.CoGroupByKey(s, rows, beam.ParDo(s, &labelFn{Params: p}, labels)))
}

func tasks(s beam.Scope, set beam.PCollection, p Params) beam.PCollection {
	return beam.ParDo(s.Scope("tasks"), &tasksFn{Params: p}, set)
}

// train trains tasks in parallel: the reshuffle keeps them from being fused into one bundle.
func train(s beam.Scope, tasks beam.PCollection) beam.PCollection {
	return beam.ParDo(s, &trainFn{}, beam.Reshuffle(s, tasks))
}

func choose(s beam.Scope, tried beam.PCollection, p Params) beam.PCollection {
	s = s.Scope("choose")
	return beam.ParDo(s, &chooseFn{Params: p}, beam.GroupByKey(s, beam.ParDo(s, keyTrial, tried)))
}

func conclude(s beam.Scope, reported beam.PCollection, p Params) beam.PCollection {
	s = s.Scope("conclude")
	return beam.ParDo(s, &concludeFn{Params: p}, beam.GroupByKey(s, beam.ParDo(s, keyTrial, reported)))
}

func keyTrial(t Trial) (int64, Trial) { return 0, t }

// Task is a candidate to be trained on a fold.
type Task struct {
	Set       string // the training set's file
	Candidate Candidate
	Label     string
	Inputs    []string
	Fold      int
	Bounds    [4]int64 // of the fold: training from and to, test from and to
	Exclude   *Exclude
	Seed      uint64
	// Choice is the outcome of the selection, which travels with the report's tasks.
	Choice *Choice
}

// Trial is a trained candidate and what it says of the fold's test rows.
type Trial struct {
	Task   Task
	Scores []float32
	Kind   string
	Files  map[string][]byte
}

// The elements are few and small beside what they stand for, so JSON serves; its version is the
// graph's own, since they never outlive a job.
func encodeTask(t Task) ([]byte, error)         { return json.Marshal(t) }
func decodeTask(b []byte) (t Task, err error)   { err = json.Unmarshal(b, &t); return t, err }
func encodeTrial(t Trial) ([]byte, error)       { return json.Marshal(t) }
func decodeTrial(b []byte) (t Trial, err error) { err = json.Unmarshal(b, &t); return t, err }

type tasksFn struct{ Params Params }

func (f *tasksFn) ProcessElement(set string, emit func(Task)) {
	for _, c := range f.Params.Candidates {
		if len(c.Of) > 0 {
			continue
		}
		for i := range f.Params.Selection.Count {
			emit(f.Params.task(set, c, f.Params.Selection, i))
		}
	}
}

func (p Params) task(set string, c Candidate, folds Folds, i int) Task {
	fd := p.fold(folds, i)
	inputs := c.Inputs
	if len(inputs) == 0 {
		inputs = p.Inputs
	}
	return Task{
		Set: set, Candidate: c, Label: p.Label, Inputs: inputs, Fold: i, Exclude: p.Exclude, Seed: p.Seed,
		Bounds: [4]int64{fd.trainFrom, fd.trainTo, fd.testFrom, fd.testTo},
	}
}
