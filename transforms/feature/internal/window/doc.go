// Package window is the feature engine: it keeps the recent rows of every entity of a shard and
// computes aggregates over their windows. It is plain Go and knows nothing of Beam.
//
// # Time
//
// For a row of time t a window of length w and delay d holds the entity's rows with time in
// (t-d-w, t-d], in the order (time, id), none behind the row itself. Rows may come in any order: a row
// older than the newest takes its place, and its features are as of its own time, over what has
// arrived. Rows behind every window are dropped; [Config.Lateness] keeps them for late rows.
//
// # Memory
//
// Nothing of an entity or a row is a pointer: ten million entities are some thousands of chunks to the
// garbage collector. Rows are words in blocks of an arena, a power of two of them to a block, and blocks
// that neighbour each other are joined when they are free. A record, one cache line, says where an
// entity's block is, and a hash table, of 256 small ones, where the record. Ids that are integers are a
// word of their row. Rows of an entity that has others are a word wider, which says where in the texts'
// chunks the id stands; keys and values that are texts are there too. Where all are integers, none of
// that exists.
//
// Growth moves one block, or a 256th of a shard's hashes, so no call pauses for it. Rows' entities are
// sought a group at a time: with millions of them memory has to answer for each, and it does for many
// at once.
//
// # Logs
//
// A delta holds the rows that a call took in, a copy all rows of some entities: both are blocks of rows
// in columns ([Shard.AppendDelta], [Shard.Copy]), some 6 to 10 bytes for a row of integers. Totals are not
// written, but for those of dropped rows where a window reaches back to the beginning. Rows have one
// place, by time and id, so the order in which a block has them doesn't matter, and a row that is there
// already is left out: a copy may meet rows that a delta has brought.
//
// [Shard.Sweep] lets entities go that no window of an admissible row reaches any more. Which ones go
// stands in the delta.
//
// # Labels
//
// With [Config.Labels] rows have labels, which come apart ([Shard.Learn]) and say since when they are known. They
// lie beside the rows, by entity and in the order of (time, id, known, own id): an output that uses one goes over
// the rows of its window and takes of each the last label that is known by then, so that there are no totals to
// mend when a label is corrected, and no matter which of row and label comes first. [Shard.ForgetLabels] lets
// those go whose rows no window reaches; they know whether they have met their rows. Blocks of rows are the same
// with labels and without.
//
// # Errors
//
// [ErrCorrupt] for bytes that are no block of the plan.
//
// # Non-obvious
//
// Rows carry running totals (96-bit sums, 32-bit counts), so that a window's count and sum are
// differences between two rows and nothing is ever taken away from an accumulator: a window's edge is
// the only state, and one edge serves every aggregate. Integer totals wrap, differences don't. Floats
// have no such totals: they are summed again over the rows, so that 1e15 leaves no trace.
//
// Row 0 of an entity is not in any window: it is the row that was dropped last, and holds the totals
// that later rows build upon.
//
// Edges only move forward with the newest row, so that they are found by walking; they are in no block,
// since walking from row 0 finds them again. Those for late rows only are sought when rows are dropped.
//
// While a shard is frozen nothing leaves it and no slot is reused: a cursor counts slots, and the rows
// of an entity too large for one copy.
package window
