package flink

import (
	"testing"
	"time"
)

// TestWatermark: the slowest stage decides, and one that says nothing yet is slower still.
func TestWatermark(t *testing.T) {
	t.Parallel()
	at := func(s int64) Vertex { return Vertex{marked: true, Watermark: time.Unix(s, 0)} }
	impulse, done, young := Vertex{}, Vertex{marked: true, end: true}, Vertex{marked: true}
	for _, c := range []struct {
		vertices []Vertex
		want     time.Time
	}{
		{nil, time.Time{}},
		{[]Vertex{impulse, at(9), at(7), at(8)}, time.Unix(7, 0)},
		{[]Vertex{impulse, done, at(8)}, time.Unix(8, 0)},
		{[]Vertex{at(9), young}, time.Time{}},
		{[]Vertex{impulse, done}, time.Time{}},
	} {
		if got := (Detail{Vertices: c.vertices}).Watermark(); !got.Equal(c.want) {
			t.Errorf("%v of %v, want %v", got, c.vertices, c.want)
		}
	}
}
