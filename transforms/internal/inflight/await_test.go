package inflight

import (
	"testing"
	"time"
)

// TestAwait: rows that wait for the watermark take no credit until it has passed them.
func TestAwait(t *testing.T) {
	const run, limit = "await", 100
	t.Cleanup(func() { Forget(run) })
	free := func() bool { return Wait(t.Context(), run, limit, time.Millisecond) }
	times := make([]int64, 2*limit)
	for i := range times {
		times[i] = -slot + int64(i)*slot // from before the beginning of time on
	}
	Add(run, len(times), time.Time{})
	if free() {
		t.Fatal("no credit is left, and it is given")
	}
	Await(run, times)
	if !free() {
		t.Fatal("rows that wait take credit")
	}
	Passed(run, times[limit-1])
	if !free() {
		t.Errorf("%d rows have to move", moving(run))
	}
	Passed(run, times[limit])
	if free() {
		t.Errorf("%d rows have to move, and credit is given", moving(run))
	}
	Land(t.Context(), run, 1)
	if !free() {
		t.Error("a row has landed, and no credit is given")
	}
}
