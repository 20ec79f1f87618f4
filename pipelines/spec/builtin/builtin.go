package builtin

import (
	"embed"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Names lists the built-in use cases, sorted.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // an embedded folder can be read
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".yaml"); !strings.HasSuffix(name, "_test") {
			names = append(names, name)
		}
	}
	return names
}

// Text is the file of a built-in use case. The caller owns it.
func Text(name string) ([]byte, bool) {
	if strings.ContainsAny(name, "/\\") || strings.HasSuffix(name, "_test") {
		return nil, false
	}
	b, err := files.ReadFile(name + ".yaml")
	return b, err == nil
}

// Tests is the test file of a built-in use case. The caller owns it.
func Tests(name string) ([]byte, bool) {
	if _, ok := Text(name); !ok {
		return nil, false
	}
	b, err := files.ReadFile(name + "_test.yaml")
	return b, err == nil
}
