// Package replay scores dead letters once what was wrong with them is mended: the use case, a model, a
// server, a target. Package reentry says which letters enter where.
//
// # A run over the history
//
// A replay is a bounded run over the history and the letters together, so that a replayed event finds the
// windows that it would have had. The history is read for that alone: its rows are not scored, and only
// replayed events reach the sinks. Their features are, to the bit, those of a run in which the events had been
// good from the start. What came after them was scored without them, and is not scored again. Where the
// history holds an event too, since its record is good now, the replayed copy goes on.
//
// # A stream that runs
//
// Where the use case has a replay topic, [Sending] hands the letters to it, and the stream that runs scores
// them as of their own time. What the watermark has not passed is as if it had been good; behind it an event
// sees its windows as far as rows are kept, in the order of event time with the next rows that the watermark
// passes. The letters never move the watermark, and are not judged late.
//
// # Delivery
//
// Of several letters of a record one is replayed. It counts as many attempts as the one that has most, and
// what was tried so often as the filter says is skipped. An event that fails again is a dead letter with
// an attempt more and the time of its first failure.
//
// A second replay of the same letters changes nothing: rows have the key of an event's first
// score, and a file is written again equal. For that the replayed rows of a bounded run come together on one
// worker, before the model, and go on by time and id: they have to fit its memory. A stream knows an event
// again while a window reaches it, and else gives it once more, under its key. Letters are not deleted.
//
// # Errors
//
// [ErrAddress] reports a history without an end, a stream's topic that is none, and dead letters that would be
// written over those that are read.
package replay
