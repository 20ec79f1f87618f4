package tree

import (
	"fmt"
	"math"
	"sync"

	"github.com/millrace-ml/millrace/models"
)

// MaxDepth bounds the depth of a stored tree; what training grows stays far below it.
const MaxDepth = 1024

// Leaf marks a node without a split, in Node.Feature.
const Leaf = -1

// Node is a node of a tree that is being built or stored. The root is node 0.
type Node struct {
	// Feature is the column to compare, or Leaf.
	Feature int32
	// Left is the left child, for x < Value; the right child is Left+1.
	Left int32
	// Value is the threshold of a split and the output of a leaf.
	Value float32
	// MissingLeft sends a missing value left.
	MissingLeft bool
}

// flat is a node as the scorer walks it. Column 2*f of a scorer's row holds feature f with +Inf for
// missing, column 2*f+1 with -Inf, so the default direction is part of the column.
type flat struct {
	threshold float32 // NaN in a leaf, so that no value is at or above it
	column    uint32
	left      uint32 // the leaf itself in a leaf
	value     float32
}

// Trees are trees ready to score. The zero value is empty.
type Trees struct {
	nodes []flat
	roots []uint32
	depth []int32
}

// Len is the number of trees.
func (t *Trees) Len() int { return len(t.roots) }

// Truncate drops all trees from n on.
func (t *Trees) Truncate(n int) {
	if n < len(t.roots) {
		t.nodes, t.roots, t.depth = t.nodes[:t.roots[n]], t.roots[:n], t.depth[:n]
	}
}

// Append checks a tree over so many features and adds it.
func (t *Trees) Append(nodes []Node, features int) error {
	depth, err := check(nodes, features)
	if err != nil {
		return err
	}
	root := len(t.nodes)
	if root+len(nodes) > math.MaxInt32 {
		return fmt.Errorf("more than %d nodes: %w", math.MaxInt32, models.ErrFiles)
	}
	t.roots, t.depth = append(t.roots, uint32(root)), append(t.depth, depth)
	for i, n := range nodes {
		f := flat{threshold: n.Value, column: uint32(2 * n.Feature), left: uint32(root) + uint32(n.Left)}
		switch {
		case n.Feature == Leaf:
			f = flat{threshold: float32(math.NaN()), left: uint32(root + i), value: n.Value}
		case n.MissingLeft:
			f.column++
		}
		t.nodes = append(t.nodes, f)
	}
	return nil
}

// Nodes returns tree i as it was appended.
func (t *Trees) Nodes(i int) []Node {
	root, end := t.roots[i], uint32(len(t.nodes))
	if i+1 < len(t.roots) {
		end = t.roots[i+1]
	}
	nodes := make([]Node, end-root)
	for j, f := range t.nodes[root:end] {
		if f.left == root+uint32(j) {
			nodes[j] = Node{Feature: Leaf, Value: f.value}
			continue
		}
		nodes[j] = Node{Feature: int32(f.column / 2), Left: int32(f.left - root), Value: f.threshold, MissingLeft: f.column&1 == 1}
	}
	return nodes
}

// check proves that nodes form one tree and returns its depth. Children behind their parent, each
// with exactly one, leave no room for cycles and shared branches.
func check(nodes []Node, features int) (int32, error) {
	bad := func(i int, what string) (int32, error) {
		return 0, fmt.Errorf("node %d: %s: %w", i, what, models.ErrFiles)
	}
	if len(nodes) == 0 {
		return 0, fmt.Errorf("tree without nodes: %w", models.ErrFiles)
	}
	depth := make([]int32, len(nodes)) // 1 for the root, 0 for a node not reached
	depth[0] = 1
	deepest := int32(0)
	for i, n := range nodes {
		switch v := float64(n.Value); {
		case depth[i] == 0:
			return bad(i, "has no parent")
		case math.IsNaN(v) || math.IsInf(v, 0):
			return bad(i, "value is not finite")
		case n.Feature == Leaf:
			deepest = max(deepest, depth[i]-1)
			continue
		case n.Feature < 0 || int(n.Feature) >= features:
			return bad(i, "unknown feature")
		case int(n.Left) <= i || int(n.Left) >= len(nodes)-1:
			return bad(i, "children are not behind it")
		case depth[n.Left] != 0 || depth[n.Left+1] != 0:
			return bad(i, "child has two parents")
		case depth[i] > MaxDepth:
			return bad(i, "too deep")
		}
		depth[n.Left], depth[n.Left+1] = depth[i]+1, depth[i]+1
	}
	return deepest, nil
}

// rowBlock is how many rows walk one tree before the next tree is loaded.
const rowBlock = 64

