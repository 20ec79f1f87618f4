// Package keygroup chooses the keys of shards so that a runner spreads them evenly over its subtasks.
//
// Flink puts a key into one of max_parallelism groups by a hash, and gives each subtask a range of groups.
// Plain keys of 8 shards come to 1, 2, 5 and 0 for 4 subtasks. [Keys] gives each shard's key a number behind
// its name with which it falls into a group of its own, as far from the others as can be. Runners that hash
// otherwise find keys that are as good as any.
//
// # Non-obvious
//
// A wrong hash is slower and never wrong: the key says its shard by itself. The hash is that of Beam's Java
// runner 2.70 for Flink; older ones take a Java hash of the key's bytes.
//
// State is kept by key: keys must be the same for the life of the state, and so the number of shards and of
// groups.
package keygroup
