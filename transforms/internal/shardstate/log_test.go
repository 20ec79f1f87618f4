package shardstate

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the golden logs of this version that do not exist; those that do are for ever")

// sample is a shard in a form that its test names.
type sample struct {
	name string
	shardWorld
}

// samples makes the forms that a shard's state may have, the same ones each time.
func samples(t testing.TB) []sample {
	t.Helper()
	var token uint64
	s := open(t, func(c *Config) {
		c.MinLog, c.CopyBytes = 400, 90
		c.Rand = func() uint64 { token++; return token * 0x9e3779b97f4a7c15 }
	})
	s.c.maxRecord = 128
	st, o := &state{}, newOracle()
	call := func(ops ...op) {
		t.Helper()
		if err := do(s, 1, &fakeCells{state: st}, ops...); err != nil {
			t.Fatal(err)
		}
		o.apply(ops)
	}
	var out []sample
	take := func(name string) { out = append(out, sample{name, shardWorld{st.clone(), o.clone()}}) }

	call(op{'a', 7, 70}, op{'f', 0, 1000})
	for i := range uint64(9) { // entity 7 is larger than what a call copies
		call(op{'a', 7, 71 + i}, op{'a', 7 + i, 1})
	}
	take("plain")
	for i := uint64(0); !copying(st); i++ {
		call(op{'a', 20 + i%3, i}, op{'d', 21, 2})
	}
	call(op{'a', 30, 1})
	take("compacting")
	for i := uint64(0); copying(st); i++ {
		call(op{'a', 7, 100 + i}, op{'a', 40 + i, 2}, op{'d', 8, 1})
	}
	take("compacted")
	call(op{'a', 50, 1}, op{'d', 7, 3})
	take("after")
	return out
}

func copying(st *state) bool {
	_, c, _ := splitHead(st.head)
	return c
}

func TestSamplesDiffer(t *testing.T) {
	for _, s := range samples(t) {
		active, copying, _ := splitHead(s.state.head)
		got := fmt.Sprintf("active %d %c, copying %v, idle empty %v", active, s.state.logs[active][0][5], copying, len(s.state.logs[1-active]) == 0)
		want := map[string]string{
			"plain":      "active 0 p, copying false, idle empty true",
			"compacting": "active 0 p, copying true, idle empty false",
			"compacted":  "active 1 c, copying false, idle empty true",
			"after":      "active 1 c, copying false, idle empty true",
		}[s.name]
		if got != want {
			t.Errorf("%s: %s, want %s", s.name, got, want)
		}
	}
}

// golden is a state as it stands in testdata.
type golden struct {
	Head int64
	Logs [2][]string // records in hex
	Want oracle
}

func readGolden(file string) (g golden, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return g, err
	}
	return g, json.Unmarshal(text, &g)
}

func (g golden) state(t *testing.T) *state {
	t.Helper()
	st := &state{head: g.Head, known: true}
	for i, log := range g.Logs {
		for _, r := range log {
			b, err := hex.DecodeString(r)
			if err != nil {
				t.Fatal(err)
			}
			st.logs[i] = append(st.logs[i], b)
		}
	}
	return st
}

// TestUpgrade reads the states that every released version of the format wrote.
func TestUpgrade(t *testing.T) {
	files, err := filepath.Glob("testdata/v*/*.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d golden states, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			g, err := readGolden(file)
			if err != nil {
				t.Fatal(err)
			}
			st := g.state(t)
			s := open(t, nil)
			got, err := contents(s, 1, st)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(g.Want, got); d != "" {
				t.Fatalf("(-want +got):\n%s", d)
			}
			// And goes on from there, up to the next flip.
			for i := uint64(0); s.Stats().Compactions == 0; i++ {
				more := op{'a', i % 11, i}
				if err := do(s, 1, &fakeCells{state: st}, more); err != nil {
					t.Fatal(err)
				}
				g.Want.apply([]op{more})
			}
			if got, err = contents(open(t, nil), 1, st); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(g.Want, got); d != "" {
				t.Fatalf("after a compaction (-want +got):\n%s", d)
			}
		})
	}
}

