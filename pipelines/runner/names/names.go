package names

import (
	"regexp"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// numbered is the last part of a name that has the number of an edge.
var numbered = regexp.MustCompile(`^(.*/)e\d+_([a-z_]+\d*)$`)

// Settle takes the numbers of edges out of the names of a graph's transforms. A name that wouldn't be the only
// one any more stays as it is.
func Settle(p *pipepb.Pipeline) {
	taken := map[string]int{}
	for _, name := range All(p) {
		taken[settled(name)]++
	}
	for _, t := range p.GetComponents().GetTransforms() {
		if name := settled(t.GetUniqueName()); taken[name] == 1 {
			t.UniqueName = name
		}
	}
}

func settled(name string) string { return numbered.ReplaceAllString(name, "$1$2") }

// All are the names of a graph's transforms, in order.
func All(p *pipepb.Pipeline) []string {
	var all []string
	for _, t := range p.GetComponents().GetTransforms() {
		all = append(all, t.GetUniqueName())
	}
	slices.Sort(all)
	return all
}
