package spec

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNotFound reports a use case that is neither built in nor a file.
var ErrNotFound = errors.New("no such use case")

// Fault is one thing wrong with a use-case file.
type Fault struct {
	// File is the file's name, or "--set PATH" for a value given by flag.
	File string
	// Line and Col count from 1; both are 0 for a value given by flag.
	Line, Col int
	// Path is the field path: features[3].windows[0].
	Path string
	// Message says what is wrong.
	Message string
}

// String is "fraud.yaml:12:5: features[3].windows[0]: message".
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Error is String.
func (f Fault) Error() string { return f.String() }

// Faults are all the faults of a file, in its order.
type Faults []Fault

// Error is a line a fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, x := range f {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}
