package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gonum.org/v1/plot/plotter"

	"github.com/millrace-ml/millrace/models/evaluate"
)

var out = flag.String("out", "", "a folder to write the plots to, for looking at them")

// scored draws scores whose odds are shifted for positives, rare as frauds are.
func scored(seed uint64, name string, n int, skill float64) Series {
	r := rand.New(rand.NewPCG(seed, 1))
	s := Series{Name: name}
	for range n {
		y := float32(0)
		if r.Float64() < 0.02 {
			y = 1
		}
		z := r.NormFloat64()*1.5 - 3 + skill*float64(y)
		s.Scores = append(s.Scores, float32(1/(1+math.Exp(-z))))
		s.Labels = append(s.Labels, y)
	}
	return s
}

func TestPlots(t *testing.T) {
	a, b := scored(1, "trees", 58000, 5), scored(2, "logistic <regression>", 58000, 3)
	for name, c := range map[string]struct {
		draw func() ([]byte, error)
		says []string
	}{
		"roc": {
			func() ([]byte, error) { return ROC(`ROC, "week" $1 & 2`, a, b) },
			[]string{fmt.Sprintf("trees (AUC %.3f)", evaluate.AUC(a.Scores, a.Labels)), "false positive rate", "true positive rate", "chance", "logistic <regression>"},
		},
		"precision_recall": {
			func() ([]byte, error) { return PrecisionRecall("Precision and recall", a, b) },
			[]string{fmt.Sprintf("trees (AP %.3f)", evaluate.AveragePrecision(a.Scores, a.Labels)), "recall", "precision"},
		},
		"calibration": {
			func() ([]byte, error) { return Calibration("Calibration", 10, a, b) },
			[]string{fmt.Sprintf("trees (ECE %.4f)", evaluate.CalibrationError(a.Scores, a.Labels, 10)), "mean score", "share of positives"},
		},
		"histogram": {
			func() ([]byte, error) { return Histogram("Scores by class", 40, a) },
			[]string{"negatives (", "positives (", "score", "share of the class"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			svg, err := c.draw()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := c.draw(); err != nil || !bytes.Equal(svg, again) {
				t.Errorf("a second drawing differs: %v", err)
			}
			if *out != "" {
				if err := os.WriteFile(filepath.Join(*out, name+".svg"), svg, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.HasPrefix(svg, []byte("<svg ")) || len(svg) > 100_000 {
				t.Errorf("%d bytes beginning %q", len(svg), svg[:min(40, len(svg))])
			}
			if name == "roc" && !bytes.Contains(svg, []byte(`aria-label="ROC, &#34;week&#34; $1 &amp; 2"`)) {
				t.Errorf("the label is not the title: %s", svg[:120])
			}
			// It is well-formed, and says what it must.
			var words strings.Builder
			for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if text, ok := token.(xml.CharData); ok {
					words.Write(text)
				}
			}
			for _, s := range c.says {
				if !strings.Contains(words.String(), s) {
					t.Errorf("does not say %q", s)
				}
			}
		})
	}
}

func TestUndefinedSeriesIsNamed(t *testing.T) {
	nan := float32(math.NaN())
	good := scored(1, "good", 1000, 3)
	for name, draw := range map[string]func(s Series) ([]byte, error){
		"roc":         func(s Series) ([]byte, error) { return ROC("t", good, s) },
		"pr":          func(s Series) ([]byte, error) { return PrecisionRecall("t", good, s) },
		"calibration": func(s Series) ([]byte, error) { return Calibration("t", 10, good, s) },
		"histogram":   func(s Series) ([]byte, error) { return Histogram("t", 10, s) },
	} {
		for _, s := range []Series{{Name: "bad"}, {Name: "bad", Scores: []float32{nan, 1}, Labels: []float32{0, 1}}} {
			if _, err := draw(s); err == nil || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("%s of %v: %v, want an error naming the series", name, s.Scores, err)
			}
		}
	}
	if _, err := Calibration("one class", 10, Series{Name: "x", Scores: []float32{.1, .2}, Labels: []float32{0, 0}}); err != nil {
		t.Error(err)
	}
	if _, err := Histogram("one class", 10, Series{Name: "x", Scores: []float32{.1, .2}, Labels: []float32{0, 0}}); err != nil {
		t.Error(err)
	}
}

func TestThinKeepsTheShape(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	points := plotter.XYs{{}}
	for range 50000 {
		last := points[len(points)-1]
		points = append(points, plotter.XY{X: last.X + r.Float64()/25000, Y: last.Y + r.Float64()/25000})
	}
	kept := thin(points)
	if len(kept) > 1100 || kept[0] != points[0] || kept[len(kept)-1] != points[len(points)-1] {
		t.Fatalf("kept %d points, from %v to %v", len(kept), kept[0], kept[len(kept)-1])
	}
	// Every point left out is close to one kept.
	at := 0
	for _, p := range points {
		for at+1 < len(kept) && kept[at+1].X <= p.X {
			at++
		}
		if math.Abs(p.X-kept[at].X) > resolution || math.Abs(p.Y-kept[at].Y) > resolution {
			t.Fatalf("%v is far from %v", p, kept[at])
		}
	}
}
