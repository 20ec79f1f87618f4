package kinesis

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

const (
	// Shards are read ahead of the caller while all that waits is less than maxWaiting. A read may give 10 MiB.
	maxWaiting = 64 << 20
	maxReads   = 16 // under way
	// A read that failed is tried again after the poll's time, and then twice as long each time, up to maxBackoff.
	maxBackoff = 10 * time.Second
	// handover is for how long a closed shard waits for its children to be listed. The reader lists every 10 s.
	handover = 30 * time.Second
)

// read fetches the records of a shard until it ends.
func (f *follower) read(ctx context.Context, s *shard) {
	iterator, backoff := "", f.address.poll
	pace := time.NewTimer(0) // runs since the last read began
	defer pace.Stop()
	for f.waitForRoom(ctx, s) && waitFor(ctx, pace) {
		pace.Reset(f.address.poll)
		out, err := f.fetch(ctx, s, &iterator)
		var old *types.ExpiredIteratorException
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &old): // five minutes without a read
			iterator = ""
		case err != nil && passes(err):
			if throttled(err) {
				f.mu.Lock()
				f.throttled++
				f.mu.Unlock()
			}
			pace.Reset(backoff)
			backoff = min(2*backoff, maxBackoff)
		case err != nil:
			f.fail(f.lostStream(s, err))
			return
		default:
			backoff = f.address.poll
			f.put(s, out)
			if iterator = aws.ToString(out.NextShardIterator); iterator == "" {
				f.outlive(ctx, s)
				return
			}
		}
	}
}

// waitForRoom waits until more of a shard may be fetched, and is false when reading ends.
func (f *follower) waitForRoom(ctx context.Context, s *shard) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ctx.Err() == nil && (s.paused || len(s.fetched) > 0 || f.bytes >= maxWaiting) {
		f.room.Wait()
	}
	return ctx.Err() == nil
}

func waitFor(ctx context.Context, timer *time.Timer) bool {
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fetch reads once, by an iterator, or by a new one from where the shard stands.
func (f *follower) fetch(ctx context.Context, s *shard, iterator *string) (*kinesis.GetRecordsOutput, error) {
	select {
	case f.reads <- struct{}{}:
		defer func() { <-f.reads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if *iterator == "" {
		ask := &kinesis.GetShardIteratorInput{StreamName: &f.address.stream, ShardId: &s.id, ShardIteratorType: types.ShardIteratorTypeTrimHorizon}
		switch {
		case s.at.behind != "":
			ask.ShardIteratorType, ask.StartingSequenceNumber = types.ShardIteratorTypeAfterSequenceNumber, &s.at.behind
		case !s.at.from.IsZero():
			ask.ShardIteratorType, ask.Timestamp = types.ShardIteratorTypeAtTimestamp, &s.at.from
		}
		out, err := f.client.GetShardIterator(ctx, ask, once)
		if err != nil {
			return nil, err
		}
		*iterator = aws.ToString(out.ShardIterator)
	}
	return f.client.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: iterator}, once)
}

// put leaves what was read to the next poll.
func (f *follower) put(s *shard, out *kinesis.GetRecordsOutput) {
	f.mu.Lock()
	if n := len(out.Records); n > 0 {
		s.fetched, s.at = out.Records, place{behind: *out.Records[n-1].SequenceNumber}
		for i := range out.Records {
			f.bytes += len(out.Records[i].Data)
		}
	}
	s.closed = aws.ToString(out.NextShardIterator) == ""
	behind := aws.ToInt64(out.MillisBehindLatest)
	s.current = s.closed || behind == 0
	f.behind = max(f.behind, behind)
	more := len(s.fetched) > 0 || s.closed
	f.mu.Unlock()
	if more {
		f.wake()
	}
}

// outlive waits for the children of a closed shard, and says when they must be read by somebody else.
func (f *follower) outlive(ctx context.Context, s *shard) {
	timer := time.NewTimer(handover)
	defer timer.Stop()
	if waitFor(ctx, timer) {
		f.mu.Lock()
		s.alone = true
		f.mu.Unlock()
		f.wake()
	}
}
