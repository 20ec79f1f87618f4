package feature

import (
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/transforms/event"
)

// waiting holds the rows that the watermark has not passed yet, by buckets of time. A bucket has a
// timer from its first row on, which is why nothing about timers is kept.
type waiting struct {
	width    int64 // of the narrowest bucket, in milliseconds; 0 if nothing waits
	frontier int64 // milliseconds: rows before it have been drained
	pieces   []piece
	next     int64 // number of the next piece
	bytes    int64 // about, of the pieces written
}

// bucket is the time [number*width, (number+1)*width), in milliseconds. Widths are the narrowest times a
// power of two, so that of two buckets that overlap one contains the other.
type bucket struct{ number, width int64 }

func (b bucket) start() int64 { return b.number * b.width }
func (b bucket) end() int64   { return b.start() + b.width }

// tag names the bucket's timer: its number and its width.
func (b bucket) tag() string { return fmt.Sprintf("%dx%d", b.number, b.width) }

func parseTag(tag string) (b bucket, err error) {
	if _, err = fmt.Sscanf(tag, "%dx%d", &b.number, &b.width); err != nil {
		err = fmt.Errorf("reading the tag %q of a timer: %w", tag, err)
	}
	return b, err
}

func (b bucket) contains(o bucket) bool {
	return o.width <= b.width && floor(o.start(), b.width) == b.number
}

// piece is the rows of a batch that fall into one bucket. Later ones have larger numbers.
type piece struct {
	number int64
	bucket bucket
	batch  event.Batch
	bytes  int64
}

// bucket is the width of a bucket in milliseconds.
func (s *Stream) bucket() int64 {
	if s.Order != EventTime {
		return 0
	}
	return max(s.Lateness/16, 50*time.Millisecond).Milliseconds()
}

// A batch makes at most so many timers: where it spans more of the narrowest buckets, as when history is
// read, wider ones do. Each shard and stage has its own, and Prism fires about a thousand a second.
var maxBuckets = 48

// add takes in a batch that is written in so many bytes. It tells which buckets had no rows before, and
// how many rows are behind the frontier: none, if sources and stages keep to what they promise. Such a
// row goes with the next bucket.
func (w *waiting) add(b event.Batch, bytes int) (buckets []bucket, behind int) {
	at := make([]int64, b.N)
	for i, t := range b.Times() {
		at[i] = floor(t, 1000)
		if at[i] < w.frontier {
			behind++
			at[i] = w.frontier
		}
	}
	width := w.width
	rows, order := share(at, width)
	for len(order) > maxBuckets {
		width *= 2
		rows, order = share(at, width)
	}
	for _, k := range order {
		own := bucket{k, width}
		if !w.armed(own) {
			buckets = append(buckets, own)
		}
		p := piece{number: w.next, bucket: own, batch: b, bytes: int64(bytes) * int64(len(rows[k])) / int64(b.N)}
		if len(order) > 1 {
			p.batch = b.Gather(rows[k])
		}
		w.pieces = append(w.pieces, p)
		w.next++
		w.bytes += p.bytes
	}
	return buckets, behind
}

// share gives rows to buckets, by their numbers, in the order in which they come up.
func share(at []int64, width int64) (rows map[int64][]int32, order []int64) {
	rows = map[int64][]int32{}
	for i, ms := range at {
		k := floor(ms, width)
		if rows[k] == nil {
			order = append(order, k)
		}
		rows[k] = append(rows[k], int32(i))
	}
	return rows, order
}

// armed tells whether a timer is set at whose end all of a bucket is drained: one that contains it has
// rows. After a rebuild a piece may stand in a narrower bucket than the one whose timer was set, which
// contains it.
func (w *waiting) armed(b bucket) bool {
	for i := range w.pieces {
		if w.pieces[i].bucket.contains(b) {
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
		switch {
		case p.bucket.start() >= fire:
			kept = append(kept, p)
			continue
		case p.bucket.end() > fire: // a narrower bucket fires inside of it
			var before, after []int32
			for i, t := range p.batch.Times() {
				if floor(t, 1000) < fire {
					before = append(before, int32(i))
				} else {
					after = append(after, int32(i))
				}
			}
			if len(before) > 0 && len(after) > 0 {
				rest := p
				rest.batch = p.batch.Gather(after)
				rest.bytes = p.bytes * int64(len(after)) / int64(p.batch.N)
				p.bytes -= rest.bytes
				p.batch = p.batch.Gather(before)
				kept = append(kept, rest)
			} else if len(before) == 0 {
				kept = append(kept, p)
				continue
			}
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
