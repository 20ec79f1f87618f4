// Package memory is topics in memory, for tests: sources and sinks of the address memory://NAME. A test
// appends records while a graph follows them, and so decides what comes when.
//
// A topic is there from [New] to the end of the test. Its positions are counts of records. What is sent
// to it is appended to its first partition, or to that which memory://NAME?partition=PARTITION names.
//
// # Errors
//
// A topic or partition that isn't there, and a position that no poll gave, is an error, as of a broker.
package memory
