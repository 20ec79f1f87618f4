package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/pipelines/spec/builtin"
)

var rewrite = flag.Bool("rewrite", false, "write the generated pages")

// TestGenerated holds REFERENCE.md and schema.json to the declarations; go generate writes them.
func TestGenerated(t *testing.T) {
	for name, want := range map[string][]byte{"REFERENCE.md": referencePage(), "schema.json": jsonSchema()} {
		if *rewrite {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: run go generate ./pipelines/spec", name)
		}
	}
}

// TestSchemaAgrees holds the JSON Schema to the decoder on files that are right and wrong.
func TestSchemaAgrees(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(jsonSchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	fraud, _ := builtin.Text("fraud")
	check := func(text []byte) error {
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if v, err = jsonschema.UnmarshalJSON(bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		return schema.Validate(v)
	}
	if err := check(fraud); err != nil {
		t.Errorf("fraud.yaml: %v", err)
	}
	for _, r := range [][2]string{
		{"scale: 2", "scale: 20"}, {"scale: 2", "scale: x"}, {"delay: 7d", "delay: 7 days"}, {"empty: 0", "emtpy: 0"},
		{"kind: binary", "kind: binry"}, {"[1d, 7d, 30d]", "[1x]"}, {"folds: 4", "folds: 0"}, {"confidence: 0.95", "confidence: 1"},
	} {
		wrong := bytes.Replace(fraud, []byte(r[0]), []byte(r[1]), 1)
		if check(wrong) == nil {
			t.Errorf("the schema accepts %s", r[1])
		}
		if _, err := Parse("x", wrong, nil); err == nil {
			t.Errorf("Parse accepts %s", r[1])
		}
	}
}

func jsonSchema() []byte {
	s := grammar(new(UseCase)).describe().schema
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Millrace use case"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(s); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// referencePage walks the declarations, each object once, in the order in which they are met.
func referencePage() []byte {
	var b bytes.Buffer
	b.WriteString("# The use-case file\n\n" +
		"Written by `go generate ./pipelines/spec` from the declarations in `grammar.go`; `schema.json` is the same for editors.\n\n" +
		"An unknown key, a wrong type, a value out of bounds or an expression that does not type-check is an error with file, line, column and field path; `millrace lint` prints all of them and exits 2.\n\n" +
		"* **Names** are letters, digits and `_`, no digit first. Fields and features share one name space.\n" +
		"* **Durations** are numbers with units: `30m`, `7d`, `1d12h`. Units are `w d h m s ms us`; a day has 24 hours.\n" +
		"* **Dates** are `2018-07-25` or `2018-07-25T00:00:00Z`.\n" +
		"* **URLs and paths** may hold `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}`. They are resolved where they are used and are never printed.\n" +
		"* **Expressions** are [CEL](https://cel.dev) over fields and the features above. Numbers are doubles; null in gives null out; NaN and infinity give null.\n" +
		"* **Tests** of a use case stand beside it in `NAME_test.yaml`: see [Test file](#test-file).\n" +
		"* **Overrides**: `--set training.select.folds=2`, `--set features[3].delay=1d`, and for a list whose elements have names `--set training.candidates[trees].grid.depth=[4]`. The value is YAML.\n")
	tables(&b, grammar(new(UseCase)).describe().objects)
	b.WriteString("\n## Aggregates\n\n`X` is any expression. Null inputs do not count. Over an empty window every aggregate but `count` is null, unless the entry says `empty`.\n\n| call | meaning |\n|---|---|\n")
	for _, c := range calls {
		fmt.Fprintf(&b, "| `%s` | %s |\n", c.form, cell(c.doc))
	}
	tables(&b, testGrammar(new(Tests)).describe().objects)
	return b.Bytes()
}

// tables writes a table an object, each once, and of those within.
func tables(b *bytes.Buffer, queue []object) {
	seen := map[string]bool{}
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		if seen[o.name] {
			continue
		}
		seen[o.name] = true
		fmt.Fprintf(b, "\n## %s\n\n%s\n\n| key | value | default | example | meaning |\n|---|---|---|---|---|\n", o.name, o.doc)
		for _, k := range o.keys {
			d := k.value.describe()
			queue = append(queue, d.objects...)
			def := k.def
			if k.required {
				def = "**required**"
			}
			example := ""
			if k.example != "" {
				example = "`" + k.example + "`"
			}
			fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", k.name, cell(d.text), cell(def), cell(example), cell(k.doc))
		}
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
