// Package predict scores rows with the models of a graph, inside the graph.
//
// # What comes out
//
// [Score] emits, for each model, the rows it was given with more columns behind: model (category,
// "name@version"), then score (float) for binary, regression and anomaly models, or class (category)
// and score (float, the class's probability) for multiclass ones; then decision (category) where the
// model decides. Every row carries the version that really scored it.
//
// # Versions
//
// A bounded graph carries the version that was resolved at submission, so that all workers use the
// same one however the alias moves meanwhile. A stream has [Model.Alias]: package live follows it and
// swaps a new version in once it has proved good; a batch is of the versions that were current when
// it came, and never waits. A version whose inputs the rows don't have, or whose outputs are of another
// shape (a value, or classes), is passed over, and the last one that fits scores on.
//
// # Canary
//
// Canary.Share of the events, chosen by a hash of their ids, are scored by Canary.Alias instead: each
// row by exactly one version, whose threshold decides. The row says which, in model. Rows come out in
// the order in which they came.
//
// # Shadow
//
// A shadow scores every row that goes out as well, in columns behind all others: shadow_model (category),
// shadow_class (category, where there is a class) and shadow_score (float). A row remains one row, so a
// sink's key and its conditions are those of the version that serves, and no decision can come of a
// shadow; what both said of an event stands side by side. They are null where the shadow gave no
// finite score, failed, or is not there. Its time is spent in the same call: a slow one slows the graph.
//
// The aliases of canary and shadow need not exist: the champion serves, and they are looked for again
// with each poll.
//
// # Event time and delivery
//
// Rows keep their event time. Scoring has no state: a bundle that is retried scores again, with the
// same bits while the version is the same, and by the same of champion and canary.
//
// # Errors
//
// A model that can't be loaded when a worker starts is an infrastructure fault and fails the bundle, as
// is a version that fits no rows where no other one does; package live says when a worker starts on an
// older version instead. A row whose score is not finite becomes a dead letter of class score.
//
// # Metrics
//
// Counters predict.scored, predict.unscored; predict.canary and predict.shadow, rows that these scored;
// predict.swapped, predict.refused and predict.unreachable, what the pollers saw; predict.misfit,
// versions that an instance passed over.
//
// # Non-obvious
//
// Models are no side inputs, which are not portable: each process loads a version once, and all DoFn
// instances share it. Some runners never tear a DoFn down; [CleanUp] ends the polling for them, and
// without it package live ends it after an hour without rows.
//
// An instance keeps the version of its last batch in memory until its next one.
package predict
