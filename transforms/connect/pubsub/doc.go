// Package pubsub connects to Google Cloud Pub/Sub.
//
//	pubsub://projects/PROJECT/subscriptions/NAME?parameter=value&...   a source
//	pubsub://projects/PROJECT/topics/NAME?parameter=value&...          a sink
//
// or short pubsub://PROJECT/NAME for both. Who connects is told by Google's default credentials, never by an
// address. Parameters of all addresses:
//
//   - emulator=host:port: an emulator, without credentials; the environment's PUBSUB_EMULATOR_HOST does the
//     same for all addresses
//
// of sources:
//
//   - max_messages=200000, max_bytes=536870912: what may be under way, read and not yet acknowledged. Events
//     that wait for the watermark are under way: it takes more than their rate times the lateness.
//   - id_attribute=id, time_attribute=event_time: for a runner that reads Pub/Sub itself, as Dataflow does: the
//     attributes of a message by which it tells copies, and by which its watermark goes. Others ignore them.
//
// and of sinks:
//
//   - order=key: the value of that key of the record is the message's ordering key
//
// # Delivery
//
// On Prism a source acknowledges messages, 500 at most together, when all that came of them has reached an end: sinks
// have taken, refused or left out every score, files that hold them are published, and letters of what is
// late, a duplicate or no event are written. Until then their deadline is extended. A process that is killed
// leaves its messages to the next one after 30 s, one that fails or is canceled at once; a stream that is
// asked to stop finishes and acknowledges what it has read. So each message is scored at least once; copies
// fall to the features' dedup, as far as one process has seen both.
//
// A sink's message has the record as its data and two attributes: id, the event's id and the model's name as in
// package sink, by which readers can tell copies (Dataflow: withIdAttribute), and event_time, RFC 3339.
//
// # Time
//
// A subscription is one partition, whose watermark follows the newest event. Pub/Sub promises no order: what
// waits in this process is read in the order of publishing, but a backlog may come in any, and what was given
// back comes again behind newer events. The lateness has to cover both, or they are letters of class late. A
// subscription with message ordering gives each ordering key in order.
//
// # Errors
//
// A subscription or topic that isn't there, pushes its messages elsewhere, or may not be read or written, is an
// error when a job starts, as far as the role allows to ask; deleted while a job runs it fails the job. Both
// ends wait for a service that is away: a source as long as it takes, a sink two minutes.
//
// A record that is too large for a request (10 MB), or that the service calls invalid, is rejected, alone: a
// request that is refused for one of its records is sent again record by record.
//
// A source that may take no more messages and for ten minutes sees none come to an end is an error.
//
// # Non-obvious
//
// What has landed is known within the process alone: source and sinks run in the same one, as on Prism. Events
// need an id, by which their ends are told. On Dataflow this package reads nothing: the address becomes the runner's
// own read, which says itself what is durable.
//
// Lag is not known, so letters are read from a subscription by a stream's replay input, not to an end.
//
// Google's client bounds callbacks, not what is unacknowledged, on its side: the callback waits for room.
package pubsub
