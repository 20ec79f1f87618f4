// Package stdio connects to standard input ("-" or "stdin:" as a source) and standard output ("-"
// or "stdout:" as a sink; "stderr:" too).
//
// Input is read once, by one worker of this process; gzip is recognised. Output is staged and
// written at the end, in one go; a stream without an end writes lines, as its bundles end.
//
// # Errors
//
// Input that was read can't be read again: a runner that retries gets [ErrConsumed].
package stdio
