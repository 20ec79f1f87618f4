package predict

import (
	"testing"

	"github.com/millrace-ml/millrace/models/live"
	"github.com/millrace-ml/millrace/transforms/event"
)

func benchBatch(b *testing.B) event.Batch {
	s, err := event.NewSchema([]event.Field{{Name: "id", Kind: event.ID}, {Name: "amount", Kind: event.Float}, {Name: "shop", Kind: event.Category}}, "id", "")
	if err != nil {
		b.Fatal(err)
	}
	in := event.New(s, 4096)
	in.N = 4096
	for i := range in.N {
		in.Cols[0].Ints = append(in.Cols[0].Ints, int64(i))
		in.Cols[1].Floats = append(in.Cols[1].Floats, float64(i))
		in.Cols[2].AppendRaw([]byte("a"))
	}
	return in
}

func BenchmarkScore(b *testing.B) {
	in := benchBatch(b)
	twelve := 12.0
	v := &live.Version{Name: "m", Number: 3, Scorer: halves{}, Threshold: &twelve}
	champion := func() *lane { return &lane{newest: func() *live.Version { return v }} }
	decide := []Decision{{Name: "high", When: "score >= threshold"}, {Name: "low"}}
	for name, l := range map[string]*line{
		"alone":  {model: Model{Decide: decide}, champion: champion()},
		"canary": {model: Model{Decide: decide, Canary: Canary{Share: 0.05}}, champion: champion(), canary: champion()},
		"shadow": {model: Model{Decide: decide}, champion: champion(), shadow: champion()},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := l.score(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
