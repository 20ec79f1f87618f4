// Package gbdt trains and scores gradient boosted trees for a binary label or a number, and reads
// models that XGBoost trained. The kind is "gbdt".
//
// Trees grow level by level over histograms of up to 256 bins a feature, the last of them learned
// for missing values, with XGBoost's second-order gain (Chen and Guestrin, 2016): a split gains
// GL^2/(HL+lambda) + GR^2/(HR+lambda) - G^2/(H+lambda), and a leaf is -G/(H+lambda) times the rate.
// Training starts from even odds, or for a number from the mean.
//
// A null (NaN) follows the split's default direction: the one with the higher gain in training, or
// the heavier side where training saw no null there. A category takes part as its code: since codes
// are in order of frequency, a split parts common values from rare ones, and a value that training
// did not see joins the rarest.
//
// # Errors
//
// Train returns models.ErrShape for data that does not fit together, and a plain error for labels
// and weights that the loss can't use. Load and [LoadXGBoost] return models.ErrFiles.
//
// # Non-obvious
//
// Derivatives are whole multiples of a power of two, so every sum in a histogram is exact. Hence
// the same trees whatever the number of workers, and no drift from subtracting histograms.
package gbdt
