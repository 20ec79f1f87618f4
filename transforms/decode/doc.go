// Package decode turns records into batches of events: it reads JSON lines, CSV, Parquet and the changes of
// a database that Debezium captures by a list of fields, checks every value, assigns the event time, and makes a dead letter of each record that can't
// be used. It is plain Go, called inside the source; the grammar of values is package format's.
//
// # What is accepted
//
// Strictly what the fields say. A number is no string and a string no number; 1.0 and 1e3 are no
// integers; a decimal may not have more places than its scale, but for zeros; integers beyond 2^53 are
// refused, since expressions compute in float64 (ids are not, and may be of any length). A bool is true,
// false, 1 or 0. NaN and infinities are refused, and so is what overflows. A date must exist. A key that
// a field needs may not stand twice in an object. Keys that no field needs are skipped, once they have
// been checked to be JSON, or refused with [Params.RejectUnknown]; they aren't searched for duplicates.
// Values may nest [format.MaxDepth] deep. Key names are compared exactly.
//
// null, a missing key, and an empty CSV cell are null, which an optional field may be. (A quoted empty
// CSV cell is an empty string for strings and categories.) Leading zeros are allowed in CSV numbers.
//
// Times without an offset are in [Field.Zone], UTC by default; a time that a zone skips or repeats is
// what time.Date makes of it. Formats of time: RFC 3339, "unix_s", "unix_ms", "unix_us", "unix_ns"
// (numbers, with a fraction if need be, floored to the microsecond), "unix_days" (an integer), "step" (an
// integer: step n is second n), or a Go layout. Event times lie in the years 0 to 9999.
//
// A compound id joins the texts of its fields by "|"; in them "|" is written \| and \ is \\, so that
// different parts never make the same id.
//
// # Records and ranges
//
// A record is a line, in CSV too: a quoted cell may not hold a newline, because a range that begins in
// the middle of a file couldn't tell. A line belongs to the range that its first byte is in, see
// [Source]. Lines that are empty or white space are counted and skipped. A byte order mark before the
// first line is skipped. A line above [Params.MaxEvent] is a dead letter; it is hashed as it passes by
// and never held.
//
// CSV begins with a line of names. A column that a required field needs and the header lacks fails the
// whole file, as does a name that stands twice.
//
// Blocks of lines are decoded by up to GOMAXPROCS goroutines and handed over in order by the caller's
// own. Memory is bounded by a few blocks of at most 1 MiB + MaxEvent each, and their batches.
// The reader's choice of blocks decides where batches end, and nothing else.
//
// # Changes
//
// Format "debezium" is a change a record, as Debezium's connectors write it in JSON. The event is the row: as
// it became, or as it was where it is deleted. Fields are columns; paths behind "$." begin at the change, so
// that a use case has the operation as Debezium writes it (c, u, d, r), the table, the time of the commit, or
// the row before. [Params.RejectUnknown] is about columns alone. [Changes] say which operations make events;
// the others are skipped and counted, and so are truncations, messages and records without a value, which
// Kafka wants after a deletion: those are blank.
//
// The changes of a row have its key in common: where more than one of them is an event, their id needs more,
// as the position in the database's log ("$.source.lsn" of PostgreSQL), which a connector that says a change
// again repeats. A snapshot that is taken again has other positions.
//
// JSON doesn't say what a number means. Where the record brings its schema, that decides: times are in the
// unit of their column, whatever [Field.TimeFormat] says, and decimals as bytes have its scale. Without a
// schema the field decides: TimeFormat tells the unit, [Changes.Decimals] what a string holds where a number
// is wanted, and [Field.Scale] the scale of bytes. A number is a number in any case, and a decimal that brings
// its scale, as those of unlimited precision do, needs nothing else. A float has no scale: bytes without a
// schema need a field of decimal.
//
// A long text that didn't change isn't in the log of the database, unless its table has REPLICA IDENTITY
// FULL; such a value is a schema fault. Nor is what a deleted row was, but for its key: the rest is null.
//
// # Errors
//
// Bad records are no errors: they go to reject as letters of stage "decode" and class
//
//   - decode: not JSON or CSV or no change, bad UTF-8, a key that stands twice, nested too deep, too long;
//   - schema: a required field missing or null, a value of another type, an unknown field, a row with
//     more or fewer cells than the header;
//   - range: the right type, and a value that the field can't hold or doesn't allow.
//
// An error of Read is one of the reader, of emit or reject, or of a whole file: [ErrFile].
//
// # Non-obvious
//
// Records of a stream resemble each other. After each key the decoder expects the one that followed it
// last time, and compares bytes; only if that fails does it look the key up. So the order of keys is
// free and costs nothing.
//
// A row is written in place, column by column, and counts only when all of it was good; a fault
// just leaves the row number where it was.
package decode
