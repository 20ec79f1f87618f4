package format

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/transforms/event"
)

// nested has a null list, an empty one, and one with a null in it.
func nested(t *testing.T) event.Batch {
	b := batch(t)
	schema, err := b.Schema.With(event.Field{Name: "seen", Kind: event.List, Elem: event.Decimal, Scale: 2})
	if err != nil {
		t.Fatal(err)
	}
	elems := &event.Column{Ints: []int64{150, 0}}
	elems.SetNull(1, 2)
	seen := event.Column{Ends: []uint32{2, 2}, Elems: elems}
	seen.SetNull(1, 2)
	return b.With(schema, seen)
}

func writeNested(t *testing.T) []byte {
	t.Helper()
	b := nested(t)
	var file bytes.Buffer
	outs := []Out{{Name: "id"}, {Name: "time"}, {Name: "amount"}, {Name: "flag"}, {Name: "number", Column: "flag", Number: true}, {Name: "mean"}, {Name: "name"}, {Name: "items"}, {Name: "seen"}}
	if err := WriteParquet(&file, b.Schema, outs, func(yield func(event.Batch, error) bool) { yield(b, nil) }); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// TestParquetLists holds lists to the levels of the format's own LIST.
func TestParquetLists(t *testing.T) {
	t.Parallel()
	file := writeNested(t)
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	rows := make([]parquet.Row, 4)
	n, _ := f.RowGroups()[0].Rows().ReadRows(rows)
	var got [][3]int // column, repetition, definition
	for _, row := range rows[:n] {
		for _, v := range row {
			if v.Column() >= 7 {
				got = append(got, [3]int{v.Column(), v.RepetitionLevel(), v.DefinitionLevel()})
			}
		}
	}
	want := [][3]int{{7, 0, 3}, {7, 1, 3}, {8, 0, 3}, {8, 1, 2}, {7, 0, 1}, {8, 0, 0}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestParquetForOthers reads a file with Arrow's own reader.
func TestParquetForOthers(t *testing.T) {
	python := os.Getenv("MILLRACE_PYARROW")
	if python == "" {
		t.Skip("MILLRACE_PYARROW names no python that has pyarrow")
	}
	path := filepath.Join(t.TempDir(), "f.parquet")
	if err := os.WriteFile(path, writeNested(t), 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `
import sys, pyarrow.parquet as pq
t = pq.read_table(sys.argv[1])
for f in t.schema: print(f.name, f.type)
for r in t.to_pylist(): print({**r, 'time': r['time'].isoformat()})
print(pq.ParquetFile(sys.argv[1]).metadata.row_group(0).column(0).compression)`
	out, err := exec.Command(python, "-c", script, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const want = `id string
time timestamp[us, tz=UTC]
amount decimal128(18, 2)
flag bool
number int64
mean double
name string
items list<element: string>
seen list<element: decimal128(18, 2)>
{'id': '7', 'time': '2018-04-01T00:00:31+00:00', 'amount': Decimal('57.16'), 'flag': True, 'number': 1, 'mean': 0.1, 'name': 'a "b",\n\x01é', 'items': ['x', '12'], 'seen': [Decimal('1.50'), None]}
{'id': '-8', 'time': '1969-12-31T23:59:59.999999+00:00', 'amount': Decimal('-0.05'), 'flag': False, 'number': 0, 'mean': None, 'name': '', 'items': [], 'seen': None}
SNAPPY
`
	if d := cmp.Diff(want, string(out)); d != "" {
		t.Error(d)
	}
}
