package components_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/testing/components"
)

func TestPostgres(t *testing.T) {
	d := components.Postgres(t)
	d.Exec("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'one'), (2, NULL);")
	holds := func() {
		t.Helper()
		if got := d.Exec("SELECT * FROM t ORDER BY id"); got != "1|one\n2|" {
			t.Errorf("%q", got)
		}
	}
	holds()
	d.Kill()
	d.Restart()
	holds()
	d.Restart()
	holds()
}

// TestDebezium takes rows from a table to a topic: those that were there, new ones, and after a kill all of
// them again.
func TestDebezium(t *testing.T) {
	b, d := components.Kafka(t), components.Postgres(t)
	d.Exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);")
	connect := components.Debezium(t, b, d, "table.include.list", "public.t")
	d.Exec("INSERT INTO t VALUES (2);")
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.ConsumeTopics(components.ChangePrefix+".public.t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen := map[int]int{}
	until := func(done func() bool) {
		t.Helper()
		for !done() {
			f := c.PollFetches(context.Background())
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			f.EachRecord(func(r *kgo.Record) {
				var change struct{ After struct{ ID int } }
				if err := json.Unmarshal(r.Value, &change); err != nil {
					t.Error(err)
				}
				seen[change.After.ID]++
			})
		}
	}
	until(func() bool { return seen[1] > 0 && seen[2] > 0 })
	connect.Kill()
	d.Exec("INSERT INTO t VALUES (3);")
	connect.Restart()
	d.Exec("INSERT INTO t VALUES (4);")
	until(func() bool { return seen[1] > 1 && seen[2] > 1 && seen[3] > 0 && seen[4] > 0 })
}
