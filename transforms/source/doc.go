// Package source reads events: it lists what addresses name, splits it into ranges, and decodes
// where it reads, so that only batches and dead letters leave it.
//
// What an address stands for is decided by its scheme, which a connector registers: link the
// connectors that you use by importing them. A plain path is "file", "-" is standard input.
//
// # Time and order
//
// A batch has the timestamp of its earliest event. Events come in the order of their bytes within a
// range and in none between ranges.
//
// # Delivery
//
// Every record is emitted exactly once by a bundle that succeeds, whatever the sizes of ranges: a
// line belongs to the range that its first byte is in. Ranges are read again after a fault.
//
// A source that keeps no positions, as Pub/Sub, is told what has landed, in the same process: sinks have
// it, or letters of it are written. Such followers stay open until that is told of all that they gave.
//
// # Runners that read themselves
//
// With [Stream.Native] a runner reads some addresses by a transform of its own, as Dataflow does Pub/Sub, and what
// it gives is decoded in a stage. Nothing is lost or acknowledged too early: the runner says what is durable. Its
// watermark takes the place of this package's, which nobody but the runner can see:
//
//   - Nothing is found late: lateness is the runner's. By arrival each event is scored as it comes; in the order
//     of event time one that comes behind the watermark goes with the next that pass, and counts as a violation of
//     the features' frontier.
//   - Alignment, Idle, Linger, Credit and Groups mean nothing; Until and IdleTimeout are refused: drain the job.
//   - A place of a dead letter has no offset.
//
// # Labels
//
// With [Params.Labels] labels are read beside the events, and come out apart. Their event time is that from
// which they are known. In a stream they are partitions like others: they hold the watermark, are paused
// when they are ahead, and come too late or not by the same rule; a topic of labels that is silent holds
// nobody for longer than [Stream.Idle]. Reading never waits for labels while events come.
// Labels of a source that is told what has landed are acknowledged as soon as they go on, or with their letters:
// the state that they go into ends with the process.
//
// # Dead letters
//
// [Letters] reads envelopes to an end; [ReadAll] reads them beside the events of a stream. Logs of letters
// are partitions of the same restriction, since Prism mixes up the watermarks of several: they never hold or
// move the watermark, and a stream whose events have ended ends once their letters are read.
//
// # Errors
//
// What can't be opened or read is an error that names it without secrets; [Check] finds most before
// a job starts. Records that can't be decoded are dead letters, never errors.
//
// # Metrics
//
//   - source/read: events emitted
//   - source/labels: labels emitted, in streams
//   - source/bad: records that became dead letters
//   - source/blank: blank lines skipped, and records without a value
//   - source/skipped: changes of a database that are no events, see decode.Changes
//
// # Non-obvious
//
// One splittable DoFn serves all drivers, bounded ones first. Its restriction is a range of the
// driver's positions, cut small before reading; in the middle of reading a range is never split, since
// the decoder works ahead on both cores: the tracker claims a range whole.
//
// Splittable DoFns run on the direct runner too, which cuts restrictions and reads them in turn. On
// Prism pass --experiments=prism_disable_sdf_split (github.com/apache/beam issue 35771).
package source
