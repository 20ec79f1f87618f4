package spec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var step = regexp.MustCompile(`^([^.\[\]]+)?((?:\[[^\]]+\])*)$`)

// override sets the value at a path of the tree: training.select.folds=2, source[0].url=..., or, where
// the elements of a list have names, training.candidates[trees].params.depth=4. Keys on the way are
// made, elements are not. What the path means is for decoding to say. Nodes that it makes or replaces
// are passed to mark.
func override(root *yaml.Node, set string, mark func(*yaml.Node)) error {
	path, text, ok := strings.Cut(set, "=")
	if !ok || path == "" {
		return fmt.Errorf("wants path=value")
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return fmt.Errorf("value is not YAML; put it in quotes")
	}
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	if len(doc.Content) > 0 {
		value = doc.Content[0]
	}
	at := root
	parts := strings.Split(path, ".")
	for i, part := range parts {
		m := step.FindStringSubmatch(part)
		if m == nil || (m[1] == "" && (i > 0 || m[2] == "")) {
			return fmt.Errorf("%q is not a step of a path such as features[3].delay", part)
		}
		var brackets []string
		if m[2] != "" {
			brackets = strings.Split(strings.Trim(m[2], "[]"), "][")
		}
		last := i == len(parts)-1
		if m[1] != "" {
			next, err := child(at, m[1], mark)
			if err != nil {
				return err
			}
			at = next
		}
		for _, b := range brackets {
			next, err := element(at, b)
			if err != nil {
				return err
			}
			at = next
		}
		if last {
			*at = *value
		}
	}
	mark(at)
	return nil
}

func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func child(at *yaml.Node, key string, mark func(*yaml.Node)) (*yaml.Node, error) {
	at = follow(at)
	if at.Kind == 0 || at.ShortTag() == "!!null" {
		*at = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: at.Line, Column: at.Column}
	}
	if at.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%q is below %s, which has no keys", key, kindName(at))
	}
	for i := 0; i+1 < len(at.Content); i += 2 {
		if at.Content[i].Value == key {
			return at.Content[i+1], nil
		}
	}
	k, v := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	mark(k)
	mark(v)
	at.Content = append(at.Content, k, v)
	return v, nil
}

func element(at *yaml.Node, index string) (*yaml.Node, error) {
	at = follow(at)
	if at.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("[%s] is below %s, not a list", index, kindName(at))
	}
	if i, err := strconv.Atoi(index); err == nil {
		if i < 0 || i >= len(at.Content) {
			return nil, fmt.Errorf("[%d] is outside a list of %d", i, len(at.Content))
		}
		return at.Content[i], nil
	}
	for _, e := range at.Content {
		e = follow(e)
		for k := 0; e.Kind == yaml.MappingNode && k+1 < len(e.Content); k += 2 {
			if e.Content[k].Value == "name" && e.Content[k+1].Value == index {
				return e, nil
			}
		}
	}
	return nil, fmt.Errorf("no element of the list has the name %q", index)
}
