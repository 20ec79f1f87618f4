package plot

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"image/color"
	"math"
	"regexp"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/millrace-ml/millrace/models/evaluate"
)

// Series is one scorer's scores and the labels of the same rows. Scores of Calibration and
// Histogram are probabilities; those outside [0, 1] count into the first or last bin.
type Series struct {
	Name   string
	Scores []float32
	Labels []float32
}

const (
	width  = 15 * vg.Centimeter
	height = 12 * vg.Centimeter
	// resolution is the distance, in shares of an axis, below which points are one.
	resolution = 0.002
)

// The colours of Okabe and Ito, which colour-blind readers can tell apart.
var colours = []color.RGBA{
	{0x00, 0x72, 0xB2, 0xFF}, {0xD5, 0x5E, 0x00, 0xFF}, {0x00, 0x9E, 0x73, 0xFF}, {0xCC, 0x79, 0xA7, 0xFF},
	{0xE6, 0x9F, 0x00, 0xFF}, {0x56, 0xB4, 0xE9, 0xFF},
}

// tenths are the ticks of a share, every second with its label.
var tenths = plot.ConstantTicks{
	{Value: 0, Label: "0"}, {Value: 0.1}, {Value: 0.2, Label: "0.2"}, {Value: 0.3}, {Value: 0.4, Label: "0.4"}, {Value: 0.5},
	{Value: 0.6, Label: "0.6"}, {Value: 0.7}, {Value: 0.8, Label: "0.8"}, {Value: 0.9}, {Value: 1, Label: "1"},
}

var (
	ink  = color.RGBA{0x22, 0x22, 0x22, 0xFF}
	grey = color.RGBA{0x99, 0x99, 0x99, 0xFF}
	pale = color.RGBA{0xE6, 0xE6, 0xE6, 0xFF}
)

// ROC draws a curve for each series, its AUC in the legend, and the diagonal of chance.
func ROC(title string, series ...Series) ([]byte, error) {
	p := newPlot(title, "false positive rate", "true positive rate")
	p.dashed(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}, "chance")
	for i, s := range series {
		var points plotter.XYs
		for _, r := range evaluate.ROC(s.Scores, s.Labels) {
			points = append(points, plotter.XY{X: r.FPR, Y: r.TPR})
		}
		if points == nil {
			return nil, undefined("ROC", s)
		}
		p.line(i, thin(points), plotter.NoStep, fmt.Sprintf("%s (AUC %.3f)", s.Name, evaluate.AUC(s.Scores, s.Labels)))
	}
	p.Legend.Top = false
	return p.svg()
}

// PrecisionRecall draws a curve for each series, its average precision in the legend, and the rate
// of positives of the first series, which chance would reach.
func PrecisionRecall(title string, series ...Series) ([]byte, error) {
	p := newPlot(title, "recall", "precision")
	for i, s := range series {
		curve := evaluate.PrecisionRecall(s.Scores, s.Labels)
		if curve == nil {
			return nil, undefined("precision-recall curve", s)
		}
		if i == 0 {
			rate := curve[len(curve)-1].Precision
			p.dashed(plotter.XYs{{X: 0, Y: rate}, {X: 1, Y: rate}}, "chance")
		}
		points := plotter.XYs{{X: 0, Y: curve[0].Precision}}
		for _, r := range curve {
			// Where recall is complete the rest of the curve is a fall that says nothing.
			points = append(points, plotter.XY{X: r.Recall, Y: r.Precision})
			if r.Recall == 1 {
				break
			}
		}
		p.line(i, thin(points), plotter.PreStep, fmt.Sprintf("%s (AP %.3f)", s.Name, evaluate.AveragePrecision(s.Scores, s.Labels)))
	}
	// Curves run from the top left to the bottom right; where positives are few, chance is the
	// floor, and the legend stands above it.
	p.Legend.Top, p.Legend.Left, p.Legend.YOffs = false, true, -16
	return p.svg()
}

// Calibration draws, for each series and each bin of equal width that has rows, the share of
// positives over the mean score; a calibrated scorer lies on the diagonal. The legend has the
// calibration error over the same bins. It panics if bins is not positive.
func Calibration(title string, bins int, series ...Series) ([]byte, error) {
	p := newPlot(title, "mean score", "share of positives")
	p.dashed(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}, "calibrated")
	for i, s := range series {
		var points plotter.XYs
		for _, b := range evaluate.Calibration(s.Scores, s.Labels, bins) {
			if b.Rows > 0 {
				points = append(points, plotter.XY{X: b.Score, Y: b.Rate})
			}
		}
		e := evaluate.CalibrationError(s.Scores, s.Labels, bins)
		if math.IsNaN(e) {
			return nil, undefined("reliability diagram", s)
		}
		name := fmt.Sprintf("%s (ECE %.4f)", s.Name, e)
		p.line(i, points, plotter.NoStep, name)
		dots, err := plotter.NewScatter(points)
		p.errs = append(p.errs, err)
		if err == nil {
			dots.GlyphStyle = draw.GlyphStyle{Color: colours[i%len(colours)], Radius: 2.5, Shape: draw.CircleGlyph{}}
			p.Add(dots)
		}
	}
	p.Legend.Left = true
	return p.svg()
}

