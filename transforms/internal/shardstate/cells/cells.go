package cells

import (
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"

	"github.com/millrace-ml/millrace/transforms/internal/shardstate"
)

func init() {
	beam.RegisterCoder(reflect.TypeOf((*Record)(nil)).Elem(), encode, decode)
}

// Record is a record of a log, with a coder that writes it in one piece. It is a struct since Beam takes a
// type of slices for a list, whatever coder is registered, and asks the runner for every byte.
type Record struct{ bytes []byte }

func encode(r Record) []byte          { return r.bytes }
func decode(b []byte) (Record, error) { return Record{b}, nil }

// Cells are a shard's state at the runner, within one call of the DoFn.
type Cells struct {
	p    state.Provider
	head *state.Value[int64]
	logs [2]*state.Bag[Record]
}

var _ shardstate.Cells = Cells{}

// Of are the cells that a call is given.
func Of(p state.Provider, head *state.Value[int64], a, b *state.Bag[Record]) Cells {
	return Cells{p, head, [2]*state.Bag[Record]{a, b}}
}

// Head reads the head; see [shardstate.Cells] for this and the others.
func (c Cells) Head() (int64, bool, error) { return c.head.Read(c.p) }

// SetHead writes it.
func (c Cells) SetHead(v int64) error { return c.head.Write(c.p, v) }

// Add appends to a log.
func (c Cells) Add(log int, rec []byte) error { return c.logs[log].Add(c.p, Record{rec}) }

// Clear empties a log.
func (c Cells) Clear(log int) error { return c.logs[log].Clear(c.p) }

// Read goes over a log.
func (c Cells) Read(log int, each func([]byte) error) error {
	records, _, err := c.logs[log].Read(c.p)
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := each(r.bytes); err != nil {
			return err
		}
	}
	return nil
}
