package lint

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/millrace-ml/millrace"

var rewrite = flag.Bool("rewrite", false, "write testdata/api.txt")

// file is a parsed Go file.
type file struct {
	path string // relative to the module, with slashes
	test bool
	ast  *ast.File
}

// dir is the folder, "transforms/event".
func (f file) dir() string { return path.Dir(f.path) }

// room is the first element of the path.
func (f file) room() string {
	room, _, _ := strings.Cut(f.path, "/")
	return room
}

var fset = token.NewFileSet()

// root is the module's folder.
var root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fs.ErrNotExist
		}
	}
	return "", err
})

// load parses every Go file of the module once.
var load = sync.OnceValues(func() ([]file, error) {
	dir, err := root()
	if err != nil {
		return nil, err
	}
	var files []file
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := e.Name()
		if e.IsDir() {
			if p != dir && (base == "testdata" || base[0] == '.' || base[0] == '_' || (filepath.Dir(p) == dir && strings.HasPrefix(base, "millrace"))) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(base) != ".go" || base[0] == '.' || base[0] == '_' {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		// A package such as treetest serves tests only.
		test := strings.HasSuffix(base, "_test.go") || strings.HasSuffix(tree.Name.Name, "test")
		files = append(files, file{path: filepath.ToSlash(rel), test: test, ast: tree})
		return nil
	})
	return files, err
})

func sources(t *testing.T) []file {
	t.Helper()
	files, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func imports(f file) []string {
	var paths []string
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			panic(err) // the parser has accepted it
		}
		paths = append(paths, p)
	}
	return paths
}

// ours is the path of an import inside the module.
func ours(imp string) (string, bool) {
	rest, ok := strings.CutPrefix(imp, module+"/")
	return rest, ok
}

// importFault says what is wrong with an import, or nothing.
func importFault(f file, imp string) string {
	level := map[string]int{"models": 0, "transforms": 1, "pipelines": 2, "cmd": 3}
	if strings.HasPrefix(imp, "gorgonia.org/") && f.dir() != "models/gorgonia" {
		return "only models/gorgonia imports gorgonia"
	}
	if strings.HasPrefix(imp, "github.com/apache/beam/") && f.room() == "models" {
		return "models hold nothing of Beam"
	}
	target, ok := ours(imp)
	if !ok {
		return ""
	}
	room, _, _ := strings.Cut(target, "/")
	switch {
	case room == "testing" && f.room() != "testing" && !f.test:
		return "only tests import testing"
	case room != "testing" && f.room() != "testing" && level[room] > level[f.room()]:
		return "imports point one way: cmd -> pipelines -> transforms -> models"
	case f.room() == "cmd" && room == "cmd":
		return "a binary imports no other"
	case f.dir() == "transforms/event" && !f.test && target != "transforms/event":
		return "transforms/event imports nothing of ours"
	case within(f.dir(), "pipelines/retraining") && within(target, "pipelines/scoring"):
		return "retraining imports no scoring: what both need is a transform"
	}
	return ""
}

func within(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

func TestImports(t *testing.T) {
	for _, f := range sources(t) {
		for _, imp := range imports(f) {
			if fault := importFault(f, imp); fault != "" {
				t.Errorf("%s imports %s: %s", f.path, imp, fault)
			}
		}
	}
}

// TestImportRules holds that each rule can fail.
func TestImportRules(t *testing.T) {
	for _, c := range []struct {
		path, imp string
		ok        bool
	}{
		{"models/linear/a.go", module + "/transforms/event", false},
		{"transforms/feature/a.go", module + "/pipelines/spec", false},
		{"transforms/feature/a.go", module + "/models", true},
		{"pipelines/cli/a.go", module + "/transforms/feature", true},
		{"pipelines/cli/a.go", module + "/cmd/millrace", false},
		{"transforms/event/a.go", module + "/models", false},
		{"transforms/event/a.go", module + "/transforms/expr", false},
		{"pipelines/retraining/a.go", module + "/pipelines/scoring", false},
		{"pipelines/scoring/a.go", module + "/pipelines/spec", true},
		{"models/mlp/a.go", "gorgonia.org/gorgonia", false},
		{"models/gorgonia/a.go", "gorgonia.org/gorgonia", true},
		{"models/mlp/a.go", "github.com/apache/beam/sdks/v2/go/pkg/beam", false},
		{"models/mlp/a.go", module + "/testing/shareddata", false},
		{"testing/bench/a.go", module + "/pipelines/spec", true},
	} {
		if fault := importFault(file{path: c.path}, c.imp); (fault == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.path, c.imp, fault)
		}
	}
}

