// Package kinesis connects to Amazon Kinesis Data Streams.
//
//	kinesis://STREAM?parameter=value&...
//
// Parameters of all addresses:
//
//   - region=eu-west-1: the stream's; without it that of the environment
//   - endpoint=https://host:port: of another service than Amazon's, or of a private one
//   - profile=name: the profile of the shared configuration whose credentials to take
//   - access_key=...&secret_key=..., with session_token=... where it needs one: credentials, by reference in a
//     use-case file. Without them and a profile they come as for all of Amazon's tools: from the environment, the
//     shared configuration, a web identity, or the machine's role.
//
// and of sources:
//
//   - start=oldest (the default), newest, or a time as 2026-01-31T12:00:00Z: where reading begins in a shard
//     without a position. Newest is the service's time to a second, so that records of the second before may come.
//     A shard that the stream gains later begins at its oldest record, whatever start says of newest.
//   - on_expired=fail (the default) or oldest: what becomes of a position in a shard that the stream has forgotten
//   - poll=250ms: how often a shard is read. It allows five reads a second to all its readers together.
//
// Values are escaped as in any URL: a plus in a secret is %2B.
//
// # Delivery
//
// A shard is a partition; its positions are sequence numbers and the caller's: no table of leases is kept. Until a
// shard has its first record its position may be a time.
//
// When shards are split or merged, a new shard is read when all shards that it came of have been read to their end,
// as far as the same reader has them: the records of a key keep their order. The reader finds new shards when it next
// lists partitions, every 10 s; the shards that they came of hold back the watermark until then, for 30 s at most
// where their followers are another group's.
//
// Groups of partitions, as on a cluster, divide the keys: a shard is of the group that has the first of its keys. So
// what a shard is split into stays in its group, unless the shard reaches into the keys of the next. Where a new
// shard came of one of another group it is read beside what is left of that: the order is that of the watermark. A
// group whose keys all lie in a shard of another, as after many merges, ends, and its keys are the other's for good.
//
// A sink writes at most 500 records or 5 MiB in a request, eight requests side by side, of each key one record at a
// time: the records of a key arrive in the order of sending. What a shard refuses for being too busy is sent again,
// alone. A bundle that is retried writes its records again. A record's partition key is the event's id and the
// model's name.
//
// # Errors
//
// A stream that isn't there, may not be read, or doesn't answer is an error within seconds when a job starts; one that
// is deleted while a job runs fails it. Both ends wait for a service that is away or too busy: a source as long as it
// takes, a sink two minutes. A record that is larger with its key than the stream takes (1 MiB unless it was set
// higher) is rejected, and so is one that the service calls invalid, alone.
//
// # Metrics
//
//   - kinesis/behind_ms: after reads, how far the furthest shard was behind, in milliseconds: the lag where records
//     aren't counted
//   - kinesis/throttled_reads: reads that had to wait since a shard had too many, of whatever reader
//   - kinesis/expired_shards: shards that were passed over with on_expired=oldest
//
// # Non-obvious
//
// The service doesn't count records: the lag of a shard is 0 when it has no more, else unknown. So letters are read
// from a stream by a stream's replay input, not to an end.
//
// The service doesn't say whether records behind a position have expired while their shard is kept: reading goes on
// with the oldest that is left. Keep records (a day by default) for longer than a job may stand still.
//
// Records that Amazon's producer library has aggregated are not taken apart: they become dead letters. Set
// AggregationEnabled=false there.
//
// The place of a dead letter is a sequence number and a count of records behind it: sequence numbers have 186 bits.
package kinesis
