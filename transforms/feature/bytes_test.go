package feature

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

// simulated is the simulated transactions in batches, in the order in which they come.
func simulated(t testing.TB, p Params, of simulate.Params, size int) (batches []event.Batch) {
	s, err := event.NewSchema(p.Fields, p.ID, p.Time)
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, size)
	err = simulate.Fraud(of, func(r simulate.Row) error {
		fraud := int64(0)
		if r.Fraud {
			fraud = 1
		}
		for k, v := range []int64{r.ID, r.Time, r.Customer, r.Terminal, r.Cents, fraud} {
			b.Cols[k].Ints = append(b.Cols[k].Ints, v)
		}
		if b.N++; b.N == size {
			batches = append(batches, b)
			b = event.New(s, size)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(batches, b)
}

// through runs batches through the stages of a stream without a runner, and calls back with what the
// stores have written.
func through(t testing.TB, p Params, batches []event.Batch, minLog int) (events int, written shardstate.Stats) {
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	run := rand.Text()
	for i, st := range c.stages {
		cells := make([]memory, p.Shards)
		store, err := shardstate.Open(shardstate.Config{
			Run: run, Stage: st.name, Shards: p.Shards, MinLog: minLog,
			New: func() shardstate.Machine { return newMachine(p, st, i) },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		r, err := newRouter(p, i)
		if err != nil {
			t.Fatal(err)
		}
		var out []event.Batch
		events = 0
		for _, b := range batches {
			events += b.N
			r.start(p.Shards)
			if err := r.add(b, func(int) error { return nil }); err != nil {
				t.Fatal(err)
			}
			var parts []event.Batch
			for shard := range p.Shards {
				batches, _ := r.take(shard)
				if len(batches) == 0 {
					continue
				}
				b, err := event.Concat(batches)
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Do(shard, &cells[shard], func(m shardstate.Machine) ([][]byte, error) {
					a, deltas, err := m.(*machine).arrive(b, i == 0)
					parts = append(parts, a.out)
					return deltas, err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if b, err = event.Concat(parts); err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		s := store.Stats()
		t.Logf("%s: %d live bytes, %d compactions; an event: %.1f delta, %.1f twice, %.1f copied, %.1f headers", st.name, s.LiveBytes, s.Compactions,
			float64(s.DeltaBytes)/float64(events), float64(s.TwiceBytes)/float64(events), float64(s.CopyBytes)/float64(events), float64(s.HeaderBytes)/float64(events))
		written.DeltaBytes += s.DeltaBytes + s.TwiceBytes + s.CopyBytes + s.HeaderBytes
		written.Compactions += s.Compactions
		batches = out
	}
	return events, written
}

// TestStateBytes bounds what the two stages of the fraud features write, compactions among it.
func TestStateBytes(t *testing.T) {
	p := handbook()
	for i := range p.Features { // shorter windows are left behind more often in as many days
		for k, d := range []time.Duration{day, 3 * day, 7 * day}[:len(p.Features[i].Windows)] {
			p.Features[i].Windows[k].Duration = d
		}
		p.Features[i].Delay = min(p.Features[i].Delay, 2*day)
	}
	p.Shards, p.Stream = 8, &Stream{Order: Arrival, Lateness: 5 * time.Minute}
	for _, size := range []int{512, 4096} {
		t.Run(fmt.Sprint("batches of ", size), func(t *testing.T) {
			batches := simulated(t, p, simulate.Params{Days: 75, Customers: 2000, Terminals: 4000}, size)
			// A least log of a fiftieth of the default makes these few rows compact as often as many.
			events, written := through(t, p, batches, 20<<10)
			each := float64(written.DeltaBytes) / float64(events)
			t.Logf("%d events, %.1f bytes of state each", events, each)
			if each > 64 || written.Compactions < 16 {
				t.Errorf("%.1f bytes of state an event, want at most 64; %d compactions, want at least one a shard", each, written.Compactions)
			}
		})
	}
}
