// Package dataflow runs graphs on Google Cloud Dataflow: it describes a job by the SDK's own library, checks what
// can be checked before anything starts, stages the graph and the worker, starts the job and watches it.
//
// Credentials are Google's default ones, and never options.
//
// Workers run in a container with Beam's boot, which fetches this executable: it is staged with each job.
// cmd/millrace/container has Dockerfiles, one from scratch, and what a flex template needs, whose launcher calls
// the verb template.
//
// # Drain
//
// A stream that is drained reads no more, lets the watermark go to the end of time, and ends when everything that
// was read is written. With on_stop=drain a run asks for that when it is stopped, and waits.
//
// # Pub/Sub
//
// Addresses of pubsub:// are read by Dataflow itself, see [Native]. It keeps and acknowledges messages, and drops
// copies by an attribute that the address names (id_attribute) within ten minutes of its own; the features' dedup
// goes by the event's id as ever. Its watermark goes by the attribute with the event's time (time_attribute), in RFC
// 3339 or milliseconds since 1970, which every message then needs, or else by when messages were published. Order by
// event time needs that attribute. By arrival nothing needs it, but where events are published long after their time
// files roll by each bundle.
//
// What Dataflow sees as the watermark no stage can: no event is a letter of class late. See package source.
//
// # Delivery
//
// State is exactly once; a bundle that failed is run again, and sinks see what it had sent before: they have to
// be idempotent.
//
// # Update
//
// With [Options].Update a job takes the place of the running one of its name and goes on from its state, which is
// found by the names of transforms. Names are stable: a golden test holds them, and names.json maps those that
// once had another. Besides names Dataflow compares coders: state of other features has another name, since the
// names of stages with state hold the fingerprint of what they keep.
//
// # Errors
//
// [Options.Validate] reports all faults of the options. [ErrFailed] wraps what made a job fail, [ErrCancelled]
// reports one that somebody ended.
//
// # Non-obvious
//
// The SDK's runner itself, package beam/runners/dataflow, takes its options from flags of the process, looks at
// the staging bucket even in a dry run, gives its description to the log alone, sleeps through a context that
// ends, and makes the staging bucket where there is none. This package goes by the library beneath it,
// dataflowlib, which has none of that; a test holds both descriptions equal.
package dataflow
