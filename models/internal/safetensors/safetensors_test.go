package safetensors

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func file(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func TestRoundTrip(t *testing.T) {
	in := map[string]Tensor{
		"b":      {Shape: []int{2, 3}, F32: []float32{1, -2, 3.5, math.MaxFloat32, 0, math.SmallestNonzeroFloat32}},
		"a":      {Shape: []int{2}, F64: []float64{math.Pi, -math.MaxFloat64}},
		"scalar": {Shape: []int{}, F32: []float32{7}},
		"empty":  {Shape: []int{0, 4}, F32: []float32{}},
		"void":   {Shape: []int{4, 0}, F32: []float32{}},
	}
	b := Write(in)
	if n := binary.LittleEndian.Uint64(b); n%8 != 0 {
		t.Errorf("header of %d bytes leaves the values unaligned", n)
	}
	out, err := Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Error(diff)
	}
	if string(Write(out)) != string(b) {
		t.Error("the same tensors gave other bytes")
	}
}

// The bytes are those of the published format, written down by hand.
func TestForeignFile(t *testing.T) {
	got, err := Read(file(`{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}`,
		0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]Tensor{"w": {Shape: []int{1, 2}, F32: []float32{1, -2}}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestHostile(t *testing.T) {
	for _, b := range [][]byte{
		nil,
		{1, 2, 3},
		binary.LittleEndian.AppendUint64(nil, math.MaxUint64),
		binary.LittleEndian.AppendUint64(nil, 1),
		file(``), file(`[]`), file(`{} {}`), file(`{}`, 1),
		file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`),
		file(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 0, 0, 0, 0),
		file(`{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 0, 0, 0, 0),
		file(`{"w":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}`, 0, 0, 0, 0),
		file(`{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`),
		file(`{"w":{"dtype":"F32","shape":[0],"data_offsets":[4,0]}}`, 0, 0, 0, 0),
		file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 0, 0, 0, 0),
		file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 0, 0, 0, 0),
		file(`{"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0),
		file(`{"v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 0, 0, 0, 0, 0, 0, 0, 0),
	} {
		if _, err := Read(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%q gave %v", b, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(Write(map[string]Tensor{"a": {Shape: []int{2}, F64: []float64{1, 2}}, "b": {Shape: []int{1, 1}, F32: []float32{3}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := Read(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		again, err := Read(Write(tensors))
		if err != nil {
			t.Fatal(err)
		}
		if len(again) != len(tensors) {
			t.Fatalf("%d tensors, then %d", len(tensors), len(again))
		}
	})
}
