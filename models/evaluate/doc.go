// Package evaluate measures how good scores are: ranking (AUC, average precision, card precision at
// k), probabilities (log loss, Brier, calibration error) and values (RMSE, MAE), with curves,
// threshold tables and bootstrap intervals. It is plain Go over slices and sums in float64.
//
// # Inputs
//
// Scores and labels are float32 or float64 slices of one length, a row each; a different length is
// a programming error and panics. A label above 0.5 is a positive. A larger score means more
// likely positive. Rows with equal scores are one threshold: no metric depends on the order of the
// rows.
//
// A metric that the rows do not define is NaN, never a made-up number: AUC with one class only,
// average precision without positives, anything over no rows or with a NaN among the scores.
//
// # Intervals
//
// [Bootstrap] resamples rows, or whole entities with [Clustered]. A metric becomes a [Statistic]
// once (one sort), after which a replicate costs one pass over the rows: replicates are counts per
// row, not copied rows. Two statistics over the same rows can be compared replicate by replicate
// ([Bootstrap.Difference]), which is what a gate needs: the noise that both scorers share cancels.
// The same seed gives the same interval whatever the number of workers.
//
// # Non-obvious
//
// Average precision follows scikit-learn: the sum of (R_n - R_{n-1}) P_n over distinct thresholds,
// without interpolation. The trapezoid under the precision-recall curve is another, larger number.
//
// Card precision divides by k even where fewer than k cards are left, as the Fraud Detection
// Handbook does, so a day with 26 compromised cards can't exceed 0.26 at k = 100: compare with
// [CardCeiling].
package evaluate
