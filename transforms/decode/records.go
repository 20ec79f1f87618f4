package decode

import (
	"errors"
	"slices"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// Records decodes the records of a log, of format json or debezium, each a record whole: it may hold newlines.
// source names the partition. Batches are handed over in order, letters behind them; the first error of
// emit or reject is returned.
func (d *Decoder) Records(source string, records []driver.Record, emit func(event.Batch) error, reject func(deadletter.Letter) error) (Stats, error) {
	var stats Stats
	if d.p.Format != "json" && d.changes == nil {
		return stats, errors.New("records of a log are decoded as json or debezium alone")
	}
	w := d.workers.Get().(*worker)
	defer d.workers.Put(w)
	var letters []deadletter.Letter
	for chunk := range slices.Chunk(records, d.p.BatchRows) {
		w.begin(len(chunk))
		for i := range chunk {
			r := &chunk[i]
			w.line = append(append(w.line[:0], r.Value...), '\n')
			stats.Bytes += int64(len(r.Value))
			good := false
			switch {
			case blank(w.line):
				stats.Blank++
				continue
			case len(r.Value) > d.p.MaxEvent:
				w.record()
				w.fail(deadletter.Decode, "record of %d bytes; the longest allowed is %d", len(r.Value), d.p.MaxEvent)
			case d.changes != nil:
				if w.skips(w.line) {
					stats.Skipped++
					continue
				}
				good = w.debezium(w.line)
			default:
				good = w.json(w.line)
			}
			if good {
				stats.Rows++
				continue
			}
			stats.Rejected++
			l := w.reject(nil, w.line, source, r.Offset, 0, 0)
			letters = append(letters, l)
		}
		if w.n > 0 {
			if err := emit(w.finish()); err != nil {
				w.release()
				return stats, err
			}
		}
		w.release()
	}
	stats.Lines = stats.Rows + stats.Rejected
	for _, l := range letters {
		if err := reject(l); err != nil {
			return stats, err
		}
	}
	return stats, nil
}
