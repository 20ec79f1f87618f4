package evaluate

import (
	"compress/gzip"
	"encoding/csv"
	"io"
	"math"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/testing/shareddata"
)

// TestHandbookCeilings recomputes what a perfect ranker reaches on the handbook's weeks, with the
// handbook's filter of cards already known.
func TestHandbookCeilings(t *testing.T) {
	f, err := os.Open(shareddata.Path(t, "fraud-handbook/transactions.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	day := func(s string) int64 {
		d, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return d.Unix() / 86400
	}
	first, last := day("2018-07-25"), day("2018-09-04")
	type row struct {
		time, card int64
		fraud      float32
	}
	byDay := map[int64][]row{}
	c := csv.NewReader(z)
	c.ReuseRecord = true
	for {
		rec, err := c.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		// RFC 3339 dates compare as text; most rows need no parsing.
		if d := rec[1][:10]; d < "2018-07-25" || d > "2018-09-04" {
			continue
		}
		at, err := time.Parse(time.RFC3339, rec[1])
		if err != nil {
			t.Fatal(err)
		}
		card, _ := strconv.ParseInt(rec[2], 10, 64)
		fraud, _ := strconv.ParseFloat(rec[5], 32)
		byDay[at.Unix()/86400] = append(byDay[at.Unix()/86400], row{at.Unix(), card, float32(fraud)})
	}
	if len(byDay) != int(last-first+1) {
		t.Fatalf("read %d days, want %d", len(byDay), last-first+1)
	}

	week := func(train int64) (rows CardRows[int64, float32], frauds int) {
		known := map[int64]bool{}
		learn := func(d int64) {
			for _, r := range byDay[d] {
				if r.fraud > 0 {
					known[r.card] = true
				}
			}
		}
		for d := train; d < train+7; d++ {
			learn(d)
		}
		for k := range int64(7) {
			learn(train + 7 + k - 1)
			for _, r := range byDay[train+14+k] {
				if known[r.card] {
					continue
				}
				rows.Time = append(rows.Time, r.time)
				rows.Entity = append(rows.Entity, r.card)
				rows.Score = append(rows.Score, 0.5)
				rows.Label = append(rows.Label, r.fraud)
				frauds += int(r.fraud)
			}
		}
		return rows, frauds
	}
	for i, want := range []struct {
		rows, frauds int
		ceiling      float64
	}{
		{58264, 385, 0.397}, {57937, 387, 0.409}, {58337, 408, 0.420}, {57604, 422, 0.451},
	} {
		rows, frauds := week(first + int64(7*i))
		if len(rows.Time) != want.rows || frauds != want.frauds {
			t.Errorf("fold %d has %d rows and %d frauds, want %d and %d", i, len(rows.Time), frauds, want.rows, want.frauds)
		}
		got := CardCeiling(rows, 100, 86400)
		if math.Abs(got.Mean-want.ceiling) > 0.0005 {
			t.Errorf("fold %d has a ceiling of %.4f, want %.3f", i, got.Mean, want.ceiling)
		}
		if i == 0 {
			for d, p := range []float64{0.50, 0.46, 0.41, 0.38, 0.41, 0.36, 0.26} {
				if got.Periods[d].Precision != p {
					t.Errorf("day %d has a ceiling of %v, want %v", d, got.Periods[d].Precision, p)
				}
			}
			// A constant scorer finds what chance finds: the handbook prints 0.017, a second
			// computation with another order of ties 0.0157.
			if flat := CardPrecision(rows, 100, 86400).Mean; flat < 0.005 || flat > 0.03 {
				t.Errorf("constant scores reach %v, want about 0.016", flat)
			}
		}
	}
}
