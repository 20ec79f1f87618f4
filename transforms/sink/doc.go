// Package sink publishes batches as files: JSON lines, CSV or Parquet, whole, once, or not at all.
//
// What an address stands for is decided by its scheme, which a connector registers: link the
// connectors that you use by importing them.
//
// # Delivery
//
// Bundles write staged chunks and a keyed last step publishes them: a reader never sees half a file,
// a bundle that is retried counts once, and a job that fails leaves the old output as it was. The
// order of rows is that of the chunks by their first event's time; a single bundle keeps its order.
//
// # Errors
//
// A target that can't be written (a full disk, no permission) fails the job with an error that
// names the target without secrets. [Check] finds most of that before a job starts, [Sweep] clears
// what a job that failed has staged. Files refuse no single event: the letters that [Write] returns
// come from sinks that do.
//
// # Metrics
//
//   - sink/written: events encoded into chunks (attempts that failed included)
//   - sink/dropped: events that When left out
//
// # Non-obvious
//
// A bundle encodes in goroutines and writes in order, since the direct runner has one thread. A
// batch belongs to its receiver, so it may be read after ProcessElement has returned.
//
// FinishBundle emits in the global window at time 0 whatever the window of the rows, so the chunks'
// names go there too; sinks of windows need another step.
package sink
