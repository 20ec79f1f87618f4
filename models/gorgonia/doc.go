// Package gorgonia trains dense networks and linear models with Gorgonia's automatic
// differentiation. It is the only package that imports Gorgonia, and no scoring path does: training
// returns plain slices, which packages mlp and linear serve in plain Go.
//
// A graph computes the loss of a batch and its gradient; everything round it (order of rows, sums
// over batches, the penalty, the optimiser) is ordinary Go in float64.
//
// [Train] fits a network by Adam on shuffled batches. [FitLinear] fits a linear model by L-BFGS on
// all rows, to the optimum, in coordinates in which the inputs are uncorrelated.
//
// # Determinism
//
// The same data, configuration and seed give the same weights, bit for bit on one architecture,
// whatever the number of workers: a batch is always cut into the same lanes, and their gradients are
// added in the order of the lanes.
//
// # Errors
//
// Configuration faults are joined. Data that doesn't fit or isn't finite is refused before a graph
// sees it with an error that wraps models.ErrShape or ErrData. Weights that stop being finite end
// training with ErrDiverged.
//
// # Non-obvious
//
// Gorgonia v0.9.18 is unmaintained; these rules hold it in.
//
//   - Construction holds a package mutex (an unsynchronised counter) and turns panics into errors.
//     A panic of a running operation is on a goroutine of Gorgonia's own and can't be caught, so
//     nothing unchecked reaches a machine.
//   - Own graph and machine per goroutine; weights are copied, never shared, since the backward pass
//     transposes them in place.
//   - Every run ends with Reset: without it the next run returns the previous answer.
//   - The machine gets the subgraph of the loss and the parameters' gradients. The whole graph also
//     derives by the inputs, at twice the cost.
//   - NaN is looked for in the loss and the gradients, which it reaches from anywhere, not by the
//     machine in every operation's result.
//   - Non-root values are read through Read: registers are reused. Gradients are graph nodes, not
//     dual values, so they don't accumulate over runs.
//   - No Reshape, no BatchNorm, no dropout, no clock-seeded initialiser; matrices everywhere, also
//     1x1; a fixed number of rows, padded with rows of weight 0.
//   - Sums inside a graph are naive float32, so a batch has at most [MaxBatch] rows.
//   - Optimisers are ours: Gorgonia's keep their moments private and skip a parameter in silence.
package gorgonia
