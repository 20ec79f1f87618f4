package file

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// patience is for what must happen; nothing waits so long that works.
const patience = 30 * time.Second

// follower follows and keeps what it read.
type follower struct {
	driver.Follower
	t    *testing.T
	got  []string // "file:record", of Parquet "file:row number"
	next string
	at   map[string]int // how many records had come by a position
}

func follow(t *testing.T, address, next string) *follower {
	t.Helper()
	parts, err := files{}.Logs(t.Context(), address)
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	f, err := files{}.Follow(t.Context(), address, []driver.Position{{Partition: parts[0].Name, Next: next}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &follower{Follower: f, t: t, next: next, at: map[string]int{next: 0}}
}

func (f *follower) poll(wait time.Duration, limit int) int {
	f.t.Helper()
	chunks, err := f.Poll(f.t.Context(), wait, limit)
	if err != nil {
		f.t.Fatal(err)
	}
	before := len(f.got)
	for _, c := range chunks {
		base := filepath.Base(c.Source)
		for _, r := range c.Records {
			f.got = append(f.got, base+":"+string(r.Value))
		}
		if c.Table.File != nil {
			if c.Table.To == 0 {
				f.got = append(f.got, base+": all of it")
			}
			for row := c.Table.From; row < c.Table.To; row++ {
				f.got = append(f.got, fmt.Sprintf("%s:%d", base, row))
			}
		}
		if c.Fault != nil {
			f.got = append(f.got, base+"! "+c.Fault.Error())
		}
		f.next = c.Next
		f.at[c.Next] = len(f.got)
	}
	return len(f.got) - before
}

// read polls until n records have come in all.
func (f *follower) read(n, limit int) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); len(f.got) < n; {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d records are missing of %d: %.500q", n-len(f.got), n, f.got)
		}
		f.poll(50*time.Millisecond, limit)
	}
	if len(f.got) > n {
		f.t.Fatalf("%d records too many: %.1000q", len(f.got)-n, f.got)
	}
}

// quiet holds that nothing comes for some looks.
func (f *follower) quiet() {
	f.t.Helper()
	if n := f.poll(150*time.Millisecond, 1<<20); n > 0 {
		f.t.Fatalf("%d records too many: %.500q", n, f.got[len(f.got)-n:])
	}
}

func (f *follower) want(want ...string) {
	f.t.Helper()
	if !slices.Equal(f.got, want) {
		f.t.Errorf("read %.1000q\nwant %.1000q", f.got, want)
	}
}

// dir is a folder that is followed.
type dir struct {
	t    *testing.T
	path string
}

func newDir(t *testing.T) dir { return dir{t, t.TempDir()} }

func (d dir) address() string { return "file://" + d.path + "?poll=10ms" }

func (d dir) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d dir) write(name, text string) {
	d.t.Helper()
	d.ok(os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o666))
}

func (d dir) append(name, text string) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	d.ok(err)
	_, err = f.WriteString(text)
	d.ok(err)
	d.ok(f.Close())
}

func (d dir) rename(from, to string) {
	d.t.Helper()
	d.ok(os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to)))
}

// old sets when a file was modified.
func (d dir) old(name string, at time.Time) {
	d.t.Helper()
	d.ok(os.Chtimes(filepath.Join(d.path, name), at, at))
}

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return b.String()
}

