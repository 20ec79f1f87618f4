package source

import (
	"fmt"
	"testing"
)

// TestGroupOf: the partitions of a topic spread evenly over any number of groups, and never move.
func TestGroupOf(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"payments/%d", "payments/shardId-%012d", "a-2026/%d"} {
		for groups := 1; groups < 6; groups++ {
			seen := make([]int, groups)
			for i := range 3 * groups {
				seen[groupOf(fmt.Sprintf(form, i), groups)]++
			}
			for g, n := range seen {
				if n != 3 {
					t.Errorf("%s: group %d of %d has %d of %d partitions", form, g, groups, n, 3*groups)
				}
			}
		}
	}
	for _, name := range []string{"", "7", "files/2026-01-31.jsonl", "x/99999999999999999999"} {
		if g := groupOf(name, 3); g < 0 || g > 2 {
			t.Errorf("%q is of group %d", name, g)
		}
	}
}
