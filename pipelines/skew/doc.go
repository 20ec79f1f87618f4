// Package skew holds what was served to what history gives: it computes the features of logged events
// again, in a bounded graph with the same engine, joins them to the feature log by (id, time), and
// reports for each feature how many rows differ, by how much at most, and the first of them.
//
// A difference is one that the model has seen: events that came late or not at all, an order of arrival
// that is not that of event time, a field that the live source fills otherwise, a changed history. A
// stream in the order event_time, and a bounded run, give none.
//
// # Event time and delivery
//
// Both sides are read to their end. An event that was logged several times is compared as often. Rows
// of the log whose event is not in the history are counted as missing and not compared.
//
// # Errors
//
// A log with rows of other features (see featurelog.FingerprintColumn) fails the job: values that mean
// different things can't be compared. Records of the history that can't be read are left out, as they
// were when the events were served.
//
// # Non-obvious
//
// The report passes through [Options.Work], a folder that every worker must see: a job on a cluster hands back
// nothing but counters.
//
// A stream in the order of arrival that catches up at full speed differs in windows of the second entity
// even far behind their delay: what is under way between two stages is then days of event time.
//
// Ids and times are compared to the microsecond. An empty list reads as null from Parquet, so the two
// count as equal.
package skew
