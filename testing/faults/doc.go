// Package faults runs the whole command against real servers that are killed, stopped, changed or gone,
// and looks whether what came in went out: every event is scored, by a process that goes on by itself
// where it can, and says why where it can't. It also accounts for each event of a stream with copies, late and
// malformed events and labels out of order, through a change of the use case and a replay, -events of them.
//
// On a Flink of real processes, with checkpoints and state of its own, tests have flags that let them do more than
// there is time for every day:
//
//   - TestFlink: what is killed in the middle (-flink taskmanager,worker,jobmanager,broker,jobserver), of how many events;
//     and with state on disk
//   - TestFlinkResume: from savepoint to savepoint with other numbers of subtasks (-flink-resume 1,2,4,2,1)
//   - TestFlinkBounded: all rows of the handbook's table on three runners (-flink-all)
//   - TestFlinkSoak: memory and state of a job whose TaskManagers are killed in turns (-flink-soak 30m)
//   - TestFlinkScale: cost, checkpoints and restart with the state of many entities (-flink-entities 10000000), with what options
//     (-flink-scale-options state_backend=rocksdb,shards=32)
//
// # Non-obvious
//
// The command is this test binary again, as a process of its own: it is stopped by a signal, as people
// stop it, and its memory is its own.
package faults
