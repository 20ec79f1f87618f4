// Package tree holds what the tree kinds share: quantile bins for training, the flat trees they
// score with and the stored form of both.
//
// # Non-obvious
//
// A split sends x < threshold left. Null (NaN) follows the split's own default direction, learned
// in training. Infinite values take part as the largest and smallest numbers.
//
// A leaf is a node that leads to itself, so that several rows can walk a tree side by side for a
// fixed number of steps, without a branch that the processor would have to guess. That is worth a
// factor of four or so.
//
// Children always lie behind their parent, the right one directly after the left. Load checks it,
// which also rules out cycles.
package tree