// TestWrites takes the goldens of this version apart as doc.go describes them, and holds the writer to
// making the same bytes of the same things: other bytes need another version. How fast a copy advances
// may change within a version.
func TestWrites(t *testing.T) {
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	for _, s := range samples(t) {
		file := fmt.Sprintf("testdata/v%d/%s.json", version, s.name)
		g, err := readGolden(file)
		if errors.Is(err, os.ErrNotExist) && *rewrite {
			g = golden{Head: s.state.head, Want: s.oracle}
			for i, log := range s.state.logs {
				g.Logs[i] = []string{}
				for _, r := range log {
					g.Logs[i] = append(g.Logs[i], hex.EncodeToString(r))
				}
			}
			var text []byte
			text, err = json.MarshalIndent(g, "", " ")
			err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := makeHead(int(g.Head&1), g.Head&2 != 0, uint64(g.Head)>>2); got != g.Head {
			t.Errorf("%s: head %d became %d", file, g.Head, got)
		}
		for _, log := range g.state(t).logs {
			for i, want := range log {
				var got []byte
				if i == 0 {
					got = appendHeader(nil, header{
						form: want[5], shards: int(u32(want[6:])), shard: int(u32(want[10:])), fingerprint: string(want[14 : len(want)-4]),
					})
				} else {
					got = appendRecord(nil, u64(want[4:]), u32(want[12:]), want[16] == 1, want[17:])
				}
				if d := cmp.Diff(hex.EncodeToString(want), hex.EncodeToString(got)); d != "" {
					t.Errorf("%s: record %d changed without the version (-golden +now):\n%s", file, i, d)
				}
			}
			var want, got []byte
			for _, r := range log[min(1, len(log)):] {
				want = append(want, r[17:]...)
			}
			for b := want; len(b) > 0; {
				n := 5 + u32(b[1:])
				got = appendPart(got, b[0], b[5:n])
				b = b[n:]
			}
			if d := cmp.Diff(hex.EncodeToString(want), hex.EncodeToString(got)); d != "" {
				t.Errorf("%s: parts changed without the version (-golden +now):\n%s", file, d)
			}
		}
	}
}

func TestForeign(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Config)
		shard  int
		want   string
	}{
		{"fingerprint", func(c *Config) { c.Fingerprint = "77aa01" }, 1, `stage fingerprint "3fa2c1", want "77aa01"`},
		{"shards", func(c *Config) { c.Shards = 4 }, 1, "2 shards, want 4"},
		{"shard", nil, 0, "shard 1, want 0"},
		{"all", func(c *Config) { c.Fingerprint, c.Shards = "", 3 }, 2, `stage fingerprint "3fa2c1", want "", 2 shards, want 3, shard 1, want 2`},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range samples(t) {
				_, err := contents(open(t, test.change), test.shard, s.state)
				if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "fresh state") {
					t.Errorf("%s: %v", s.name, err)
				}
			}
		})
	}
	t.Run("version", func(t *testing.T) {
		st := samples(t)[0].state
		st.logs[0][0] = append([]byte("MRSS\x07"), "whatever version 7 is"...)
		_, err := contents(open(t, nil), 1, st)
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "format version 7, this build reads version 1") {
			t.Error(err)
		}
	})
}

