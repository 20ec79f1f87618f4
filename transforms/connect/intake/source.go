package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

func init() { source.Register("intake", sourceDriver{}) }

// landEvery is how often what has landed is written down.
const landEvery = time.Second

type sourceDriver struct{}

var (
	_ driver.Log   = sourceDriver{}
	_ driver.Local = sourceDriver{}
)

// Partitions lists one partition. Nothing is opened.
func (sourceDriver) Partitions(_ context.Context, text string) ([]driver.Partition, error) {
	a, err := parse(text)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{a.cert, a.key} {
		if path != "" {
			if _, err := os.Stat(path); err != nil {
				return nil, fmt.Errorf("looking for the files of TLS: %w", err)
			}
		}
	}
	return []driver.Partition{{URL: text, Name: a.name(), Size: -1}}, nil
}

// LocalOnly says that the log is on one machine.
func (sourceDriver) LocalOnly(string) string {
	return "what it takes in lies on the machine that takes it: put a broker in front, as kafka://, and let senders send there"
}

// Follow opens the log and takes in, until the follower is closed.
func (sourceDriver) Follow(ctx context.Context, text string, from []driver.Position) (driver.Follower, error) {
	a, err := parse(text)
	if err != nil {
		return nil, err
	}
	if len(from) != 1 || from[0].Partition != a.name() {
		return nil, fmt.Errorf("no partition but %s", a.name())
	}
	w, err := openWAL(a.wal, a.log)
	if err != nil {
		return nil, connect.Scrub(err, text)
	}
	f := &follower{name: a.name(), wal: w, acked: map[uint64]bool{}, stop: make(chan struct{}), stopped: make(chan struct{})}
	landed, next, _ := w.bounds()
	f.reader = reader{w: w, next: landed}
	if at := from[0].Next; at != "" {
		n, err := strconv.ParseUint(at, 10, 64)
		if err == nil && n > next {
			err = fmt.Errorf("the log ends at %d: is it another folder than before? Begin without positions", next)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("going to position %s: %w", at, err), w.close())
		}
		f.reader.next = max(n, landed)
	}
	if f.server, err = serve(ctx, a, w); err != nil {
		return nil, errors.Join(connect.Scrub(err, text), w.close())
	}
	go f.landing()
	return f, nil
}

// follower reads the log and runs the server that fills it.
type follower struct {
	name   string
	wal    *wal
	server *server
	reader reader
	paused bool

	mu    sync.Mutex
	given []uint64        // ends of chunks that have not landed, in order
	acked map[uint64]bool // of given, out of order
	land  uint64          // all before it has landed

	stop, stopped chan struct{}
}

var _ driver.Acknowledger = (*follower)(nil)

// Poll returns what is on disk, or waits for more.
func (f *follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		_, _, grown := f.wal.bounds()
		if !f.paused {
			records, err := f.reader.read(limit)
			if err != nil {
				return nil, fmt.Errorf("reading the log: %w", err)
			}
			if len(records) > 0 {
				f.mu.Lock()
				f.given = append(f.given, f.reader.next)
				f.mu.Unlock()
				return []driver.Chunk{{Partition: f.name, Records: records, Next: strconv.FormatUint(f.reader.next, 10)}}, nil
			}
		}
		select {
		case <-grown:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// Ack lands a chunk. What was given before and isn't acknowledged holds the others back.
func (f *follower) Ack(next string) {
	n, err := strconv.ParseUint(next, 10, 64)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked[n] = true
	for len(f.given) > 0 && f.acked[f.given[0]] {
		f.land = f.given[0]
		delete(f.acked, f.land)
		f.given = f.given[1:]
	}
	if len(f.given) == 0 {
		clear(f.acked)
	}
}

// landing writes down from time to time what has landed.
func (f *follower) landing() {
	defer close(f.stopped)
	every := time.NewTicker(landEvery)
	defer every.Stop()
	failed := false
	for last := false; !last; {
		select {
		case <-every.C:
		case <-f.stop:
			last = true
		}
		f.mu.Lock()
		land := f.land
		f.mu.Unlock()
		err := f.wal.land(land)
		if err != nil && !failed {
			slog.Warn("what has landed can't be written down; it is tried again", "partition", f.name, "err", err)
		}
		failed = err != nil
	}
}

// Pause leaves the partition out if it is named; taking in goes on.
func (f *follower) Pause(partitions []string) { f.paused = len(partitions) > 0 }

// Lag is the number of records that were taken in and not read.
func (f *follower) Lag() map[string]int64 {
	_, next, _ := f.wal.bounds()
	return map[string]int64{f.name: int64(next - min(next, f.reader.next))}
}

// Close ends taking in, once what was begun has been answered, and closes the log.
func (f *follower) Close() error {
	err := f.server.close()
	select {
	case <-f.stop:
		return err
	default:
		close(f.stop)
	}
	<-f.stopped
	return errors.Join(err, f.reader.close(), f.wal.close())
}
