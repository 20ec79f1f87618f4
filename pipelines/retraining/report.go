package retraining

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/evaluate/plot"
)

// Report is report.json: what was tried, what was chosen and by what, what the gate said.
type Report struct {
	UseCase    string            `json:"use_case"`
	Candidates []CandidateReport `json:"candidates"`
	// Champion was chosen on the selection folds alone.
	Champion   string `json:"champion"`
	SelectedBy struct {
		Metric string  `json:"metric"`
		Folds  int     `json:"folds"`
		Value  float64 `json:"value"`
	} `json:"selected_by"`
	Threshold float64 `json:"threshold"`
	// Ceiling is the card precision of a perfect ranking, a report fold.
	Ceiling   []float64   `json:"card_precision_ceiling,omitempty"`
	Gate      bundle.Gate `json:"gate"`
	Published string      `json:"published"`
}

// CandidateReport is a candidate's record: Folds and Mean are the report folds, and are empty for grid
// points that were not the best of their group.
type CandidateReport struct {
	Name      string        `json:"name"`
	Kind      string        `json:"kind"`
	Selection FoldsReport   `json:"selection"`
	Folds     []flatFigures `json:"folds"`
	Mean      Metrics       `json:"mean"`
}

// FoldsReport is a record on some folds.
type FoldsReport struct {
	Folds []flatFigures `json:"folds"`
	Mean  Metrics       `json:"mean"`
}

// flatFigures writes the metrics beside the dates: {"train_start", "test_start", "auc", ...}.
type flatFigures Figures

func flat(f []Figures) []flatFigures {
	out := make([]flatFigures, len(f))
	for i := range f {
		out[i] = flatFigures(f[i])
	}
	return out
}

// MarshalJSON implements json.Marshaler.
func (f flatFigures) MarshalJSON() ([]byte, error) {
	m := map[string]any{"train_start": f.TrainStart, "test_start": f.TestStart}
	if f.Model != "" {
		m["model"] = f.Model
	}
	for k, v := range f.Metrics {
		m[k] = v
	}
	return json.Marshal(m)
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *flatFigures) UnmarshalJSON(b []byte) error {
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	f.Metrics = Metrics{}
	for k, v := range m {
		switch v := v.(type) {
		case float64:
			f.Metrics[k] = v
		case string:
			switch k {
			case "train_start":
				f.TrainStart = v
			case "test_start":
				f.TestStart = v
			case "model":
				f.Model = v
			}
		}
	}
	return nil
}

func sortedNames(m Metrics) []string { return slices.Sorted(maps.Keys(m)) }

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"f":     func(v float64) string { return fmt.Sprintf("%.4f", v) },
	"title": func(s string) string { return strings.ReplaceAll(s, "_", " ") },
}).Parse(page))

// write writes report.json, report.html and the plots of the last report fold into dir.
func (r *Report) write(dir string, p Params, last truth, curves map[string][]float32) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	js, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var series []plot.Series
	for _, c := range r.Candidates {
		if s, ok := curves[c.Name]; ok {
			series = append(series, plot.Series{Name: c.Name, Scores: s, Labels: last.labels})
		}
	}
	plots, err := draw(series)
	if err != nil {
		return err
	}
	names := []string{"auc", "average_precision"}
	if p.Card != nil {
		names = append(names, cardMetric(p.Card.K))
	}
	var svgs []template.HTML
	files := map[string][]byte{"report.json": append(js, '\n')}
	for _, pl := range plots {
		files[pl.name] = pl.svg
		svgs = append(svgs, template.HTML(pl.svg[max(0, bytes.Index(pl.svg, []byte("<svg"))):])) //nolint:gosec // drawn by us, from numbers and escaped names
	}
	var html bytes.Buffer
	if err := pageTemplate.Execute(&html, map[string]any{"Report": r, "Metrics": names, "Plots": svgs}); err != nil {
		return err
	}
	files["report.html"] = html.Bytes()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writeWhole(filepath.Join(dir, name), files[name]); err != nil {
			return err
		}
	}
	return nil
}

type drawn struct {
	name string
	svg  []byte
}

func draw(series []plot.Series) ([]drawn, error) {
	roc, err1 := plot.ROC("", series...)
	pr, err2 := plot.PrecisionRecall("", series...)
	cal, err3 := plot.Calibration("", 10, series...)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("drawing: %w", err)
	}
	return []drawn{{"roc.svg", roc}, {"precision_recall.svg", pr}, {"calibration.svg", cal}}, nil
}

// writeWhole writes a file under a temporary name and renames it: a reader sees all of it or none.
func writeWhole(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".report-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// ReadReport reads report.json from the folder of a report.
func ReadReport(dir string) (*Report, error) {
	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	return r, nil
}

// Print writes the report as a table for a terminal.
func (r *Report) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	var metrics []string
	for _, c := range r.Candidates {
		for _, m := range sortedNames(c.Mean) {
			if (m == "auc" || m == "average_precision" || strings.HasPrefix(m, "card_precision")) && !slices.Contains(metrics, m) {
				metrics = append(metrics, m)
			}
		}
	}
	fmt.Fprintf(tw, "candidate\tselection %s\t%s\t\n", r.SelectedBy.Metric, strings.Join(metrics, "\t"))
	for _, c := range r.Candidates {
		if len(c.Folds) == 0 {
			continue
		}
		fmt.Fprintf(tw, "%s\t%.4f\t", c.Name, c.Selection.Mean[r.SelectedBy.Metric])
		for _, m := range metrics {
			fmt.Fprintf(tw, "%.4f\t", c.Mean[m])
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	verdict := "refused"
	if r.Gate.Passed {
		verdict = "passed"
	}
	_, err := fmt.Fprintf(w, "champion %s, published as %s; the gate %s: %s\n", r.Champion, r.Published, verdict, strings.Join(r.Gate.Reasons, "; "))
	return err
}
