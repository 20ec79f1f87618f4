// Package connect says how sources and sinks are addressed. Its sub-packages are the connectors, one
// a system: a binary links those that it imports.
//
// An address is a URL, a plain path (the scheme "file"), or "-" (standard input or output).
//
// # Non-obvious
//
// An address may hold secrets: a password before the host, a token in the query. Drivers get it
// whole; whatever a person may read (errors, dead letters, logs) goes through [Redact] or [Scrub].
package connect
