// Package retraining is the second graph: history becomes features, features become a point-in-time
// training set, candidates are trained in parallel on the workers, chosen on one set of weeks,
// reported on another, judged against the serving model, and published.
//
// # Time
//
// Splits are by time alone. A fold that starts at s trains on [s, s+train), leaves a gap for labels
// to arrive, and tests on [s+train+gap, s+train+gap+test). Features are computed once over the whole
// history by the same transform that serves, so that a fold sees what serving would have seen.
// Candidates are chosen on the selection folds; the report folds choose nothing.
//
// Where labels come as events of their own, a row has the last of its labels. A fold trains on the rows whose
// labels are known when its test begins; one that was corrected later counts as not known. Rows without a
// label, and those whose label was taken back, are not in the set.
//
// # Known entities
//
// With [Exclude], a test row is left out if its entity had a positive row from the start of the
// fold's training up to KnownAfter before the row's day (by the time from which the label is known, where it
// has one of its own): its card is already blocked, and to find it
// again is no merit (Fraud Detection Handbook, chapter 3).
//
// # Calibration
//
// A candidate that asks for it is trained on the first four fifths of its window and calibrated on the
// last one, which it has not seen and which lies before every test row.
//
// # What is published
//
// The champion's bundle of each report fold becomes a version, oldest first, so that every figure of
// the report can be recomputed by scoring with that version. The last one is judged by the gate; if
// it passes, the alias champion moves to it. Verdict and reasons stand in its manifest, win or lose.
//
// # Errors
//
// A fold without rows or without positives, and an unknown candidate kind, fail the job with the
// fold's dates or the candidate's name, a worker that doesn't see [Params.Work] with the folder's.
//
// # Non-obvious
//
// The training set passes between the steps as a file in [Params.Work], which every worker must see:
// it would be copied to each of some dozens of tasks otherwise. Trained models travel as elements.
//
// The graph has no stage whose outcome depends on the order of its elements: any runner, with any number of
// workers, publishes the same bundles to the byte, and its gate says the same.
package retraining
