package kafka

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

const commitEvery = time.Second

// commits tells a group how far reading has come. It is for displays: what fails is left to the next.
type commits struct {
	admin *kadm.Client
	group string
	topic string

	mu      sync.Mutex
	reached map[int32]int64 // by partition, the next offset

	stop func()
}

func startCommits(admin *kadm.Client, a address) *commits {
	c := &commits{admin: admin, group: a.group, topic: a.topic, reached: map[int32]int64{}}
	stop, stopped := make(chan struct{}), make(chan struct{})
	c.stop = sync.OnceFunc(func() {
		close(stop)
		<-stopped
	})
	go func() {
		defer close(stopped)
		committed := map[int32]int64{}
		every := time.NewTicker(commitEvery)
		defer every.Stop()
		for last := false; !last; {
			select {
			case <-every.C:
			case <-stop:
				last = true
			}
			c.mu.Lock()
			reached := maps.Clone(c.reached)
			c.mu.Unlock()
			if !maps.Equal(reached, committed) && c.commit(reached) == nil {
				committed = reached
			}
		}
	}()
	return c
}

func (c *commits) reach(parts map[int32]*partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range parts {
		c.reached[id] = p.next
	}
}

func (c *commits) commit(reached map[int32]int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitEvery)
	defer cancel()
	offsets := kadm.Offsets{}
	for id, next := range reached {
		offsets.AddOffset(c.topic, id, next, -1)
	}
	done, err := c.admin.CommitOffsets(ctx, c.group, offsets)
	if err == nil {
		err = done.Error()
	}
	return err
}
