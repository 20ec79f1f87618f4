// Package spec reads a use-case file: the one YAML file from which Millrace builds its graphs.
//
// Load gives a UseCase whose methods are the Params of the transforms: Decode, Features, Outputs,
// Candidates. The grammar is declared once, in grammar.go: name, type, doc, default, bounds and example
// of every key. Decoding, lint, REFERENCE.md and schema.json (for editors) all come from those
// declarations; `go generate` writes the latter two and a test holds them fresh.
//
// Decoding is strict and complete. An unknown key, a wrong type, a value out of bounds, an expression
// that does not type-check: each is a Fault with file, line, column and field path, and a file with ten
// faults gives ten of them.
//
// Secrets are Refs: `${env:NAME:-default}` and `${file:PATH}` stay as they are written until Resolve is
// called where the value is used, so that no graph, log or error carries a secret.
//
// # Errors
//
// Load returns Faults for a file that was read and is wrong, ErrNotFound where there is no such use
// case, and any other error where reading failed.
//
// # Non-obvious
//
//   - Fields and features share one name space, and an entry sees what stands above it: checking runs in
//     the order of the file. A name that a faulty entry would have given is still known below it, so that
//     one fault does not give ten messages.
//   - YAML reads 2018-06-20 as a timestamp and 7d as a string; dates and durations are therefore parsed
//     from the text of the scalar, quoted or not.
//   - The kinds of candidates and their parameters are checked against the kinds that the binary links
//     (models.Register). A binary that links none checks none.
package spec

//go:generate go test . -run ^TestGenerated$ -rewrite
