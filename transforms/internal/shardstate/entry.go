package shardstate

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A head holds the number of the active log, whether a compaction runs, and 62 bits of token.
const (
	headActive  = 1
	headCopying = 2
	tokenBits   = 62
)

func makeHead(active int, copying bool, token uint64) int64 {
	h := int64(token<<2) | int64(active)
	if copying {
		h |= headCopying
	}
	return h
}

func splitHead(h int64) (active int, copying bool, token uint64) {
	return int(h & headActive), h&headCopying != 0, uint64(h) >> 2
}

// entry is a shard as it stood after its last call.
type entry struct {
	machine Machine
	head    int64
	known   bool // head was set

	active  int
	logs    [2]logEnd
	copying bool   // the other log is a copy in the making
	cursor  Cursor // what of the machine is in it
	spread  bool   // no compaction began since the machine was made

	parts, copied, out []byte // buffers of write
	written            Stats
}

// logEnd is where a log ends. The zero value is a log without a header.
type logEnd struct {
	bytes   int64
	records uint32
}

// write makes the deltas of one call durable.
func (e *entry) write(c *cache, shard int, cells Cells, deltas [][]byte, before int64) error {
	token := c.Rand() & (1<<tokenBits - 1)
	e.parts, e.out = e.parts[:0], e.out[:0]
	for _, d := range deltas {
		if len(d) > 0 {
			e.parts = appendPart(e.parts, partDelta, d)
		}
	}
	if !e.copying && e.logs[e.active].bytes+int64(len(e.parts)) > e.trigger(c, shard) {
		e.copying, e.cursor, e.spread = true, Cursor{}, false
		e.machine.Freeze(true)
	}

	done := false
	if e.copying {
		// Two bytes for each of the delta, and what this call has let grow: the copy gains on the
		// machine whatever the calls bring.
		budget := max(c.CopyBytes, 2*len(e.parts)) + int(max(0, e.machine.Size()-before))
		var err error
		if done, err = e.copy(budget); err != nil {
			return fmt.Errorf("copying shard %d of stage %q: %w", shard, c.Stage, err)
		}
		if err := e.append(c, shard, cells, 1-e.active, formCopy, token, e.copied); err != nil {
			return err
		}
	}
	if done {
		if err := cells.Clear(e.active); err != nil {
			return fmt.Errorf("clearing a log of shard %d: %w", shard, err)
		}
		e.logs[e.active] = logEnd{}
		e.active, e.copying = 1-e.active, false
		e.machine.Freeze(false)
		e.written.Compactions++
	} else {
		if err := e.append(c, shard, cells, e.active, formPlain, token, e.parts); err != nil {
			return err
		}
		if e.copying {
			e.written.TwiceBytes += int64(size(deltas))
			e.written.HeaderBytes -= int64(size(deltas))
		}
	}
	e.written.DeltaBytes += int64(size(deltas))
	e.written.HeaderBytes -= int64(size(deltas))

	head := makeHead(e.active, e.copying, token)
	if err := cells.SetHead(head); err != nil {
		return fmt.Errorf("setting the head of shard %d: %w", shard, err)
	}
	e.head, e.known = head, true
	e.shrink()
	return nil
}

// trigger is the size of the active log above which it is compacted.
func (e *entry) trigger(c *cache, shard int) int64 {
	f := c.Trigger
	if e.spread {
		// After a restore equal shards are equally full: the first compactions lie apart, between
		// half and all of the way, so that no two of many shards copy for the same calls.
		f = 1 + (f-1)*(1+float64(shard+1)/float64(c.Shards))/2
	}
	return max(int64(f*float64(e.machine.Size())), int64(c.MinLog))
}

// copy makes the copy's parts of this call: first the deltas, for the entities that are in the copy,
// then more entities, in which the deltas already show; at the end the mark that all are there.
func (e *entry) copy(budget int) (done bool, err error) {
	e.copied = append(e.copied[:0], e.parts...)
	start := len(e.copied)
	e.copied = appendPart(e.copied, partEntities, nil)
	out, next, done := e.machine.Copy(e.copied, e.cursor, budget)
	n := len(out) - start - partSize
	if n < 0 {
		return false, errors.New("the machine's Copy cut what it was to append to")
	}
	if !done && !e.cursor.before(next) {
		return false, fmt.Errorf("the machine's Copy went from %v to %v", e.cursor, next)
	}
	if n == 0 {
		out = out[:start]
	} else {
		binary.LittleEndian.PutUint32(out[start+1:], uint32(n))
	}
	if done {
		out = appendPart(out, partComplete, nil)
	}
	e.copied, e.cursor = out, next
	e.written.CopyBytes += int64(n)
	e.written.HeaderBytes -= int64(n)
	return done, nil
}

func (c Cursor) before(d Cursor) bool {
	return c.Entity < d.Entity || c.Entity == d.Entity && c.Row < d.Row
}

// append adds a call's parts to a log, in records of at most 1 MiB: a part may go on in the next.
func (e *entry) append(c *cache, shard int, cells Cells, log int, form byte, token uint64, parts []byte) error {
	add := func(start int) error {
		record := e.out[start:len(e.out):len(e.out)]
		if err := cells.Add(log, record); err != nil {
			return fmt.Errorf("adding to a log of shard %d: %w", shard, err)
		}
		e.logs[log].bytes += int64(len(record))
		e.written.HeaderBytes += int64(len(record))
		return nil
	}
	if e.logs[log].bytes == 0 {
		// What a compaction left that a rebuild broke off.
		if form == formCopy {
			if err := cells.Clear(log); err != nil {
				return fmt.Errorf("clearing a log of shard %d: %w", shard, err)
			}
		}
		start := len(e.out)
		e.out = appendHeader(e.out, header{form: form, shards: c.Shards, shard: shard, fingerprint: c.Fingerprint})
		if err := add(start); err != nil {
			return err
		}
	}
	for len(parts) > 0 {
		n, start := min(len(parts), c.maxRecord-recordSize), len(e.out)
		e.out = appendRecord(e.out, token, e.logs[log].records, n == len(parts), parts[:n])
		if err := add(start); err != nil {
			return err
		}
		e.logs[log].records++
		parts = parts[n:]
	}
	return nil
}

// shrink lets go of buffers that one large call made.
func (e *entry) shrink() {
	for _, b := range []*[]byte{&e.parts, &e.copied, &e.out} {
		if cap(*b) > 4*maxRecord {
			*b = nil
		}
	}
}
