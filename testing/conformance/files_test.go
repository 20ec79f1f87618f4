package conformance

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
	"github.com/millrace-ml/millrace/transforms/source/driver"

	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/sink"
)

// store is a kind of place that holds files: written through a store, read as a bounded source.
type store struct {
	// folder makes the address of a folder for a case, with its slash, and the query of addresses in it.
	folder func(t *testing.T, name string) (folder, query string)
	// absent is an address of what isn't there, with a secret that no error may show.
	absent string
}

// place is a folder of its own for a case.
type place struct {
	t             *testing.T
	folder, query string
	store         sinkdriver.Store
	absent        string
}

func (p *place) address(name string) string { return p.folder + name + p.query }

func (p *place) put(name, text string) {
	p.t.Helper()
	w, err := p.store.Create(p.t.Context(), name)
	if err == nil {
		if _, err = io.WriteString(w, text); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		p.t.Fatalf("writing %s: %v", name, err)
	}
}

// get is an object from an offset on; an error's text if there is one.
func (p *place) get(name string, offset int64) string {
	p.t.Helper()
	r, err := p.store.Open(p.t.Context(), name, offset)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	if err != nil {
		p.t.Fatalf("opening %s: %v", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		p.t.Fatalf("reading %s: %v", name, err)
	}
	return string(b)
}

func testStore(t *testing.T, s store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *place)
	}{
		{"Objects", storeObjects}, {"Unfinished", storeUnfinished}, {"Target", storeTarget},
		{"Partitions", bytesPartitions}, {"Offsets", bytesOffsets}, {"Absent", bytesAbsent},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &place{t: t, absent: s.absent}
			p.folder, p.query = s.folder(t, strings.ToLower("store-"+c.name))
			var target string
			var err error
			if p.store, target, err = opener(t, p.folder).OpenStore(t.Context(), p.address("out/")); err != nil || target != "" {
				t.Fatalf("a folder's target is %q, %v", target, err)
			}
			defer func() {
				if err := p.store.Close(); err != nil {
					t.Error(err)
				}
			}()
			c.run(t, p)
		})
	}
}

func opener(t *testing.T, address string) sinkdriver.Opener {
	t.Helper()
	d, err := sink.Lookup(address)
	if err != nil {
		t.Fatal(err)
	}
	return d.(sinkdriver.Opener)
}

// storeObjects: what was created is there whole, from any offset, is replaced whole, copied, listed in order,
// and deleted.
func storeObjects(t *testing.T, p *place) {
	ctx := t.Context()
	if names, err := p.store.List(ctx, ""); err != nil || len(names) > 0 {
		t.Errorf("an empty folder lists %q, %v", names, err)
	}
	large := strings.Repeat("0123456789abcdef", 1<<16) // a megabyte
	for name, text := range map[string]string{"b": "two", "a": "one", "_staging/run/1": "three", "c/d": large, "empty": ""} {
		p.put(name, text)
		if got := p.get(name, 0); got != text {
			t.Errorf("%s holds %d bytes, want %d", name, len(got), len(text))
		}
	}
	if got := p.get("c/d", 1<<20-3); got != "def" {
		t.Errorf("the end of a large object is %q", got)
	}
	p.put("b", "2")
	if err := p.store.Copy(ctx, "_staging/run/1", "a"); err != nil {
		t.Fatal(err)
	}
	if got := p.get("a", 2) + p.get("b", 0) + p.get("_staging/run/1", 0); got != "ree2three" {
		t.Errorf("after replacing and copying: %q", got)
	}
	for prefix, want := range map[string][]string{"a": {"a"}, "c/": {"c/d"}, "_staging/": {"_staging/run/1"}, "_staging/run/": {"_staging/run/1"}, "e": {"empty"}, "x": nil} {
		if names, err := p.store.List(ctx, prefix); err != nil || !slices.Equal(names, want) {
			t.Errorf("%q lists %q, %v, want %q", prefix, names, err, want)
		}
	}
	if err := errors.Join(p.store.Delete(ctx, "a"), p.store.Delete(ctx, "a"), p.store.Delete(ctx, "never")); err != nil {
		t.Errorf("deleting, also what isn't there: %v", err)
	}
	if got := p.get("a", 0); got != "absent" {
		t.Errorf("after deleting: %q", got)
	}
	if err := p.store.Copy(ctx, "a", "z"); err == nil || p.get("z", 0) != "absent" {
		t.Errorf("copying what isn't there: %v", err)
	}
}

