// Package local starts a Flink cluster on this machine, to develop against and to test faults with:
// JobManager, TaskManagers, Beam's job server, each a process of its own that listens on free ports of
// the loopback interface.
//
// [Up] installs what is missing and starts a cluster, which outlives its process unless it is tied to it.
// Any process finds it by its folder, by [Open]. [Cluster.Down] ends it. The Kill and Restart methods
// are the faults: kill -9, and the same ports again.
//
// # Installing
//
// Flink comes from PyPI, the job server from Maven, Beam's boot from its Go module, by the tools' own
// configuration, into the folder millrace/components of the user's cache, or into that which
// MILLRACE_COMPONENTS names. Java 17 must be there; pip, Maven and Go are needed once.
//
// # Environments
//
// Workers run as PROCESS: a TaskManager starts boot, boot a worker. With [Options].WorkerPool there is a
// pool for EXTERNAL as well. PROCESS is the better one here. The pool's port is fixed to 50000 and open to
// the network, so that a machine has one; it refuses the second of two workers of one id, and each
// TaskManager numbers its own from 1; and it leaves a zombie of each boot.
//
// # Errors
//
// [ErrMissing] for a program that the machine lacks, with what to do; [ErrRuns] for a folder whose cluster
// runs; [ErrNone] for one that has none. A server that doesn't start gives the end of its log.
//
// # Non-obvious
//
// Each process, and whatever it starts, carries the cluster's folder in its environment. This is how Down
// finds boot and workers that a killed TaskManager has left, and how a process id is known not to be that
// of another program by now. It is read from /proc: clusters are started on Linux only.
//
// Two boots on one machine fetch a worker's binary into the same file of /tmp, unless told otherwise. The
// cluster's boot runs each in a folder of its own; see package worker for who removes it. A boot that is ended
// before its worker runs leaves that folder, and a copy of the worker in /tmp: Down removes both.
//
// A pool outlives a TaskManager that is killed, and then refuses its successor's workers, which have the same
// names: start the pool again as well.
//
// The released job server of Beam isn't in every Maven repository; this one is assembled from the plain
// jars of Beam 2.70.
//
// A JVM that is started without Flink's shell scripts needs every figure of its memory in the settings.
package local
