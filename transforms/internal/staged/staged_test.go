package staged

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

// memory is a store in memory that holds at most room bytes.
type memory struct {
	mu    sync.Mutex
	files map[string]string
	room  int
}

func (m *memory) OpenStore(_ context.Context, address string) (driver.Store, string, error) {
	target, _ := strings.CutPrefix(address, "memory://")
	return m, strings.TrimSuffix(target, "/"), nil
}

func (m *memory) Create(_ context.Context, name string) (driver.Writer, error) {
	return &memoryWriter{m: m, name: name}, nil
}

type memoryWriter struct {
	m    *memory
	name string
	text []byte
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if len(p) > w.m.room {
		return 0, syscall.ENOSPC
	}
	w.m.room -= len(p)
	w.text = append(w.text, p...)
	return len(p), nil
}

func (w *memoryWriter) Close() error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.files[w.name] = string(w.text)
	return nil
}

func (w *memoryWriter) Abort() {}

func (m *memory) Open(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text[offset:])), nil
}

func (m *memory) Copy(_ context.Context, from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.files[from]
	if !ok {
		return fs.ErrNotExist
	}
	m.files[to] = text
	return nil
}

func (m *memory) List(_ context.Context, prefix string) (names []string, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.files {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

func (m *memory) Close() error { return nil }

func (m *memory) visible() (names []string) {
	all, _ := m.List(context.Background(), "")
	return slices.DeleteFunc(all, func(name string) bool { return strings.HasPrefix(name, "_staging/") })
}

func setup(t *testing.T, target Target) (*memory, *Stage) {
	t.Helper()
	m := &memory{files: map[string]string{}, room: 1 << 20}
	scheme := "memory" // one a test: the drivers are the process's
	driversMu.Lock()
	drivers[scheme] = m
	driversMu.Unlock()
	s, err := target.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m, s
}

func bundle(t *testing.T, s *Stage, rows ...string) []Chunk {
	t.Helper()
	w := s.NewWriter()
	w.Head([]byte("head\n"))
	for i, row := range rows {
		if err := w.Write(t.Context(), []byte(row+"\n"), 1, int64(row[0])+int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	chunks, err := w.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return chunks
}

func TestARetriedBundleCountsOnce(t *testing.T) {
	m, s := setup(t, Target{URL: "memory://o", Run: "r"})
	bundle(t, s, "b", "c") // an attempt whose result was lost
	again := bundle(t, s, "b", "c")
	other := bundle(t, s, "a")
	if got := m.visible(); len(got) > 0 {
		t.Fatalf("%v can be seen before the commit", got)
	}
	for range 2 { // a commit may be repeated as well
		rows, err := s.Commit(t.Context(), append(append([]Chunk{{}}, again...), other...), nil, nil)
		if err != nil || rows != 3 {
			t.Fatalf("%d rows, %v", rows, err)
		}
	}
	if got, want := m.files["o"], "head\na\nb\nc\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, _ := m.List(t.Context(), ""); !slices.Equal(all, []string{"o"}) {
		t.Errorf("the sweep left %v", all)
	}
}

func TestAFullStoreLeavesTheOldOutput(t *testing.T) {
	for room := range 40 { // full at every byte
		m, s := setup(t, Target{URL: "memory://u:hunter2@o", Run: "r"})
		m.files["u:hunter2@o"] = "old"
		m.room = room
		w := s.NewWriter()
		w.Head([]byte("head\n"))
		var chunks []Chunk
		var err error
		for range 2 {
			if err = w.Write(t.Context(), []byte("row\n"), 1, 0); err != nil {
				break
			}
			var done []Chunk
			if done, err = w.Finish(t.Context()); err != nil {
				break
			}
			chunks = done
		}
		if err == nil {
			_, err = s.Commit(t.Context(), chunks, nil, nil)
		}
		if enough := 5 + 4 + 5 + 4 + 13; room < enough {
			if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("room %d: %v", room, err)
			}
			if m.files["u:hunter2@o"] != "old" {
				t.Fatalf("room %d: the old output became %q", room, m.files["u:hunter2@o"])
			}
			w.Abort(t.Context())
		} else if err != nil || m.files["u:hunter2@o"] != "head\nrow\nrow\n" {
			t.Fatalf("room %d: %q, %v", room, m.files["u:hunter2@o"], err)
		}
	}
}

func TestALostOrTornChunkFailsTheCommit(t *testing.T) {
	m, s := setup(t, Target{URL: "memory://o", Run: "r"})
	chunks := append(bundle(t, s, "a"), bundle(t, s, "b")...)
	m.files[chunks[1].Name] = "head\n"
	if _, err := s.Commit(t.Context(), chunks, nil, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a torn chunk: %v", err)
	}
	delete(m.files, chunks[0].Name)
	if _, err := s.Commit(t.Context(), chunks, nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a lost chunk: %v", err)
	}
	if got := m.visible(); len(got) > 0 {
		t.Errorf("%v can be seen", got)
	}
}

func TestAFolderIsWholeOnceItHasAManifest(t *testing.T) {
	m, s := setup(t, Target{URL: "memory:///", Run: "r", Ext: ".txt", PartBytes: 1})
	m.files["part-00007-of-00008.txt"], m.files[ManifestName], m.files["mine.txt"] = "old", `{"v":1,"run":"q"}`, "keep"
	chunks := bundle(t, s, "a", "b", "c")
	if len(chunks) != 3 {
		t.Fatalf("chunks: %v", chunks)
	}
	m.room = 10 // the manifest can't be written: nothing may have changed
	if _, err := s.Commit(t.Context(), slices.Clone(chunks), nil, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if m.files["part-00007-of-00008.txt"] != "old" || m.files[ManifestName] == "" {
		t.Errorf("the old output has gone: %v", m.visible())
	}
	m.room = 1 << 20
	for range 2 {
		if _, err := s.Commit(t.Context(), slices.Clone(chunks), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{ManifestName, "mine.txt", "part-00000-of-00003.txt", "part-00001-of-00003.txt", "part-00002-of-00003.txt"}
	if got := m.visible(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
