package main

import (
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/models"
)

//go:embed train.py
var trainScript []byte

// trained is the best of a process's fits.
type trained struct{ Wall, CPU float64 }

// trainings are the same work on both sides.
var trainings = map[string]map[string]any{
	"gbdt":     {"trees": 100, "depth": 6, "rate": 0.3},
	"logistic": {"max_iter": 1000},
	"mlp":      {"layers": []int{64, 32}, "batch": 64, "epochs": 10},
}

// writeMatrix writes the first week of the published table as float32 values: features to x, labels
// to y. It returns the number of rows.
func writeMatrix(data, x, y string) (rows int, err error) {
	f, err := os.Open(filepath.Join(data, "baseline_2018-07-25_2018-08-14.csv.gz"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return 0, err
	}
	r := csv.NewReader(z)
	r.ReuseRecord = true
	if _, err := r.Read(); err != nil {
		return 0, err
	}
	var xs, ys []byte
	put := func(to []byte, cell string) []byte {
		v, perr := strconv.ParseFloat(cell, 32)
		if perr != nil && err == nil {
			err = perr
		}
		return binary.LittleEndian.AppendUint32(to, math.Float32bits(float32(v)))
	}
	for {
		row, rerr := r.Read()
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return 0, rerr
		}
		if row[1] >= "2018-08-01" {
			continue
		}
		xs = put(xs, row[4])
		for _, cell := range row[7:21] {
			xs = put(xs, cell)
		}
		ys = put(ys, row[5])
		rows++
	}
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(x, xs, 0o600); err != nil {
		return 0, err
	}
	return rows, os.WriteFile(y, ys, 0o600)
}

func readFloats(path string) ([]float32, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out, nil
}

// train fits twice and prints the better.
func train(ctx context.Context, kind, x, y string, w io.Writer) error {
	var d models.Dataset
	var err error
	if d.X, err = readFloats(x); err != nil {
		return err
	}
	if d.Y, err = readFloats(y); err != nil {
		return err
	}
	for i := range inputs {
		d.Features = append(d.Features, models.Feature{Name: fmt.Sprintf("x%d", i), Type: models.Number})
	}
	k, err := models.Lookup(kind)
	if err != nil {
		return err
	}
	p, err := k.Complete(trainings[kind])
	if err != nil {
		return err
	}
	best := trained{Wall: math.Inf(1)}
	for range 2 {
		start, cpu := time.Now(), cpuSeconds()
		if _, err := k.Train(ctx, models.Training{Train: d, Params: p, Seed: 1}); err != nil {
			return err
		}
		if t := (trained{time.Since(start).Seconds(), cpuSeconds() - cpu}); t.Wall < best.Wall {
			best = t
		}
	}
	return json.NewEncoder(w).Encode(best)
}
