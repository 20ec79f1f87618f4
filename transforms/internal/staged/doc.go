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
// # Errors
//
// A store that refuses (full, read-only, gone) is an infrastructure fault: the error says which
// target, and nothing was published. A chunk that a commit misses was swept by another run that
// published to the same target.
//
// # Non-obvious
//
// Names of chunks are random since a content-derived name fails: a retried bundle is cut
// differently. Chunks are deleted behind a Reshuffle, not in the commit: a runner that repeats the
// commit must still find them.
package staged
