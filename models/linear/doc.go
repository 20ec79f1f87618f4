// Package linear holds the kinds "logistic" and "linear": logistic regression for labels 0 and 1,
// and ridge regression for values.
//
// Training encodes the rows ([encode.Fit]) and minimises, over weights and a bias,
//
//	sum of row weight x loss + squared sum of weights / (2 c)
//
// to the optimum, as scikit-learn's LogisticRegression and, with c = 1/alpha and the loss half the
// squared difference, Ridge. Training.Valid is not used and Training.Seed has nothing to decide.
//
// # Files
//
// model.json (format version and kind), encoder.json, and weights.safetensors with the float64
// tensors weight and bias.
//
// # Errors
//
// models.ErrShape for lengths that don't fit, models.ErrFiles from Load; training errors are those of
// package gorgonia.
//
// # Non-obvious
//
// A row's sum is float64: the bias, then each encoded column in order, every product rounded before
// it is added, on all machines.
package linear
