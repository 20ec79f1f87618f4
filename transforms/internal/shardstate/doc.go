// Package shardstate keeps the contents of a stage's shards in a runner's state as logs of changes,
// and the same contents ready for use in the process.
package shardstate
