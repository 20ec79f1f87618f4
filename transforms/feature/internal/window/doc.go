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
// Edges only move forward with the newest row, so that they are found by walking; they are not part of a
// snapshot, since walking from row 0 finds them again.
package window
