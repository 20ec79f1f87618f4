// Package intake takes events in over HTTP and keeps them in a log on disk until they have been scored.
//
//	intake://host:port/path?wal=folder&parameter=value&...
//
// Parameters:
//
//   - wal: the folder of the log, which is made if it isn't there. It belongs to this address alone.
//   - token: what senders have to give as "Authorization: Bearer ...". Without it whoever reaches the port
//     may send. Give it by reference, as token=${env:INTAKE_TOKEN}.
//   - cert and key: files of PEM, for TLS
//   - body_limit=1MiB (the default): the largest body
//   - log_limit=1GiB (the default): the size at which the log takes no more
//
// Sizes are bytes, or have one of the units KiB, MiB, GiB.
//
// # Requests
//
// POST one JSON object, or JSON lines, to the path. The answers:
//
//	202  all of it is on disk, {"accepted": number of events}
//	400  a line is no JSON object: nothing was taken
//	401  the token is missing or wrong
//	413  the body is larger than body_limit
//	415  the body is compressed
//	429  the log is at its limit: scoring is behind
//	503  the disk is full or broken, or too much waits for it: nothing was taken for certain
//
// 429 and 503 say with Retry-After when to send again. Whoever gets no answer has to send again too; an event
// may then be there twice, which dedup finds by its id. Objects that don't fit the use case are taken, and
// become dead letters.
//
// # Delivery
//
// An answer of 202 means that the events were written and synced, and will be read however the process
// ends. Requests that wait at the same time share one sync. A position is the number of a record in the
// log. A run that begins without one goes on behind what had landed before: what was acknowledged, in
// order ([driver.Acknowledger]). Segments before that are deleted. So each event is scored at least
// once.
//
// The log lies on one machine: clusters can't read it. Put a broker in front of those, and send there.
//
// # The log, version 1
//
// A folder of segments, each a file NNNNNNNNNNNNNNNNNNNN.wal, named by the number of its first record in
// 20 decimal digits; records are numbered from 0. All integers are little endian, all checksums CRC-32C.
// A segment begins with 20 bytes:
//
//	8  "MILLWAL" and a byte, the version: 1; a reader refuses another
//	8  the number of the first record
//	4  checksum of those 16
//
// Then records follow:
//
//	4  length of the record in bytes
//	4  checksum of the length's 4 bytes and the record
//	n  the record, a JSON object without newline
//
// A record that is cut off or doesn't match its checksum ends its segment. Behind the last segment that is
// a write which was interrupted: it is cut off, with a warning. In another one it is no fault as long as
// as many records stand before it as the next segment's number says; else the log is corrupt, an error.
//
// The file "landed" is a JSON object: v, 1, and next, the number of the first record that has not landed. The
// file "lock" is locked by the process that has the log.
//
// # Errors
//
// A port that is taken, a folder that another process has or that can't be written, a log that is
// corrupt: all are errors when reading begins. A disk that fills up later is an answer of 503, and
// taking in goes on when there is room.
//
// # Metrics
//
//   - intake/accepted: events that were answered with 202
//   - intake/refused: requests that were answered with 429 or 503
//
// # Non-obvious
//
// After a sync has failed nobody knows what is on disk, and another sync may say that all is well. So the
// segment is cut to what was synced before, and left for a new one.
package intake
