// Package encode turns a model's inputs into the dense columns that linear models and networks
// need. An [Encoder] is fitted on the training rows, kept among the model's files, and applied to
// every row that is scored.
//
//   - A number becomes (x - mean) / std with the training mean and population deviation, and null
//     becomes 0, the mean. Where training had nulls, a second column says whether the value is null.
//   - A category becomes a column for each of its 32 most frequent values; where there are more, the
//     rest share 8 columns by hash. A value that training did not see has a column of its own, and
//     so has null.
//
// # Errors
//
// Fit returns models.ErrShape for lengths that don't fit. UnmarshalJSON returns models.ErrFiles for
// whatever Fit can't have made.
//
// # Non-obvious
//
// A number that is not finite counts as null, and what lies further from the mean than a million
// deviations is cut to that, so encoded rows are always finite. Statistics are float64.
// Weights of rows are not used in the statistics, as in scikit-learn's StandardScaler.
package encode