// Histogram draws how the scores of each class spread over bins of equal width: the share of the
// class in each, since positives are few. It panics if bins is not positive.
func Histogram(title string, bins int, s Series) ([]byte, error) {
	if math.IsNaN(evaluate.CalibrationError(s.Scores, s.Labels, bins)) {
		return nil, undefined("histogram", s)
	}
	p := newPlot(title, "score", "share of the class")
	// The class of label 1 comes last, so that it lies in front.
	highest := 0.0
	for i, class := range []struct {
		name     string
		positive bool
	}{{"negatives", false}, {"positives", true}} {
		var scores, labels []float32
		for j, score := range s.Scores {
			if s.Labels[j] > 0.5 == class.positive {
				scores, labels = append(scores, score), append(labels, 0)
			}
		}
		if len(scores) == 0 {
			continue
		}
		outline := plotter.XYs{{X: 0, Y: 0}}
		for _, b := range evaluate.Calibration(scores, labels, bins) {
			share := float64(b.Rows) / float64(len(scores))
			outline = append(outline, plotter.XY{X: b.Low, Y: share}, plotter.XY{X: b.High, Y: share})
			highest = math.Max(highest, share)
		}
		outline = append(outline, plotter.XY{X: 1, Y: 0})
		p.fill(i, outline, fmt.Sprintf("%s (%d)", class.name, len(scores)))
	}
	p.Y.Max = 1.15 * highest // leaves the legend its room
	p.Y.Tick.Marker = plot.DefaultTicks{}
	return p.svg()
}

func undefined(what string, s Series) error {
	return fmt.Errorf("drawing a %s: series %q of %d rows does not define it: it needs both classes and scores that are numbers", what, s.Name, len(s.Scores))
}

// canvas is a plot in the house style over the unit square.
type canvas struct {
	*plot.Plot
	title string
	errs  []error
}

func newPlot(title, x, y string) *canvas {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = 8
	style(&p.Title.TextStyle, 13)
	p.BackgroundColor = color.White
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Min, a.Max = 0, 1
		a.Padding = 0
		a.Tick.Marker = tenths
		a.LineStyle.Color, a.LineStyle.Width = ink, 0.75
		a.Tick.LineStyle.Color, a.Tick.LineStyle.Width, a.Tick.Length = ink, 0.75, 4
		a.Label.Padding = 6
		style(&a.Label.TextStyle, 11)
		style(&a.Tick.Label, 10)
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	style(&p.Legend.TextStyle, 10)
	p.Legend.Top = true
	p.Legend.Padding = 3
	p.Legend.ThumbnailWidth = 22
	p.Legend.XOffs, p.Legend.YOffs = -6, -4
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = pale, pale
	grid.Horizontal.Width, grid.Vertical.Width = 0.75, 0.75
	p.Add(grid)
	return &canvas{Plot: p, title: title}
}

func style(s *text.Style, size vg.Length) {
	s.Font.Variant = "Sans"
	s.Font.Size = size
	s.Color = ink
}

func (p *canvas) line(i int, points plotter.XYs, step plotter.StepKind, name string) {
	l, err := plotter.NewLine(points)
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	l.StepStyle = step
	l.LineStyle = draw.LineStyle{Color: colours[i%len(colours)], Width: 1.75}
	if i >= len(colours) {
		l.LineStyle.Dashes = []vg.Length{6, 3}
	}
	p.Add(l)
	p.Legend.Add(name, l)
}

func (p *canvas) fill(i int, points plotter.XYs, name string) {
	l, err := plotter.NewLine(points)
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	c := colours[i%len(colours)]
	l.LineStyle = draw.LineStyle{Color: c, Width: 1.25}
	l.FillColor = color.NRGBA{c.R, c.G, c.B, 0x40}
	p.Add(l)
	p.Legend.Add(name, l)
}

func (p *canvas) dashed(points plotter.XYs, name string) {
	l, err := plotter.NewLine(points)
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	l.LineStyle = draw.LineStyle{Color: grey, Width: 1, Dashes: []vg.Length{4, 3}}
	p.Add(l)
	p.Legend.Add(name, l)
}

// thin leaves out points that lie within the resolution of the last one kept, but never an end.
func thin(points plotter.XYs) plotter.XYs {
	out := points[:1:1]
	for i, q := range points[1:] {
		last := out[len(out)-1]
		if i == len(points)-2 || math.Abs(q.X-last.X) >= resolution || math.Abs(q.Y-last.Y) >= resolution {
			out = append(out, q)
		}
	}
	return out
}

var (
	sizePattern = regexp.MustCompile(`<svg width="[^"]*" height="[^"]*"`)
	fontPattern = regexp.MustCompile(`font-family:Liberation Sans`)
)

func (p *canvas) svg() ([]byte, error) {
	if err := errors.Join(p.errs...); err != nil {
		return nil, fmt.Errorf("drawing %s: %w", p.title, err)
	}
	c := vgsvg.New(width, height)
	p.draw(c)
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("drawing %s: %w", p.title, err)
	}
	out := b.Bytes()
	out = out[bytes.Index(out, []byte("<svg")):]
	label := html.EscapeString(p.title)
	head := fmt.Sprintf(`<svg role="img" aria-label="%s" style="width:100%%;max-width:%.0fpx;height:auto"`, label, width.Dots(96))
	// As functions, since a title may hold what Expand takes for a group.
	out = sizePattern.ReplaceAllFunc(out, func([]byte) []byte { return []byte(head) })
	return fontPattern.ReplaceAllLiteral(out, []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif")), nil
}

func (p *canvas) draw(c vg.CanvasSizer) {
	// The offsets point into the plot from the legend's corner.
	if p.Legend.Left {
		p.Legend.XOffs = -p.Legend.XOffs
	}
	if !p.Legend.Top {
		p.Legend.YOffs = -p.Legend.YOffs
	}
	whole := draw.New(c)
	whole.SetColor(p.BackgroundColor)
	whole.Fill(whole.Rectangle.Path())
	// A margin on the right, or the last tick's label is cut.
	p.Draw(draw.Crop(whole, 4, -12, 4, -6))
}
