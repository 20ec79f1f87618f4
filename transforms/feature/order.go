package feature

import (
	"bytes"
	"slices"

	"github.com/millrace-ml/millrace/transforms/event"
)

// order is the rows of b by time, then id, and among equal ones by their bytes, so that which of two
// duplicates goes on doesn't depend on how they came.
func order(b *event.Batch) []int32 {
	rows := make([]int32, b.N)
	for i := range rows {
		rows[i] = int32(i)
	}
	times := b.Times()
	if !slices.IsSorted(times) {
		rows = radix(times, rows)
	}
	ids := b.IDs()
	for from := 0; from < len(rows); {
		to := from + 1
		for to < len(rows) && times[rows[to]] == times[rows[from]] {
			to++
		}
		if to-from > 1 {
			slices.SortStableFunc(rows[from:to], func(x, y int32) int {
				if c := event.CompareIDs(ids, int(x), ids, int(y)); c != 0 {
					return c
				}
				return bytes.Compare(event.Append(nil, b.Gather([]int32{x})), event.Append(nil, b.Gather([]int32{y})))
			})
		}
		from = to
	}
	return rows
}

// radix sorts rows by time, stably, 11 bits a pass from the lowest; passes over bits that are the
// same in all times are left out.
func radix(times []int64, rows []int32) []int32 {
	least, most := slices.Min(times), slices.Max(times)
	span := uint64(most) - uint64(least)
	other := make([]int32, len(rows))
	for shift := 0; shift < 64 && span>>shift > 0; shift += 11 {
		var at [1 << 11]int32
		for _, r := range rows {
			at[(uint64(times[r])-uint64(least))>>shift&(1<<11-1)]++
		}
		sum := int32(0)
		for d, n := range at {
			at[d], sum = sum, sum+n
		}
		for _, r := range rows {
			d := (uint64(times[r]) - uint64(least)) >> shift & (1<<11 - 1)
			other[at[d]] = r
			at[d]++
		}
		rows, other = other, rows
	}
	return rows
}

// twin is a duplicate, and the row that goes on.
type twin struct{ row, of int32 }

// once takes out of rows, which are in order, those whose time, id and entity were there before.
func once(b *event.Batch, rows []int32, entity int) (kept []int32, duplicates []twin) {
	times, ids, who := b.Times(), b.IDs(), &b.Cols[entity]
	kept = rows[:0]
	start := 0 // in kept, of the rows with the time and id of the current one
	for _, r := range rows {
		if start < len(kept) {
			if f := kept[start]; times[f] != times[r] || event.CompareIDs(ids, int(f), ids, int(r)) != 0 {
				start = len(kept)
			}
		}
		same := func(q int32) bool {
			if who.Null(int(q)) || who.Null(int(r)) {
				return who.Null(int(q)) == who.Null(int(r))
			}
			if who.Ints != nil {
				return who.Ints[q] == who.Ints[r]
			}
			return bytes.Equal(who.Raw(int(q)), who.Raw(int(r)))
		}
		if i := slices.IndexFunc(kept[start:], same); i >= 0 {
			duplicates = append(duplicates, twin{r, kept[start+i]})
			continue
		}
		kept = append(kept, r)
	}
	return kept, duplicates
}