// TestCorrupt damages states in every place. None may be read, whatever is wrong with it.
func TestCorrupt(t *testing.T) {
	store := open(t, nil)
	refused := func(what string, st *state) {
		t.Helper()
		_, err := contents(store, 1, st)
		// A changed version byte is another version.
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
		if e := store.c.shards[1]; e != nil {
			t.Fatalf("%s: a machine was kept", what)
		}
	}
	for _, s := range samples(t) {
		active, copying, token := splitHead(s.state.head)
		log := s.state.logs[active]
		with := func(head int64, records ...[]byte) *state {
			st := &state{head: head, known: true}
			st.logs[active] = records
			return st
		}
		damaged := func(what string, records [][]byte) {
			t.Helper()
			refused(s.name+": "+what, with(s.state.head, records...))
		}
		damaged("empty", nil)
		for i, r := range log {
			damaged(fmt.Sprintf("without record %d", i), slices.Delete(slices.Clone(log), i, i+1))
			damaged(fmt.Sprintf("cut before record %d", i), log[:i])
			damaged(fmt.Sprintf("record %d twice", i), slices.Insert(slices.Clone(log), i, r))
			if i > 0 {
				swapped := slices.Clone(log)
				swapped[i-1], swapped[i] = r, log[i-1]
				damaged(fmt.Sprintf("records %d and %d swapped", i-1, i), swapped)
			}
			for at := range r {
				other := slices.Clone(log)
				other[i] = slices.Clone(r)
				other[i][at] ^= 1 << (at % 8)
				damaged(fmt.Sprintf("byte %d of record %d changed", at, i), other)
				other = slices.Clone(log)
				other[i] = r[:at]
				damaged(fmt.Sprintf("record %d cut to %d bytes", i, at), other)
			}
		}
		refused(s.name+": head of another call", with(makeHead(active, copying, token+1), log...))
		refused(s.name+": head of the other log", with(makeHead(1-active, copying, token), log...))
		if copying {
			refused(s.name+": a copy in the making", &state{head: makeHead(1-active, false, token), known: true, logs: s.state.logs})
		}
	}
}

// seal makes a log with right checksums of any body.
func seal(form byte, size int, body []byte) *state {
	st := &state{head: makeHead(0, false, 5), known: true}
	st.logs[0] = [][]byte{appendHeader(nil, header{form: form, shards: 2, shard: 1, fingerprint: "3fa2c1"})}
	for n := uint32(0); n == 0 || len(body) > 0; n++ {
		k := min(size, len(body))
		st.logs[0] = append(st.logs[0], appendRecord(nil, 5, n, k == len(body), body[:k]))
		body = body[k:]
	}
	return st
}

// TestParts reads logs whose records are whole and whose parts are not as they should be.
func TestParts(t *testing.T) {
	delta := appendPart(nil, partDelta, encode([]op{{'a', 1, 1}}))
	complete := appendPart(nil, partComplete, nil)
	globals := appendPart(nil, partEntities, append([]byte{'f'}, make([]byte, 8)...))
	for _, test := range []struct {
		name  string
		form  byte
		parts [][]byte
		want  string
	}{
		{"good", formPlain, [][]byte{delta, delta}, ""},
		{"good copy", formCopy, [][]byte{delta, globals, complete, delta}, ""},
		{"copy without end", formCopy, [][]byte{delta, globals}, "the copy has no end"},
		{"two ends", formCopy, [][]byte{complete, complete}, "unexpected part of kind 'C'"},
		{"end of a plain log", formPlain, [][]byte{delta, complete}, "unexpected part of kind 'C'"},
		{"end with contents", formCopy, [][]byte{appendPart(nil, partComplete, []byte{1})}, "unexpected part of kind 'C'"},
		{"entities in a plain log", formPlain, [][]byte{globals}, "unexpected part of kind 'E'"},
		{"entities after the end", formCopy, [][]byte{complete, globals}, "unexpected part of kind 'E'"},
		{"unknown kind", formPlain, [][]byte{appendPart(nil, 'X', nil)}, "unexpected part of kind 'X'"},
		{"cut off", formPlain, [][]byte{delta, delta[:9]}, "its last part is cut off"},
		{"cut off in the head", formPlain, [][]byte{delta, delta[:3]}, "its last part is cut off"},
		{"huge", formPlain, [][]byte{{partDelta, 0xff, 0xff, 0xff, 0xff, 1}}, "its last part is cut off"},
		{"delta of another machine", formPlain, [][]byte{appendPart(nil, partDelta, []byte("zzz"))}, "delta is cut off"},
		{"entities of another machine", formCopy, [][]byte{appendPart(nil, partEntities, []byte("zzz")), complete}, "entity is cut off"},
	} {
		for _, size := range []int{1, 7, maxRecord} {
			t.Run(fmt.Sprint(test.name, "/", size), func(t *testing.T) {
				_, err := contents(open(t, nil), 1, seal(test.form, size, slices.Concat(test.parts...)))
				if test.want == "" && err == nil {
					return
				}
				if test.want == "" || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
					t.Error(err)
				}
			})
		}
	}
}

