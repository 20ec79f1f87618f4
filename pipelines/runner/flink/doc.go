// Package flink runs graphs on a Flink cluster: it sends a graph to Beam's job server with the options that
// the SDK's own runner can't give, and watches the job by Flink's REST interface.
//
// A cluster needs Beam's Flink job server (beam-runners-flink-<version>-job-server), and beside each
// TaskManager Beam's boot: as a pool of workers (EXTERNAL), or as a program (PROCESS). What workers run is
// this executable, which is sent with each job.
//
// # Delivery
//
// State is exactly once, sinks see again what came after the last checkpoint: they have to be idempotent.
//
// # Errors
//
// [Options.Validate] reports all faults of the options; an address that answers nothing, or the wrong
// thing, too few slots, a job server of another version of Beam, state of another meaning ([ErrState]), and a
// missing pool beside a TaskManager on this machine are errors before anything starts. [ErrFailed] wraps what
// made a job fail, at its root; [ErrCancelled] reports one that somebody else ended; [ErrGoesOn] stands in each error
// after which the job may go on. A job that fails in a way that a restart doesn't mend is cancelled, and so is a
// bounded one that was started again and failed with the same error of a Go worker. A stream outlives checkpoints
// that fail: [Detail].Trouble says why they do and what to do.
//
// # Non-obvious
//
// Bundles end before each checkpoint (finish_bundle_before_checkpointing): else what a stage gives at its end
// waits for the stage's next bundle, which a source's shard never gets.
//
// By default the runner lets a stream fail with a checkpoint: on a full disk it would start again, and replay, as
// often as a checkpoint is due (fail_on_checkpointing_errors=false). Flink's history of checkpoints says that one
// failed, and not why; one that is asked for by REST says it.
//
// parallelism must be a number. As text the worker can't read it and ends; its job waits for ever.
//
// A stream whose sources have ended goes on on Flink, since sources that shut down would end its
// checkpoints. Wait sees the watermarks at the end of time, lets two more checkpoints complete, before which
// all bundles end, and cancels.
//
// Flink names the operator at the head of the graph, which keeps whether it has given its one element, by a
// hash of how it is chained. With a parallelism of 1 it would be chained to the next one, with more it can't be:
// a savepoint of one subtask would fit no job of two. So a stream of one subtask is not chained.
//
// The runner names a stage by the collection that it reads and the kind of the environment: with another
// environment a job doesn't find the state of a savepoint either.
//
// Flink places the readers of a stream by a hash of the element that each begins with: package source salts them for
// max_parallelism, so that each has a subtask of its own. Those of a savepoint stay where its elements put them.
//
// What the job server says of a job's failure may be wrong: it loses sight of one whose JobManager starts
// again. Wait believes the cluster.
//
// A worker of the SDK whose runner is gone sleeps for ever, and so does boot: package worker ends both.
package flink
