package file_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"
	"github.com/klauspost/compress/gzip"

	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

func TestMain(m *testing.M) {
	flag.Parse()
	beam.Init()
	if err := flag.Set("experiments", "prism_disable_sdf_split"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var runners = map[string]func(context.Context, *beam.Pipeline) (beam.PipelineResult, error){
	"direct": direct.Execute, "prism": prism.Execute,
}

func fields() decode.Params {
	return decode.Params{ID: []string{"id"}, Time: "t", Fields: []decode.Field{
		{Name: "id", Kind: event.ID}, {Name: "t", Kind: event.Timestamp}, {Name: "x", Kind: event.Float, Optional: true},
	}}
}

type job struct {
	in      source.Params
	out     sink.Params
	letters string
}

func (j job) run(t *testing.T, runner string) error {
	t.Helper()
	p, s := beam.NewPipelineWithRoot()
	events, bad := source.Read(s, j.in)
	unsent := sink.Write(s, events, j.out)
	deadletter.Write(s, deadletter.Params{URL: j.letters}, bad, unsent)
	_, err := runners[runner](context.Background(), p)
	return err
}

// line is event i in the form that the JSON encoder writes.
func line(i int) string {
	return fmt.Sprintf(`{"id":%d,"t":"2020-01-01T00:00:%02dZ","x":%d.5}`, i, i%60, i)
}

func csvLine(i int) string { return fmt.Sprintf(`%d,2020-01-01T00:00:%02dZ,%d.5`, i, i%60, i) }

func write(t *testing.T, path, text string) string {
	t.Helper()
	p := []byte(text)
	if strings.HasSuffix(path, ".gz") {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(p)
		w.Close()
		p = b.Bytes()
	}
	if err := os.WriteFile(path, p, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// same compares lines as sets, after a header of so many lines.
func same(t *testing.T, got, want []string, head int) {
	t.Helper()
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got[min(head, len(got)):])
	slices.Sort(want[min(head, len(want)):])
	if !slices.Equal(got, want) {
		t.Errorf("got %d lines, want %d\n%.300q\n%.300q", len(got), len(want), got, want)
	}
}

func empty(t *testing.T, dir string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(but, e.Name()) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// sources are the same events: in two plain JSON files, ranges and all, in CSV, and in gzip.
func sources(t *testing.T, n int) (in string, want []string) {
	t.Helper()
	in = t.TempDir()
	parts := [4]strings.Builder{}
	parts[2].WriteString("id,t,x\n")
	parts[3].WriteString("x,id,t\n")
	for i := range n {
		want = append(want, line(i))
		switch k := i % 4; k {
		case 2:
			parts[k].WriteString(csvLine(i) + "\n")
		case 3:
			fmt.Fprintf(&parts[k], "%d.5,%d,2020-01-01T00:00:%02dZ\n", i, i, i%60)
		default:
			parts[k].WriteString(line(i) + "\n\n")
		}
	}
	parts[1].WriteString("rubbish\n")
	for k, name := range []string{"a.jsonl", "b.jsonl.gz", "c.csv", "d.csv.gz"} {
		write(t, filepath.Join(in, name), parts[k].String())
	}
	return in, want
}

func TestEveryFormIsReadAndWritten(t *testing.T) {
	in, want := sources(t, 400)
	wantCSV := []string{"id,t,x"}
	for i := range want {
		wantCSV = append(wantCSV, csvLine(i))
	}
	for runner := range runners {
		for _, name := range []string{"o.jsonl", "o.jsonl.gz", "o.csv", "o.csv.gz", "new/folder/o.json"} {
			t.Run(runner+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				out, letters := filepath.Join(dir, name), filepath.Join(dir, "bad.jsonl")
				j := job{source.Params{URLs: []string{filepath.Join(in, "*[ab].jsonl*"), "file://" + in + "/[cd].csv*"}, Decode: fields(), Split: 900},
					sink.Params{URL: out}, letters}
				if err := errors.Join(source.Check(t.Context(), j.in), sink.Check(t.Context(), j.out), deadletter.Check(t.Context(), deadletter.Params{URL: letters})); err != nil {
					t.Fatal(err)
				}
				for range 2 { // the second run replaces what the first wrote
					if err := j.run(t, runner); err != nil {
						t.Fatal(err)
					}
					if strings.Contains(name, "csv") {
						same(t, lines(t, out), wantCSV, 1)
					} else {
						same(t, lines(t, out), want, 0)
					}
					bad := lines(t, letters)
					l, err := deadletter.Parse([]byte(bad[0]))
					if err != nil || len(bad) != 1 || string(l.Original) != "rubbish" || l.Place.Source != filepath.Join(in, "b.jsonl.gz") {
						t.Errorf("dead letters: %q, %v", bad, err)
					}
				}
				empty(t, dir, strings.Split(name, "/")[0], "bad.jsonl")
				empty(t, filepath.Dir(out), filepath.Base(out), "bad.jsonl")
				info, err := os.Stat(out)
				if err != nil || info.Mode().Perm()&0o044 == 0 && info.Mode().Perm() == 0o600 {
					t.Errorf("mode %v, %v", info.Mode(), err)
				}
			})
		}
	}
}

func TestParquetComesBack(t *testing.T) {
	in, want := sources(t, 40)
	for runner := range runners {
		t.Run(runner, func(t *testing.T) {
			dir := t.TempDir()
			first := job{source.Params{URLs: []string{in}, Decode: fields(), Split: 300}, sink.Params{URL: filepath.Join(dir, "o.parquet")}, dir + "/bad.jsonl"}
			second := job{source.Params{URLs: []string{dir + "/o.parquet"}, Decode: fields()}, sink.Params{URL: dir + "/o.jsonl"}, dir + "/bad.jsonl"}
			for _, j := range []job{first, second} {
				if err := j.run(t, runner); err != nil {
					t.Fatal(err)
				}
			}
			same(t, lines(t, dir+"/o.jsonl"), want, 0)
		})
	}
}

func TestFolders(t *testing.T) {
	in, want := sources(t, 200)
	for runner := range runners {
		for _, base := range []string{t.TempDir() + "/", "mem://folders-" + runner + "/base/"} {
			t.Run(runner+"/"+base[:4], func(t *testing.T) {
				dir := t.TempDir()
				out := base + "out/"
				j := job{source.Params{URLs: []string{in}, Decode: fields(), Split: 300}, sink.Params{URL: out, PartBytes: 500}, dir + "/bad/"}
				j.in.Decode.BatchRows = 7
				for _, part := range []int64{500, 2000} { // the second run has fewer parts
					j.out.PartBytes = part
					if err := j.run(t, runner); err != nil {
						t.Fatal(err)
					}
					back := job{source.Params{URLs: []string{out}, Decode: fields()}, sink.Params{URL: dir + "/back.jsonl"}, dir + "/none.jsonl"}
					if err := back.run(t, runner); err != nil {
						t.Fatal(err)
					}
					same(t, lines(t, dir+"/back.jsonl"), want, 0)
				}
				if strings.HasPrefix(base, "mem") {
					return
				}
				var m struct {
					Rows  int
					Parts []struct {
						Name        string
						Rows, Bytes int
						SHA256      string
					}
				}
				text, err := os.ReadFile(out + "_manifest.json")
				if err == nil {
					err = json.Unmarshal(text, &m)
				}
				if err != nil || m.Rows != 200 || len(m.Parts) < 2 {
					t.Fatalf("manifest %s: %v", text, err)
				}
				names := []string{"_manifest.json"}
				for i, p := range m.Parts {
					names = append(names, p.Name)
					info, err := os.Stat(out + p.Name)
					if err != nil || int(info.Size()) != p.Bytes || p.Name != fmt.Sprintf("part-%05d-of-%05d.jsonl", i, len(m.Parts)) {
						t.Errorf("%+v: %v, %v", p, info, err)
					}
				}
				empty(t, out, names...)
			})
		}
	}
}

func TestNothingToWrite(t *testing.T) {
	in := write(t, filepath.Join(t.TempDir(), "in.jsonl"), "\n")
	for runner := range runners {
		dir := t.TempDir()
		for name, want := range map[string]string{"o.jsonl": "", "o.csv": "a,b", "o.jsonl.gz": "", "p/": ""} {
			outs := []format.Out{{Name: "a", Column: "id"}, {Name: "b", Column: "x"}}
			j := job{source.Params{URLs: []string{in}, Decode: fields()}, sink.Params{URL: dir + "/" + name, Outs: outs}, dir + "/bad.jsonl.gz"}
			if err := j.run(t, runner); err != nil {
				t.Fatal(err)
			}
			if name == "p/" {
				name = "p/_manifest.json"
				want = lines(t, dir+"/"+name)[0]
			}
			if got := strings.Join(lines(t, dir+"/"+name), "\n"); got != want {
				t.Errorf("%s holds %q, want %q", name, got, want)
			}
			if got := lines(t, dir+"/bad.jsonl.gz"); len(got) != 1 || got[0] != "" {
				t.Errorf("dead letters: %q", got)
			}
		}
	}
}

func TestWhenAndOuts(t *testing.T) {
	in := write(t, filepath.Join(t.TempDir(), "in.jsonl"), line(1)+"\n"+`{"id":"k","t":"2020-01-01T00:00:00Z"}`+"\n"+line(2))
	for runner := range runners {
		out := filepath.Join(t.TempDir(), "o.jsonl")
		outs := []format.Out{{Name: "id"}, {Name: "y", Column: "x", Object: "f"}}
		j := job{source.Params{URLs: []string{in}, Decode: fields()}, sink.Params{URL: out, Outs: outs, When: "x > 2.0"}, out + ".bad.jsonl"}
		if err := j.run(t, runner); err != nil {
			t.Fatal(err)
		}
		same(t, lines(t, out), []string{`{"id":2,"f":{"y":2.5}}`}, 0)
	}
}

func TestWhatIsMissingIsFoundAtSubmission(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"none.csv", "*.csv.gz", "file://" + dir + "/none", "."} {
		address := name
		if !strings.Contains(name, "://") {
			address = filepath.Join(dir, name)
		}
		err := source.Check(t.Context(), source.Params{URLs: []string{address}, Decode: fields()})
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := write(t, filepath.Join(dir, "file"), "")
	if err := sink.Check(t.Context(), sink.Params{URL: file + "/below/o.jsonl"}); err == nil {
		t.Error("a file was taken for a folder")
	}
	if err := sink.Check(t.Context(), sink.Params{URL: dir + "/scores.cvs"}); err == nil {
		t.Error("an unknown ending was taken")
	}
	if err := sink.Check(t.Context(), sink.Params{URL: dir + "/o.jsonl"}); err != nil {
		t.Error(err)
	}
	empty(t, dir, "file")
}

func TestAFullDiskLeavesTheOldOutput(t *testing.T) {
	full := os.Getenv("MILLRACE_SMALL_DISK") // a file system of about a megabyte
	if full == "" {
		t.Skip("MILLRACE_SMALL_DISK names no small file system; the failing store of package staged stands in")
	}
	in, _ := sources(t, 40000)
	out := write(t, filepath.Join(full, "o.jsonl"), "old\n")
	for runner := range runners {
		j := job{source.Params{URLs: []string{in}, Decode: fields()}, sink.Params{URL: out}, filepath.Join(t.TempDir(), "bad.jsonl")}
		if err := j.run(t, runner); err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), out) {
			t.Errorf("%s: %v", runner, err)
		}
		if err := sink.Sweep(t.Context(), j.out); err != nil {
			t.Error(err)
		}
		same(t, lines(t, out), []string{"old"}, 0)
		empty(t, full, "o.jsonl", "lost+found")
	}
}

func TestLinksAndDevices(t *testing.T) {
	in := write(t, filepath.Join(t.TempDir(), "in.jsonl"), line(1)+"\nrubbish")
	dir := t.TempDir()
	write(t, dir+"/real.jsonl", "old")
	if err := os.Symlink("real.jsonl", dir+"/link.jsonl"); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, out := range []string{"link.jsonl", "plain", os.DevNull} {
		j := job{source.Params{URLs: []string{in}, Decode: fields()}, sink.Params{URL: out}, os.DevNull}
		if err := sink.Check(t.Context(), j.out); err != nil {
			t.Error(err)
		}
		for runner := range runners { // the device takes events and letters, and neither sweeps the other
			if err := j.run(t, runner); err != nil {
				t.Error(err)
			}
		}
	}
	same(t, lines(t, dir+"/real.jsonl"), []string{line(1)}, 0)
	empty(t, dir, "real.jsonl", "link.jsonl", "plain")
	if info, err := os.Lstat(dir + "/link.jsonl"); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode()&fs.ModeDevice == 0 {
		t.Fatalf("the device was replaced: %v, %v", info, err)
	}
}
