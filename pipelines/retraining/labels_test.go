package retraining

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
)

func labeledParams() Params {
	return Params{Label: "bad", Features: feature.Params{
		ID: "id", Time: "t", Label: "bad", Labels: &feature.Labels{Time: "known", ID: "own"},
	}}
}

func ids(t *testing.T, fields []event.Field, time string, cols ...[]int64) event.Batch {
	t.Helper()
	s, err := event.NewSchema(fields, "id", time)
	if err != nil {
		t.Fatal(err)
	}
	b := event.Batch{Schema: s, N: len(cols[0])}
	for _, c := range cols {
		b.Cols = append(b.Cols, event.Column{Ints: c})
	}
	return b
}

func rowBatch(t *testing.T, id, at, who []int64) event.Batch {
	return ids(t, []event.Field{{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "who", Kind: event.ID}}, "t", id, at, who)
}

func labelBatch(t *testing.T, id, at, known, own, bad []int64) event.Batch {
	return ids(t, []event.Field{
		{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "known", Kind: event.Timestamp}, {Name: "own", Kind: event.ID}, {Name: "bad", Kind: event.Bool},
	}, "known", id, at, known, own, bad)
}

// TestLastLabel: a row gets the last of its labels, and of those of another time none; one that was taken back
// leaves the row without.
func TestLastLabel(t *testing.T) {
	rows := rowBatch(t, []int64{1, 2, 3, 4, 5}, []int64{10, 20, 30, 40, 50}, []int64{7, 7, 7, 7, 7})
	labels := labelBatch(t,
		[]int64{1, 1, 2, 2, 3, 4, 4, 5},
		[]int64{10, 10, 20, 20, 31, 40, 40, 50},
		[]int64{90, 80, 60, 60, 70, 75, 95, 55},
		[]int64{1, 2, 3, 4, 5, 6, 7, 8},
		[]int64{1, 0, 0, 1, 1, 1, 1, 0})
	labels.Cols[4].SetNull(6, labels.N)
	all, err := labeledParams().label(rows, labels)
	if err != nil {
		t.Fatal(err)
	}
	if is := all.IDs().Ints; !slices.Equal(is, []int64{1, 2, 5}) {
		t.Errorf("rows %v have labels", is)
	}
	if is := all.Col("bad").Ints; !slices.Equal(is, []int64{1, 1, 0}) {
		t.Errorf("labels %v", is)
	}
	if is := all.Col(knownColumn).Ints; !slices.Equal(is, []int64{90, 60, 55}) {
		t.Errorf("known since %v", is)
	}
	if _, err := labeledParams().label(rows, labels.Gather(nil)); err == nil {
		t.Error("no labels at all are no error")
	}
	if _, err := labeledParams().label(rows, labels.Gather([]int32{4})); err == nil {
		t.Error("labels of other events are no error")
	}
}

// TestKnownLabels: a fold trains on labels that are known when its test begins, and an entity is known to be
// positive from when its label was, not from its event on.
func TestKnownLabels(t *testing.T) {
	const day = int64(24 * time.Hour / time.Microsecond)
	rows := rowBatch(t, []int64{1, 2, 3, 4, 5}, []int64{0, day, 2 * day, 10 * day, 12 * day}, []int64{7, 8, 9, 8, 8})
	labels := labelBatch(t, []int64{1, 2, 3, 4, 5}, rows.Times(), []int64{3 * day, 11 * day, 9 * day, 20 * day, 21 * day}, []int64{1, 2, 3, 4, 5}, []int64{0, 1, 1, 0, 1})
	all, err := labeledParams().label(rows, labels)
	if err != nil {
		t.Fatal(err)
	}
	s := &set{Batch: all, times: all.Times(), known: all.Col(knownColumn).Ints}
	if is := s.trainRows(0, 3, 10*day); !slices.Equal(is, []int32{0, 2}) {
		t.Errorf("trained on %v", is)
	}
	bounds := [4]int64{0, 3 * day, 10 * day, 20 * day}
	if is := s.testRows(bounds, "bad", &Exclude{Entity: "who"}); !slices.Equal(is, []int32{3}) {
		t.Errorf("tested on %v: 8 is known on day 11, behind one test row and before the other", is)
	}
	s.known = nil
	if is := s.testRows(bounds, "bad", &Exclude{Entity: "who"}); len(is) != 0 {
		t.Errorf("tested on %v with labels that are known at once", is)
	}
}

// TestCollectLabeled: the training set of a graph has the rows that some fold uses, in order, with the last of
// their labels.
func TestCollectLabeled(t *testing.T) {
	const day = int64(24 * time.Hour / time.Microsecond)
	p := labeledParams()
	p.Work = t.TempDir()
	p.Window = Window{Train: 48 * time.Hour, Gap: 24 * time.Hour, Test: 24 * time.Hour, Step: 24 * time.Hour}
	p.Selection, p.Reporting = Folds{From: day, Count: 1}, Folds{From: 2 * day, Count: 1} // days 1 to 6
	p.Inputs = []string{"who"}
	rows := rowBatch(t, []int64{1, 2, 3, 4}, []int64{3 * day, 0, day, 5 * day}, []int64{7, 8, 9, 9})
	labels := labelBatch(t, []int64{1, 2, 3, 4, 1}, []int64{3 * day, 0, day, 5 * day, 3 * day}, []int64{4 * day, 4 * day, 4 * day, 9 * day, 6 * day}, []int64{1, 2, 3, 4, 5}, []int64{0, 1, 1, 0, 1})
	pipeline, s := beam.NewPipelineWithRoot()
	give := func(b event.Batch) beam.PCollection {
		return beam.CreateList(s, []event.Batch{b.Gather([]int32{0, 1}), b.Gather([]int32{2, 3})})
	}
	set := collect(s, give(rows), beam.Flatten(s, give(labels), beam.CreateList(s, []event.Batch{labels.Gather([]int32{4})})), p)
	beam.ParDo0(s, &pathFn{}, set)
	if _, err := beam.Run(t.Context(), "direct", pipeline); err != nil {
		t.Fatal(err)
	}
	got, err := openSet(filepath.Join(p.Work, "training_set.batches"))
	if err != nil {
		t.Fatal(err)
	}
	if is := got.IDs().Ints; !slices.Equal(is, []int64{3, 1, 4}) {
		t.Errorf("rows %v", is)
	}
	if is := got.labels("bad", []int32{0, 1, 2}); !slices.Equal(is, []float32{1, 1, 0}) || !slices.Equal(got.known, []int64{4 * day, 6 * day, 9 * day}) {
		t.Errorf("labels %v, known since %v", is, got.known)
	}
}

type pathFn struct{}

func (*pathFn) ProcessElement(string) {}

func init() { beam.RegisterDoFn(&pathFn{}) }
