// Package registry keeps versions of models in a blob store, with aliases that say which version
// serves and a history of who moved what and why.
//
// # Layout
//
// Everything of a model lies below its name:
//
//	fraud/claims/0000000007.json             {"version": 7, "time": ...}
//	fraud/versions/7/manifest.json, ...      a bundle, see package bundle
//	fraud/aliases/champion/0000000003.json   {"version": 7, "previous": 6, "digest": ..., "who": ..., "why": ..., "time": ...}
//
// A claim reserves a number before anything of the version is written. A version is there once its
// manifest is; what a writer that died left behind is ignored, and its number is never used again.
// An alias is the record with the highest number in its folder; version 0 means that the alias was
// removed. Nothing is ever overwritten or deleted, so the records are the history. A rollback is a
// record too, with "rollback": true: it takes the alias one step back on the way it came, so that two
// rollbacks go two steps back and never forward to what was rolled back from.
//
// # Concurrency
//
// Claims and alias records are created only if absent, which every store does atomically. So two
// writers never get one version, and of two that move an alias from the same state exactly one wins;
// the other gets [ErrConflict]. Readers need no lock. Any number of processes may share a registry.
// One that follows an alias asks whether the record after the one that it knows is there: one request.
//
// # Errors
//
// [ErrNotFound] when a model, version or alias is not there, [ErrConflict] when an alias was moved
// meanwhile, [ErrReadOnly] when writing without a clock, and those of package bundle for what it
// refuses. Each message says what to do next.
//
// # Non-obvious
//
// gocloud.dev's fileblob offers a conditional write but checks and renames under a mutex of the
// single writer, so two writers of one file can both succeed. On a file system this package links a
// finished temporary file to its name instead, which the kernel does for one of them only. That
// needs a file system with hard links, and [Open] rather than [New]. Its List also fails when a
// temporary file of another writer goes away during the walk, so folders are read directly.
//
// [Registry.Follow] looks for the next record only, so it does not see that somebody deleted one by hand,
// until the alias has moved beyond it.
//
// A version has its number in its manifest and its digest covers every byte, so a [Ref] with a
// digest, travelling in a graph, names the same model wherever it is loaded.
package registry
