// Package tail follows files that come and grow, for connectors whose sources are files or objects: a
// [Follower] reads what a [Store] lists, by name, one after another, as one partition.
//
// # What is read
//
// JSON lines, gzip or not (by the magic), and Parquet (by the name's ending). A file of csv is a dead letter
// and nothing more. Of a file that may grow lines are read as they come; a last line without its newline
// waits until that comes, or until it is a JSON object that has its end. Compressed files and Parquet are
// read once they are whole: where the store shows unfinished files, once two looks found the same size
// and time. A line of more than 16 MiB is passed over and becomes a dead letter, as does what gzip can't
// make sense of.
//
// A file that got shorter, or begins with other bytes than before, was truncated and written anew: it is
// read from its beginning. A file that was renamed or deleted is read to its end by the process that had
// it open, so that nothing is lost where logs are rotated; after a restart it is found again only if its
// new name is among those that are followed.
//
// # Order
//
// Files that are there are read whole in order of names, then what comes as it comes, in order of names
// within a look. So names should begin with a time, and writers that write side by side want an address
// each: the watermark is one for all files of an address.
//
// # The position, version 1
//
// A JSON object:
//
//	v      1; a reader refuses what is greater
//	mark   the last name that was begun
//	bytes  base64 of that name, only where it is no UTF-8
//	since  a time in milliseconds since 1970, by the store's clock
//	files  base64 of entries, an entry for each file that is known
//
// An entry is the file's identity (8 bytes, big endian), when it was last modified (varint, milliseconds),
// how far it was read (varint: bytes, after decompression, or rows of Parquet; -1 to the end), the length
// of a beginning (a byte) and, if that isn't 0, its FNV-1a hash (4 bytes, big endian). Varints are those
// of encoding/binary, signed.
//
// A file without an entry is new if its name is behind mark, or it was modified after since; it has been
// read if neither is so. Entries of files that were read to their end are kept for the 1,000 that were
// modified last, and since is the time of the newest whose entry was dropped. So a position takes about
// 20 KB at the most, however many files there were, and a name that sorts before those that were read
// is found as long as it was modified after the thousandth file before it. Two things follow:
//
//   - A file that is moved in under an earlier name and with an older time isn't read: touch it.
//   - A file that grows after a thousand others have been modified is read again from its beginning.
//
// # Errors
//
// A store that can't be reached is asked again at the next look, as long as it takes; the log has it. What
// waiting doesn't help, such as a permission that is missing, is an error.
//
// # Non-obvious
//
// A look lists all names while they are a thousand or fewer; of more it lists those behind the mark, and all
// at every thirtieth look. So an earlier name may be found that much later.
//
// Lag is an estimate: bytes by the mean length of the records so far.
package tail
