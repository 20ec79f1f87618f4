package source

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// told is a follower that notes what it is told.
type told struct {
	driver.Acknowledger
	mu  sync.Mutex
	all []string
}

func (f *told) note(what string) {
	f.mu.Lock()
	f.all = append(f.all, what)
	f.mu.Unlock()
}

func (f *told) Ack(next string) { f.note(next) }
func (f *told) Close() error    { f.note("closed"); return nil }

// TestOwed: a follower that is closed between a poll and what comes of it, as when a partition comes, stays open for
// it; one of which nothing goes on is closed at once. Labels are acknowledged as they go on, but for their letters.
func TestOwed(t *testing.T) {
	key := inflight.LetterOf("7", "", nil)
	late := []deadletter.Letter{{ID: "8", Class: deadletter.Late}}
	end := func(id string) {
		inflight.Ended(inflight.End{Key: inflight.LetterOf(id, "", nil), Share: inflight.Whole})
	}
	for _, c := range []struct {
		name   string
		labels int
		keys   []inflight.Key
		got    taken
		then   func(*taken, *reading)
		want   []string
	}{
		{"goes on", 0, []inflight.Key{key}, taken{}, func(got *taken, r *reading) {
			r.close()
			got.owed[0].expect(inflight.Ways{Models: 1, Sinks: 1})
			end("7")
		}, []string{"next", "closed"}},
		{"is left", 0, []inflight.Key{key}, taken{}, (*taken).leave, []string{"closed"}},
		{"labels", 1, nil, taken{}, func(got *taken, r *reading) {
			got.owed[0].expect(inflight.Ways{Models: 1, Sinks: 1})
			r.close()
		}, []string{"next", "closed"}},
		{"late labels", 1, nil, taken{letters: late}, func(got *taken, r *reading) {
			got.owed[0].expect(inflight.Ways{Models: 1, Sinks: 1})
			r.close()
		}, nil},
		{"late labels, written", 1, nil, taken{letters: late}, func(got *taken, r *reading) {
			got.owed[0].expect(inflight.Ways{Models: 1, Sinks: 1})
			r.close()
			end("8")
		}, []string{"next", "closed"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			defer inflight.Abandon()
			f := &told{}
			r := &reading{group: group{Addresses: []string{"x"}, Labels: c.labels}, followers: []driver.Follower{acknowledging(f, era)}}
			got := c.got
			if err := r.owes(&followFn{Decode: decode.Params{ID: []string{"id"}}}, 0, "next", c.keys, &got, 0, 0); err != nil {
				t.Fatal(err)
			}
			c.then(&got, r)
			synctest.Wait()
			if !slices.Equal(f.all, c.want) {
				t.Errorf("%s: it was told %q, want %q", c.name, f.all, c.want)
			}
			ackersMu.Lock()
			clear(ackers)
			ackersMu.Unlock()
		})
	}
}
