// Package event defines the element of every Millrace graph: a [Batch] of many events in columns,
// described by a [Schema], with a binary form that describes itself.
//
// The element is a batch because the runner pays per element: one element a micro-batch makes that
// cost vanish. A batch belongs to its receiver. Whoever emitted one never touches or recycles it,
// since the direct runner and fused stages hand it over without encoding it.
//
// # Time
//
// Event times are microseconds since 1970-01-01 UTC, in the column [Schema.Time]. Beam's own
// timestamps are milliseconds: a batch's is the minimum of its rows, floored ([Batch.MinTime]).
//
// # Ids
//
// Ids that are all canonical decimal integers (no sign but "-", no leading zeros, within int64) are
// kept as integers, and compare as numbers; a column that holds any other id is kept as bytes.
// Integers come before all other ids, which compare bytewise. The id 12 and the id "12" are the same.
//
// # Binary form, version 1
//
// All integers are unsigned LEB128 varints unless a width is named; fixed widths are little-endian.
//
//	magic    "MB", then the version byte 1
//	schema   number of fields, index of the id field + 1 (0: none), index of the time field + 1;
//	         per field: name length, name, kind byte, scale byte, element kind byte (lists, else 0)
//	rows     number of rows
//	columns  one a field, in order:
//	  nulls  0: none; 1: a bitmap of ceil(rows/8) bytes follows, bit i%8 of byte i/8 set if row i is null
//	  body   by its encoding byte:
//	    0 integers  zigzag varint base, width byte w in {0,1,2,4,8}, rows x w bytes: value - base
//	    1 floats    rows x 8 bytes, IEEE 754 bits
//	    2 floats that are all integers (not -0): as 0
//	    3 strings   total length, lengths as a body of encoding 0, bytes
//	    4 list      lengths as a body of encoding 0, number of elements, a column of that many rows
//
// Reading allocates at most a small multiple of the input, whatever the bytes say. A reader of
// version n reads every version up to n; an unknown version is [ErrVersion].
//
// # Errors
//
// [ErrCorrupt] for bytes that are no batch, [ErrVersion] for a batch of a later version, [ErrSchema]
// for a schema or struct that can't be used.
//
// # Non-obvious
//
// The schema travels with each batch (some 20 bytes a column) because a worker can't look it up: the
// process that decodes is not always one that has built the graph. Decoded schemas are interned by
// their bytes, so equal ones are the same pointer within a process.
package event
