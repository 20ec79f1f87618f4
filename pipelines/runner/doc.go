// Package runner is the one door through which a graph reaches an engine: direct, in this process on
// one goroutine a stage, Prism, Beam's local portable runner, the default, a Flink cluster, or Dataflow.
//
// # Errors
//
// [ErrUnknown] for a name that is no runner. A failed job returns the runner's error.
//
// # Non-obvious
//
// Prism splits bundles that mix data and timers and then loses some, unless the experiment
// prism_disable_sdf_split is given: it always is. Its progress loop spins on a closed channel while a
// bundle that has given data goes on, which starves the many small calls of a stream on few cores: there a
// GOMAXPROCS of three times the cores gives the work its turns (on two cores p99 fell from 240 to 83 ms).
// Bounded jobs, whose bundles are large, lose a tenth of their speed and twice their memory by it.
package runner
