package names

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
)

func TestSettle(t *testing.T) {
	t.Parallel()
	p := &pipepb.Pipeline{Components: &pipepb.Components{Transforms: map[string]*pipepb.PTransform{}}}
	for _, name := range []string{
		"a/Reshuffle", "a/Reshuffle/e12_gbk", "a/Reshuffle'1/e13_gbk", "b/CoGBK/e4_inject0", "b/CoGBK/e4_inject1",
		"c/e1_gbk", "c/e2_gbk", // would be the same
		"d/e3_gbk", "d/gbk", // is taken
		"e5_gbk", "e/e6", "e/e7_x/f",
	} {
		p.Components.Transforms[name] = &pipepb.PTransform{UniqueName: name}
	}
	Settle(p)
	want := []string{
		"a/Reshuffle", "a/Reshuffle'1/gbk", "a/Reshuffle/gbk", "b/CoGBK/inject0", "b/CoGBK/inject1",
		"c/e1_gbk", "c/e2_gbk", "d/e3_gbk", "d/gbk", "e/e6", "e/e7_x/f", "e5_gbk",
	}
	if d := cmp.Diff(want, All(p)); d != "" {
		t.Error(d)
	}
}
