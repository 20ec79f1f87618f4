package deadletter

import "github.com/millrace-ml/millrace/transforms/internal/inflight"

// end appends that its event's way ends with a letter, once that is written.
func end(ends []inflight.End, l *Letter) []inflight.End {
	if !inflight.Active() {
		return ends
	}
	share := inflight.Whole
	switch l.Class {
	case Score, Remote:
		share = inflight.ByModel
	case Sink:
		share = inflight.BySink
	}
	return append(ends, inflight.End{Key: inflight.LetterOf(l.ID, l.Digest, l.Original), Share: share})
}
