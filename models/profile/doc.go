// Package profile summarises the columns of a matrix and the scores of a model in sketches that
// merge, so that drift can be told without keeping rows. A bundle holds the profile of its test
// rows, its reference; the monitor keeps one per window and merges them over shards and panes.
//
// A number column has its count, nulls, mean and variance (Welford, merged by Chan's formula),
// minimum and maximum, a DDSketch for quantiles (relative error 1 %), and a histogram over edges
// that the reference fixed at its deciles. A category column has a count for each of the first 256
// values of its dictionary, one for the known rest and one for values that training did not see.
//
// # Merging
//
// Two profiles merge if their columns, dictionaries and edges are equal: start a window from the
// reference's [Profile.Empty]. Every count, the sketch's included, merges exactly, in any order and
// grouping; mean and variance do so up to rounding.
//
// # Format
//
// A stored profile is JSON: {"format": 1, "rows": N, "columns": [...], "outputs": [...]}. A column
// is {"name", "type", "count", "nulls"} with either "number" or "category". A number is {"mean",
// "m2", "min", "max", "edges", "histogram", "sketch"}: m2 is the sum of squared deviations; edges
// are ascending, and histogram has one count more than edges, the count of edge[i-1] < v <= edge[i].
// min and max are absent if there is no value. A sketch is {"accuracy", "zero", "negative",
// "positive"}: the count of zeros and lists of [index, count] by ascending index, where index i
// counts absolute values in [g^i, g^(i+1)) with g = (1 + accuracy) / (1 - accuracy). A category is
// {"known", "values", "counts", "rest", "unseen"}, where known is the length of the dictionary. Fields may be added within a format; a reader ignores
// those it does not know.
//
// # Errors
//
// [ErrMismatch] when two profiles don't fit together, [ErrFormat] when stored bytes are not a
// profile, or one of a newer format.
//
// # Non-obvious
//
// Category counts need no heavy-hitter sketch: the dictionary comes most frequent first from
// training, so its first values are the top ones, and a value outside it counts as unseen.
//
// NaN is null; an infinity counts as null too, since it has no place in a mean or a sketch.
package profile
