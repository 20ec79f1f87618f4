package keygroup

import (
	"slices"
	"testing"
)

// TestKeys holds the keys that were seen to spread evenly on a Flink.
func TestKeys(t *testing.T) {
	t.Parallel()
	want := []string{"s0-676", "s1-52", "s2-144", "s3-10", "s4-95", "s5-53", "s6-36", "s7-107"}
	if got := Keys(8, 0); !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
}

// TestPlain holds how plain keys were seen to spread.
func TestPlain(t *testing.T) {
	t.Parallel()
	for parallelism, want := range map[int][]int{2: {3, 5}, 4: {1, 2, 5, 0}, 8: {1, 0, 1, 1, 1, 4, 0, 0}} {
		got := make([]int, parallelism)
		for _, key := range []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"} {
			got[Of(key, 128)*parallelism/128]++
		}
		if !slices.Equal(got, want) {
			t.Errorf("over %d: %v, want %v", parallelism, got, want)
		}
	}
}

func TestShard(t *testing.T) {
	t.Parallel()
	for _, groups := range []int{1, 2, 128, 1000} {
		seen := map[int]int{}
		keys := Keys(200, groups)
		for i, key := range keys {
			if n, err := Shard(key); err != nil || n != i {
				t.Errorf("the key %s of shard %d is read as %d, %v", key, i, n, err)
			}
			seen[Of(key, groups)]++
		}
		for g, n := range seen {
			if most := (200 + groups - 1) / groups; n > most {
				t.Errorf("%d of 200 keys in group %d of %d, want %d at most", n, g, groups, most)
			}
		}
	}
	for _, key := range []string{"", "s", "x-1", "sx-1"} {
		if n, err := Shard(key); err == nil {
			t.Errorf("%q is read as shard %d", key, n)
		}
	}
}

// TestMurmur holds the hash to values of its reference.
func TestMurmur(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		"":      0,
		"hello": 0xcbd8a7b341bd9b02,
		"The quick brown fox jumps over the lazy dog": 0xe34bbc7bbc071b6c,
	} {
		if got := murmur128([]byte(text)); got != want {
			t.Errorf("%q gives %x, want %x", text, got, want)
		}
	}
}
