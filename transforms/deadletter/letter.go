package deadletter

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
	// Sink: the target refused the event.
	Sink Class = "sink"
)

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
	Attempts    int    `json:"attempts"`
	// Original is the record as it came, up to 64 KiB; Digest is the SHA-256 (hex) of all of it.
	Original []byte `json:"original,omitempty"`
	Digest   string `json:"digest,omitempty"`
}
