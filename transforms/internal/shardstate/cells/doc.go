// Package cells keeps a shard's state, as package shardstate wants it, in cells of a Beam DoFn: a value for the
// head, and a bag for each log, which are fields of the DoFn itself.
package cells
