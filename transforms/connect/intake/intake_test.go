package intake

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// patience is for what must happen; nothing waits so long that works.
const patience = 60 * time.Second

// bench is an intake and what was read from it.
type bench struct {
	*follower
	t    *testing.T
	url  string
	got  []string
	ends []string // of chunks
}

func listen(t *testing.T, dir, more, next string) *bench {
	t.Helper()
	address := "intake://127.0.0.1:" + port(t) + "/events?wal=" + dir + more
	parts, err := sourceDriver{}.Partitions(t.Context(), address)
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	f, err := sourceDriver{}.Follow(t.Context(), address, []driver.Position{{Partition: parts[0].Name, Next: next}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	rest, _, _ := strings.Cut(strings.TrimPrefix(address, "intake"), "?")
	return &bench{follower: f.(*follower), t: t, url: "http" + rest}
}

// port is one that nobody listens on.
func port(t *testing.T) string {
	t.Helper()
	var c syscall.SockaddrInet4
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	c.Addr = [4]byte{127, 0, 0, 1}
	if err := syscall.Bind(fd, &c); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
}

func (b *bench) send(body string, head ...string) (status int, answer string) {
	b.t.Helper()
	status, answer, err := send(b.url, body, head...)
	if err != nil {
		b.t.Fatal(err)
	}
	return status, answer
}

func send(url, body string, head ...string) (int, string, error) {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(answer.Body)
	if retry := answer.Header.Get("Retry-After"); retry != "" {
		text.WriteString(" retry after " + retry)
	}
	return answer.StatusCode, text.String(), err
}

func (b *bench) poll(limit int) int {
	b.t.Helper()
	chunks, err := b.Poll(b.t.Context(), 50*time.Millisecond, limit)
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, c := range chunks {
		for _, r := range c.Records {
			b.got = append(b.got, string(r.Value))
			n++
		}
		b.ends = append(b.ends, c.Next)
	}
	return n
}

func (b *bench) read(n int) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); len(b.got) < n; b.poll(1 << 20) {
		if time.Now().After(deadline) {
			b.t.Fatalf("%d records, want %d", len(b.got), n)
		}
	}
	if len(b.got) > n || b.poll(1<<20) > 0 {
		b.t.Fatalf("%d records too many", len(b.got)-n)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	b := listen(t, t.TempDir(), "&token=se+same&body_limit=1KiB", "")
	auth := []string{"Authorization", "Bearer se same"}
	for _, c := range []struct {
		body   string
		head   []string
		status int
		text   string
	}{
		{`{"i":1}`, auth, 202, `{"accepted":1}`},
		{"{\"i\":2}\n\n{\"i\":3}\r\n", auth, 202, `{"accepted":2}`},
		{"\xef\xbb\xbf{\n \"i\": 4\n}\n", auth, 202, `{"accepted":1}`},
		{"{\"i\":5}\n{\"i\":", auth, 400, "line 2 is no JSON object; nothing was taken"},
		{`[{"i":5}]`, auth, 400, "line 1"},
		{" \n", auth, 400, "no event"},
		{`{"i":"` + strings.Repeat("x", 1024) + `"}`, auth, 413, "1024 bytes"},
		{`{"i":5}`, nil, 401, "token"},
		{`{"i":5}`, []string{"Authorization", "Bearer sesame"}, 401, "token"},
		{`{"i":5}`, append([]string{"Content-Encoding", "gzip"}, auth...), 415, "without compression"},
	} {
		if status, text := b.send(c.body, c.head...); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%q: %d %s, want %d %s", c.body, status, text, c.status, c.text)
		}
	}
	b.read(4)
	if want := []string{`{"i":1}`, `{"i":2}`, `{"i":3}`, `{"i":4}`}; !slices.Equal(b.got, want) {
		t.Errorf("read %q", b.got)
	}
	if status, _, err := send(strings.Replace(b.url, "events", "other", 1), "{}", auth...); status != 404 {
		t.Errorf("another path: %d, %v", status, err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"intake://host/x?wal=d":                      "want intake://host:port/path",
		"intake://:80/x":                             "wal is missing",
		"intake://:80/x?wal=d&tokn=1":                "unknown parameter tokn",
		"intake://:80/x?wal=d&cert=c":                "belong together",
		"intake://:80/x?wal=d&log_limit=many":        "want bytes",
		"intake://:80/x?wal=d&log_limit=1MiB":        "a quarter",
		"intake://:80/x?wal=d&cert=none&key=none":    "files of TLS",
		"intake://:80/x?wal=d&wal=e":                 "one value",
		"intake://user:secret@host:80/x?wal=d&k=%zz": "no valid query",
	} {
		if _, err := (sourceDriver{}).Partitions(t.Context(), address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if !source.Endless("intake://:80/x?wal=d") || source.LocalOnly("intake://:80/x?wal=d") == "" || source.LocalOnly("none://x") != "" {
		t.Error("an intake has no end, and is for one machine alone")
	}
	dir := t.TempDir()
	b := listen(t, dir, "", "")
	if _, err := openWAL(dir, defaultLog); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second log in the folder: %v", err)
	}
	taken := strings.TrimPrefix(b.name, "intake://")
	_, err := sourceDriver{}.Follow(t.Context(), "intake://"+taken+"?wal="+t.TempDir(), []driver.Position{{Partition: "intake://" + taken}})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: %v", err)
	}
}

// TestResumes goes on from each position, and keeps what has not landed.
func TestResumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := listen(t, dir, "&log_limit=1MiB&body_limit=64KiB", "")
	var want []string
	for i := range 400 {
		line := fmt.Sprintf(`{"i":%d,"pad":%q}`, i, strings.Repeat("x", 500+i))
		want = append(want, line)
		if status, text := b.send(line); status != 202 {
			t.Fatal(status, text)
		}
	}
	if lag := b.Lag()[b.name]; lag != 400 {
		t.Errorf("a lag of %d", lag)
	}
	for len(b.got) < 400 {
		if b.poll(3000) > 6 {
			t.Fatal("a poll gave more than its limit")
		}
	}
	if !slices.Equal(b.got, want) {
		t.Fatalf("read %.200q", b.got)
	}
	if segments, _ := filepath.Glob(filepath.Join(dir, "*.wal")); len(segments) < 3 {
		t.Fatalf("%d segments", len(segments))
	}
	b.Pause([]string{b.name})
	b.send(`{"i":400}`)
	if b.poll(1<<20) > 0 {
		t.Error("read while paused")
	}
	b.Pause(nil)
	b.read(401)
	half := len(b.ends) / 2
	b.Close()
	for _, next := range []string{b.ends[0], b.ends[half], b.ends[len(b.ends)-1]} {
		n, _ := strconv.Atoi(next)
		again := listen(t, dir, "", next)
		again.read(401 - n)
		again.Close()
	}
	// What is acknowledged out of order has not landed.
	last := listen(t, dir, "", "")
	for len(last.got) < 401 {
		last.poll(3000)
	}
	for i := len(last.ends) - 1; i >= 0; i-- {
		if i != half {
			last.Ack(last.ends[i])
		}
	}
	last.Close()
	landed, _ := strconv.Atoi(last.ends[half-1])
	again := listen(t, dir, "", "")
	again.read(401 - landed)
	for _, next := range again.ends {
		again.Ack(next)
	}
	again.Close()
	if segments, _ := filepath.Glob(filepath.Join(dir, "*.wal")); len(segments) != 1 {
		t.Errorf("%d segments are left", len(segments))
	}
	empty := listen(t, dir, "", "")
	empty.read(0)
	if status, _ := empty.send(`{"i":401}`); status != 202 {
		t.Error(status)
	}
	empty.read(1)
	if empty.ends[0] != "402" {
		t.Errorf("numbers go on at %q", empty.ends)
	}
	empty.Close()
	_, err := sourceDriver{}.Follow(t.Context(), "intake://"+strings.TrimPrefix(empty.name, "intake://")+"?wal="+dir, []driver.Position{{Partition: empty.name, Next: "500"}})
	if err == nil || !strings.Contains(err.Error(), "ends at 402") {
		t.Errorf("a position behind the end: %v", err)
	}
}

