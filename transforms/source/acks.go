package source

import (
	"errors"
	"sync"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/internal/inflight"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// acker is a follower that is told what has landed. It stays open until all of that has.
type acker struct {
	driver.Acknowledger
	end func() error // closes the follower, once
	era int

	mu     sync.Mutex
	open   int // chunks that were polled and have not landed
	closed bool
}

var (
	ackersMu sync.Mutex
	ackers   = map[*acker]bool{} // that are closed and wait for what has not landed
)

var errNoID = errors.New("it is told what has landed, by the ids of events: name the field that identifies an event")

// acknowledging is the follower itself where its source keeps positions.
func acknowledging(f driver.Follower, era int) driver.Follower {
	a, ok := f.(driver.Acknowledger)
	if !ok {
		return f
	}
	return &acker{Acknowledger: a, end: sync.OnceValue(a.Close), era: era}
}

// expect acknowledges a chunk when all that came of it has landed.
func (o owed) expect(ways inflight.Ways) {
	inflight.Expect(o.keys, ways, func() {
		o.to.Ack(o.next)
		o.settle()
	})
}

// settle says that no acknowledgement of a chunk is to come any more.
func (o owed) settle() {
	a := o.to
	a.mu.Lock()
	a.open--
	last := a.closed && a.open == 0
	a.mu.Unlock()
	if last {
		go a.finish() // a sink may be calling, which waits for nobody
	}
}

// Close ends reading as soon as all has landed, and at the latest when CleanUp is called or if it was.
func (a *acker) Close() error {
	ackersMu.Lock()
	ackers[a] = true
	ackersMu.Unlock()
	readingsMu.Lock()
	over := a.era != era
	readingsMu.Unlock()
	a.mu.Lock()
	a.closed = true
	open := a.open
	a.mu.Unlock()
	if open == 0 || over {
		return a.finish()
	}
	return nil
}

func (a *acker) finish() error {
	err := a.end()
	ackersMu.Lock()
	delete(ackers, a)
	ackersMu.Unlock()
	return err
}

// abandon closes the followers that still wait: what has not landed is given again.
func abandon() {
	inflight.Abandon()
	ackersMu.Lock()
	waiting := make([]*acker, 0, len(ackers))
	for a := range ackers {
		waiting = append(waiting, a)
	}
	ackersMu.Unlock()
	for _, a := range waiting {
		_ = a.finish() // what it could not say is given again
	}
}

// owed is a chunk that was read and is to be acknowledged.
type owed struct {
	to   *acker
	next string
	keys []inflight.Key
}

// owes makes a chunk one that is acknowledged by what came of it: the rows, and the letters and replayed
// letters behind the first so many of all. Labels come to no end but as letters: of the state that they go into
// this process has no other copy. Without an acknowledging follower there is nothing to do.
func (r *reading) owes(f *followFn, address int, next string, rows []inflight.Key, got *taken, letters, replayed int) error {
	a, ok := r.followers[address].(*acker)
	if !ok {
		return nil
	}
	isLabel := r.group.labels(address)
	if len(f.Decode.ID) == 0 && !isLabel {
		return r.fault(address, errNoID)
	}
	for _, l := range got.letters[letters:] {
		if l.Class != deadletter.Late || isLabel { // those are rows
			rows = append(rows, inflight.LetterOf(l.ID, l.Digest, l.Original))
		}
	}
	for i := range got.replayed[replayed:] {
		rows = append(rows, f.replayedAs(&got.replayed[replayed+i]))
	}
	a.mu.Lock()
	a.open++ // from here on a follower that is closed, as when partitions come, stays open for it
	a.mu.Unlock()
	got.owed = append(got.owed, owed{a, next, rows})
	return nil
}

// replayedAs is the key by which a letter comes to its ends: one without an id may have one when its record
// is decoded anew.
func (f *followFn) replayedAs(l *deadletter.Letter) inflight.Key {
	key := inflight.LetterOf(l.ID, l.Digest, l.Original)
	if l.ID != "" || l.Class.Enter() != "decode" {
		return key
	}
	_, err := f.decoder.Records("", []driver.Record{{Value: l.Original}}, func(b event.Batch) error {
		key = inflight.IDOf(&b, 0)
		return nil
	}, func(again deadletter.Letter) error {
		key = inflight.LetterOf(again.ID, again.Digest, again.Original)
		return nil
	})
	if err != nil {
		return inflight.LetterOf(l.ID, l.Digest, l.Original)
	}
	return key
}
