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
// A label whose event doesn't come waits for the horizon, then it is a dead letter of class label_orphan; in a
// bounded run at the end.
//
// # Streams
//
// Events stay for the horizon and the margin beyond the newest that their shard has seen, some 50 bytes each in
// memory and in the runner's state (package shardstate): rate times horizon decides what that comes to.
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
// Events and labels that wait are kept in the batches in which they came, by number. A batch is let go as a
// whole, when all of it is old, so that what a machine drops follows from one bound, which stands in the log.
package label
