// Package faults runs the whole command against real servers that are killed, stopped, changed or gone,
// and looks whether what came in went out: every event is scored, by a process that goes on by itself
// where it can, and says why where it can't. It also accounts for each event of a stream with copies, late and
// malformed events and labels out of order, through a change of the use case and a replay, -events of them.
//
// # Non-obvious
//
// The command is this test binary again, as a process of its own: it is stopped by a signal, as people
// stop it, and its memory is its own.
package faults
