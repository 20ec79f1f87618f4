// Package script tells what happens in event time, as texts under testdata that a person can check by
// hand: events in the order in which they come, and what is expected of each of them. A test takes every
// script through the graph three times:
//
//   - bounded: all events from a file, on the direct runner
//   - event_time: as a stream on Prism that waits for the watermark
//   - arrival: as a stream on Prism that scores at once
//
// # The language
//
// A script is a title, and three sections:
//
//	# A window is open at its old end and closed at its new one.
//
//	-- use case --
//	name: edges
//	event: {id: id, time: at, fields: {id: id, at: timestamp, card: id, amount: {type: decimal, scale: 2}}}
//	features:
//	  - {entity: card, windows: [1h], aggregates: {n: count(), total: sum(amount)}}
//	stream: {lateness: 10m}
//
//	-- events --
//	10:00  1  card=a amount=5.00
//	11:00  2  card=a amount=7.50
//
//	-- expect --
//	1  n_1h=1 total_1h=5
//	2  n_1h=1 total_1h=7.5    # exactly an hour later
//
// The use case is a use-case file. The section of events has a line each for
//
//	10:00 1 card=a           an event: its time, its id, its fields. Times are of the first of January
//	                         2024; 2T10:00:00.000001 is of the second. Values are JSON, or texts
//	@1 10:00 1 card=a        the same in partition 1 of the source; without a word it is 0
//	+ 10:00 2 card=a         comes together with the event before it
//	again 1                  a record comes again, byte for byte (@1, + as above)
//	raw bad {"id":           a record as it stands; bad is what expectations call it
//	partition 1              the source gains a partition; 0 is there from the beginning, as are those
//	                         that an event names without this word
//	idle                     nothing comes for longer than the use case's stream.idle
//	restart                  the process ends and begins again, with empty windows and at the source's
//	                         beginning; in a bounded run it means nothing
//
// Everything comes for itself, after the source has taken in, and in arrival the graph has finished, what
// came before: what stands above a line can be seen by it. Partitions never become idle without the word.
//
// The section of expectations has a line for each result: the id with all features, or with the class of
// its dead letter. An event that comes twice has two. Features are in the use case's order, with the
// bytes that a sink gets: to the last bit. Where runs differ, a line begins with those that it is about:
//
//	3  [bounded] n_1h=3
//	3  [event_time arrival] late
//
// A # at the beginning of a line or behind a blank begins a comment. With -rewrite the test writes what it
// got in place of the expectations, and keeps their comments.
//
// # What holds without being written
//
// Each script is also held to rules that nobody can rewrite: to an oracle that counts in the simplest
// way; in event_time to the bytes of a bounded run over what wasn't late; in arrival, where events come in
// the order of time and id, to the bounded run; and after a restart to what was given before it.
package script