func TestPackages(t *testing.T) {
	type pkg struct{ doc, comment, misplaced bool }
	packages := map[string]*pkg{}
	for _, f := range sources(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		name := f.ast.Name.Name
		p := packages[f.dir()]
		if p == nil {
			p = &pkg{}
			packages[f.dir()] = p
		}
		if path.Base(f.path) == "doc.go" {
			p.doc = true
			p.comment = f.ast.Doc != nil && strings.HasPrefix(f.ast.Doc.Text(), map[bool]string{true: "Command ", false: "Package " + name}[name == "main"])
		} else if f.ast.Doc != nil && len(f.ast.Doc.Text()) > 0 {
			t.Errorf("%s: the package comment belongs in doc.go", f.path)
			p.misplaced = true
		}
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base"}, name) {
			t.Errorf("%s: package %s says nothing; name it for what it does", f.path, name)
		}
		if base := path.Base(f.dir()); name != "main" && name != base && f.dir() != "." {
			t.Errorf("%s: package %s lies in a folder %s", f.path, name, base)
		}
	}
	for dir, p := range packages {
		switch {
		case p.misplaced:
		case !p.doc:
			t.Errorf("%s has no doc.go", dir)
		case !p.comment:
			t.Errorf("%s/doc.go has no package comment", dir)
		}
	}
}

// clocks lists the files of transforms and models that may read the clock, each with its reason.
var clocks = map[string]string{
	"transforms/source/reading.go":             "a source without an end lingers, and ends, by the wall clock",
	"transforms/internal/inflight/inflight.go": "how long events took is a matter of the wall clock",
	"transforms/internal/staged/clock.go":      "a stream's staged chunks are swept by their age",
}

// TestClock holds that transforms and models read no clock and no unseeded random numbers: what they
// give depends on their input alone.
func TestClock(t *testing.T) {
	used := map[string]bool{}
	for _, f := range sources(t) {
		if f.test || (f.room() != "transforms" && f.room() != "models") {
			continue
		}
		for _, fault := range clockFaults(f.ast) {
			if clocks[f.path] != "" {
				used[f.path] = true
				continue
			}
			t.Errorf("%s: %s: inject a clock or a seed, or give a reason in the list of this test", f.path, fault)
		}
	}
	for p := range clocks {
		if !used[p] {
			t.Errorf("%s is on the list and reads no clock", p)
		}
	}
}

// clockFaults lists the uses of the clock and of random numbers that nobody seeds.
func clockFaults(tree *ast.File) []string {
	names := map[string]string{} // local name to import
	for _, i := range tree.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		local := path.Base(p)
		if p == "math/rand/v2" {
			local = "rand"
		}
		if i.Name != nil {
			local = i.Name.Name
		}
		names[local] = p
	}
	var faults []string
	ast.Inspect(tree, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		name := sel.Sel.Name
		var bad bool
		switch names[x.Name] {
		case "time":
			bad = slices.Contains([]string{"Now", "Since", "Until"}, name)
		case "math/rand", "math/rand/v2":
			// Types and what makes a generator from a seed are fine, the shared generator is not.
			bad = ast.IsExported(name) && !strings.HasPrefix(name, "New") && !slices.Contains([]string{"Rand", "Source", "PCG", "ChaCha8", "Zipf"}, name)
		}
		if bad {
			faults = append(faults, fmt.Sprintf("line %d uses %s.%s", fset.Position(sel.Pos()).Line, x.Name, name))
		}
		return true
	})
	return faults
}

