package pubsub

import (
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
)

// TestStuckEnds: what looks whether anything moves ends with its follower, also where an acknowledgement
// comes behind Close, or a look at the same time.
func TestStuckEnds(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]func(*follower){
		"look": (*follower).judge,
		"ack":  func(f *follower) { f.Ack("500") },
	} {
		f := &follower{held: map[string]load{}, closed: true, address: address{messages: 1, bytes: 1}, waiting: []*pubsub.Message{}}
		f.room.L = &f.mu
		f.stuck = time.AfterFunc(stuckAfter, f.judge)
		f.stuck.Stop()
		if late(f); f.stuck.Stop() {
			t.Errorf("%s: it would look again", name)
		}
	}
}
