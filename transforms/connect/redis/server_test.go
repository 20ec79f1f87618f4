package redis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/testing/components"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

// TestARedisThatIsKilled sends bundles in the face of kills, each again until it was taken, in an order
// that has nothing to do with time, and compares with a map.
func TestARedisThatIsKilled(t *testing.T) {
	server := components.Redis(t)
	s := open(t, "redis://"+server.Addr+"?prefix=c:")
	r := rand.New(rand.NewPCG(1, 2))
	const entities, bundles, rows = 50, 12, 400
	type newest struct {
		time  int64
		value string
	}
	want := map[string]newest{}
	patient := 10 * time.Second
	bundle := func(n int) error {
		for i := range rows {
			x := n*rows + i
			key, at := fmt.Sprint("k", x*7919%entities), int64(x*104729%(bundles*rows))
			value := fmt.Sprint(x)
			if at >= want[key].time {
				want[key] = newest{at, value}
			}
			if err := s.Send(t.Context(), driver.Record{Key: []byte(key), Value: []byte(value), Time: time.UnixMicro(at)}, nil); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		return s.Flush(ctx)
	}
	failed := 0
	for n := range bundles {
		if n%4 == 3 {
			server.Kill()
			patient = time.Second
			if err := bundle(n); err == nil {
				t.Fatal("a Redis that is gone took a bundle")
			}
			failed++
			server.Restart()
			patient = 10 * time.Second
		}
		for try := 0; ; try++ {
			err := bundle(n)
			if err == nil {
				break
			}
			if try == 5 {
				t.Fatal(err)
			}
		}
		if n > 0 && r.IntN(2) == 0 { // a bundle that comes again changes nothing
			if err := bundle(r.IntN(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader := open(t, "redis://"+server.Addr+"?prefix=c:") // the client remembers for a second that nobody answered
	for key, w := range want {
		got, err := reader.client.HGet(t.Context(), "c:"+key, "value").Result()
		if err != nil || got != w.value {
			t.Errorf("%s holds %q, want %q: %v", key, got, w.value, err)
		}
	}
	if failed != 3 {
		t.Errorf("%d bundles failed", failed)
	}
}