// TestLimit fills the log, and has it taken away.
func TestLimit(t *testing.T) {
	t.Parallel()
	b := listen(t, t.TempDir(), "&log_limit=1MiB&body_limit=256KiB", "")
	line := `{"pad":"` + strings.Repeat("x", 100<<10) + `"}`
	taken := 0
	for {
		status, text := b.send(line)
		if status == 429 && strings.Contains(text, "retry after 1") {
			break
		}
		if taken++; status != 202 || taken > 20 {
			t.Fatalf("%d after %d: %s", status, taken, text)
		}
	}
	b.read(taken)
	for _, next := range b.ends {
		b.Ack(next)
	}
	for deadline := time.Now().Add(patience); ; {
		if status, _ := b.send(line); status == 202 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the log stays full")
		}
	}
}

// TestLimitOfOneWrite fills the log by what waits for one slow sync. Once all of it has landed there is room again,
// though a segment that no other follows is never deleted.
func TestLimitOfOneWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := openWAL(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	g := gate{syncs: &atomic.Int64{}, pass: make(chan error)}
	w.create = func(path string) (file, error) {
		f, err := createFile(path)
		return gate{f, g.syncs, g.pass}, err
	}
	record := [][]byte{bytes.Repeat([]byte("x"), 200<<10)}
	var all sync.WaitGroup
	var failed atomic.Int64
	add := func(record [][]byte) {
		all.Go(func() {
			if w.append(record) != nil {
				failed.Add(1)
			}
		})
	}
	add([][]byte{[]byte("{}")})
	g.pass <- nil // of the segment's head: the first record is being written
	for range 5 {
		add(record)
	}
	for have := uint64(0); have < 5; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		have = w.pending.records
		w.mu.Unlock()
	}
	close(g.pass)
	all.Wait()
	if failed.Load() > 0 {
		t.Fatalf("%d of 6 were refused", failed.Load())
	}
	if err := w.append(record); !errors.Is(err, errFull) {
		t.Fatalf("beyond the limit: %v", err)
	}
	if err := w.land(6); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if w, err = openWAL(dir, 1<<20); err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for i := range uint64(20) {
		if err := w.append(record); err != nil {
			t.Fatalf("record %d behind those that have landed: %v", i, err)
		}
		if err := w.land(7 + i); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*"+ending)); err != nil || len(names) > 2 {
		t.Errorf("%q are left, %v", names, err)
	}
}

