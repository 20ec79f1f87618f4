package staged

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

// waiting replaces the waits of a test; each is told.
func waiting(t *testing.T, each func(waits int) error) *time.Duration {
	t.Helper()
	before := wait
	t.Cleanup(func() { wait = before })
	var sum time.Duration
	waits := 0
	wait = func(_ context.Context, d time.Duration) error {
		waits++
		sum += d
		return each(waits)
	}
	return &sum
}

// TestAStreamWaitsForAFullStore: chunks and commits are written once there is room, and nothing of the
// tries before is left.
func TestAStreamWaitsForAFullStore(t *testing.T) {
	m, s := setup(t, Target{URL: "memory:///", Run: "r", Ext: ".txt", Stream: &Stream{}})
	m.room = 0
	waiting(t, func(n int) error {
		if n%5 == 0 {
			m.room = 1 << 20
		}
		return nil
	})
	chunks := append(bundle(t, s, "a", "b"), bundle(t, s, "c")...)
	m.room = 15 // for the joined file, and not for the receipt
	err := s.target.persist(t.Context(), func() error {
		_, err := s.commitPane(t.Context(), "w", 0, slices.Clone(chunks), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.files["w-00000-of-00001-pane0.txt"]; got != "head\na\nb\nc\n" {
		t.Errorf("published %q", got)
	}
	if staged := len(m.files) - 1; staged != 4 {
		t.Errorf("%d staged objects, want two chunks, their join and the receipt", staged)
	}
}

func TestPatienceEnds(t *testing.T) {
	gone := fmt.Errorf("chunk: %w", fs.ErrNotExist)
	for _, c := range []struct {
		stream *Stream
		err    error
		waited time.Duration
	}{
		{&Stream{}, syscall.ENOSPC, 10 * time.Minute},
		{&Stream{Patience: time.Minute}, driver.Transient(errors.New("no answer")), time.Minute},
		{&Stream{}, gone, 0},
		{nil, syscall.ENOSPC, 0},
	} {
		waited := waiting(t, func(int) error { return nil })
		err := Target{URL: "memory:///", Stream: c.stream}.persist(t.Context(), func() error { return c.err })
		if !errors.Is(err, c.err) || *waited < c.waited || *waited > c.waited+longestWait {
			t.Errorf("%v of %+v: %v after %v", c.err, c.stream, err, *waited)
		}
		if c.waited > 0 && !strings.Contains(err.Error(), "tried again for") {
			t.Errorf("it says %q", err)
		}
	}
	ended := errors.New("ended")
	waiting(t, func(int) error { return ended })
	if err := (Target{URL: "memory:///", Stream: &Stream{}}).persist(t.Context(), func() error { return syscall.ENOSPC }); !errors.Is(err, ended) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a wait that ends: %v", err)
	}
}
