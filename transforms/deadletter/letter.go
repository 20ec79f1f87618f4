package deadletter

import "encoding/json"

// Class says why an event could not go on. Replay and metrics branch on it.
type Class string

const (
	// Decode: the bytes are not a record of the format.
	Decode Class = "decode"
	// Schema: a field is missing, unknown where that is refused, or of another type.
	Schema Class = "schema"
	// Range: a value is of the right type and outside what its field allows.
	Range Class = "range"
	// Duplicate: another event has the same id.
	Duplicate Class = "duplicate"
	// Late: the event came after its time had been closed.
	Late Class = "late"
	// Score: the model could not score the event.
	Score Class = "score"
	// Remote: the model's server refused the event.
	Remote Class = "remote"
	// Sink: the target refused the event.
	Sink Class = "sink"
	// LabelOrphan: no event came for the label.
	LabelOrphan Class = "label_orphan"
	// LabelConflict: the event has a label already, and this one differs.
	LabelConflict Class = "label_conflict"
)

// Enter is where a letter's event enters the graph again: "decode" with its original, "features" with
// the row that Original holds, "predict" with the features in Row; "" if it doesn't: another copy of
// it has gone on, or had its label.
func (c Class) Enter() string {
	switch c {
	case Decode, Schema, Range:
		return "decode"
	case Late, LabelOrphan:
		return "features"
	case Score, Remote, Sink:
		return "predict"
	}
	return ""
}

// Place says where an event stands in its source.
type Place struct {
	// Source is the file's path or the URL, without secrets.
	Source string `json:"source,omitempty"`
	// Offset is the position of the record's first byte, after decompression.
	Offset int64 `json:"offset"`
	// Length is the record's length in bytes.
	Length int64 `json:"length"`
	// Line is the line number, from 1, where the reader knows it; else 0.
	Line int64 `json:"line,omitempty"`
}

// Letter is an event that could not go on, with what is needed to understand, mend and replay it.
type Letter struct {
	// ID is the event's id, where it could be read.
	ID string `json:"id,omitempty"`
	// Stage is the transform that gave it up: "decode", "features", "predict", "sink".
	Stage string `json:"stage"`
	Class Class  `json:"class"`
	// Message is for people: which field, which value, what was expected. It never holds a secret.
	Message string `json:"message"`
	// EventTime is RFC 3339, where it could be read.
	EventTime string `json:"event_time,omitempty"`
	Place     Place  `json:"place"`
	// UseCase and Fingerprint tell which features the graph computed; Model, which model scored.
	UseCase     string `json:"use_case,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Model       string `json:"model,omitempty"`
	// Attempts is how often the event was tried, this time included. FirstFailure and LastFailure are
	// RFC 3339; Write fills them in where they are empty.
	Attempts     int    `json:"attempts"`
	FirstFailure string `json:"first_failure,omitempty"`
	LastFailure  string `json:"last_failure,omitempty"`
	// Row is the row when it failed, computed features included, as an object of its columns; only of
	// letters that enter again at predict.
	Row json.RawMessage `json:"row,omitempty"`
	// Original is the record as it came, up to 64 KiB. Where that is gone it is the row as an object of
	// its columns, and of a letter of a sink the record that was refused. Digest is the SHA-256 (hex) of
	// all of it.
	Original []byte `json:"original,omitempty"`
	Digest   string `json:"digest,omitempty"`
}