// TestRecords reads logs whose records have right checksums, and are not of calls as they should be.
func TestRecords(t *testing.T) {
	sum := func(b string) []byte { // with its checksum
		return binary.LittleEndian.AppendUint32([]byte(b), crc32.Checksum([]byte(b), castagnoli))
	}
	good := appendHeader(nil, header{form: formPlain, shards: 2, shard: 1, fingerprint: "3fa2c1"})
	delta := appendPart(nil, partDelta, encode([]op{{'a', 1, 1}}))
	for _, test := range []struct {
		name string
		log  [][]byte
		want string
	}{
		{"good", [][]byte{good, appendRecord(nil, 4, 0, true, delta), appendRecord(nil, 5, 1, true, delta)}, ""},
		{"a call in two records", [][]byte{good, appendRecord(nil, 5, 0, false, delta), appendRecord(nil, 5, 1, true, delta)}, ""},
		{"header only", [][]byte{good}, "the head belongs to another call"},
		{"the last call has no end", [][]byte{good, appendRecord(nil, 5, 0, false, delta)}, "the last call has no end"},
		{"a call has no end", [][]byte{good, appendRecord(nil, 4, 0, false, delta), appendRecord(nil, 5, 1, true, delta)}, "the call before it has no end"},
		{"no header", [][]byte{appendRecord(nil, 5, 0, true, delta)}, "no header"},
		{"short header", [][]byte{sum("MRSS\x01p1234"), appendRecord(nil, 5, 0, true, delta)}, "header is cut off"},
		{"form", [][]byte{sum("MRSS\x01z\x02\x00\x00\x00\x01\x00\x00\x003fa2c1"), appendRecord(nil, 5, 0, true, delta)}, "unknown form 'z'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := contents(open(t, nil), 1, &state{head: makeHead(0, false, 5), known: true, logs: [2][][]byte{test.log}})
			if test.want == "" && err == nil {
				return
			}
			if test.want == "" || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
		})
	}
}

// harmless holds that a log that is wrong in any way gives one of the errors, and never a panic.
func harmless(t *testing.T, st *state) {
	store := open(t, nil)
	_, err := contents(store, 1, st)
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
}

// FuzzRecords reads logs of any bytes; each record is given with its length in two bytes.
func FuzzRecords(f *testing.F) {
	for _, s := range samples(f) {
		active, _, _ := splitHead(s.state.head)
		var b []byte
		for _, r := range s.state.logs[active] {
			b = append(binary.LittleEndian.AppendUint16(b, uint16(len(r))), r...)
		}
		f.Add(s.state.head, b)
	}
	f.Fuzz(func(t *testing.T, head int64, b []byte) {
		active, _, _ := splitHead(head)
		st := &state{head: head, known: true}
		for len(b) >= 2 {
			n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
			st.logs[active] = append(st.logs[active], b[2:2+n])
			b = b[2+n:]
		}
		harmless(t, st)
	})
}

// FuzzParts reads parts of any bytes below right checksums.
func FuzzParts(f *testing.F) {
	for _, s := range samples(f) {
		active, _, _ := splitHead(s.state.head)
		log := s.state.logs[active]
		var b []byte
		for _, r := range log[1:] {
			b = append(b, r[recordSize:]...)
		}
		f.Add(log[0][5] == formCopy, uint16(100), b)
	}
	f.Fuzz(func(t *testing.T, copied bool, size uint16, b []byte) {
		form := byte(formPlain)
		if copied {
			form = formCopy
		}
		harmless(t, seal(form, max(1, int(size)), b))
	})
}
