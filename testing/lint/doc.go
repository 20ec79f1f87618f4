// Package lint holds the rules of the repository that no linter knows, as tests: which package may
// import which, who reads the clock, what each package says of itself, and what the library exports.
//
// The exported surface lies in testdata/api.txt, so that every change of it shows in a review.
// After an intended one run
//
//	go test ./testing/lint -run TestAPI -rewrite
//
// # Non-obvious
//
// Everything is read with go/parser, never type-checked: the tests take a moment even where nothing has
// been built, and they see a file that does not compile, or that another platform builds. Imports are
// those that stand in the files; what they import in turn is checked at its own place.
package lint
