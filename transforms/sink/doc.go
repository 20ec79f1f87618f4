// Package sink writes batches: as files (JSON lines, CSV or Parquet), or row by row as JSON records to
// a target that takes records, such as a topic.
//
// What an address stands for is decided by its scheme, which a connector registers: link the
// connectors that you use by importing them.
//
// # Delivery of files
//
// Bundles write staged chunks and a keyed last step publishes them: a reader never sees half a file,
// a bundle that is retried counts once, and a job that fails leaves the old output as it was. The
// order of rows is that of the chunks by their first event's time; a single bundle keeps its order.
//
// With [Params.Stream] a folder gets a file for every minute of event time or what Roll says, whole
// and once, when the watermark has passed it; late rows get files of their own. A runner that is set
// back to a checkpoint replaces what it publishes again. The end of the stream publishes all.
//
// A chunk of Parquet holds the rows as they are; what publishes chunks makes one file of them, with
// row groups as large as the rows allow and one dictionary for all. A file a chunk would be thousands
// of small ones, and footers can't be joined by their bytes.
//
// A stream whose disk is full, or whose store does not answer, waits and tries again, for ten minutes or
// what Patience says; nothing half-written is published meanwhile, and the source is held back. A
// bounded run fails at once, and can be run again.
//
// # Delivery of records
//
// At least once: a bundle begins to send its rows as they come and ends when the target has taken all
// of them; a bundle that fails sends them again. A record's key is "<event id>:<model>", the model
// without its version, or the event's id where rows have no column "model"; so a target that keeps
// one record a key keeps one an event and model, also when a replay scores with a newer version. At
// most 65,536 rows or 32 MiB are under way a worker thread, then the bundle waits.
//
// # Errors
//
// A target that can't be written (a full disk, no permission, no broker) fails the bundle with an
// error that names the target without secrets, in a stream only after some patience: see above for
// files; the drivers of records know best what is worth waiting for, and their docs say how long. [Check] finds most of that before a job starts, [Sweep]
// clears what a job that failed, or a stream that has ended, has staged. Records that a target refuses come back from [Write] as
// letters of class sink, with the record as their original; files refuse none. A stream to a single
// file is refused by Validate; standard output takes lines.
//
// # Metrics
//
//   - sink/written: events encoded into chunks, or taken by the target (attempts that failed included)
//   - sink/refused: records that the target refused
//   - sink/dropped: events that When left out
//   - staged/retried: tries of a stream that a full disk or an absent store refused
//
// # Non-obvious
//
// A bundle of files encodes in goroutines and writes in order, since the direct runner has one thread.
// A batch belongs to its receiver, so it may be read after ProcessElement has returned.
//
// FinishBundle emits in the global window, whatever the window of the rows, so the chunks' names go
// there too, with the times of their rows; a stream puts them into windows behind it.
//
// On Prism a stage without an output spins while its bundle runs, and a target is waited for in a
// bundle: so the sending step gives receipts, which a last, tiny step takes behind a Reshuffle. Rows
// themselves don't cross it. Two seconds of waiting cost 0.03 s of CPU, and 0.1 s without that step.
//
// Prism tears no DoFn down: a sender lives as long as the process.
package sink
