// Package featurelog keeps what was served: for each event and model a row of a Parquet table, with
// every feature as the model got it. What is logged can be compared with what history gives (`millrace
// skew`), and be trained on: nobody has to compute it again.
//
// # Format
//
// The columns, in order:
//
//	id           string   the event's id
//	time         timestamp, microseconds UTC: the event time
//	model        string   name@version: the version that scored
//	fingerprint  string   of the features (feature.Params.Fingerprint)
//	<entities>   the fields that features are grouped by, as package format writes them
//	<label>      the label as the event had it when it was scored: mostly null in a stream
//	<features>   in the features' order: numbers as int64, double (the same 64 bits) or decimal, true and
//	             false as 1 and 0, categories as string, sequences as list
//	score        double
//	class        string   null but for multiclass models
//	decision     string   null where the model decides nothing
//
// All may be null but id, time, model and fingerprint. It is the table that `millrace features` writes,
// with what was made of it beside: a trainer that reads the one reads the other.
//
// # Event time and delivery
//
// That of package sink: a bounded run replaces the log, whole; a stream adds a file for each span of
// event time. An event that is scored again, after a fault or by replay, may stand in it again.
//
// # Errors
//
// Those of package sink. A field or feature with the name of a column of the log's own is refused; see
// [Clashes].
package featurelog
