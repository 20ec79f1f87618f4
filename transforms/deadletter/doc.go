// Package deadletter holds the events that could not go on, with what is needed to understand, mend
// and replay them, and writes them. Bad data never fails a bundle and is never dropped: it becomes a
// [Letter] at the stage where it failed. [FromRow] begins the letter of an event that was decoded.
//
// # The envelope, version 2
//
// A JSON object in UTF-8. Keys:
//
//	v            2; a reader refuses what is greater
//	enter        where the event enters the graph again; it follows from the class
//	id           the event's id, where it could be read
//	stage        who gave it up: decode, source, features, labels, predict, sink
//	class        see below
//	message      for people: which field, which value, what was expected
//	event_time   RFC 3339, where it could be read
//	place        {"source": path or URL without secrets, "offset": of the first byte after
//	             decompression, "length": in bytes, "line": from 1, where known}
//	use_case, fingerprint, model
//	             which features were computed, which model scored, where known
//	attempts     how often it was tried
//	first_failure, last_failure
//	             RFC 3339, by the clock of the worker that wrote the letter
//	row          the row with its computed features, an object of its columns
//	original     the record, if it is UTF-8; else
//	original_base64
//	digest       SHA-256 (hex) of the whole record
//
// Keys without a value are left out but for v, stage, class, message, place, attempts. Readers ignore
// keys that they don't know. Version 1 had no enter, first_failure, last_failure and row; such letters
// are read as they are, and those that would need a row can't enter again.
//
//	class                             enter     what it enters with
//	decode, schema, range             decode    original: the record as it came, up to 64 KiB
//	late, label_orphan                features  original: the row, an object of its columns
//	score, remote, sink               predict   row; original of a sink: the record that was refused
//	duplicate, label_conflict         never     original: the row, an object of its columns
//
// In an object of columns a key is the column's name, a timestamp RFC 3339 in UTC, and all other
// values as package format writes them.
//
// # Delivery
//
// To files as package sink: JSON lines, an envelope a line, unordered. A bounded job's file appears
// whole, once, or not at all; without dead letters it is empty. A stream writes files by the time of
// the letters' elements, and none where nothing failed. To targets that take records: an envelope a
// record, at least once, its key the event's id, or the digest where there is none. An envelope that
// the target refuses fails the bundle: it has nowhere else to go.
//
// # Metrics
//
//   - deadletter/written: letters written (attempts that failed included)
package deadletter
