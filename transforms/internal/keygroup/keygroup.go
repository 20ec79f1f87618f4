package keygroup

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Default is the number of groups where nobody says it: what Flink has for a parallelism of up to 85.
const Default = 128

// Keys are the keys of so many shards for so many groups; 0 means [Default].
func Keys(shards, groups int) []string {
	if groups == 0 {
		groups = Default
	}
	keys := make([]string, shards)
	for i := range keys {
		want := int(int64(i) * int64(groups) / int64(shards))
		for n := 0; ; n++ {
			if keys[i] = "s" + strconv.Itoa(i) + "-" + strconv.Itoa(n); Of(keys[i], groups) == want {
				break
			}
		}
	}
	return keys
}

// Shard is the number of the shard that has a key.
func Shard(key string) (int, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(key, "s"), "-")
	shard, err := strconv.Atoi(number)
	if err != nil {
		return 0, fmt.Errorf("reading the key of a shard: %w", err)
	}
	return shard, nil
}

// Of is the group that a key falls into.
func Of(key string, groups int) int {
	nested := append(binary.AppendUvarint(nil, uint64(len(key))), key...) // as Beam encodes it within others
	return int(spread(uint32(murmur128(nested))) % uint32(groups))
}

// spread is Flink's MathUtils.murmurHash of a hash code.
func spread(code uint32) uint32 {
	code *= 0xcc9e2d51
	code = bits.RotateLeft32(code, 15)
	code *= 0x1b873593
	code = bits.RotateLeft32(code, 13)
	code = code*5 + 0xe6546b64
	code ^= 4
	code ^= code >> 16
	code *= 0x85ebca6b
	code ^= code >> 13
	code *= 0xc2b2ae35
	code ^= code >> 16
	if int32(code) < 0 && code != 1<<31 {
		return -code
	}
	return code &^ (1 << 31)
}

// murmur128 is the first half of MurmurHash3 x64 128 with the seed 0.
func murmur128(b []byte) uint64 {
	const c1, c2 = 0x87c37b91114253d5, 0x4cf5ad432745937f
	left := func(k uint64) uint64 { return bits.RotateLeft64(k*c1, 31) * c2 }
	right := func(k uint64) uint64 { return bits.RotateLeft64(k*c2, 33) * c1 }
	var h1, h2 uint64
	n := uint64(len(b))
	for ; len(b) >= 16; b = b[16:] {
		h1 ^= left(binary.LittleEndian.Uint64(b))
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52dce729
		h2 ^= right(binary.LittleEndian.Uint64(b[8:]))
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495ab5
	}
	var tail [16]byte
	copy(tail[:], b)
	h1 ^= left(binary.LittleEndian.Uint64(tail[:])) ^ n
	h2 ^= right(binary.LittleEndian.Uint64(tail[8:])) ^ n
	h1 += h2
	h2 += h1
	return mix(h1) + mix(h2)
}

func mix(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}
