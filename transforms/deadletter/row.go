package deadletter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"sync/atomic"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

// FromRow begins the letter of a row that failed after it was decoded: class, id, event time, one
// attempt, and what the class needs to enter again, encoded from the columns. The caller adds the
// stage, the message and what else it knows.
func FromRow(class Class, b *event.Batch, row int) Letter {
	l := Letter{Class: class, Attempts: 1}
	if b.Schema.ID >= 0 {
		l.ID = string(b.IDs().AppendID(nil, row))
	}
	if b.Schema.Time >= 0 {
		l.EventTime = string(format.AppendTime(nil, b.Times()[row]))
	}
	object := columns(b, row)
	if class.Enter() == "predict" {
		l.Row = object
		return l
	}
	sum := sha256.Sum256(object)
	l.Original, l.Digest = object, hex.EncodeToString(sum[:])
	return l
}

type objects struct {
	schema *event.Schema
	enc    format.Encoder
}

// recent holds the encoder of the schema that came last: letters come in runs of one schema.
var recent atomic.Pointer[objects]

// columns is a row as a JSON object of all its columns.
func columns(b *event.Batch, row int) []byte {
	o := recent.Load()
	if o == nil || o.schema != b.Schema {
		enc, err := format.NewEncoder("json", b.Schema, nil)
		if err != nil {
			return nil // no schema has two columns of a name
		}
		o = &objects{b.Schema, enc}
		recent.Store(o)
	}
	text, err := o.enc.Append(nil, b.Gather([]int32{int32(row)}))
	if err != nil {
		return nil // the schema is the encoder's own
	}
	return bytes.TrimSuffix(text, []byte("\n"))
}