func table(t *testing.T, rows int) string {
	type row struct {
		ID int64 `parquet:"id"`
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b, parquet.MaxRowsPerRowGroup(700))
	for i := range rows {
		if _, err := w.Write([]row{{int64(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestFollowResumes goes on from each position that was given, over all kinds of files.
func TestFollowResumes(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	var want []string
	text := func(name string, n int) string {
		var b strings.Builder
		for i := range n {
			line := fmt.Sprintf(`{"i":%d,"pad":%q}`, i, strings.Repeat("x", i%90))
			want = append(want, name+":"+line)
			b.WriteString(line + "\n")
		}
		return b.String()
	}
	d.write("a.jsonl", text("a.jsonl", 300))
	d.write("b.jsonl.gz", zipped(text("b.jsonl.gz", 200))+zipped(text("b.jsonl.gz", 100))) // two members
	d.write("c.parquet", table(t, 2500))
	for i := range 2500 {
		want = append(want, fmt.Sprintf("c.parquet:%d", i))
	}
	d.write("d", strings.TrimSuffix(text("d", 50), "\n"))
	d.write("_hidden", "x\n")
	d.write(".hidden", "x\n")
	r := follow(t, d.address(), "")
	// What is compressed waits for a second look; d doesn't wait for it.
	r.read(len(want), 700)
	r.quiet()
	if lag := r.Lag()[d.path]; lag != 0 {
		t.Errorf("a lag of %d at the end", lag)
	}
	got := slices.Clone(r.got)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("read %.300q, want %.300q", got, want)
	}
	if len(r.at) < 50 {
		t.Fatalf("only %d positions", len(r.at))
	}
	for next, n := range r.at {
		if rand.IntN(3) > 0 { // a third of them will do
			continue
		}
		again := follow(t, d.address(), next)
		again.read(len(want)-n, 1<<20)
		rest := slices.Clone(r.got[n:])
		slices.Sort(rest)
		slices.Sort(again.got)
		if !slices.Equal(again.got, rest) {
			t.Fatalf("from %s: %.300q, want %.300q", next, again.got, rest)
		}
		again.Close()
	}
}

func TestFollowGrowth(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	r := follow(t, d.address(), "") // nothing is there
	r.quiet()
	d.append("m.jsonl", "1\n2\n\xef\xbb\xbf")
	r.read(2, 1<<20)
	d.append("m.jsonl", `3`)
	r.quiet() // a half line
	again := follow(t, d.address(), r.next)
	again.quiet()
	d.append("m.jsonl", "4\r\n{\"a\":{}")
	r.read(3, 1<<20)
	again.read(1, 1<<20)
	r.quiet()
	d.append("m.jsonl", "}") // an object that has its end
	r.read(4, 1<<20)
	d.append("m.jsonl", "\n5\n")
	r.read(6, 1<<20)
	d.append("b.jsonl", "6\n") // sorts before what was read
	r.read(7, 1<<20)
	d.append("m.jsonl", "7\n")
	d.append("z.jsonl", "8\n")
	r.read(9, 1<<20)
	r.want("m.jsonl:1", "m.jsonl:2", "m.jsonl:\xef\xbb\xbf34", `m.jsonl:{"a":{}}`, "m.jsonl:", "m.jsonl:5", "b.jsonl:6", "m.jsonl:7", "z.jsonl:8")
	r.Pause([]string{d.path})
	d.append("z.jsonl", "9\n")
	r.quiet()
	r.Pause(nil)
	r.read(10, 1<<20)
}

// TestFollowRotation does to a log what logrotate does.
func TestFollowRotation(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	address := "file://" + d.path + "/app.log?poll=10ms"
	r := follow(t, address, "")
	d.append("app.log", "1\n2\n")
	r.read(2, 1<<20)
	// Renamed: what the writer adds before it opens the new file is read too.
	d.rename("app.log", "app.log.1")
	d.append("app.log.1", "3\n")
	r.read(3, 1<<20)
	d.append("app.log.1", "4\n")
	d.append("app.log", "5\n6\n")
	r.read(6, 1<<20)
	got := slices.Clone(r.got)
	slices.Sort(got)
	if want := []string{"app.log:1", "app.log:2", "app.log:3", "app.log:4", "app.log:5", "app.log:6"}; !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	// Copied and truncated, and longer than before at the next look.
	before := len(r.got)
	d.write("app.log", "seven\neight\nnine\n")
	r.read(before+3, 1<<20)
	d.write("app.log", "")
	r.quiet()
	d.append("app.log", "10\n")
	r.read(before+4, 1<<20)
	if got := r.got[before:]; !slices.Equal(got, []string{"app.log:seven", "app.log:eight", "app.log:nine", "app.log:10"}) {
		t.Errorf("after truncating %q", got)
	}
	// Deleted and made anew while nobody reads; the inode may be the same.
	next := r.next
	r.Close()
	d.ok(os.Remove(filepath.Join(d.path, "app.log")))
	d.append("app.log", "eleven\ntwelve\n")
	again := follow(t, address, next)
	again.read(2, 1<<20)
	again.want("app.log:eleven", "app.log:twelve")
}

// TestFollowForgets reads many files: the position stays small, and names that come later are found.
func TestFollowForgets(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	const n = 3000
	begin := time.Now().Add(-24 * time.Hour)
	for i := range n {
		name := fmt.Sprintf("f-%06d.jsonl", i)
		d.write(name, fmt.Sprintf("%d\n", i))
		d.old(name, begin.Add(time.Duration(i)*time.Second))
	}
	r := follow(t, d.address(), "")
	r.read(n, 1<<20)
	r.quiet()
	if size := len(r.next); size > 32<<10 {
		t.Errorf("a position of %d bytes", size)
	}
	again := follow(t, d.address(), r.next)
	for range 3 {
		again.quiet()
	}
	d.write("a.jsonl", "early\n") // modified now
	d.append("f-002990.jsonl", "more\n")
	d.write("b.jsonl", "moved in\n")
	d.old("b.jsonl", begin) // the rule's limit
	again.read(2, 1<<20)
	slices.Sort(again.got)
	again.want("a.jsonl:early", "f-002990.jsonl:more")
	for range 3 {
		again.quiet()
	}
}

func TestFollowFaults(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.write("a.csv", "x,y\n1,2\n")
	whole := zipped(strings.Repeat("line\n", 1000))
	d.write("b.gz", whole[:len(whole)-9])
	d.write("c.parquet", "PAR1 and no more")
	d.write("d.jsonl", strings.Repeat("x", 40<<20)+"\nnext\n")
	r := follow(t, d.address(), "")
	for deadline := time.Now().Add(patience); !slices.Contains(r.got, "c.parquet: all of it") || !slices.Contains(r.got, "d.jsonl:next"); r.poll(50*time.Millisecond, 1<<20) {
		if time.Now().After(deadline) {
			t.Fatalf("%.500q", r.got)
		}
	}
	r.quiet()
	var faults []string
	for _, g := range r.got {
		if strings.Contains(g, "!") {
			faults = append(faults, g)
		}
	}
	slices.Sort(faults)
	want := []string{"a.csv! csv can't be followed", "b.gz! decompressing behind byte", "d.jsonl! the line at byte 0 has over"}
	if !slices.EqualFunc(faults, want, strings.HasPrefix) {
		t.Errorf("%q, want %q", faults, want)
	}
	if n := len(r.got); n != 1000+3+1+1 {
		t.Errorf("%d records", n)
	}
	again := follow(t, d.address(), r.next)
	again.quiet()
	again.quiet()
}

func TestFollowAddresses(t *testing.T) {
	t.Parallel()
	d := newDir(t)
	d.write("x[1].jsonl", "1\n")
	for address, want := range map[string]string{
		d.path + "/none/x.jsonl":               "there is no folder " + d.path + "/none",
		d.path + "/none/*/x":                   "there is no folder " + d.path + "/none",
		"/dev/null":                            "can't be read again",
		"file://" + d.path + "?poll=soon":      "want one duration",
		"file://" + d.path + "?pol=1s":         "unknown parameter pol",
		d.path + "/[":                          "reading the pattern",
		"file://" + d.path + "/x.jsonl?poll=0": "want one duration",
	} {
		if _, err := (files{}).Logs(t.Context(), address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	r := follow(t, d.path+"/x[1].jsonl", "") // a name, not a pattern
	r.read(1, 1<<20)
	if _, err := (files{}).Follow(t.Context(), d.path, []driver.Position{{Partition: d.path, Next: `{"v":2}`}}); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Error(err)
	}
	// Parameters don't hinder reading to the end.
	if parts, err := (files{}).Partitions(t.Context(), "file://"+d.path+"?poll=1s"); err != nil || len(parts) != 1 {
		t.Errorf("%v, %v", parts, err)
	}
}
