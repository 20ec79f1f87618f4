package retraining

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/transforms/event"
)

// knownColumn is the column of the training set that says since when the label of a row is known, where labels
// come as events of their own.
const knownColumn = "_label_known"

// labelFn keeps what the training set needs of labels.
type labelFn struct {
	Params Params

	in, out *event.Schema
}

func (f *labelFn) ProcessElement(b event.Batch, emit func(int64, event.Batch)) error {
	p := f.Params.Features
	if b.Schema != f.in {
		names := []string{p.ID, p.Time, p.Labels.Time, p.Label}
		if id := p.Labels.ID; id != "" && !slices.Contains(names, id) {
			names = append(names, id)
		}
		out, err := b.Schema.Only(names...)
		if err != nil {
			return fmt.Errorf("slicing labels: %w", err)
		}
		f.in, f.out = b.Schema, out
	}
	from, to := f.Params.span()
	var keep []int32
	for i, t := range b.Col(p.Time).Ints {
		if t >= from && t < to {
			keep = append(keep, int32(i))
		}
	}
	if len(keep) == 0 {
		return nil
	}
	small, err := b.Only(f.out)
	if err != nil {
		return err
	}
	emit(0, small.Gather(keep))
	return nil
}

// collectLabeledFn is collectFn for labels that come as events of their own: each row gets its last one.
type collectLabeledFn struct{ Params Params }

func (f *collectLabeledFn) ProcessElement(_ int64, rows, labels func(*event.Batch) bool, emit func(string)) error {
	all, err := gather(rows)
	if err != nil {
		return err
	}
	given, err := gather(labels)
	if err != nil {
		return err
	}
	if all, err = f.Params.label(all, given); err != nil {
		return fmt.Errorf("joining labels to the training set: %w", err)
	}
	return f.Params.keep(all, emit)
}

type rowKey struct {
	time int64
	id   string
}

// label gives rows the last of their labels, by the time from which it is known, then its own id, then its
// value, and leaves out those that have none. The order is that of package feature.
func (p Params) label(rows, labels event.Batch) (event.Batch, error) {
	if labels.N == 0 {
		return rows, fmt.Errorf("no label came for %d rows: is label.source the right one, and are its times those of the events", rows.N)
	}
	f := p.Features
	times, known, value := labels.Col(f.Time).Ints, labels.Col(f.Labels.Time).Ints, labels.Col(f.Label)
	own := labels.Col(f.Labels.ID)
	last := map[rowKey]int{}
	later := func(i, j int) bool {
		c := cmp.Compare(known[i], known[j])
		if c == 0 && own != nil {
			c = event.CompareIDs(own, i, own, j)
		}
		if c == 0 {
			c = compareValues(value, i, j)
		}
		return c > 0
	}
	for i := range labels.N {
		k := rowKey{times[i], string(labels.IDs().AppendID(nil, i))}
		if j, ok := last[k]; !ok || later(i, j) {
			last[k] = i
		}
	}
	var keep, of []int32
	for i, t := range rows.Times() {
		if j, ok := last[rowKey{t, string(rows.IDs().AppendID(nil, i))}]; ok && !value.Null(j) {
			keep, of = append(keep, int32(i)), append(of, int32(j))
		}
	}
	if len(keep) == 0 {
		return rows, fmt.Errorf("none of %d labels is of one of %d rows: do they carry the events' ids and times", labels.N, rows.N)
	}
	k := labels.Schema.Index(f.Label)
	with, err := rows.Schema.With(labels.Schema.Fields[k], event.Field{Name: knownColumn, Kind: event.Timestamp})
	if err != nil {
		return rows, err
	}
	chosen := labels.Gather(of)
	return rows.Gather(keep).With(with, *chosen.Col(f.Label), event.Column{Ints: chosen.Col(f.Labels.Time).Ints}), nil
}

// compareValues orders labels that nothing else tells apart: null last, as package feature does.
func compareValues(c *event.Column, i, j int) int {
	switch a, b := c.Null(i), c.Null(j); {
	case a && b:
		return 0
	case a:
		return 1
	case b:
		return -1
	case c.Floats != nil:
		return cmp.Compare(c.Floats[i], c.Floats[j])
	case c.Ints != nil:
		return cmp.Compare(c.Ints[i], c.Ints[j])
	}
	return cmp.Compare(string(c.Raw(i)), string(c.Raw(j)))
}

// trainRows are the rows lo to hi whose labels are known by a time. A label that was corrected after it counts
// as not known: what it was before is not kept.
func (s *set) trainRows(lo, hi int, by int64) []int32 {
	if s.known == nil {
		return span32(lo, hi)
	}
	var rows []int32
	for i := lo; i < hi; i++ {
		if s.known[i] <= by {
			rows = append(rows, int32(i))
		}
	}
	return rows
}
