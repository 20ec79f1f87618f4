// Package mlp holds the kind "mlp": a dense network with ReLU between layers, trained by package
// gorgonia and scored here in plain Go, with AVX2 where the CPU has it.
//
// Loss "binary" is for labels 0 and 1; a score is a probability. Loss "squared" is for values, which
// are standardised for training. Inputs are encoded by package encode. Training.Valid is not used.
//
// # Files
//
// model.json (format version, kind, loss), encoder.json, and weights.safetensors with the float32
// tensors layer0.weight (inputs x outputs), layer0.bias (outputs), and so on.
//
// # Errors
//
// models.ErrShape for lengths that don't fit, models.ErrFiles from Load; training errors are those of
// package gorgonia.
//
// # Non-obvious
//
// A unit's sum is float32: the bias, then each input times its weight in order, every product and
// every sum rounded. The lanes of the vector kernel are units, not inputs, so it adds in that same
// order and gives the same bits; for the same reason it does not use fused multiply-add.
//
// The kernels work on four rows at once, and scratch rows beyond the batch are computed and dropped,
// so a row's score can't depend on its neighbours or its place.
package mlp
