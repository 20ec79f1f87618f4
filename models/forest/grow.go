package forest

import (
	"math"

	"github.com/millrace-ml/millrace/models/internal/tree"
)

// shared is what the growers of a forest have in common; none of them changes it.
type shared struct {
	bins     *tree.Bins
	y        []float32
	sampling sampling
	depth    int
	minLeaf  uint64
	try      int
	positive float64 // weight of a positive
}

// tally counts drawn rows: positives in the upper half, all in the lower. One addition counts both.
type tally uint64

func (t tally) all() uint64       { return uint64(t & math.MaxUint32) }
func (t tally) positives() uint64 { return uint64(t >> 32) }
func (t tally) pure() bool        { return t.positives() == 0 || t.positives() == t.all() }

// grower grows one tree after the other and keeps its buffers.
type grower struct {
	*shared
	times      []uint32
	rows, side []uint32
	tallies    []tally // by row: what it adds
	features   []int
	nodes      []tree.Node
	pending    []node
}

// node is a node that may still split.
type node struct {
	index, begin, end, depth int
	total                    tally
}

func newGrower(s *shared) *grower {
	n := s.bins.Rows
	g := &grower{shared: s, times: make([]uint32, n), tallies: make([]tally, n), side: make([]uint32, n), features: make([]int, s.bins.Features)}
	return g
}

// grow builds one tree from a sample of the rows.
func (g *grower) grow(random tree.Random) []tree.Node {
	clear(g.times)
	g.sampling.draw(random, g.times)
	g.rows = g.rows[:0]
	var total tally
	for r, n := range g.times {
		if n == 0 {
			continue
		}
		g.rows = append(g.rows, uint32(r))
		t := tally(n)
		if g.y[r] == 1 {
			t |= t << 32
		}
		g.tallies[r] = t
		total += t
	}
	for i := range g.features {
		g.features[i] = i
	}
	g.nodes = append(g.nodes[:0], g.leaf(total))
	g.pending = append(g.pending[:0], node{end: len(g.rows), total: total})
	for len(g.pending) > 0 {
		n := g.pending[len(g.pending)-1]
		g.pending = g.pending[:len(g.pending)-1]
		g.split(random, n)
	}
	nodes := make([]tree.Node, len(g.nodes))
	copy(nodes, g.nodes)
	return nodes
}

// leaf holds the weighted share of positives.
func (g *grower) leaf(t tally) tree.Node {
	p := g.positive * float64(t.positives())
	return tree.Node{Feature: tree.Leaf, Value: float32(p / (p + float64(t.all()-t.positives())))}
}

// split is a division of a node.
type split struct {
	score       float64
	feature     int
	bin         uint8 // the last bin that goes left
	missingLeft bool
	left        tally
}

func (g *grower) split(random tree.Random, n node) {
	if n.depth >= g.depth || n.total.pure() || n.total.all() < 2*g.minLeaf {
		return
	}
	// No split lowers the purity, and one that leaves it may open the way for others, as in an
	// exclusive or; so any split is better than none.
	best := split{score: -1}
	found := false
	// Features that vary here are drawn until enough are, or one that splits at last.
	for looked, i := 0, 0; i < len(g.features) && (looked < g.try || !found); i++ {
		j := i + random.Below(len(g.features)-i)
		g.features[i], g.features[j] = g.features[j], g.features[i]
		varies, better := g.search(n, g.features[i], &best)
		if varies {
			looked++
		}
		found = found || better
	}
	if !found {
		return
	}
	middle := g.divide(n, best)
	left := len(g.nodes)
	right := n.total - best.left
	g.nodes[n.index] = tree.Node{Feature: int32(best.feature), Left: int32(left), Value: g.bins.Cuts[best.feature][best.bin-1], MissingLeft: best.missingLeft}
	g.nodes = append(g.nodes, g.leaf(best.left), g.leaf(right))
	g.pending = append(g.pending,
		node{index: left + 1, begin: middle, end: n.end, depth: n.depth + 1, total: right},
		node{index: left, begin: n.begin, end: middle, depth: n.depth + 1, total: best.left})
}

// purity is P^2/W for weights P of the positives and W of all. A split lowers the weighted Gini
// impurity, W - (P^2 + (W-P)^2)/W, by twice what it adds to the sum of this over both sides.
func (g *grower) purity(t tally) float64 {
	p := g.positive * float64(t.positives())
	w := p + float64(t.all()-t.positives())
	return p * p / w
}

// search improves best by splits on a feature and reports whether the feature varies in the node
// and whether best improved.
func (g *grower) search(n node, feature int, best *split) (varies, better bool) {
	var hist [tree.MaxBins]tally
	column, shift := g.bins.Columns[feature/tree.Block], 8*(feature%tree.Block)
	for _, r := range g.rows[n.begin:n.end] {
		hist[uint8(column[r]>>(shift&31))] += g.tallies[r]
	}
	missing := hist[0]
	consider := func(bin int, left tally, missingLeft bool) {
		right := n.total - left
		if left.all() < g.minLeaf || right.all() < g.minLeaf {
			return
		}
		if s := g.purity(left) + g.purity(right); s > best.score {
			*best = split{s, feature, uint8(bin), missingLeft, left}
			better = true
		}
	}
	var left tally
	for bin := 1; bin <= len(g.bins.Cuts[feature]); bin++ {
		if hist[bin] == 0 {
			continue
		}
		left += hist[bin]
		if left == n.total {
			break
		}
		varies = true
		consider(bin, left, false)
		if missing != 0 && left+missing != n.total {
			consider(bin, left+missing, true)
		}
	}
	if better && missing == 0 {
		best.missingLeft = 2*best.left.all() > n.total.all()
	}
	return varies, better
}

// divide brings the rows that go left to the front, in stable order, and returns where the others
// begin.
func (g *grower) divide(n node, s split) int {
	column, shift := g.bins.Columns[s.feature/tree.Block], 8*(s.feature%tree.Block)
	rows, side := g.rows[n.begin:n.end], g.side[:n.end-n.begin]
	// As a uint8, the missing bin 0 minus 1 is the largest.
	sub, limit := uint8(1), s.bin
	if s.missingLeft {
		sub, limit = 0, s.bin+1
	}
	l, r := 0, 0
	for _, row := range rows {
		rows[l], side[r] = row, row
		goes := 0
		if uint8(column[row]>>(shift&31))-sub < limit {
			goes = 1
		}
		l += goes
		r += 1 - goes
	}
	copy(rows[l:], side[:r])
	return n.begin + l
}
