// Package runner is the one door through which a graph reaches an engine: direct, in this process on
// one goroutine a stage, or Prism, Beam's local portable runner, the default.
//
// # Errors
//
// [ErrUnknown] for a name that is no runner. A failed job returns the runner's error.
//
// # Non-obvious
//
// Prism splits bundles that mix data and timers and then loses some, unless the experiment
// prism_disable_sdf_split is given: it always is. Its progress loop spins on a closed channel, which
// starves the work on few cores; a higher GOMAXPROCS gives the work more turns.
package runner
