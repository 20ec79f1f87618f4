package retraining

import (
	"slices"
	"testing"
	"time"

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
