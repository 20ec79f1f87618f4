// Package format is the grammar of the record formats: how values are written in JSON lines, CSV, Parquet
// and the changes of a database, read back, and laid out as output records. What a field may hold is decided by package
// decode, which reads rows with the scanners here.
//
// Reading and writing stand side by side and are tested as inverses: what an [Encoder] writes, a
// decoder of the same fields reads as the same values.
//
// # Values
//
//   - number: JSON's grammar. [ScanNumber] keeps the digits as an integer and a power of ten, so that
//     decimals stay exact and most floats need no general parser.
//   - timestamp: RFC 3339, read with a fraction of any length (floored to the microsecond), a T or a
//     space before the time of day, and Z or an offset; written in UTC with Z and the shortest fraction.
//   - string: valid UTF-8. JSON escapes of unpaired surrogates read as U+FFFD, as in encoding/json.
//   - id: a JSON number if it is the canonical form of an int64 (see package event), else a string.
//   - decimal: a number with exactly its scale's places. float: the shortest digits that read back
//     as the same float64. bool: true, false. null: null; in CSV and Parquet: nothing.
//   - list: a JSON array, in CSV as the text of one cell; in Parquet a LIST of nullable elements.
//
// In CSV a string that is empty is written "" and null as nothing. Parquet keeps ids as strings
// (a column has one type in the whole file, and a later id might be no integer), decimals as
// DECIMAL(18, scale) on INT64, timestamps as microseconds UTC, categories in a dictionary. Every column
// may be null; files are compressed with Snappy, in row groups of 262,144 rows.
//
// # Changes
//
// [ScanChange] finds the parts of a record of Debezium, whose values are JSON and mean what [Types] say: the
// schema of Kafka Connect that a record may bring. A decimal is the base64 of the two's complement of its
// digits, or an object with that and the scale. Changes are read alone: databases write them.
//
// # Errors
//
// Scanners report faults as [Fault], without allocating. Encoders return an error for an output that
// the schema doesn't have, at construction, and for a batch of another schema.
//
// # Non-obvious
//
// The JSON scanners take a slice that ends in a newline and an index into it. No token of a JSON line
// may contain a newline, so each loop ends at the last one without asking for the length.
package format