// version1Segment is a segment of two records, from number 7 on, as it was written first.
const version1Segment = "4d494c4c57414c010700000000000000c418d1c307000000ab5579347b2261223a317d07000000c64dad487b2262223a327d"

func TestLogVersion1(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	segment, err := hex.DecodeString(version1Segment)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000007.wal"), segment, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "landed"), []byte("{\"v\":1,\"next\":8}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	b := listen(t, dir, "", "")
	b.read(1)
	if b.got[0] != `{"b":2}` || b.ends[0] != "9" {
		t.Errorf("read %q to %q", b.got, b.ends)
	}
	if got := hex.EncodeToString(appendFrame(appendFrame(appendHead(nil, 7), []byte(`{"a":1}`)), []byte(`{"b":2}`))); got != version1Segment {
		t.Errorf("written is %s", got)
	}
	b.Close()
	segment[7] = 2
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000007.wal"), segment, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := openWAL(dir, defaultLog); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a later version: %v", err)
	}
}

// TestTorn cuts and spoils a log at every byte of its last record, and one in the middle.
func TestTorn(t *testing.T) {
	t.Parallel()
	head := appendHead(nil, 0)
	good := appendFrame(head, []byte(`{"a":1}`))
	whole := appendFrame(bytes.Clone(good), []byte(`{"b":2}`))
	open := func(texts ...[]byte) (*wal, error) {
		dir := t.TempDir()
		for i, text := range texts {
			if err := os.WriteFile(filepath.Join(dir, segmentName(uint64(2*i))), text, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return openWAL(dir, defaultLog)
	}
	check := func(what string, w *wal, err error, want int) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer w.close()
		if err := w.append([][]byte{[]byte(`{"c":3}`)}); err != nil {
			t.Fatal(err)
		}
		r := reader{w: w}
		defer r.close()
		n := 0
		for {
			records, err := r.read(1 << 20)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if n += len(records); records == nil {
				break
			}
		}
		if n != want+1 {
			t.Errorf("%s: %d records, want %d", what, n, want+1)
		}
	}
	for cut := range whole {
		want := 0
		if cut >= len(good) {
			want = 1
		}
		w, err := open(whole[:cut])
		check(fmt.Sprint("cut at ", cut), w, err, want)
		if cut >= len(good) {
			spoilt := bytes.Clone(whole)
			spoilt[cut] ^= 0x40
			w, err := open(spoilt)
			check(fmt.Sprint("spoilt at ", cut), w, err, 1)
		}
	}
	second := appendFrame(appendHead(nil, 2), []byte(`{"d":4}`))
	w, err := open(append(bytes.Clone(whole), 1, 2, 3), second) // left after a failed sync
	check("torn in the middle", w, err, 3)
	if _, err := open(good, second); err == nil || !strings.Contains(err.Error(), "corrupt behind record 1") {
		t.Errorf("a record is missing in the middle: %v", err)
	}
}

// gate is a disk whose syncs wait, and fail.
type gate struct {
	file
	syncs *atomic.Int64
	pass  chan error
}

func (g gate) Sync() error {
	if g.pass == nil {
		return g.file.Sync()
	}
	if err := <-g.pass; err != nil {
		return err
	}
	g.syncs.Add(1)
	return g.file.Sync()
}

// TestGroupCommit holds a sync until many requests wait: they share the next one.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	w, err := openWAL(t.TempDir(), defaultLog)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	g := gate{syncs: &atomic.Int64{}, pass: make(chan error)}
	w.create = func(path string) (file, error) {
		f, err := createFile(path)
		return gate{f, g.syncs, g.pass}, err
	}
	var all sync.WaitGroup
	var failed atomic.Int64
	add := func(n int) {
		for range n {
			all.Go(func() {
				if w.append([][]byte{[]byte("{}")}) != nil {
					failed.Add(1)
				}
			})
		}
	}
	waits := func(n uint64) {
		for {
			w.mu.Lock()
			have := w.pending.records
			w.mu.Unlock()
			if have == n {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	add(1)
	g.pass <- nil // of the segment's head
	waits(0)
	add(100)
	waits(100)
	g.pass <- nil // of the first
	waits(0)
	add(50)
	waits(50)
	g.pass <- nil // of the hundred
	// A sync that fails fails all that share it, and nothing of them is ever read.
	g.pass <- syscall.EIO
	all.Wait()
	if syncs := g.syncs.Load(); syncs != 3 || failed.Load() != 50 {
		t.Errorf("%d syncs, %d failed", syncs, failed.Load())
	}
	add(1)
	g.pass <- nil // the head of a new segment
	g.pass <- nil
	all.Wait()
	r := reader{w: w}
	defer r.close()
	n := 0
	for {
		records, err := r.read(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		if n += len(records); records == nil {
			break
		}
	}
	if n != 102 {
		t.Errorf("%d records, want 102", n)
	}
}

// TestDiskFull fills a file system, and makes room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := listen(t, filepath.Join(dir, "wal"), "", "")
	taken := 0
	var last string
	one := func() int {
		last = fmt.Sprintf(`{"i":%d,"pad":%q}`, taken, strings.Repeat("x", 50<<10))
		status, text := b.send(last)
		if status == 503 && !strings.Contains(text, "retry after 5") {
			t.Fatal(text)
		}
		if status == 202 {
			taken++
		}
		return status
	}
	for n := 0; one() == 202; n++ {
		if n > 20 {
			t.Fatal("the disk never fills up")
		}
	}
	for range 3 {
		if status := one(); status != 503 {
			t.Fatalf("%d on a full disk", status)
		}
	}
	b.read(taken)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if status := one(); status != 202 {
			t.Fatalf("%d with room", status)
		}
	}
	b.read(taken)
	b.Close()
	again := listen(t, filepath.Join(dir, "wal"), "", "")
	again.read(taken)
}

// TestMain is also the process that TestKilled kills.
func TestMain(m *testing.M) {
	if address := os.Getenv("INTAKE_TEST_ADDRESS"); address != "" {
		if err := scorer(address, os.Getenv("INTAKE_TEST_SCORES")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// scorer writes down what it reads and acknowledges it then.
func scorer(address, scores string) error {
	name, _, _ := strings.Cut(address, "?")
	f, err := sourceDriver{}.Follow(context.Background(), address, []driver.Position{{Partition: name}})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(scores, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	for {
		chunks, err := f.Poll(context.Background(), time.Second, 1<<20)
		if err != nil {
			return err
		}
		for _, c := range chunks {
			var text []byte
			for _, r := range c.Records {
				text = append(append(text, r.Value...), '\n')
			}
			if _, err := out.Write(text); err != nil {
				return err
			}
			f.(driver.Acknowledger).Ack(c.Next)
		}
	}
}

// TestKilled kills the process again and again under load: what was answered with 202 is scored.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	scores := filepath.Join(dir, "scores")
	address := "intake://127.0.0.1:" + port(t) + "/in?log_limit=1MiB&body_limit=64KiB&wal=" + filepath.Join(dir, "wal")
	url, _, _ := strings.Cut("http"+strings.TrimPrefix(address, "intake"), "?")
	begin := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "INTAKE_TEST_ADDRESS="+address, "INTAKE_TEST_SCORES="+scores)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	var mu sync.Mutex
	accepted := map[string]bool{}
	ctx, stop := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	for s := range 8 {
		senders.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				line := fmt.Sprintf(`{"s":%d,"i":%d,"pad":%q}`, s, i, strings.Repeat("x", i%2000))
				if status, _, err := send(url, line); err != nil {
					time.Sleep(5 * time.Millisecond)
				} else if status == 202 {
					mu.Lock()
					accepted[line] = true
					mu.Unlock()
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted)
	}
	cmd := begin()
	for kills := range 6 {
		before := count()
		for deadline := time.Now().Add(patience); count() < before+200; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after %d kills only %d were accepted", kills, count())
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cmd = begin()
	}
	stop()
	senders.Wait()
	var missing []string
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(scores)
		if err != nil {
			t.Fatal(err)
		}
		scored := map[string]bool{}
		for line := range strings.SplitSeq(string(text), "\n") {
			scored[line] = true
		}
		missing = missing[:0]
		for line := range accepted {
			if !scored[line] {
				missing = append(missing, line)
			}
		}
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d accepted events were never scored: %.200q", len(missing), len(accepted), missing)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Logf("%d events accepted over 6 kills, all scored", len(accepted))
}
