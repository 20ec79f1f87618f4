package gbdt

import (
	"math"

	"github.com/millrace-ml/millrace/models/internal/tree"
)

// growth are the rules by which one tree grows.
type growth struct {
	depth          int
	rate           float64
	lambda, gamma  float64
	minChildWeight float64
}

// gradient is a row's first and second derivative of the loss, as whole multiples of a power of
// two. Whole numbers add up without rounding: sums do not depend on the order of rows, on blocks or
// on workers, and the histogram of a child is exactly its parent's minus its sibling's.
type gradient struct{ g, h int32 }

// gradientBits is the scale: the largest derivative becomes 2^30, and the sum of 2^32 of them
// still fits an int64.
const gradientBits = 30

// total is a sum of gradients.
type total struct{ g, h int64 }

func (t total) minus(o total) total { return total{t.g - o.g, t.h - o.h} }

// histogram holds the totals of each bin of each feature. Only bins 0 to Count[feature] are in use.
type histogram [][tree.MaxBins]total

// split is the best split found for a node.
type split struct {
	gain        float64
	feature     int
	bin         int // the last bin that goes left
	missingLeft bool
	left        total
}

// open is a node of the level that is growing.
type open struct {
	index      int // in nodes
	begin, end int // its rows
	total      total
	best       split
	hist       histogram
	// pair is the sibling whose histogram remains when this one's is taken from the parent's; nil
	// for the root and for the larger of two.
	pair *open
}

// grower grows trees over one binned matrix and keeps its buffers between trees.
type grower struct {
	growth
	bins *tree.Bins
	pool *tree.Pool

	gradients         []gradient
	gUnit, hUnit      float64 // what 1 in a gradient stands for
	rows, left, right []uint32
	nodes             []tree.Node
	gains             []float64 // by feature, over all trees
	free              []histogram
	use               []bool  // features that the tree may split on
	best              []split // by open node and block
	chunks            []chunk
}

func newGrower(g growth, bins *tree.Bins, pool *tree.Pool) *grower {
	return &grower{
		growth: g, bins: bins, pool: pool,
		gradients: make([]gradient, bins.Rows),
		rows:      make([]uint32, bins.Rows), left: make([]uint32, bins.Rows), right: make([]uint32, bins.Rows),
		gains: make([]float64, bins.Features), use: make([]bool, bins.Features),
	}
}

// grow builds a tree from g.gradients, level by level, adds its output to each row's sum, and
// returns its nodes, which are valid until the next call.
func (g *grower) grow(root total, sums []float64) []tree.Node {
	g.nodes = append(g.nodes[:0], tree.Node{Feature: tree.Leaf, Value: float32(g.weight(root))})
	if g.depth == 0 {
		addTo(sums, nil, g.nodes[0].Value)
		return g.nodes
	}
	for i := range g.rows {
		g.rows[i] = uint32(i)
	}
	level := []*open{{end: len(g.rows), total: root, hist: g.histogram()}}
	for depth := 0; len(level) > 0; depth++ {
		g.search(level)
		last := depth+1 == g.depth
		splitting := level[:0]
		for _, n := range level {
			if n.best.gain > 0 {
				splitting = append(splitting, n)
				continue
			}
			addTo(sums, g.rows[n.begin:n.end], g.nodes[n.index].Value)
			g.free = append(g.free, n.hist)
		}
		for _, n := range splitting {
			g.split(n)
		}
		if last {
			g.finish(splitting, sums)
			for _, n := range splitting {
				g.free = append(g.free, n.hist)
			}
			break
		}
		level = g.partition(splitting)
	}
	return g.nodes
}

// weight is the best output for a set of rows: -G / (H + lambda), times the rate.
func (g *grower) weight(t total) float64 {
	h := float64(t.h)*g.hUnit + g.lambda
	if h <= 0 {
		return 0
	}
	return -float64(t.g) * g.gUnit / h * g.rate
}

// split turns a node into a split with two leaves.
func (g *grower) split(n *open) {
	b := n.best
	left := len(g.nodes)
	g.nodes[n.index] = tree.Node{
		Feature: int32(b.feature), Left: int32(left),
		Value: g.bins.Cuts[b.feature][b.bin-1], MissingLeft: b.missingLeft,
	}
	g.nodes = append(g.nodes,
		tree.Node{Feature: tree.Leaf, Value: float32(g.weight(b.left))},
		tree.Node{Feature: tree.Leaf, Value: float32(g.weight(n.total.minus(b.left)))})
	g.gains[b.feature] += b.gain
}

func addTo(sums []float64, rows []uint32, value float32) {
	v := float64(value)
	if rows == nil {
		for i := range sums {
			sums[i] += v
		}
		return
	}
	for _, r := range rows {
		sums[r] += v
	}
}

