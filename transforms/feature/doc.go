// Package feature computes features of events: expressions over a row, and aggregates over windows of an
// entity's events. [Compute] is a Beam transform; the engine beneath it, internal/window, is plain Go.
//
// # Time
//
// A window of length w at an event of time t is (t-w, t], with a delay d (t-d-w, t-d]. The event itself
// is inside unless ExcludeCurrent says otherwise; ties in time are ordered by event id. Null arguments
// don't count. Over an empty window count is 0 and all else null, or what Empty says. An aggregate that
// uses the label counts a row from its time + LabelDelay on, so that no feature shows a label before it
// was known.
//
// # Delivery
//
// Every event comes out once with its features, whatever the order, the batches and the number of
// shards, and with the same bits. Of events with the same id, time and entity one goes on and the others
// come out as dead letters of class duplicate.
//
// # Errors
//
// [ErrParams] wraps every fault of Params. Compute panics on them, TryCompute returns them. At run
// time only files that can't be written or read are errors.
//
// # Non-obvious
//
// Features of the same entity that stand together are one stage: one shuffle. Those that use a column
// of the run they stand in start another one.
//
// Shards are chosen by a hash of entity value and entity name: with the value alone equal keys of two
// entities meet in the same shards, which hides uneven loads.
package feature
