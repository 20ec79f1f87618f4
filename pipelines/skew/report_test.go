package skew

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/featurelog"
)

var names = []string{"n", "mean", "kind", "seen"}

// rows have an id, a time, a fingerprint where logged, and a feature of each sort.
type row struct {
	id   int64
	n    int64
	mean float64 // NaN for null
	kind string
	seen []string
}

func batch(t *testing.T, logged bool, rows ...row) event.Batch {
	t.Helper()
	fields := []event.Field{{Name: "id", Kind: event.ID}, {Name: "time", Kind: event.Timestamp}}
	if logged {
		fields = append(fields, event.Field{Name: featurelog.FingerprintColumn, Kind: event.Category})
	}
	fields = append(fields, event.Field{Name: "n", Kind: event.Int}, event.Field{Name: "mean", Kind: event.Float},
		event.Field{Name: "kind", Kind: event.Category}, event.Field{Name: "seen", Kind: event.List, Elem: event.String})
	s, err := event.NewSchema(fields, "id", "time")
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, len(rows))
	b.N = len(rows)
	for i, r := range rows {
		b.IDs().Ints = append(b.IDs().Ints, r.id)
		b.Cols[s.Time].Ints = append(b.Cols[s.Time].Ints, r.id*1e6)
		if logged {
			b.Col(featurelog.FingerprintColumn).AppendRaw([]byte("f"))
		}
		b.Col("n").Ints = append(b.Col("n").Ints, r.n)
		b.Col("mean").Floats = append(b.Col("mean").Floats, r.mean)
		if math.IsNaN(r.mean) {
			b.Col("mean").Floats[i] = 0
			b.Col("mean").SetNull(i, len(rows))
		}
		b.Col("kind").AppendRaw([]byte(r.kind))
		list := b.Col("seen")
		for _, e := range r.seen {
			list.Elems.AppendRaw([]byte(e))
		}
		list.Ends = append(list.Ends, uint32(len(list.Elems.Ends)))
	}
	return b
}

func TestCompare(t *testing.T) {
	null := math.NaN()
	logged := []event.Batch{
		batch(t, true, row{1, 1, 1, "a", nil}, row{2, 2, 2, "b", []string{"x"}}, row{9, 9, 9, "z", nil}),
		batch(t, true, row{3, 4, 3, "c", []string{"x", "y"}}, row{4, 5, null, "d", nil}, row{5, 5, null, "e", nil}),
	}
	computed := []event.Batch{
		batch(t, false, row{5, 5, 5, "e", nil}, row{4, 5, null, "d", nil}),
		batch(t, false, row{3, 3, math.Nextafter(3, 4), "C", []string{"x", "z"}}, row{2, 2, 2, "b", []string{"x"}}, row{1, 1, 1, "a", nil}),
	}
	at := func(id string, s int64, logged, computed string) Example {
		return Example{ID: id, Time: "1970-01-01T00:00:0" + id + "Z", At: s * 1e6, Logged: logged, Computed: computed}
	}
	got := compare(names, 1e-12, logged, computed)
	ulp := math.Nextafter(3, 4) - 3
	want := Report{Tolerance: 1e-12, Logged: 6, Compared: 5, Missing: 1, Features: []Feature{
		{Name: "n", Rows: 5, Differ: 1, Beyond: 1, Absolute: 1, Relative: .25, First: []Example{at("3", 3, "4", "3")}},
		{Name: "mean", Rows: 5, Differ: 2, Beyond: 1, Null: 1, Absolute: ulp, Relative: ulp / math.Nextafter(3, 4),
			First: []Example{at("3", 3, "3", "3.0000000000000004"), at("5", 5, "null", "5")}},
		{Name: "kind", Rows: 5, Differ: 1, Beyond: 1, Relative: 1, First: []Example{at("3", 3, "c", "C")}},
		{Name: "seen", Rows: 5, Differ: 1, Beyond: 1, Relative: 1, First: []Example{at("3", 3, "[x y]", "[x z]")}},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// The reports of shards add up to that of all, in any order.
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		var sum Report
		for _, i := range order {
			sum.add(compare(names, 1e-12, logged[i:i+1], computed))
		}
		if d := cmp.Diff(want, sum); d != "" {
			t.Error(d)
		}
	}
	if d := cmp.Diff([]string{"n", "mean", "kind", "seen"}, got.Beyond()); d != "" {
		t.Error(d)
	}
	var out bytes.Buffer
	if err := got.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"mean     5       2       1     1", "mean of 5 at 1970-01-01T00:00:05Z: logged null, history gives 5", "6 rows logged, 5 compared, 1 not in the history"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("no %q in\n%s", says, out.String())
		}
	}
}

// TestFarApart: a difference that is no finite number is a report all the same.
func TestFarApart(t *testing.T) {
	got := compare(names, 1, []event.Batch{batch(t, true, row{1, 1, math.MaxFloat64, "", nil})}, []event.Batch{batch(t, false, row{1, 1, -math.MaxFloat64, "", nil})})
	if f := got.Features[1]; f.Beyond != 1 || f.Absolute != math.MaxFloat64 || f.Relative != 2 {
		t.Errorf("%+v", f)
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
}

func TestFirstAreTheEarliest(t *testing.T) {
	f := Feature{}
	for _, s := range []int64{5, 3, 9, 1, 7} {
		f.keep(Example{ID: "x", At: s})
	}
	if len(f.First) != examples || f.First[0].At != 1 || f.First[2].At != 5 {
		t.Errorf("kept %+v", f.First)
	}
}
