// Package shardstate keeps the contents of a stage's shards in a runner's state as logs of changes,
// and the same contents ready for use in the process. Features, dedup and the join of labels share
// it: each brings a [Machine], and a DoFn that lends its state cells as [Cells].
//
// A call of [Store.Do] reads the head, a small value with a random token. If the process-wide cache
// holds the shard's machine with that token, it is up to date; else it is made again from the log.
// The owner's code changes the machine and says what it did in a delta, which is appended to the log,
// and the head gets a new token. All of it stands or falls with the bundle.
//
// # Compaction
//
// When the active log exceeds max(trigger x live bytes, 1 MiB) a compaction begins. From then on each
// call also writes to the other log: first its delta, then some live entities, as they are after it:
// at least 256 KiB, at least two bytes for each of the delta, and as much as the call has let the
// machine grow, so that the copy ends. When all are there, a mark says so, the other log becomes the
// active one and the old one is cleared. No call pauses for the whole shard, and none reads a clock.
//
// With d bytes of delta an event, trigger f and r copied bytes a byte of delta, d x (1 + (1 + 1/r) /
// (f - 1)) bytes are written an event: about 50 for 24 with the defaults.
//
// A rebuild that finds a compaction running reads the active log; the next call that changes
// something clears the other log and begins to copy again. The first trigger of a machine is lower,
// by an amount that depends on the shard, so that equal shards do not copy all at once.
//
// # State format, version 1
//
// The head is an int64. Bit 0 is the active log, bit 1 is set while a compaction runs, the other 62
// are the token of the call that wrote it, random and never used twice. A shard without a head is
// empty.
//
// Log 0 and log 1 are bags of byte strings, in order. Numbers are little endian; checksums are
// CRC-32C. The first record of a log is its header:
//
//	"MRSS" | version u8 = 1 | form u8 | S u32 | shard u32 | fingerprint | checksum u32 of all before
//
// The form is 'p', plain, for the log that a shard begins with, and 'c', copy, for all others. Every
// other record has at most 1 MiB:
//
//	checksum u32 of all after | token u64 | number u32 | last u8 | body
//
// The token is that of the call that added the record; the last record of the active log has the
// head's. Records are numbered from 0 in each log. The bodies of one call's records, joined, are a
// sequence of parts; last is 1 in the call's last record and 0 in those before it.
//
//	kind u8 | length u32 | payload
//
// Kind 'D' is a delta. 'E' is what one call of Copy appended, 'C' is empty and says that the copy is
// complete; both are found in a copy only, C once. Before C a delta changes only the entities that
// were copied before it, for all others show it already when they are copied; after C, and in a plain
// log, it also creates entities. A copy is active only with its C. Payloads are the machine's: their
// format is bound by the fingerprint.
//
// A reader takes the versions it knows. testdata holds states of every version, which stay readable.
//
// # Errors
//
// [ErrForeign]: the header names another fingerprint, S, shard or version. [ErrCorrupt]: a record is
// damaged or missing, head and log are of different calls, or the machine can't replay a delta.
// [ErrFull]: more than [LimitBytes] live in a shard. A retry meets these again, so the job should end.
// Everything else is apply's error, returned as it is, or a fault of the runner, after which the
// bundle fails and is tried again.
//
// # Metrics
//
// None of its own. [Store.Stats] has the figures; OverWarn above 0 is worth a warning.
//
// # Non-obvious
//
// Tokens are random and not a counter: after a rollback a counter repeats over other contents. The
// same process may come back with its cache ahead of the restored state, and only the token tells.
//
// An entry leaves the cache before it is changed and returns after the last write. So an error or a
// panic leaves nothing behind, and a second call on the shard finds nothing to share.
//
// The cache has room for every shard of the stage, so it can't thrash. A shard that moves to another
// process leaves its machine behind until it returns or the store is closed.
//
// The last Close drops the machines, and every shard is then rebuilt. A DoFn whose instances may all
// be torn down between bundles needs someone else in the process to hold a reference.
//
// The token in each record and its number are not needed in order to replay. They turn what a runner
// may not do, to lose, repeat or reorder records of a bag or to restore head and log apart, into an
// error with a name instead of contents that are slightly wrong.
//
// A machine that is being replayed from a copy holds a hot entity in part, and may believe that it is
// empty when rows that are not yet copied are all it has. If it drops the entity then, Load must make
// it again from the next part, and must not take deltas in between for the beginning of a new one:
// those do not create.
//
// One rebuild runs at a time in a process: a runner hands out a log in one piece, which is held
// several times over while it is received and decoded.
package shardstate
