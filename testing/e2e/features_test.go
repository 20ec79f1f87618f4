package e2e_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"hash/maphash"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	_ "github.com/millrace-ml/millrace/models/ensemble" // the built-in use case names all kinds
	_ "github.com/millrace-ml/millrace/models/forest"
	_ "github.com/millrace-ml/millrace/models/gbdt"
	_ "github.com/millrace-ml/millrace/models/linear"
	_ "github.com/millrace-ml/millrace/models/mlp"
	"github.com/millrace-ml/millrace/pipelines/cli"
	"github.com/millrace-ml/millrace/testing/shareddata"
)

// features are the handbook's, in the order of its published tables, from their eighth column on.
var features = []string{
	"weekend", "night", "customer_tx_count_1d", "customer_tx_mean_1d", "customer_tx_count_7d", "customer_tx_mean_7d", "customer_tx_count_30d", "customer_tx_mean_30d",
	"terminal_tx_count_1d", "terminal_risk_1d", "terminal_tx_count_7d", "terminal_risk_7d", "terminal_tx_count_30d", "terminal_risk_30d",
}

func TestFraudFeatures(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 1.75 million transactions")
	}
	source := shareddata.Path(t, "fraud-handbook/transactions.csv.gz")
	seed := maphash.MakeSeed()
	var first []uint64
	for _, name := range runners {
		dir := t.TempDir()
		out := filepath.Join(dir, "features.csv")
		var log bytes.Buffer
		code := cli.Execute(t.Context(), []string{"features", "fraud", "--source", source, "--sink", out, "--dead-letters", filepath.Join(dir, "dead.jsonl"), "--runner", name}, &log, &log)
		if code != 0 {
			t.Fatalf("%s: exit code %d:\n%s", name, code, &log)
		}
		lines := hashLines(t, out, seed)
		if len(lines) != 1_754_155 {
			t.Errorf("%s: %d rows, want 1754155", name, len(lines))
		}
		if first != nil {
			differ := 0
			for id := range min(len(first), len(lines)) {
				if first[id] != lines[id] {
					differ++
				}
			}
			if differ > 0 {
				t.Errorf("%s: %d lines differ from those of %s", name, differ, runners[0])
			}
			continue // what equals the checked lines needs no check
		}
		first = lines
		comparePublished(t, out)
	}
}

// hashLines gives the hash of each line by its id, the first cell, which must run from 0 without gaps.
func hashLines(t *testing.T, path string, seed maphash.Seed) []uint64 {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var hashes []uint64
	seen := 0
	r := bufio.NewScanner(f)
	r.Scan() // the header
	for r.Scan() {
		cell, _, _ := bytes.Cut(r.Bytes(), []byte{','})
		id, err := strconv.Atoi(string(cell))
		if err != nil {
			t.Fatal(err)
		}
		if id >= len(hashes) {
			hashes = append(hashes, make([]uint64, id+1-len(hashes))...)
		}
		if hashes[id] != 0 {
			t.Fatalf("id %d stands twice", id)
		}
		hashes[id] = maphash.Bytes(seed, r.Bytes()) | 1
		seen++
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if seen != len(hashes) {
		t.Fatalf("%d rows up to id %d", seen, len(hashes)-1)
	}
	return hashes
}

// comparePublished compares with the published tables, of which the original sorted rows of the same
// customer and second in no defined order: a difference there is none.
func comparePublished(t *testing.T, path string) {
	published := map[string][]string{}
	for _, name := range []string{"baseline_2018-07-25_2018-08-14.csv.gz", "golden_customer_0.csv.gz", "golden_terminal_3059.csv.gz"} {
		for _, row := range gunzipCSV(t, shareddata.Path(t, "fraud-handbook/"+name))[1:] {
			published[row[0]] = row
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(bufio.NewReaderSize(f, 1<<20))
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, h := range header {
		at[h] = i
	}
	for _, name := range append([]string{"id", "time", "CUSTOMER_ID", "tx_amount"}, features...) {
		if _, ok := at[name]; !ok {
			t.Fatalf("no column %s among %v", name, header)
		}
	}
	ties, differing := map[string]int{}, map[string]string{}
	compared := 0
	for {
		row, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		key := row[at["CUSTOMER_ID"]] + " " + row[at["time"]]
		ties[key]++
		want, ok := published[row[at["id"]]]
		if !ok {
			continue
		}
		compared++
		bad := number(row[at["tx_amount"]]) != number(want[4])
		for i, name := range features {
			// The tables have six places.
			bad = bad || !(math.Abs(number(row[at[name]])-number(want[7+i])) < 5.1e-7)
		}
		if bad {
			differing[row[at["id"]]] = key
		}
	}
	if compared != len(published) {
		t.Errorf("%d rows of %d published ones came out", compared, len(published))
	}
	for id, key := range differing {
		if ties[key] < 2 {
			t.Errorf("transaction %s of customer and time %s differs from the published %v", id, key, published[id])
		}
	}
	if len(differing) > 20 {
		t.Errorf("%d rows differ by ties, 20 are known", len(differing))
	}
}

func number(s string) float64 {
	switch s {
	case "true":
		return 1
	case "false":
		return 0
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return math.NaN()
	}
	return v
}

func gunzipCSV(t *testing.T, path string) [][]string {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
