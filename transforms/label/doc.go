// Package label joins labels that come as events of their own to the events that they are of, where they don't
// carry what an event's features need: its time and its entities.
//
// # Time
//
// Events leave their id, time and keys in a side branch, sharded by id, and labels meet them there. A label
// is joined if it became known no later than [Params.Horizon] after its event's time, whichever comes first.
// It goes on at once, with the time from which it is known, or its event's if that is later: no watermark is
// held, and none is passed.
//
// # Delivery
//
// A label goes on once for each copy of it that came; package feature drops copies. Of events with one id the
// first that came counts.
//
// A label whose event doesn't come waits for the horizon, in event time, then it is a dead letter of class
// label_orphan; in a bounded run at the end.
//
// # Streams
//
// Events stay until the watermark has passed their time and the horizon, some 50 bytes each in memory and in the
// runner's state (package shardstate): rate times horizon decides what that comes to.
//
// # Metrics
//
// Beam counters in the namespace labels: joined; waiting, that came before their events; orphan.
//
// # Errors
//
// [ErrParams] wraps every fault of Params, on which Join panics.
//
// # Non-obvious
//
// Only the watermark lets anything go. By what a shard has seen it can't be decided: a runner may pass it the
// labels of a year before the first event. A timer stands for a bucket of time, a sixteenth of the horizon; it is
// set once, and holds nothing back.
//
// Events and labels that wait are kept in the batches in which they came, by number. A batch is let go as a
// whole, when all of it is old, so that what a machine drops follows from one bound, which stands in the log.
package label
