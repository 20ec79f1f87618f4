package feature

import (
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
)

// waiting holds the rows that the watermark has not passed yet, by buckets of time. A bucket has a
// timer from its first row on, which is why nothing about timers is kept.
type waiting struct {
	width    int64 // of a bucket, in milliseconds; 0 if nothing waits
	frontier int64 // milliseconds: rows before it have been drained
	pieces   []piece
	next     int64 // number of the next piece
	bytes    int64 // about, of the pieces written
}

// piece is the rows of a batch that fall into one bucket. Later ones have larger numbers.
type piece struct {
	number, bucket int64
	batch          event.Batch
	bytes          int64
}

// bucket is the width of a bucket in milliseconds.
func (s *Stream) bucket() int64 {
	if s.Order != EventTime {
		return 0
	}
	return min(max(s.Lateness/16, 50*time.Millisecond), time.Minute).Milliseconds()
}

// add takes in a batch that is written in so many bytes. It tells which buckets had no rows before, and
// how many rows are behind the frontier: none, if sources and stages keep to what they promise. Such a
// row goes with the next bucket.
func (w *waiting) add(b event.Batch, bytes int) (buckets []int64, behind int) {
	rows := map[int64][]int32{}
	var order []int64
	for i, t := range b.Times() {
		ms := floor(t, 1000)
		if ms < w.frontier {
			behind++
			ms = w.frontier
		}
		k := floor(ms, w.width)
		if rows[k] == nil {
			order = append(order, k)
		}
		rows[k] = append(rows[k], int32(i))
	}
	for _, k := range order {
		if !w.waits(k) {
			buckets = append(buckets, k)
		}
		p := piece{number: w.next, bucket: k, batch: b, bytes: int64(bytes) * int64(len(rows[k])) / int64(b.N)}
		if len(order) > 1 {
			p.batch = b.Gather(rows[k])
		}
		w.pieces = append(w.pieces, p)
		w.next++
		w.bytes += p.bytes
	}
	return buckets, behind
}

func (w *waiting) waits(bucket int64) bool {
	for i := range w.pieces {
		if w.pieces[i].bucket == bucket {
			return true
		}
	}
	return false
}

// drain takes out the rows before a time in milliseconds, the end of a bucket.
func (w *waiting) drain(fire int64) (event.Batch, error) {
	w.frontier = max(w.frontier, fire)
	var out []event.Batch
	kept := w.pieces[:0]
	for _, p := range w.pieces {
		if p.bucket*w.width >= fire {
			kept = append(kept, p)
			continue
		}
		out = append(out, p.batch)
		w.bytes -= p.bytes
	}
	clear(w.pieces[len(kept):])
	w.pieces = kept
	if len(out) == 0 {
		return event.Batch{}, nil
	}
	return event.Concat(out)
}
