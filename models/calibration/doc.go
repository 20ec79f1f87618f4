// Package calibration turns a model's scores into probabilities, by what labelled rows that the
// model was not trained on say about them.
//
// Platt fits a sigmoid with two numbers (Platt, 1999). It keeps the ranking strictly and needs few
// rows. It is fitted to the scores and, where they lie between 0 and 1, to their log odds as well,
// and the one with the lower log loss is kept: log odds suit boosted trees and logistic models, the
// scores themselves suit forests.
//
// Isotonic fits a rising line through as many points as the rows support (pool adjacent violators),
// straight between them and level outside. It bends to any shape, may tie scores that it can't tell
// apart, and wants a thousand rows or more.
//
// A calibrated model is a model of kind "calibrated", which holds the model within.
//
// # Errors
//
// [Fit] returns [ErrNoSignal] where higher scores do not go with more positives, models.ErrShape for
// lengths that do not fit, and a plain error for values that it can't use. Load returns
// models.ErrFiles.
//
// # Non-obvious
//
// Fit on the training rows and the probabilities come out too bold: use held-out rows, later than
// the training rows.
//
// Isotonic never says 0 or 1: n rows allow probabilities from 1/(n+2) to (n+1)/(n+2), and among all
// rising functions within those bounds its log loss on the fitted rows is the lowest.
package calibration
