package format_test

import (
	"encoding/base64"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace-ml/millrace/transforms/format"
)

// TestUnscaled holds decimals to those of math/big, whatever their length and scale. The bytes are written
// digit by digit in base 256, borrowing from the complement as one does by hand.
func TestUnscaled(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(rt, "bytes")
		scale := rapid.IntRange(-30, 30).Draw(rt, "scale")
		want := big.NewInt(int64(int8(raw[0])))
		for _, b := range raw[1:] {
			want.Add(want.Mul(want, big.NewInt(256)), big.NewInt(int64(b)))
		}
		power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(scale, -scale))), nil)
		ratio := new(big.Rat).SetFrac(want, power)
		if scale < 0 {
			ratio = new(big.Rat).SetInt(want.Mul(want, power))
		}
		text, ok := format.AppendUnscaled(nil, []byte(base64.StdEncoding.EncodeToString(raw)), scale)
		got, isNumber := new(big.Rat).SetString(string(text))
		if !ok || !isNumber || got.Cmp(ratio) != 0 {
			rt.Fatalf("%x at scale %d is %q, want %v", raw, scale, text, ratio)
		}
		if n, end := format.ScanNumber(append(slices.Clone(text), '\n'), 0); end != len(text) || n.Padded || n.Int != (scale <= 0) {
			rt.Fatalf("%q is no number of %d places: %+v", text, scale, n)
		}
	})
	for _, bad := range []string{"", "=", "12.34", "BNI", "BNI=="} {
		if text, ok := format.AppendUnscaled(nil, []byte(bad), 2); ok {
			t.Errorf("%q is %s", bad, text)
		}
	}
	if _, ok := format.AppendUnscaled(nil, []byte("BNI="), 1<<20); ok {
		t.Error("a scale beyond all databases")
	}
}

func TestOps(t *testing.T) {
	t.Parallel()
	if got := format.RowOps(); !slices.Equal(got, []string{"create", "update", "delete", "snapshot"}) {
		t.Error(got)
	}
	for op := format.Tombstone; op <= format.Message; op++ {
		if got, ok := format.ParseOp(op.String()); !ok || got != op {
			t.Errorf("%v is read as %v", op, got)
		}
	}
	if _, ok := format.ParseOp("c"); ok {
		t.Error("a letter is no name")
	}
}
