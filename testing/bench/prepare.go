package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/mlp"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/transforms/connect/simulate"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

var errEnough = errors.New("enough rows")

// prepare writes into dir all that the bench reads: events, the registry, the peer's model, and the
// number of rows.
func prepare(ctx context.Context, dir string, rows int) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	rows, err := writeEvents(in("events.jsonl"), in("peer.jsonl"), rows)
	if err != nil {
		return fmt.Errorf("writing events: %w", err)
	}
	if err := writeRegistry(ctx, in("registry")); err != nil {
		return fmt.Errorf("writing the model: %w", err)
	}
	if err := writePeerModel(in("peer.json")); err != nil {
		return fmt.Errorf("writing the peer's model: %w", err)
	}
	return os.WriteFile(in("rows"), []byte(strconv.Itoa(rows)), 0o600)
}

// writeEvents writes the first rows of the simulated table (0: all) as lines for us and as lines for
// the peer, which has other names and flags of 0 and 1. It returns how many there are.
func writeEvents(ours, theirs string, rows int) (int, error) {
	s := simulate.Schema()
	fields := slices.Clone(s.Fields)
	for i := range fields {
		if fields[i].Kind == event.Bool {
			fields[i].Kind = event.Int // kept alike, written as a number
		}
	}
	plain, err := event.NewSchema(fields, s.Fields[s.ID].Name, s.Fields[s.Time].Name)
	if err != nil {
		return 0, err
	}
	to := []struct {
		path string
		outs []format.Out
		enc  format.Encoder
		w    *bufio.Writer
		f    *os.File
	}{
		{path: ours},
		{path: theirs, outs: []format.Out{
			{Name: "id", Column: "TRANSACTION_ID"}, {Name: "ts", Column: "TX_DATETIME"}, {Name: "customer", Column: "CUSTOMER_ID"},
			{Name: "terminal", Column: "TERMINAL_ID"}, {Name: "amount", Column: "TX_AMOUNT"}, {Name: "fraud", Column: "TX_FRAUD"},
		}},
	}
	for i := range to {
		t := &to[i]
		if t.enc, err = format.NewEncoder("json", plain, t.outs); err != nil {
			return 0, err
		}
		if t.f, err = os.Create(t.path); err != nil {
			return 0, err
		}
		defer t.f.Close()
		t.w = bufio.NewWriterSize(t.f, 1<<20)
	}
	total := 0
	var buf []byte
	err = simulate.Batches(simulate.Params{}, 4096, func(b event.Batch) error {
		b.Schema = plain
		if rows > 0 && total+b.N > rows {
			keep := make([]int32, rows-total)
			for i := range keep {
				keep[i] = int32(i)
			}
			b = b.Gather(keep)
		}
		for i := range to {
			if buf, err = to[i].enc.Append(buf[:0], b); err != nil {
				return err
			}
			if _, err := to[i].w.Write(buf); err != nil {
				return err
			}
		}
		if total += b.N; rows > 0 && total >= rows {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return 0, err
	}
	for i := range to {
		if err := errors.Join(to[i].w.Flush(), to[i].f.Close()); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// network trains an MLP 15-64-32-1 on nothing much: its scores mean nothing, its speed is any such
// network's.
func network(ctx context.Context, names []string) (models.Model, []float32, error) {
	const rows = 512
	rng := rand.New(rand.NewPCG(7, 7))
	d := models.Dataset{X: make([]float32, rows*len(names)), Y: make([]float32, rows)}
	for _, n := range names {
		d.Features = append(d.Features, models.Feature{Name: n, Type: models.Number})
	}
	for i := range d.X {
		d.X[i] = float32(rng.NormFloat64()*20 + 30)
	}
	for i := range d.Y {
		d.Y[i] = float32(rng.IntN(2))
	}
	k, err := models.Lookup(mlp.Kind)
	if err != nil {
		return nil, nil, err
	}
	p, err := k.Complete(map[string]any{"layers": []int{64, 32}, "epochs": 2})
	if err != nil {
		return nil, nil, err
	}
	m, err := k.Train(ctx, models.Training{Train: d, Params: p, Seed: 7})
	return m, d.X, err
}

// writeRegistry publishes the network in a new registry.
func writeRegistry(ctx context.Context, dir string) error {
	u, err := useCase()
	if err != nil {
		return err
	}
	m, x, err := network(ctx, u.Features().Names())
	if err != nil {
		return err
	}
	r, err := registry.Open(ctx, dir, time.Now)
	if err != nil {
		return err
	}
	defer r.Close()
	b := &bundle.Bundle{Manifest: bundle.Manifest{Fingerprint: u.Features().Fingerprint(), Seed: 7}, Model: m, Golden: x[:64*inputs]}
	v, err := r.Publish(ctx, "fraud", b)
	if err != nil {
		return err
	}
	return r.SetAlias(ctx, "fraud", registry.Champion, v, "for the bench", registry.Any)
}

// champion is what writeRegistry published.
func champion(ctx context.Context, dir string) (*bundle.Bundle, error) {
	r, err := registry.Open(ctx, dir, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Get(ctx, "fraud")
}

// writePeerModel writes weights as the peer reads them.
func writePeerModel(path string) error {
	rng := rand.New(rand.NewPCG(7, 8))
	dims := []int{inputs, 64, 32, 1}
	type model struct {
		Mean, Std []float64
		W, B      [][]float64
		Dims      []int
		Version   string
	}
	m := model{Mean: make([]float64, inputs), Std: make([]float64, inputs), Dims: dims, Version: "v1"}
	for i := range m.Mean {
		m.Mean[i], m.Std[i] = 30, 20
	}
	for l := 1; l < len(dims); l++ {
		w, b := make([]float64, dims[l-1]*dims[l]), make([]float64, dims[l])
		for i := range w {
			w[i] = rng.NormFloat64() * math.Sqrt(2/float64(dims[l-1]))
		}
		for i := range b {
			b[i] = rng.NormFloat64() * 0.1
		}
		m.W, m.B = append(m.W, w), append(m.B, b)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// compareScores reports whether two outputs have the same ids with the same scores, to what the
// order of two divisions makes of a mean.
func compareScores(a, b string) error {
	x, err := readScores(a)
	if err != nil {
		return err
	}
	y, err := readScores(b)
	if err != nil {
		return err
	}
	if len(x) != len(y) {
		return fmt.Errorf("%s has %d events, %s has %d", filepath.Base(a), len(x), filepath.Base(b), len(y))
	}
	for id := range x {
		if !(math.Abs(x[id]-y[id]) < 1e-4) {
			return fmt.Errorf("event %d: %s says %v, %s says %v", id, filepath.Base(a), x[id], filepath.Base(b), y[id])
		}
	}
	return nil
}

// readScores reads the scores by id; ids must run from 0 without gaps.
func readScores(path string) ([]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var scores []float64
	r := bufio.NewScanner(f)
	n := 0
	for ; r.Scan(); n++ {
		id, err1 := strconv.Atoi(string(after(r.Bytes(), `"id":`)))
		score, err2 := strconv.ParseFloat(string(after(r.Bytes(), `"score":`)), 64)
		for err1 == nil && id >= len(scores) && len(scores) < 1<<28 {
			scores = append(scores, math.NaN())
		}
		if err := errors.Join(err1, err2); err != nil || id < 0 || id >= len(scores) || !math.IsNaN(scores[id]) {
			return nil, fmt.Errorf("reading %s: line %d is wrong or stands twice: %s", filepath.Base(path), n+1, r.Bytes())
		}
		scores[id] = score
	}
	if n != len(scores) && r.Err() == nil {
		return nil, fmt.Errorf("reading %s: %d lines, the highest id is %d", filepath.Base(path), n, len(scores)-1)
	}
	return scores, r.Err()
}

func after(line []byte, key string) []byte {
	_, rest, _ := bytes.Cut(line, []byte(key))
	if i := bytes.IndexAny(rest, ",}"); i >= 0 {
		rest = rest[:i]
	}
	return rest
}
