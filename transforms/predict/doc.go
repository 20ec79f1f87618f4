// Package predict scores rows with the models of a graph, inside the graph.
//
// # What comes out
//
// [Score] emits, for each model, the rows it was given with more columns behind: model (category,
// "name@version"), then score (float) for binary, regression and anomaly models, or class (category)
// and score (float, the class's probability) for multiclass ones; then decision (category) where the
// model decides. Every row carries the version that really scored it.
//
// # Event time and delivery
//
// Rows keep their event time. Scoring has no state: a bundle that is retried scores again, with the
// same bits while the version is the same.
//
// # Errors
//
// A model that can't be loaded is an infrastructure fault and fails the bundle. A row whose score is
// not finite becomes a dead letter of class score.
//
// # Metrics
//
// Counters predict.scored and predict.unscored.
//
// # Non-obvious
//
// Models are no side inputs, which are not portable: each process loads a version once, by its
// digest, and all DoFn instances share it. A bounded graph carries the version that was resolved at
// submission, so that all workers use the same one however the alias moves meanwhile.
package predict