// storeUnfinished: nothing of an object can be seen before it is closed, nor ever if it is given up; what it
// would have replaced stays.
func storeUnfinished(t *testing.T, p *place) {
	p.put("kept", "old")
	for _, name := range []string{"kept", "new"} {
		w, err := p.store.Create(t.Context(), name)
		if err == nil {
			_, err = w.Write(bytes.Repeat([]byte("x"), 1<<17))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := p.get("kept", 0) + p.get("new", 0); got != "oldabsent" {
			t.Errorf("%s can be seen while it is written: %.20q", name, got)
		}
		w.Abort()
	}
	if names, err := p.store.List(t.Context(), ""); err != nil || !slices.Equal(names, []string{"kept"}) || p.get("kept", 0) != "old" {
		t.Errorf("after giving up: %q, %v", names, err)
	}
}

// storeTarget: of an address that is no folder the store has the name of the object, and creates nothing.
func storeTarget(t *testing.T, p *place) {
	s, target, err := opener(t, p.folder).OpenStore(t.Context(), p.address("scores.jsonl"))
	if err != nil || target != "scores.jsonl" {
		t.Fatalf("the target is %q, %v", target, err)
	}
	defer s.Close()
	if _, err := s.Open(t.Context(), target, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening has created it: %v", err)
	}
}

func (p *place) partitions(name string) []driver.Partition {
	p.t.Helper()
	parts, err := lookup(p.t, p.folder).Partitions(p.t.Context(), p.address(name))
	if err != nil {
		p.t.Fatalf("%s: %v", name, err)
	}
	return parts
}

// bytesPartitions: an object, a pattern or a folder lists what it names, in order, with what the names tell.
func bytesPartitions(t *testing.T, p *place) {
	p.put("b.jsonl", "12345")
	p.put("a.csv", "1234567")
	p.put("c.jsonl.gz", zipped("x"))
	p.put("_hidden.jsonl", "x")
	p.put(".hidden.jsonl", "x")
	for name, want := range map[string][]string{
		"out/b.jsonl": {"b.jsonl"}, "out/*.csv": {"a.csv"}, "out/[a-b].*": {"a.csv", "b.jsonl"}, "out/": {"a.csv", "b.jsonl", "c.jsonl.gz"},
	} {
		var got []string
		for _, part := range p.partitions(name) {
			got = append(got, part.Name[strings.LastIndex(part.Name, "/")+1:])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s lists %q, want %q", name, got, want)
		}
	}
	all := p.partitions("out/")
	for i, want := range []driver.Partition{{Size: 7, Format: "csv", Splittable: true}, {Size: 5, Format: "json", Splittable: true}, {Size: int64(len(zipped("x"))), Format: "json", Gzip: true}} {
		if got := all[i]; got.Size != want.Size || got.Format != want.Format || got.Splittable != want.Splittable || got.Gzip != want.Gzip {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.String()
}

// bytesOffsets: a partition is read from any offset, as often as is asked, to the end or not; what offers
// random access gives the same bytes.
func bytesOffsets(t *testing.T, p *place) {
	text := strings.Repeat(`{"a":1}`+"\n", 1000)
	p.put("a.jsonl", text)
	part := p.partitions("out/a.jsonl")[0]
	d := lookup(t, p.folder).(driver.Bytes)
	for _, offset := range []int64{0, 1, 4000, int64(len(text)) - 1} {
		for range 2 {
			r, err := d.Open(t.Context(), part, offset)
			if err != nil {
				t.Fatalf("from %d: %v", offset, err)
			}
			b, err := io.ReadAll(r)
			if err != nil || string(b) != text[offset:] {
				t.Errorf("from %d: %d bytes, %v", offset, len(b), err)
			}
			if at, ok := r.(io.ReaderAt); ok {
				some := make([]byte, 10)
				if _, err := at.ReadAt(some, 20); err != nil || string(some) != text[20:30] {
					t.Errorf("at 20: %q, %v", some, err)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	r, err := d.Open(t.Context(), part, 0)
	if err == nil {
		_, err = io.ReadFull(r, make([]byte, 10))
	}
	if err := errors.Join(err, r.Close()); err != nil {
		t.Errorf("closed long before its end: %v", err)
	}
}

// bytesAbsent: what isn't there is an error that names it and shows no secret.
func bytesAbsent(t *testing.T, p *place) {
	p.put("a.jsonl", "x")
	for _, name := range []string{"out/none.jsonl", "out/*.csv", "none/", "out/[.jsonl"} {
		parts, err := lookup(t, p.folder).Partitions(t.Context(), p.address(name))
		if err == nil || !strings.Contains(err.Error(), strings.Trim(name, "/")) {
			t.Errorf("%s: %v, %v", name, parts, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	parts, err := lookup(t, p.absent).Partitions(ctx, p.absent)
	tells(t, err, p.absent)
	if len(parts) > 0 {
		t.Errorf("%v are listed", parts)
	}
}

// testBatches: what needs no decoding comes the same again, and who takes it can end it.
func testBatches(t *testing.T, address string) {
	d := lookup(t, address).(driver.Batches)
	parts, err := d.Partitions(t.Context(), address)
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	read := func() (all []byte) {
		err := d.ReadBatches(t.Context(), parts[0], 0, parts[0].Size, func(b event.Batch) error {
			all = event.Append(all, b)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if a, b := read(), read(); len(a) == 0 || !bytes.Equal(a, b) {
		t.Errorf("%s gives %d bytes and then %d others", address, len(a), len(b))
	}
	enough := errors.New("enough")
	if err := d.ReadBatches(t.Context(), parts[0], 0, parts[0].Size, func(event.Batch) error { return enough }); err != enough {
		t.Errorf("%s: %v, want the error of who takes it", address, err)
	}
}
