package source

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// keyed are the shards of a stream as they are split and merged; the cuts are in 1/1000 of the keys.
type keyed struct {
	all  []driver.Partition // in the order in which they came
	open []int              // indices in all, by their keys
}

func (k *keyed) add(at, from, to int) {
	k.all = append(k.all, driver.Partition{Name: fmt.Sprintf("s/%06d", len(k.all)), From: float64(from) / 1000, To: float64(to) / 1000})
	k.open = slices.Insert(k.open, at, len(k.all)-1)
}

func (k *keyed) cut(i int) (from, to int) {
	p := k.all[k.open[i]]
	return int(p.From*1000 + .5), int(p.To*1000 + .5)
}

// change splits a shard, or merges two.
func (k *keyed) change(r *rand.Rand) {
	i := r.IntN(len(k.open))
	from, to := k.cut(i)
	if r.IntN(2) == 0 && i+1 < len(k.open) {
		_, end := k.cut(i + 1)
		k.open = slices.Delete(k.open, i, i+2)
		k.add(i, from, end)
	} else if middle := (from + to) / 2; middle > from {
		k.open = slices.Delete(k.open, i, i+1)
		k.add(i, from, middle)
		k.add(i+1, middle, to)
	}
}

// TestKeyedGroups: whatever is split and merged, forgotten, and seen late by some, each shard has one group, and
// none comes to a group that has ended.
func TestKeyedGroups(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		groups, initial := 1+r.IntN(5), 1+r.IntN(8)
		var stream keyed
		for i := range initial {
			stream.add(i, i*1000/initial, (i+1)*1000/initial)
		}
		for range r.IntN(10) { // what was before the job
			stream.change(r)
		}
		states, ended := make([]progress, groups), make([]bool, groups)
		forgotten, seen := 0, make([]int, groups) // of the shards, how many have been dropped and how many each group has seen
		list := func(g int) {
			before := len(states[g].Partitions)
			states[g].take(group{Group: g, Groups: groups}, 0, stream.all[forgotten:])
			for _, p := range states[g].Partitions[before:] {
				if !p.Foreign && ended[g] {
					t.Fatalf("seed %d: %s comes to group %d, which has ended", seed, p.Name, g)
				}
			}
			ended[g] = !states[g].mayGain(group{Group: g, Groups: groups}, 0)
			seen[g] = len(stream.all)
		}
		for g := range groups {
			list(g)
		}
		for range 30 {
			for range r.IntN(4) {
				stream.change(r)
			}
			if g := r.IntN(groups); r.IntN(3) > 0 {
				list(g)
			}
			if r.IntN(3) == 0 { // closed shards are kept for as long as nobody has looked at them
				for forgotten < slices.Min(seen) && !slices.Contains(stream.open, forgotten) {
					forgotten++
				}
			}
		}
		for g := range groups {
			list(g)
		}
		readers := map[string][]int{}
		for g := range states {
			for _, p := range states[g].Partitions {
				if !p.Foreign {
					readers[p.Name] = append(readers[p.Name], g)
				}
			}
		}
		for _, p := range stream.all {
			if len(readers[p.Name]) != 1 {
				t.Fatalf("seed %d: %s, from %v to %v, is read by the groups %v of %d", seed, p.Name, p.From, p.To, readers[p.Name], groups)
			}
		}
		if groups == 1 && ended[0] {
			t.Fatalf("seed %d: the only group has ended", seed)
		}
	}
}

// TestHome: shards of equal parts spread evenly, however their bounds were rounded.
func TestHome(t *testing.T) {
	t.Parallel()
	for groups := 1; groups < 9; groups++ {
		for each := 1; each < 5; each++ {
			n := groups * each
			used := make([]int, groups)
			for i := range n {
				from := float64(i) / float64(n)
				used[homeOf(driver.Partition{From: from - 1e-12*float64(min(i, 1)), To: from + 1/float64(n)}, groups)]++
			}
			for g, got := range used {
				if got != each {
					t.Errorf("group %d of %d has %d of %d shards", g, groups, got, n)
				}
			}
		}
	}
}
