// Package kafka connects to topics of Apache Kafka, and of what speaks its protocol.
//
//	kafka://host:port[,host:port...]/topic?parameter=value&...
//
// A port that is left out is 9092. The hosts are those that are asked for the others. Parameters of
// all addresses:
//
//   - tls=true: encrypt, and check the broker's certificate by the machine's roots (SSL_CERT_FILE adds
//     others)
//   - sasl=plain, scram-sha-256 or scram-sha-512, with user=... and password=...
//
// and of sources:
//
//   - start=oldest (the default), newest, or a time as 2026-01-31T12:00:00Z: where reading begins in
//     a partition without a position. A partition that the topic gains later begins at its oldest
//     record, whatever start says of newest.
//   - on_expired=fail (the default) or oldest: what becomes of a position whose records the broker has
//     deleted, or never had.
//   - group=name: commit positions there, for displays of lag
//
// Values are escaped as in any URL: a plus in a password is %2B.
//
// # Delivery
//
// A source's positions are the caller's: no group of consumers is joined, and nothing that is
// committed is read back. Commits are made once a second and at the end, of what the caller had polled
// before its last poll, as far as the broker takes them. Aborted transactions are not read.
//
// A sink writes with an idempotent producer, acknowledged by all replicas in sync; a bundle that is
// retried writes its records again. A record's key is the event's id and the model's name, so that
// its copies meet in one partition, in the order of sending. Its timestamp is the time of sending, not
// that of the event: brokers delete by timestamps.
//
// # Errors
//
// A topic that isn't there, or a broker that doesn't answer, is an error within seconds when a job
// starts. From then on both ends wait for a broker that is away: a source as long as it takes, a sink
// two minutes. A topic that was deleted, or made anew, while it is read is an error.
//
// A record that is larger than the topic's max.message.bytes, with the batch's head, is rejected.
//
// # Metrics
//
//   - kafka/expired: offsets that were passed over with on_expired=oldest, since the broker has deleted
//     their records; 1 for a position that the partition never reached
//
// # Non-obvious
//
// A partition's name is topic/number, without the brokers, so that positions outlive a move to others.
//
// The first poll tells where partitions without a position begin, in chunks without records: with
// start=newest a job that ends before the first record comes back to the same place.
//
// Batches are compressed with snappy: of lines of payments it leaves 28 % for about 0.2 us of processor
// time a record at the sender and 0.05 us at the reader. lz4 leaves as much and costs twice the time,
// zstd leaves half of that for three to four times.
package kafka
