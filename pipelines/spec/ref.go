package spec

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Ref is a string that may hold references to secrets: ${env:NAME}, ${env:NAME:-default} or
// ${file:PATH}. It travels and prints as it is written; only Resolve looks behind it.
type Ref string

var reference = regexp.MustCompile(`\$\{([^}]*)\}`)

// Resolve replaces every reference by what it stands for, and must be called where the value is used,
// not where the graph is built. A file's last line break is dropped. The errors name variables and
// files, never values.
func (r Ref) Resolve() (string, error) {
	var first error
	out := reference.ReplaceAllStringFunc(string(r), func(text string) string {
		v, err := lookup(text[2 : len(text)-1])
		if err != nil && first == nil {
			first = fmt.Errorf("resolving %s: %w", text, err)
		}
		return v
	})
	if first != nil {
		return "", first
	}
	return out, nil
}

func lookup(body string) (string, error) {
	kind, name, _ := strings.Cut(body, ":")
	switch kind {
	case "env":
		name, def, hasDefault := strings.Cut(name, ":-")
		if v, ok := os.LookupEnv(name); ok && (v != "" || !hasDefault) {
			return v, nil
		}
		if !hasDefault {
			return "", fmt.Errorf("environment variable %s is not set; set it, or give a default: ${env:%s:-VALUE}", name, name)
		}
		return def, nil
	case "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
	}
	return "", fmt.Errorf("a reference is ${env:NAME}, ${env:NAME:-default} or ${file:PATH}")
}

// check reports references that could never be resolved, without resolving any.
func (r Ref) check() error {
	for _, m := range reference.FindAllStringSubmatch(string(r), -1) {
		kind, name, ok := strings.Cut(m[1], ":")
		if !ok || (kind != "env" && kind != "file") || name == "" || strings.HasPrefix(name, ":-") {
			return fmt.Errorf("%s is not a reference: write ${env:NAME}, ${env:NAME:-default} or ${file:PATH}", m[0])
		}
	}
	if rest := reference.ReplaceAllString(string(r), ""); strings.Contains(rest, "${") {
		return fmt.Errorf("a reference lacks its closing brace")
	}
	return nil
}
