package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/klauspost/compress/gzip"
	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// text is a driver whose one file is a string; it has no random access.
type text string

func (s text) Partitions(context.Context, string) ([]driver.Partition, error) {
	return []driver.Partition{{URL: "text://user:hunter2@x", Name: "text", Size: int64(len(s)), Splittable: true}}, nil
}

func (s text) Open(_ context.Context, _ driver.Partition, offset int64) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(string(s[offset:])))), nil
}

func params(format string) decode.Params {
	return decode.Params{Format: format, ID: []string{"id"}, Fields: []decode.Field{{Name: "id", Kind: event.ID}, {Name: "x", Kind: event.Int}}}
}

// readAll reads as a runner does: splits the restriction and reads the ranges one by one.
func readAll(t interface{ Fatal(...any) }, d driver.Bytes, p driver.Partition, f *readFn) (ids []string, letters []deadletter.Letter) {
	ctx := context.Background()
	if err := f.Setup(); err != nil {
		t.Fatal(err)
	}
	if p.Format == "csv" {
		var err error
		if p.Header, err = header(ctx, d, p); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range f.SplitRestriction(p, f.CreateInitialRestriction(p)) {
		rt := f.CreateTracker(r)
		if !rt.TryClaim(nil) {
			if r.Size() > 0 {
				t.Fatal("a range could not be claimed: ", r)
			}
			continue
		}
		if !rt.IsDone() {
			t.Fatal("a claimed range is not done: ", r)
		}
		err := f.readBytes(ctx, d, p, rt.GetRestriction().(offsetrange.Restriction), func(b event.Batch) error {
			for i := range b.N {
				ids = append(ids, string(b.IDs().AppendID(nil, i)))
			}
			return nil
		}, func(l deadletter.Letter) error {
			letters = append(letters, l)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return ids, letters
}

func TestEachLineIsReadOnceWhateverTheRanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		format := rapid.SampledFrom([]string{"json", "csv"}).Draw(t, "format")
		ending := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "ending")
		var b strings.Builder
		if format == "csv" {
			b.WriteString("id,x" + ending)
		}
		n := rapid.IntRange(0, 30).Draw(t, "lines")
		var want []string
		bad := 0
		for i := range n {
			id := strings.Repeat("k", rapid.IntRange(0, 12).Draw(t, "long")) + fmt.Sprint("n", i)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // blank
			case 1:
				b.WriteString("rubbish")
				bad++
			default:
				want = append(want, id)
				if format == "csv" {
					b.WriteString(id + ",1")
				} else {
					fmt.Fprintf(&b, `{"id":%q,"x":1}`, id)
				}
			}
			if i < n-1 || rapid.Bool().Draw(t, "ended") {
				b.WriteString(ending)
			}
		}
		d := text(b.String())
		p, _ := d.Partitions(context.Background(), "")
		p[0].Format = format
		f := &readFn{Decode: params(""), Split: int64(rapid.IntRange(1, len(d)+2).Draw(t, "split"))}
		ids, letters := readAll(t, d, p[0], f)
		if !slices.Equal(ids, want) || len(letters) != bad {
			t.Fatalf("split %d of %q: got %q and %d letters, want %q and %d", f.Split, d, ids, len(letters), want, bad)
		}
		for _, l := range letters {
			if at := string(d)[l.Place.Offset : l.Place.Offset+7]; at != "rubbish" {
				t.Fatalf("letter at %d: %q", l.Place.Offset, at)
			}
		}
	})
}

func TestCompressedStreams(t *testing.T) {
	t.Parallel()
	var z bytes.Buffer
	for i := range 3 { // members one after the other, as many tools write them
		w := gzip.NewWriter(&z)
		fmt.Fprintf(w, "{\"id\":%d,\"x\":1}\n", i)
		w.Close()
	}
	f := &readFn{Decode: params("json"), Split: 2}
	ids, _ := readAll(t, text(z.String()), driver.Partition{Format: "json", Size: -1}, f)
	if !slices.Equal(ids, []string{"0", "1", "2"}) {
		t.Errorf("got %v", ids)
	}
	err := f.readBytes(context.Background(), text(z.String()[:z.Len()-5]), driver.Partition{Format: "json", Size: -1},
		offsetrange.Restriction{End: 1}, func(event.Batch) error { return nil }, func(deadletter.Letter) error { return nil })
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a truncated file gave %v", err)
	}
}

func TestFaultsAreJoined(t *testing.T) {
	t.Parallel()
	err := Check(context.Background(), Params{URLs: []string{"", "nothing://user:hunter2@x?token=sesame"}, Split: -1})
	for _, want := range []string{"an address is empty", "-1 bytes", "no fields", `scheme "nothing"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("%v shows a secret", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("bad params were taken")
		}
	}()
	_, s := beam.NewPipelineWithRoot()
	Read(s, Params{})
}

func TestConvert(t *testing.T) {
	t.Parallel()
	cents := event.Column{Ints: []int64{1234, -5}}
	have := event.Field{Name: "a", Kind: event.Decimal, Scale: 2}
	c, err := convert(cents, have, event.Field{Name: "a", Kind: event.Float}, 2)
	if err != nil || !slices.Equal(c.Floats, []float64{12.34, -0.05}) {
		t.Errorf("got %v, %v", c.Floats, err)
	}
	c, err = convert(cents, have, event.Field{Name: "a", Kind: event.Decimal, Scale: 3}, 2)
	if err != nil || !slices.Equal(c.Ints, []int64{12340, -50}) {
		t.Errorf("got %v, %v", c.Ints, err)
	}
	for _, want := range []event.Field{{Kind: event.Decimal, Scale: 1}, {Kind: event.Int}, {Kind: event.String}} {
		if _, err := convert(cents, have, want, 2); err == nil {
			t.Errorf("a decimal(2) became a %v(%d)", want.Kind, want.Scale)
		}
	}
}
