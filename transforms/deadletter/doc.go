// Package deadletter holds the events that could not go on, with what is needed to understand, mend
// and replay them, and writes them. Bad data never fails a bundle and is never dropped: it becomes a
// [Letter] at the stage where it failed.
//
// # The file, version 1
//
// JSON lines in UTF-8, one envelope a line, unordered; a name that ends in .gz is compressed, a path
// that ends in a slash gets parts and a manifest. Keys:
//
//	v            1; a reader refuses what is greater
//	id           the event's id, where it could be read
//	stage        who gave it up: decode, features, predict, sink
//	class        decode, schema, range, duplicate, late, score, sink
//	message      for people: which field, which value, what was expected
//	event_time   RFC 3339, where it could be read
//	place        {"source": path or URL without secrets, "offset": of the first byte after
//	             decompression, "length": in bytes, "line": from 1, where known}
//	use_case, fingerprint, model
//	             which features were computed, which model scored, where known
//	attempts     how often it was tried
//	original     the record as it came, up to 64 KiB, if it is UTF-8; else
//	original_base64
//	digest       SHA-256 (hex) of the whole record
//
// Keys without a value are left out but for v, stage, class, message, place, attempts. Readers ignore
// keys that they don't know.
//
// # Delivery
//
// As package sink: the file appears whole, once, or not at all. A job without dead letters leaves an
// empty file.
//
// # Metrics
//
//   - deadletter/written: letters written (attempts that failed included)
package deadletter