func (g *grower) histogram() histogram {
	if n := len(g.free); n > 0 {
		h := g.free[n-1]
		g.free = g.free[:n-1]
		return h
	}
	return make(histogram, len(g.bins.Columns)*tree.Block)
}

// search finds the best split of every node of a level. Blocks of features are independent, so they
// are what runs in parallel; the best of them is chosen in their order.
func (g *grower) search(level []*open) {
	blocks := len(g.bins.Columns)
	if len(g.best) < len(level)*blocks {
		g.best = make([]split, 2*len(level)*blocks)
	}
	g.pool.Do(blocks, func(b int) {
		for _, n := range level {
			if n.pair == nil && n.index != 0 {
				continue
			}
			g.build(n, b)
			if n.pair != nil {
				g.subtract(n, b)
			}
		}
		for i, n := range level {
			g.best[i*blocks+b] = g.searchBlock(n, b)
		}
	})
	for i, n := range level {
		n.best = split{}
		for _, s := range g.best[i*blocks : (i+1)*blocks] {
			if s.gain > n.best.gain {
				n.best = s
			}
		}
	}
}

// build fills a node's histograms of a block from its rows.
func (g *grower) build(n *open, b int) {
	h := (*[tree.Block][tree.MaxBins]total)(n.hist[b*tree.Block:])
	for j := range h {
		clear(h[j][:g.used(b, j)])
	}
	accumulate(h, g.bins.Columns[b], g.gradients, g.rows[n.begin:n.end])
}

// accumulate is where training spends its time. Arrays of 256 indexed by a byte need no check of
// bounds, and the four histograms are independent, so that their additions overlap.
func accumulate(h *[tree.Block][tree.MaxBins]total, column []uint32, gradients []gradient, rows []uint32) {
	for _, r := range rows {
		bins, d := column[r], gradients[r]
		dg, dh := int64(d.g), int64(d.h)
		t0 := &h[0][uint8(bins)]
		t0.g += dg
		t0.h += dh
		t1 := &h[1][uint8(bins>>8)]
		t1.g += dg
		t1.h += dh
		t2 := &h[2][uint8(bins>>16)]
		t2.g += dg
		t2.h += dh
		t3 := &h[3][uint8(bins>>24)]
		t3.g += dg
		t3.h += dh
	}
}

// used is how many bins are in use in column j of a block; columns beyond the last feature collect
// everything in bin 0.
func (g *grower) used(b, j int) int {
	if f := b*tree.Block + j; f < g.bins.Features {
		return g.bins.Count[f] + 1
	}
	return 1
}

// subtract leaves parent minus n in n.pair, whose histogram was the parent's.
func (g *grower) subtract(n *open, b int) {
	for j := range tree.Block {
		f := b*tree.Block + j
		used := g.used(b, j)
		from, to := n.hist[f][:used], n.pair.hist[f][:used]
		for i, t := range from {
			to[i].g -= t.g
			to[i].h -= t.h
		}
	}
}

// searchBlock finds the best split of a node on the features of a block.
func (g *grower) searchBlock(n *open, b int) split {
	best := split{gain: math.Max(minGain, g.gamma)}
	found := false
	for f := b * tree.Block; f < min(g.bins.Features, (b+1)*tree.Block); f++ {
		if g.use[f] && g.searchFeature(n, f, &best) {
			found = true
		}
	}
	if !found {
		return split{}
	}
	return best
}

// minGain keeps rounding from passing as gain.
const minGain = 1e-6

// searchFeature improves best by splits on feature f: after every bin, with the missing values
// right and, if there are any, left.
func (g *grower) searchFeature(n *open, f int, best *split) bool {
	hist := n.hist[f][:g.bins.Count[f]+1]
	missing := hist[0]
	none := missing == total{}
	found := false
	var left total
	before := g.score(n.total)
	consider := func(bin int, left total, missingLeft bool) {
		right := n.total.minus(left)
		hl, hr := float64(left.h)*g.hUnit, float64(right.h)*g.hUnit
		if hl < g.minChildWeight || hr < g.minChildWeight || left.h == 0 || right.h == 0 {
			return
		}
		gl, gr := float64(left.g)*g.gUnit, float64(right.g)*g.gUnit
		// gl^2/(hl+lambda) + gr^2/(hr+lambda) with one division.
		hl, hr = hl+g.lambda, hr+g.lambda
		gain := (gl*gl*hr+gr*gr*hl)/(hl*hr) - before
		if gain > best.gain {
			*best = split{gain, f, bin, missingLeft, left}
			found = true
		}
	}
	for bin := 1; bin <= len(g.bins.Cuts[f]); bin++ {
		t := hist[bin]
		if t == (total{}) && bin > 1 {
			continue
		}
		left.g += t.g
		left.h += t.h
		consider(bin, left, false)
		if !none {
			consider(bin, total{left.g + missing.g, left.h + missing.h}, true)
		}
	}
	if found && none {
		// Nothing was learned about missing values here: they follow the heavier side.
		best.missingLeft = 2*best.left.h > n.total.h
	}
	return found
}

