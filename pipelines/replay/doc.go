// Package replay scores dead letters once what was wrong with them is mended: the use case, a model, a
// server, a target.
//
// A replay is a bounded run over the history and the letters together, so that a replayed event finds the
// windows that it would have had. The history is read for that alone: its rows are not scored, and only
// replayed events reach the sinks.
//
// # Where letters enter
//
// Those of the classes decode, schema and range enter as records, which the use case as it is now decodes.
// They are scored as of their own time; the features are, to the bit, those of a run in which the event had
// been good from the start. (What came after it was scored without it, and is not scored again.) Where the
// history holds the event too, since its record is good now, the replayed copy goes on. A late event enters
// the same way, if the filter lets it.
//
// Those of the classes score, remote and sink carry the row with its features. They enter before the
// model, and are no part of anybody's windows for a second time: the history holds them. A row that was
// computed by another feature section, or lacks a column that is asked for now, is skipped.
//
// All others are skipped and stay where they are: duplicates have nothing that would go on.
//
// # Delivery
//
// Of several letters of a record one is replayed. It counts as many attempts as the one that has most, and
// what was tried [Filter.MaxAttempts] times is skipped. An event that fails again is a dead letter with
// an attempt more and the time of its first failure.
//
// A second replay of the same letters changes nothing: rows have the key of an event's first
// score, and a file is written again equal. For that the replayed rows come together on one worker, before the
// model, and go on by time and id: they have to fit its memory. Letters are not deleted.
//
// # Metrics
//
// Beam counters in the namespace replay: letters; unreadable, lines that are no envelopes; at_decode and
// at_predict, events that entered; failed, dead letters again; skipped_ with filter, never, late, attempts,
// cut, features and copy, the reasons why a letter is left out.
//
// # Errors
//
// [ErrAddress] reports a history without an end, and dead letters that would be written over
// those that are read. An envelope of a later version fails the job. A line that is no envelope is a dead
// letter of stage replay.
//
// # Non-obvious
//
// A replayed event and its copy in the history differ in one column, and package feature orders copies by
// their bytes: the column is true in the history, and so the replayed one is first. Whether two events of
// one id that differ in more go on is decided as without a replay.
package replay
