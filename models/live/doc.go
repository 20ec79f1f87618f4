// Package live serves the version to which an alias points, however it moves, while others score.
//
// [Open] loads the version and returns a [Handle]; [Handle.Acquire] returns the one that is current, by
// one atomic load. Behind all handles of the same [Params] in a process stands one poller. When the
// alias has moved it loads the new bundle, checks it (digests, golden scores, fingerprint) and scores
// with it once, all beside the scoring, and only then swaps one pointer.
//
// A scorer keeps the [Version] that it acquired for as long as one batch takes, and says with every
// prediction which it was. The version that was swapped out is dropped by the garbage collector once
// nobody holds it: there is nothing to release, and no batch ever waits.
//
// # Refusals
//
// A bundle that is corrupt, reads other features, or is of a kind that is not linked, is refused once
// and reported, and the last good one goes on serving. It is looked at again when the alias moves
// again, to the same version if need be: promote it once more after mending it. Where nothing serves
// yet, Open goes back along the way the alias came (see registry.Registry.Trail) to a version that is
// good, so that a worker that starts afresh serves what the others serve.
//
// # Registry out of reach
//
// What is loaded goes on serving; the poller reports it, and tries again with each poll.
//
// # Lifetime
//
// The poller ends with the last handle, or when nobody has acquired a version for 360 polls (an hour by
// default), because some runners never tear a DoFn down. In that case the next Acquire returns what was
// served last and starts it again.
//
// # Errors
//
// Open returns registry.ErrNotFound if the model or the alias is not there, the refusals if no version
// is good, and the store's error if it can't be reached. With Params.Optional it returns none of them:
// then Acquire returns nil until there is a version.
//
// # Metrics
//
// [Handle.Take] counts swaps, refusals and failed polls; [Options] has a callback and a log for the same
// events.
//
// # Non-obvious
//
// A poll that finds nothing costs one request for an object that is not there. Polls are spread by a
// quarter of their interval to either side, so that the workers of a job don't ask in step.
//
// Time comes from the channel that waits for the next poll: the package reads no clock.
package live
