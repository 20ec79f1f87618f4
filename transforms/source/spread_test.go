package source

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/millrace-ml/millrace/transforms/internal/keygroup"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// spreadLog has as many partitions as its address has letters.
type spreadLog struct{ driver.Log }

func (spreadLog) Partitions(_ context.Context, address string) (parts []driver.Partition, err error) {
	for i := range len(address) - len("spread://") {
		parts = append(parts, driver.Partition{Name: fmt.Sprint("topic/", i)})
	}
	return parts, nil
}

func init() { Register("spread", spreadLog{}) }

// TestSpread: no group is without a partition, of which nobody would move the watermark.
func TestSpread(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]int{"spread://": 1, "spread://a": 1, "spread://ab": 2, "spread://abcd": 4, "spread://abcdefg": 4} {
		got, err := Spread(t.Context(), Params{URLs: []string{address}, Stream: &Stream{Groups: 4}})
		if err != nil || got != want {
			t.Errorf("%s: %d groups, want %d; %v", address, got, want, err)
		}
	}
	if got, err := Spread(t.Context(), Params{URLs: []string{"spread://a", "nobody://x"}, Stream: &Stream{Groups: 4}}); err == nil {
		t.Errorf("an address of nobody's gives %d groups", got)
	}
}

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

// TestPlace: readers spread evenly over subtasks, whatever they read; without a salt some would share one.
func TestPlace(t *testing.T) {
	t.Parallel()
	for _, keyGroups := range []int{0, 100, 1024} {
		for address := range 20 {
			for n := 1; n < 7; n++ {
				groups := make([]group, n)
				for i := range groups {
					groups[i] = group{Addresses: []string{fmt.Sprint("kafka://broker:9092/", address)}, Group: i, Groups: n}
				}
				place(groups, keyGroups)
				used := map[int]int{}
				for _, g := range groups {
					text := encodeGroup(g)
					max := cmp.Or(keyGroups, keygroup.Default)
					used[keygroup.Of(string(text), max)*n/max]++
					if back, err := decodeGroup(text); err != nil || !reflect.DeepEqual(back, g) {
						t.Errorf("%+v is read as %+v, %v", g, back, err)
					}
				}
				if len(used) != n {
					t.Errorf("%d readers are on subtasks %v", n, used)
				}
			}
		}
	}
}