func TestClockRule(t *testing.T) {
	const src = `package x
import ("time"; r "math/rand/v2"; "math/rand")
var a = time.Now
var b = time.Since(time.Time{})
var c = r.IntN(3)
var d = r.New(r.NewPCG(1, 2)).IntN(3)
var e = rand.Float64()
var f *rand.Rand
`
	tree, err := parser.ParseFile(fset, "x.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"line 3 uses time.Now", "line 4 uses time.Since", "line 5 uses r.IntN", "line 7 uses rand.Float64"}
	if d := cmp.Diff(want, clockFaults(tree)); d != "" {
		t.Error(d)
	}
}

// TestTopLevel holds the top level to the design. Hidden files are free, but these must be there.
func TestTopLevel(t *testing.T) {
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"CHANGELOG.md", "LICENSE", "README.md", "cmd", "go.mod", "go.sum", "models", "pipelines", "testing", "transforms"}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		// What runs leave behind is ignored by git.
		if name := e.Name(); name[0] != '.' && name != "millrace" && name != "millrace-demo" && !strings.HasSuffix(name, ".test") && !strings.HasSuffix(name, ".prof") {
			got = append(got, name)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, name := range []string{".golangci.yml", ".gitignore", ".ci/run", ".github/CONTRIBUTING.md", ".github/SECURITY.md", ".github/workflows"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	licence, err := os.ReadFile(filepath.Join(dir, "LICENSE"))
	if err != nil || !bytes.Contains(licence, []byte("Apache License")) || !bytes.Contains(licence, []byte("Version 2.0")) {
		t.Errorf("LICENSE is not Apache-2.0: %v", err)
	}
	for _, f := range sources(t) {
		if f.dir() == "testing" {
			t.Errorf("%s: testing holds sub-packages only", f.path)
		}
	}
}

// TestAPI holds the exported surface to its golden file.
func TestAPI(t *testing.T) {
	const golden = "testdata/api.txt"
	var lines []string
	for _, f := range sources(t) {
		if !f.test && f.ast.Name.Name != "main" && f.room() != "testing" && !slices.Contains(strings.Split(f.path, "/"), "internal") {
			lines = append(lines, surface(f.dir(), f.ast)...)
		}
	}
	slices.Sort(lines)
	lines = slices.Compact(lines) // one of a kind for each platform
	got := strings.Join(lines, "\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("the exported surface differs from %s; if that is meant, run go test ./testing/lint -run TestAPI -rewrite\n%s", golden, d)
	}
}

// surface lists what a file exports, a line each: functions, methods, types, fields, constants and
// variables, without values and comments.
func surface(dir string, tree *ast.File) []string {
	var lines []string
	add := func(format string, args ...any) {
		lines = append(lines, dir+": "+fmt.Sprintf(format, args...))
	}
	for _, d := range tree.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if !d.Name.IsExported() || (d.Recv != nil && !ast.IsExported(receiver(d.Recv.List[0].Type))) {
				continue
			}
			recv := ""
			if d.Recv != nil {
				recv = "(" + show(d.Recv.List[0].Type) + ") "
			}
			add("func %s%s%s", recv, d.Name.Name, strings.TrimPrefix(show(d.Type), "func"))
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.IsExported() {
							add("%s %s%s", d.Tok, n.Name, typed(s.Type))
						}
					}
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						typeSurface(add, s)
					}
				}
			}
		}
	}
	return lines
}

func typeSurface(add func(string, ...any), s *ast.TypeSpec) {
	name := s.Name.Name
	if s.TypeParams != nil {
		var params []string
		for _, p := range s.TypeParams.List {
			params = append(params, fieldNames(p)+" "+show(p.Type))
		}
		name += "[" + strings.Join(params, ", ") + "]"
	}
	alias := ""
	if s.Assign.IsValid() {
		alias = "= "
	}
	switch x := s.Type.(type) {
	case *ast.StructType:
		add("type %s %sstruct", name, alias)
		for _, f := range x.Fields.List {
			if len(f.Names) == 0 && ast.IsExported(receiver(f.Type)) {
				add("type %s struct, %s embedded", s.Name.Name, show(f.Type))
			}
			for _, n := range f.Names {
				if n.IsExported() {
					add("type %s struct, %s %s", s.Name.Name, n.Name, show(f.Type))
				}
			}
		}
	case *ast.InterfaceType:
		add("type %s %sinterface", name, alias)
		for _, f := range x.Methods.List {
			if len(f.Names) == 0 {
				add("type %s interface, %s", s.Name.Name, show(f.Type))
				continue
			}
			add("type %s interface, %s%s", s.Name.Name, f.Names[0].Name, strings.TrimPrefix(show(f.Type), "func"))
		}
	default:
		add("type %s %s%s", name, alias, show(s.Type))
	}
}

func fieldNames(f *ast.Field) string {
	var names []string
	for _, n := range f.Names {
		names = append(names, n.Name)
	}
	return strings.Join(names, ", ")
}

func typed(e ast.Expr) string {
	if e == nil {
		return ""
	}
	return " " + show(e)
}

// receiver is the name of the type behind pointers, packages and type parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// show prints a piece of syntax on one line.
func show(n any) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, token.NewFileSet(), n); err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
