// Package staged publishes files whole, once, or not at all, from bundles that may fail and be
// retried. It is what sink and deadletter share.
//
// Each bundle writes chunks, `_staging/<target>/<run>/<random>` beside the target, makes them durable
// and emits their names. A GroupByKey gathers the names, and one commit step sorts the chunks (by
// their first event's time, then by name), joins them and puts them in place. Chunks of attempts
// that failed were never named to the commit, so they count for nothing; the last step sweeps them.
//
// A target that is one file is replaced in one step. A folder gets part-00000-of-0000n files and,
// last, `_manifest.json`; the old manifest goes first, so a folder with a manifest is whole:
//
//	{"v":1,"run":"...","rows":3,"parts":[{"name":"part-00000-of-00001.jsonl","rows":3,"bytes":99,"sha256":"..."}]}
//
// # Streams
//
// Without an end there is no one commit: [Roll] gathers the names by windows of event time, by the
// timestamps of the elements that the chunks hold, and commits a window when the watermark has passed
// it, as `<window>-<part>-of-<parts>-pane<i>`, the window being its start. What comes later gets files
// of its own, pane 1 and on: late chunks are never dropped. A repeated commit of a pane replaces its
// files, and takes away those that it has no longer; the list of them, and of the chunks, is a receipt
// in `_staging/<target>/committed/`, written before the first file. Chunks outlive their commit, since
// a checkpoint may name them: a commit sweeps those of receipts that its process has known for
// Stream.Keep. Chunks of bundles that failed stay until [Stage.Sweep].
//
// A stream's chunk is held in memory until its bundle ends, or 16 MiB, so that it can be written again:
// where a store is full or away, chunks and commits are tried again for Stream.Patience. The receipt and
// the joined files of a try that failed are replaced and deleted by the next.
//
// A runner keeps the number of panes of every window, for ever: some 100 bytes a window.
//
// # Errors
//
// A store that refuses (full, read-only, gone) is an infrastructure fault: the error says which
// target, and nothing was published. What driver.IsTransient knows is waited for in streams first. A chunk that a commit misses was swept by another run that
// published to the same target.
//
// # Non-obvious
//
// Names of chunks are random since a content-derived name fails: a retried bundle is cut
// differently. In a stream a file that stays open across bundles fails as well: it loses rows behind a
// checkpoint. Triggers by processing time or size need no windows, but a runner that is set back then
// cuts panes anew, and rows come twice; the rows of a window's first pane are always the same.
//
// Prism fires a window once for the watermark and then for every late chunk, with the pane counted
// (TestAStreamRollsFiles of package sink). Chunks are deleted behind a Reshuffle, not in the commit: a runner that repeats the
// commit must still find them.
package staged
