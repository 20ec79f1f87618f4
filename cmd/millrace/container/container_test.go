package container

import (
	"debug/elf"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core"
	"github.com/google/go-cmp/cmp"
)

// root is the module's folder, which images are built from.
const root = "../../.."

// instruction is a line of a Dockerfile.
type instruction struct {
	word  string
	args  []string
	stage string // the name of the stage it belongs to; "" for the last one
}

func read(t *testing.T, name string) []instruction {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []instruction
	stage := ""
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		if fields[0] == "FROM" {
			stage = ""
			if len(fields) == 4 && fields[2] == "AS" {
				stage = fields[3]
			}
		}
		all = append(all, instruction{fields[0], fields[1:], stage})
	}
	return all
}

// TestDockerfiles holds what can be known of the images without building them.
func TestDockerfiles(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Dockerfile", "Dockerfile.scratch"} {
		t.Run(name, func(t *testing.T) {
			has := map[string]bool{} // paths in the last stage
			var entry, base string
			for _, i := range read(t, name) {
				switch {
				case i.word == "FROM" && i.stage == "build":
					version, _ := strings.CutPrefix(i.args[0], "golang:")
					if !strings.Contains(string(mod), "\ngo "+version+"\n") && !strings.Contains(string(mod), "\ngo "+version+".") {
						t.Errorf("go.mod asks for another Go than %s", version)
					}
				case i.word == "FROM":
					base = i.args[0]
				case i.word == "COPY" && strings.HasPrefix(i.args[0], "--from="):
					has[i.args[2]] = true
				case i.word == "COPY":
					for _, source := range i.args[:len(i.args)-1] {
						if _, err := os.Stat(filepath.Join(root, source)); err != nil {
							t.Errorf("COPY: %v", err)
						}
					}
				case i.word == "ENTRYPOINT":
					entry = strings.Trim(strings.Join(i.args, " "), `["]`)
				}
			}
			if entry != "/opt/apache/beam/boot" {
				t.Errorf("runners start %s instead of Beam's boot", entry)
			}
			switch base {
			case "apache/beam_go_sdk:" + core.SdkVersion: // has boot and the rest
			case "scratch":
				for _, p := range []string{entry, "/", "/etc/ssl/certs/ca-certificates.crt", "/usr/share/zoneinfo.zip"} {
					if !has[p] {
						t.Errorf("there is no %s", p)
					}
				}
			default:
				t.Errorf("the image is on %s, and the SDK is %s", base, core.SdkVersion)
			}
			if !has["/usr/local/bin/millrace"] {
				t.Error("there is no millrace")
			}
		})
	}
	var binary string
	for _, i := range read(t, "Dockerfile.template") {
		if i.word == "ENV" {
			binary, _ = strings.CutPrefix(i.args[0], "FLEX_TEMPLATE_GO_BINARY=")
		}
	}
	if binary != "/usr/local/bin/millrace" {
		t.Errorf("the launcher starts %s", binary)
	}
}

// TestScratch builds what Dockerfile.scratch builds, by its own commands, and starts it in a folder that holds
// nothing but what the image holds. No engine of containers is needed.
func TestScratch(t *testing.T) {
	if os.Getenv("MILLRACE_REQUIRE") == "" {
		t.Skip("building without cgo compiles everything anew: MILLRACE_REQUIRE=1 does it")
	}
	out := t.TempDir()
	image := filepath.Join(out, "image")
	environment := os.Environ()
	for _, i := range read(t, "Dockerfile.scratch") {
		switch {
		case i.word == "RUN" && !slices.Contains(i.args, "download"):
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(strings.Join(i.args, " "), "/out/", out+"/"))
			cmd.Dir = root
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", i.args, err, said)
			}
		case i.word == "COPY" && i.stage == "" && strings.HasPrefix(i.args[0], "--from=build"):
			from, to := i.args[1], filepath.Join(image, i.args[2])
			if base, ok := strings.CutPrefix(from, "/out/"); ok {
				from = filepath.Join(out, base)
			}
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			switch {
			case i.args[2] == "/":
				if err := os.CopyFS(image, os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
			case path.Base(from) == "zoneinfo.zip":
				goroot, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
				if err != nil {
					t.Fatal(err)
				}
				zones, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(goroot)), "lib", "time", "zoneinfo.zip"))
				if err == nil {
					err = os.WriteFile(to, zones, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			case strings.HasPrefix(from, out):
				if err := os.Rename(from, to); err != nil {
					t.Fatal(err)
				}
				static(t, to)
			}
		case i.word == "ENV":
			environment = i.args
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may start a program in a folder as if that were all there is")
	}
	start := func(program string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Path, cmd.Err = program, nil // it is in the image, not here
		cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", environment, &syscall.SysProcAttr{Chroot: image}
		said, err := cmd.CombinedOutput()
		if err != nil {
			return string(said) + err.Error()
		}
		return string(said)
	}
	if got := start("/usr/local/bin/millrace", "version"); !strings.HasPrefix(got, "millrace ") {
		t.Errorf("millrace says %q", got)
	}
	if got := start("/usr/local/bin/millrace", "test", "fraud"); !strings.Contains(got, "\nok ") || strings.Contains(got, "error") {
		t.Errorf("the use case's tests, run with nothing else around, say %q", got)
	}
	if err := os.WriteFile(filepath.Join(image, "zoned.yaml"), []byte(zoned), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := start("/usr/local/bin/millrace", "lint", "/zoned.yaml"); !strings.Contains(got, "well formed") {
		t.Errorf("a use case with a time zone is %q", got)
	}
	if got := start("/opt/apache/beam/boot"); !strings.Contains(got, "No id provided") {
		t.Errorf("boot says %q", got)
	}
}

// zoned is a use case that needs the zones' rules.
const zoned = `name: zoned
event:
  id: id
  time: at
  fields: {id: id, at: {type: timestamp, format: "2006-01-02 15:04:05", zone: Europe/Paris}}
source: in.jsonl
features:
  - {name: hour, expr: at.getHours("Asia/Tokyo")}
sinks: {scores: out.jsonl}
`

// static fails where a program needs a library or a loader.
func static(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string(nil), needs); d != "" {
		t.Errorf("%s needs %s", program, d)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a loader", program)
		}
	}
}
