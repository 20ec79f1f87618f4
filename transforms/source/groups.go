package source

import (
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// homeOf is the group that a partition belongs to by what it is: by the place of its keys where it has some, else
// by its name. What reads a partition goes on with it, whatever others come.
func homeOf(part driver.Partition, groups int) int {
	if part.To > 0 {
		return min(int(part.From*float64(groups)+keyGrain), groups-1)
	}
	return groupOf(part.Name, groups)
}

// groupOf is the group of a name. Numbers at the end count, so that the partitions of a topic spread evenly.
func groupOf(name string, groups int) int {
	rest := strings.TrimRight(name, "0123456789")
	number, _ := strconv.ParseUint(name[max(len(rest), len(name)-9):], 10, 32)
	h := fnv.New32a()
	_, _ = h.Write([]byte(rest))
	return int((uint64(h.Sum32()) + number) % uint64(groups))
}

// keyGrain is what the places of keys may be off: those who cut them in equal parts round.
const keyGrain = 1e-9

// take takes in the new ones among an address's partitions, and tells whether any of them is the group's.
//
// Partitions with keys are split and merged. A group may so be left with none: another's has all keys that were at
// home here, and begins before them. From then on what comes of these keys is that other group's, until a partition
// of a third has them all, so that each partition has one group, and one that ends for good has ended. All groups
// note those partitions, and so come to the same.
func (p *progress) take(g group, address int, listed []driver.Partition) (more bool) {
	for _, l := range listed { // older ones first
		if p.index(address, l.Name) >= 0 {
			continue
		}
		// New partitions begin where the watermark stands: what they bring is held to it as all else.
		part := partition{Address: address, Name: l.Name, Newest: never, From: l.From, To: l.To}
		home := homeOf(l, g.Groups)
		switch {
		case l.To == 0 && home == g.Group, l.To > 0 && p.holds(g, address, home, l.Name):
			p.Partitions = append(p.Partitions, part)
			more = true
		case l.To > 0 && part.coversAny(g):
			part.Foreign, part.Ended = true, true
			p.Partitions = append(p.Partitions, part)
		}
	}
	return more
}

// holds tells whether a group reads the partitions that begin among the keys of a home and are younger than all
// that p has before a name; "" is behind all names.
func (p *progress) holds(g group, address, home int, before string) bool {
	own, last := home == g.Group, ""
	for i := range p.Partitions {
		part := &p.Partitions[i]
		if part.Address == address && part.covers(g, home) && part.Name > last && (before == "" || part.Name < before) {
			own, last = !part.Foreign, part.Name
		}
	}
	return own
}

// mayGain tells whether partitions with keys may come to a group.
func (p *progress) mayGain(g group, address int) bool {
	for home := range g.Groups {
		if p.holds(g, address, home, "") {
			return true
		}
	}
	return false
}

// covers tells whether a partition has all keys of a group, and begins before them.
func (p *partition) covers(g group, home int) bool {
	from, to := float64(home)/float64(g.Groups), float64(home+1)/float64(g.Groups)
	return p.To > 0 && p.From < from-keyGrain && p.To > to-keyGrain
}

func (p *partition) coversAny(g group) bool {
	for home := range g.Groups {
		if p.covers(g, home) {
			return true
		}
	}
	return false
}
