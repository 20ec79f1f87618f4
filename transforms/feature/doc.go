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
// # Labels of their own
//
// With [Params.Labels] labels come as events of their own, to [ComputeLabeled]. A label names its event by
// id, time and entity, and says when it became known. An aggregate over the label at the time t counts a
// row if its time is inside the window and it has a label that was known by t; of several the last by
// (known, own id) holds, so that labels can be corrected and taken back. At equal times labels come before
// events. Argument and where may each be of the event or of its label: sum(amount) where fraud.
//
// Whether a label or its event comes first makes no difference, and a copy of a label changes nothing.
// Labels are kept as long as a window may reach their rows; those that are let go without having met a
// row are dead letters of class label_orphan, in a bounded run all that have none. With last-n windows and
// all they wait as long as rows do. Labels give no rows.
//
// # Delivery
//
// Every event comes out once with its features, whatever the order, the batches and the number of
// shards, and with the same bits. Of events with the same id, time and entity one goes on and the others
// come out as dead letters of class duplicate.
//
// # Streams
//
// With [Params.Stream] there is no end: rows and their windows live in shards whose contents are logs in
// the runner's state (package shardstate). Of each stage a router sends a bundle's rows to shards, and
// a DoFn keeps them; its name carries the stage's fingerprint, so that a savepoint of other features is
// not taken for its own.
//
// In the order [Arrival] a batch is scored at once. No order is promised: an event sees what its shard
// had finished before it. Rows stay for the lateness beyond their windows, so that a late one has its
// own windows and a copy is known: the first one goes on. In the order [EventTime] rows wait until the
// watermark has passed them, and their features are those of a bounded run. Of copies the same one goes
// on as there. A row that was replayed may come when the watermark has passed it: it goes with the bucket of time
// that the watermark passes next, has the windows of its own time as far as they still reach back, and later rows
// know it.
//
// Rows without an entity in the first stage are known by id and time. An entity that no window reaches
// any more is forgotten; last-n windows and all keep theirs for ever.
//
// # Metrics
//
// Beam counters in the namespace features: duplicate; duplicate_conflict, those of them that are no
// copies (in arrival: in what the first entity's aggregates use; rows without an entity aren't
// compared); frontier_violation, rows that came to a stage behind the watermark that it had seen: a
// fault of the source or the runner; labels, those that came; labels_past, those of them whose rows no
// window reached any more; label_orphan, those that were let go and never met their rows.
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
//
// Labels wait for no watermark: they stand beside the rows and are looked up as of a row's time when a
// window is read. It is enough that a label is there before the watermark passes the time from which it is
// known, and that the source sees to.
//
// A stream's bucket of time has one timer, set with its first row and never again: Prism panics on a
// timer that is set again with another hold, and on Flink one that is set as it fires falls behind. The
// log says nothing of timers; the buckets of the rows that wait have one each.
package feature