type scratch struct {
	columns []float32 // rowBlock rows of 2 x features
	sums    [rowBlock]float64
}

var pool = sync.Pool{New: func() any { return new(scratch) }}

// Score writes finish(sum of the trees' outputs) of each row to out. The sum runs over the trees in
// their order, in float64, so it does not depend on the row's place.
func (t *Trees) Score(x []float32, rows, features int, out []float32, finish func(sum float64) float32) {
	s := pool.Get().(*scratch)
	for start := 0; start < rows; start += rowBlock {
		n := min(rowBlock, rows-start)
		s.load(x[start*features:(start+n)*features], features)
		t.walk(s, n, 2*features, 0, len(t.roots))
		for i, sum := range s.sums[:n] {
			out[start+i] = finish(sum)
		}
	}
	pool.Put(s)
}

// Add adds the output of tree i to each row's sum.
func (t *Trees) Add(i int, x []float32, features int, sums []float64) {
	s := pool.Get().(*scratch)
	for start := 0; start < len(sums); start += rowBlock {
		n := min(rowBlock, len(sums)-start)
		s.load(x[start*features:(start+n)*features], features)
		t.walk(s, n, 2*features, i, i+1)
		for j, sum := range s.sums[:n] {
			sums[start+j] += sum
		}
	}
	pool.Put(s)
}

// load copies rows and replaces missing values by both infinities.
func (s *scratch) load(x []float32, features int) {
	if len(s.columns) < rowBlock*2*features {
		s.columns = make([]float32, rowBlock*2*features)
	}
	columns := s.columns[:2*len(x)]
	for i, v := range x {
		low := v
		if v != v {
			v, low = float32(math.Inf(1)), float32(math.Inf(-1))
		}
		columns[2*i], columns[2*i+1] = v, low
	}
}

// walk leaves the sums of trees [from, to) in s.sums. Four walks run side by side, since each step
// of one waits for its loads: four rows through one tree, and the rows left over one by one through
// four trees.
func (t *Trees) walk(s *scratch, rows, width, from, to int) {
	s.sums = [rowBlock]float64{}
	whole := rows &^ 3
	for i := from; i < to; i++ {
		for r := 0; r < whole; r += 4 {
			root := t.roots[i]
			n := t.descend([4]uint32{root, root, root, root}, t.depth[i], s.columns[r*width:(r+4)*width], width)
			s.sums[r] += float64(t.nodes[n[0]].value)
			s.sums[r+1] += float64(t.nodes[n[1]].value)
			s.sums[r+2] += float64(t.nodes[n[2]].value)
			s.sums[r+3] += float64(t.nodes[n[3]].value)
		}
	}
	for r := whole; r < rows; r++ {
		c := s.columns[r*width : (r+1)*width]
		sum, i := 0.0, from
		for ; i+4 <= to; i += 4 {
			depth := max(t.depth[i], t.depth[i+1], t.depth[i+2], t.depth[i+3])
			for _, n := range t.descend([4]uint32(t.roots[i:i+4]), depth, c, 0) {
				sum += float64(t.nodes[n].value)
			}
		}
		for ; i < to; i++ {
			root := t.roots[i]
			n := t.descend([4]uint32{root, root, root, root}, t.depth[i], c, 0)
			sum += float64(t.nodes[n[0]].value)
		}
		s.sums[r] = sum
	}
}

// descend takes four walks down by depth steps, or until all of them rest in leaves. The columns of
// their rows begin width apart in c.
func (t *Trees) descend(at [4]uint32, depth int32, c []float32, width int) [4]uint32 {
	nodes := t.nodes
	w := uint32(width)
	a0, a1, a2, a3 := at[0], at[1], at[2], at[3]
	for ; depth > 0; depth-- {
		n := &nodes[a0]
		b0 := n.left + notBelow(c[n.column], n.threshold)
		moved := a0 ^ b0
		a0 = b0
		n = &nodes[a1]
		b1 := n.left + notBelow(c[n.column+w], n.threshold)
		moved |= a1 ^ b1
		a1 = b1
		n = &nodes[a2]
		b2 := n.left + notBelow(c[n.column+2*w], n.threshold)
		moved |= a2 ^ b2
		a2 = b2
		n = &nodes[a3]
		b3 := n.left + notBelow(c[n.column+3*w], n.threshold)
		moved |= a3 ^ b3
		a3 = b3
		if moved == 0 {
			break
		}
	}
	return [4]uint32{a0, a1, a2, a3}
}

// notBelow is 1 if x >= threshold. The compiler makes it a flag, not a jump.
func notBelow(x, threshold float32) uint32 {
	if x >= threshold {
		return 1
	}
	return 0
}
