// Package reentry brings dead letters back into a graph: as events where records are decoded, as rows with
// their features where models score.
//
// # Where letters enter
//
// Those of the classes decode, schema and range enter as records, which the use case as it is now decodes;
// late ones, if the [Filter] lets them, as the rows that they were. All these are events like others, and
// carry three columns more, see [WithMarks]: whether they are of the history or replayed, the attempts
// so far, and the first failure. Those of the classes score, remote and sink carry the row with its features,
// and enter before the models: they change nobody's windows for a second time. A row that was computed by
// another feature section, or lacks a column that is asked for now, can't enter.
//
// Where a letter's graph makes another letter of its row, [Again] takes the marks out, counts the attempt and
// keeps the first failure.
//
// # Bounded and without an end
//
// [Read] takes one letter of each record, the newest attempt. Others are skipped, and counted by the reason;
// letters are not deleted. [Follow] takes letters as they come, and what can't enter is a letter still.
//
// # Metrics
//
// Beam counters in the namespace replay: letters; unreadable, lines that are no envelopes; at_decode and
// at_predict, events that entered; sent, letters that were chosen for a stream; failed, dead letters again;
// skipped_ with filter, never, late, attempts, cut, features, copy and change, the reasons why a letter is left out.
//
// # Errors
//
// An envelope of a later version fails the job. A line that is no envelope is a dead letter of stage replay.
//
// # Non-obvious
//
// A replayed event and its copy in the history differ in one column, and package feature orders copies by
// their bytes: the column is true in the history, and so the replayed one is first. Whether two events of
// one id that differ in more go on is decided as without a replay.
//
// The marks are columns of the rows that wait for the watermark, and so the state of a stream in the order
// of event time that gets a replay topic is another one.
package reentry
