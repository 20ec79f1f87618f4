package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
)

// ErrFormat reports bytes that aren't the format, or not the part of it that is supported.
var ErrFormat = errors.New("not a safetensors file that this release reads")

// Tensor is a dense array, row-major. Exactly one of F32 and F64 is set; both nil is an empty F32.
type Tensor struct {
	Shape []int
	F32   []float32
	F64   []float64
}

type entry struct {
	Dtype   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// Write encodes tensors. It panics if a shape doesn't fit its values, which is a programming error.
func Write(tensors map[string]Tensor) []byte {
	var (
		header = map[string]entry{}
		data   []byte
	)
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		e := entry{Dtype: "F32", Shape: t.Shape, Offsets: [2]int64{int64(len(data))}}
		if n := size(t.Shape, math.MaxInt); n != len(t.F32)+len(t.F64) || t.F32 != nil && t.F64 != nil {
			panic(fmt.Sprintf("safetensors: tensor %s of shape %v has %d and %d values", name, t.Shape, len(t.F32), len(t.F64)))
		}
		for _, v := range t.F32 {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		if t.F64 != nil {
			e.Dtype = "F64"
			for _, v := range t.F64 {
				data = binary.LittleEndian.AppendUint64(data, math.Float64bits(v))
			}
		}
		if e.Shape == nil {
			e.Shape = []int{}
		}
		e.Offsets[1] = int64(len(data))
		header[name] = e
	}
	h, err := json.Marshal(header) // map keys are written in byte order
	if err != nil {
		panic(err)
	}
	h = append(h, bytes.Repeat([]byte(" "), (8-len(h)%8)%8)...)
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(h)))
	return append(append(out, h...), data...)
}

// Read decodes what Write wrote, and what other libraries write with these dtypes. Metadata is
// ignored. Errors wrap ErrFormat.
func Read(b []byte) (map[string]Tensor, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrFormat)
	}
	n := binary.LittleEndian.Uint64(b)
	if n > uint64(len(b)-8) {
		return nil, fmt.Errorf("header of %d bytes in %d: %w", n, len(b), ErrFormat)
	}
	var raw map[string]json.RawMessage
	if err := decode(b[8:8+n], &raw); err != nil {
		return nil, err
	}
	delete(raw, "__metadata__")
	data := b[8+n:]
	header := map[string]entry{}
	for name, r := range raw {
		var e entry
		if err := decode(r, &e); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		header[name] = e
	}
	names := slices.SortedFunc(maps.Keys(header), func(a, b string) int {
		x, y := header[a].Offsets, header[b].Offsets
		return cmp.Or(slices.Compare(x[:], y[:]), cmp.Compare(a, b))
	})
	out := make(map[string]Tensor, len(header))
	at := int64(0)
	for _, name := range names {
		e := header[name]
		from, to := e.Offsets[0], e.Offsets[1]
		if from != at || to < from || to > int64(len(data)) {
			return nil, fmt.Errorf("tensor %q lies at %d to %d of %d, after %d: %w", name, from, to, len(data), at, ErrFormat)
		}
		at = to
		width := map[string]int{"F32": 4, "F64": 8}[e.Dtype]
		if width == 0 {
			return nil, fmt.Errorf("tensor %q has the dtype %q: %w", name, e.Dtype, ErrFormat)
		}
		values := int(to-from) / width
		if int64(values*width) != to-from || size(e.Shape, values) != values {
			return nil, fmt.Errorf("tensor %q of shape %v has %d bytes: %w", name, e.Shape, to-from, ErrFormat)
		}
		t := Tensor{Shape: e.Shape}
		raw := data[from:to]
		if width == 4 {
			t.F32 = make([]float32, values)
			for i := range t.F32 {
				t.F32[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
			}
		} else {
			t.F64 = make([]float64, values)
			for i := range t.F64 {
				t.F64[i] = math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:]))
			}
		}
		out[name] = t
	}
	if at != int64(len(data)) {
		return nil, fmt.Errorf("%d bytes belong to no tensor: %w", int64(len(data))-at, ErrFormat)
	}
	return out, nil
}

func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading header: %w: %w", ErrFormat, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("reading header: more than one value: %w", ErrFormat)
	}
	return nil
}

// size is the number of values of a shape, or -1 if it is negative anywhere or exceeds most.
func size(shape []int, most int) int {
	n := 1
	if slices.Contains(shape, 0) {
		n = 0
	}
	for _, d := range shape {
		if d < 0 || d > 0 && n > most/d {
			return -1
		}
		n *= d
	}
	return n
}
