// Package names keeps the names of a graph's transforms the same from one build to the next. Flink finds the
// state of an operator by the name of its transform, and Dataflow updates a running job by it.
//
// # Non-obvious
//
// The SDK names the parts of a Reshuffle, and of a CoGBK of several inputs, by the number of their edge in the
// whole graph, as Reshuffle/e12_gbk: one transform more anywhere before them, and a job can't be updated, though
// nothing else of it has changed. [Settle] takes the numbers out.
package names