// score is twice the loss that the best output for a set of rows takes away.
func (g *grower) score(t total) float64 {
	h := float64(t.h)*g.hUnit + g.lambda
	if h <= 0 {
		return 0
	}
	gr := float64(t.g) * g.gUnit
	return gr * gr / h
}

// chunk is a run of rows of a node that one task divides.
type chunk struct {
	node       *open
	begin, end int
	left       int // how many of them go left
	toLeft     int // where they go
	toRight    int
}

// chunkRows bounds a chunk, so that the largest node keeps all workers busy.
const chunkRows = 1 << 13

func (g *grower) chunked(splitting []*open) {
	g.chunks = g.chunks[:0]
	for _, n := range splitting {
		for begin := n.begin; begin < n.end; begin += chunkRows {
			g.chunks = append(g.chunks, chunk{node: n, begin: begin, end: min(n.end, begin+chunkRows)})
		}
	}
}

// side returns what divides a node's rows without a jump: a row goes left if its bin minus sub, as
// a uint8, is below limit. With the missing bin 0 to the right, sub makes it the largest.
func (s split) side() (shift int, sub, limit uint8) {
	shift = 8 * (s.feature % tree.Block)
	if s.missingLeft {
		return shift, 0, uint8(s.bin + 1)
	}
	return shift, 1, uint8(s.bin)
}

// partition divides the rows of split nodes, in stable order, and opens their children.
func (g *grower) partition(splitting []*open) []*open {
	g.chunked(splitting)
	g.pool.Do(len(g.chunks), func(i int) {
		c := &g.chunks[i]
		column := g.bins.Columns[c.node.best.feature/tree.Block]
		shift, sub, limit := c.node.best.side()
		rows := g.rows[c.begin:c.end]
		left, right := g.left[c.begin:c.end], g.right[c.begin:c.end]
		l, r := 0, 0
		for _, row := range rows {
			left[l], right[r] = row, row
			goes := 0
			if uint8(column[row]>>(shift&31))-sub < limit {
				goes = 1
			}
			l += goes
			r += 1 - goes
		}
		c.left = l
	})
	var level []*open
	for i := 0; i < len(g.chunks); {
		n := g.chunks[i].node
		first, at := i, n.begin
		for ; i < len(g.chunks) && g.chunks[i].node == n; i++ {
			g.chunks[i].toLeft = at
			at += g.chunks[i].left
		}
		middle := at
		for j := first; j < i; j++ {
			c := &g.chunks[j]
			c.toRight = at
			at += c.end - c.begin - c.left
		}
		level = append(level, g.children(n, middle)...)
	}
	g.pool.Do(len(g.chunks), func(i int) {
		c := &g.chunks[i]
		copy(g.rows[c.toLeft:], g.left[c.begin:c.begin+c.left])
		copy(g.rows[c.toRight:], g.right[c.begin:c.end-c.left])
	})
	return level
}

// children opens both children of n, whose rows part at middle. The smaller one's histogram will be
// built, the larger one inherits the parent's.
func (g *grower) children(n *open, middle int) []*open {
	left := int(g.nodes[n.index].Left)
	l := &open{index: left, begin: n.begin, end: middle, total: n.best.left}
	r := &open{index: left + 1, begin: middle, end: n.end, total: n.total.minus(n.best.left)}
	small, large := l, r
	if r.end-r.begin < l.end-l.begin {
		small, large = r, l
	}
	small.hist, small.pair, large.hist = g.histogram(), large, n.hist
	return []*open{l, r}
}

// finish adds the leaves of the last level to the sums without dividing the rows.
func (g *grower) finish(splitting []*open, sums []float64) {
	g.chunked(splitting)
	g.pool.Do(len(g.chunks), func(i int) {
		c := &g.chunks[i]
		column := g.bins.Columns[c.node.best.feature/tree.Block]
		shift, sub, limit := c.node.best.side()
		left := g.nodes[c.node.index].Left
		values := [2]float64{float64(g.nodes[left].Value), float64(g.nodes[left+1].Value)}
		for _, row := range g.rows[c.begin:c.end] {
			right := 1
			if uint8(column[row]>>(shift&31))-sub < limit {
				right = 0
			}
			sums[row] += values[right&1]
		}
	})
}
