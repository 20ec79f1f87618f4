package reentry

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// TestChangesEnterAgain: the letter of a change enters as a change, by what the use case says now.
func TestChangesEnterAgain(t *testing.T) {
	t.Parallel()
	change := func(op string, id, amount int) driver.Record {
		row := fmt.Sprintf(`{"id":%d,"at":1795348800000,"amount":%d}`, id, amount)
		return driver.Record{Value: fmt.Appendf(nil, `{"before":null,"after":%s,"source":{"table":"tx"},"op":%q,"ts_ms":1795631548636}`, row, op)}
	}
	most := 100.0
	p := decode.Params{
		Format: "debezium", ID: []string{"id"}, Time: "at", Changes: decode.Changes{Ops: []string{"create", "update"}},
		Fields: []decode.Field{{Name: "id", Kind: event.ID}, {Name: "at", Kind: event.Timestamp, TimeFormat: "unix_ms"}, {Name: "amount", Kind: event.Int, Max: &most}},
	}
	d, err := decode.New(p)
	if err != nil {
		t.Fatal(err)
	}
	var letters []deadletter.Letter
	if _, err := d.Records("t/0", []driver.Record{change("c", 1, 500), change("u", 2, 500), change("c", 3, 5000)},
		func(event.Batch) error { t.Error("a row"); return nil },
		func(l deadletter.Letter) error { letters = append(letters, l); return nil }); err != nil || len(letters) != 3 {
		t.Fatalf("%v, %v", letters, err)
	}

	most = 1000
	p.Changes.Ops = []string{"create"}
	e, err := newEntrance(Params{Decode: p, Features: feature.Params{
		Fields: d.Schema().Fields, ID: "id", Time: "at", Features: []feature.Feature{{Name: "x", Expr: "amount"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if why := e.skip(&letters[1]); why != "change" {
		t.Errorf("an update enters although only creations are asked for: %q", why)
	}
	letters = slices.Delete(letters, 1, 2)
	for i := range letters {
		if why := e.skip(&letters[i]); why != "" {
			t.Errorf("letter %d is left out: %s", i, why)
		}
	}
	in, err := e.enter(letters)
	if err != nil {
		t.Fatal(err)
	}
	if len(in.events) != 1 || in.events[0].N != 1 || in.events[0].Col("id").Ints[0] != 1 {
		t.Errorf("events %v", in.events)
	}
	if len(in.failed) != 1 || in.failed[0].Class != deadletter.Range || in.failed[0].Attempts != 2 || string(in.failed[0].Original) != string(letters[1].Original) {
		t.Errorf("letters %+v", in.failed)
	}
}
