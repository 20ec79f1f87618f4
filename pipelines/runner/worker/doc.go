// Package worker is the life of a process that works for a runner: it serves the runner, and ends with
// it.
//
// A runner's machine starts Beam's boot, which fetches this binary, starts a copy of it, and waits. None
// of the three notices by itself that another has gone: left alone, a worker and its boot outlive their
// job. [Run] ends both when the runner no longer listens, and the worker alone when boot is gone.
//
// # Non-obvious
//
// A worker whose control stream ended well sleeps for ever (SDK harness/init), and boot never ends its
// child.
//
// Boot whose logging stream is broken hangs for ever as soon as it logs: Logger.Log, while it holds its
// lock, reports that it couldn't send by log.Println, which boot has led to the same logger. It logs when
// its worker has ended; so a worker that loses its runner must end boot before itself.
//
// A runner may end boot while the worker that boot has started is still starting, and Flink's TaskManagers
// go on listening for workers of jobs that have ended: a worker that finds init in boot's place ends.
//
// Boot is asked to end, not killed: as the first process of a container it can't be killed from within.
//
// Boot copies each worker's binary to a folder /tmp/bin* and leaves it there. A running program doesn't
// need its file: the worker removes it at once.
//
// A boot that runs in a folder of its own, which is its semi_persist_dir too, keeps there nothing but
// what it fetched: the worker removes the binary at once and the folder at its end. It holds the
// pipeline's options, secrets included.
package worker
