// Package cases runs a use case's own tests: each case's events pass, from empty windows, through the
// transforms that serve, on the direct runner in this process, and what comes out is laid beside what
// the test file expects.
//
// # Errors
//
// [Run] returns an error where a case could not run: a model that is not there, a registry that can't be
// reached. What differs from expectations is no error but a [Mismatch]; all of them are reported.
//
// # Non-obvious
//
// Scores that a case gives by event id pass through the real predict stage: their scorer has the event's
// id for its only input, as a category of which every id of the case is a value.
package cases
