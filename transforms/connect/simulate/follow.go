package simulate

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// Follow reads the simulation as a log of one partition, whose positions are numbers of rows. With a rate
// the rows come at that pace; the log ends with the last day.
func (fraudDriver) Follow(ctx context.Context, address string, from []driver.Position) (driver.Follower, error) {
	params, err := ParseURL(address)
	if err != nil {
		return nil, err
	}
	if len(from) != 1 || from[0].Partition != address {
		return nil, fmt.Errorf("%w: no partition but %s", ErrParams, address)
	}
	skip := int64(0)
	if from[0].Next != "" {
		if skip, err = strconv.ParseInt(from[0].Next, 10, 64); err != nil || skip < 0 {
			return nil, fmt.Errorf("%w: a position of %q", ErrParams, from[0].Next)
		}
	}
	rows := 4096
	if params.Rate > 0 {
		rows = int(min(max(params.Rate/100, 1), 4096)) // a hundredth of a second
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f := &follower{name: address, at: skip, batches: make(chan event.Batch, 4), stop: stop, ended: make(chan error, 1)}
	if params.Rate > 0 {
		f.pace = time.NewTicker(max(1, time.Duration(float64(rows)/params.Rate*float64(time.Second))))
	}
	go func() {
		seen := int64(0)
		err := Batches(params, rows, func(b event.Batch) error {
			seen += int64(b.N)
			if seen <= skip {
				return nil
			}
			if fresh := seen - skip; fresh < int64(b.N) {
				keep := make([]int32, 0, fresh)
				for i := b.N - int(fresh); i < b.N; i++ {
					keep = append(keep, int32(i))
				}
				b = b.Gather(keep)
			}
			select {
			case f.batches <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		f.ended <- err
		close(f.batches)
	}()
	return f, nil
}

type follower struct {
	name    string
	at      int64
	batches chan event.Batch
	pace    *time.Ticker // nil without a rate
	stop    context.CancelFunc
	ended   chan error
	paused  bool
}

func (f *follower) Poll(ctx context.Context, wait time.Duration, limit int) ([]driver.Chunk, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	if f.paused {
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return nil, nil
	}
	var chunks []driver.Chunk
	for bytes := 0; bytes < limit; {
		if f.pace != nil {
			select {
			case <-f.pace.C:
			case <-timer.C:
				return chunks, nil
			case <-ctx.Done():
				return chunks, nil
			}
		}
		select {
		case b, open := <-f.batches:
			if !open {
				chunks = append(chunks, driver.Chunk{Partition: f.name, Next: strconv.FormatInt(f.at, 10), Ended: true})
				select {
				case err := <-f.ended:
					return chunks, err
				default:
					return chunks, nil
				}
			}
			f.at += int64(b.N)
			bytes += b.Size()
			chunks = append(chunks, driver.Chunk{Partition: f.name, Batch: b, Next: strconv.FormatInt(f.at, 10)})
		case <-timer.C:
			return chunks, nil
		case <-ctx.Done():
			return chunks, nil
		}
	}
	return chunks, nil
}

func (f *follower) Pause(partitions []string) { f.paused = len(partitions) > 0 }

// Lag isn't known: rows are made up as they are asked for.
func (f *follower) Lag() map[string]int64 { return nil }

func (f *follower) Close() error {
	f.stop()
	if f.pace != nil {
		f.pace.Stop()
	}
	return nil
}
