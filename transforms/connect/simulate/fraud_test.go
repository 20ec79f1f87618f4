package simulate

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace-ml/millrace/testing/shareddata"
	"github.com/millrace-ml/millrace/transforms/event"
)

// The published table as an order-insensitive hash: the sum, modulo 2^128, of the first 16 bytes,
// big-endian, of the SHA-256 of each row written as
// "TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,cents,TX_FRAUD,TX_FRAUD_SCENARIO", the time as
// 2018-04-01T00:00:31Z. It was computed from the published file by another program.
const (
	publishedRows   = 1754155
	publishedDigest = "7fb6f607cf56afabc9c47271866273dc"
)

type digest struct {
	hi, lo uint64
	buf    []byte
}

func (d *digest) add(r Row) {
	fraud := int64(0)
	if r.Fraud {
		fraud = 1
	}
	d.buf = time.UnixMicro(r.Time).UTC().AppendFormat(d.buf[:0], time.RFC3339)
	for _, v := range [...]int64{r.Customer, r.Terminal, r.Cents, fraud, int64(r.Scenario)} {
		d.buf = strconv.AppendInt(append(d.buf, ','), v, 10)
	}
	sum := sha256.Sum256(d.buf)
	var carry uint64
	d.lo, carry = bits.Add64(d.lo, binary.BigEndian.Uint64(sum[8:]), 0)
	d.hi, _ = bits.Add64(d.hi, binary.BigEndian.Uint64(sum[:]), carry)
}

func (d *digest) String() string { return fmt.Sprintf("%016x%016x", d.hi, d.lo) }

// The rows are generated once for the digest and, where the published file is, for comparison with
// its rows themselves: second by second, as the published ids differ inside a second.
func TestFraudIsPublished(t *testing.T) {
	t.Parallel()
	all := make([]Row, 0, publishedRows)
	var d digest
	err := Fraud(Params{}, func(r Row) error {
		if r.ID != int64(len(all)) {
			t.Fatalf("row %d has the id %d", len(all), r.ID)
		}
		d.add(r)
		r.ID = 0
		all = append(all, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != publishedRows || d.String() != publishedDigest {
		t.Errorf("%d rows with the digest %s, published are %d with %s", len(all), d.String(), publishedRows, publishedDigest)
	}
	t.Run("rows", func(t *testing.T) {
		published := readPublished(t)
		if len(published) != len(all) {
			t.Fatalf("%d rows, published are %d", len(all), len(published))
		}
		compare := func(a, b Row) int {
			return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Customer, b.Customer), cmp.Compare(a.Terminal, b.Terminal),
				cmp.Compare(a.Cents, b.Cents), cmp.Compare(a.Scenario, b.Scenario))
		}
		for from := 0; from < len(all); {
			to := from + 1
			for to < len(all) && all[to].Time == all[from].Time {
				to++
			}
			slices.SortFunc(all[from:to], compare)
			slices.SortFunc(published[from:to], compare)
			if !slices.Equal(all[from:to], published[from:to]) {
				t.Fatalf("rows %d to %d: got %v, published are %v", from, to, all[from:to], published[from:to])
			}
			from = to
		}
	})
}

func readPublished(t *testing.T) []Row {
	file, err := os.Open(shareddata.Path(t, "fraud-handbook/transactions.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(unzipped)
	lines.Scan() // the names
	out := make([]Row, 0, publishedRows)
	for lines.Scan() {
		out = append(out, parse(t, lines.Text()))
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func parse(t *testing.T, line string) Row {
	f := strings.Split(line, ",")
	at, err := time.Parse(time.RFC3339, f[1])
	if err != nil {
		t.Fatal(err)
	}
	number := func(s string) int64 {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	whole, places, _ := strings.Cut(f[4], ".")
	return Row{
		Time: at.UnixMicro(), Customer: number(f[2]), Terminal: number(f[3]), Cents: number(whole + (places + "00")[:2]),
		Fraud: f[5] == "1", Scenario: int8(number(f[6])),
	}
}

func rows(t *testing.T, p Params) []Row {
	t.Helper()
	var out []Row
	if err := Fraud(p, func(r Row) error { out = append(out, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFraudOtherSizes(t *testing.T) {
	t.Parallel()
	for _, p := range []Params{
		{Days: 1, Customers: 1, Terminals: 1, Radius: 150}, {Days: 3, Customers: 2, Terminals: 3, Radius: 100}, {Days: 40, Customers: 300, Terminals: 400, Radius: 20},
		{Days: 13, Customers: 50, Terminals: 100, Radius: 33}, {Days: 14, Customers: 50, Terminals: 100, Seed: 9}, {Days: 15, Customers: 50, Terminals: 100, Seed: -1},
	} {
		got := rows(t, p)
		start := time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		for i, r := range got {
			if r.ID != int64(i) || i > 0 && r.Time < got[i-1].Time || r.Time < start || r.Time >= start+int64(p.Days)*86400e6 ||
				r.Customer >= int64(p.Customers) || r.Terminal >= int64(p.Terminals) || r.Cents < 0 || r.Fraud != (r.Scenario != 0) {
				t.Fatalf("%+v: row %d is %+v", p, i, r)
			}
		}
		if !slices.Equal(got, rows(t, p)) {
			t.Errorf("%+v: two runs differ", p)
		}
	}
}

// The first days don't depend on how many follow, but for what the last day doesn't start and for
// cards whose 14 days are cut short: so a longer run agrees on all rows that aren't within 14 days of
// the shorter one's end.
func TestFraudPrefix(t *testing.T) {
	t.Parallel()
	p := Params{Days: 30, Customers: 100, Terminals: 200, Radius: 15}
	short := rows(t, p)
	p.Days = 60
	long := rows(t, p)
	settled := time.Date(2018, 4, 1, 0, 0, 0, 0, time.UTC).UnixMicro() + 16*86400e6
	n := 0
	for i, r := range short {
		if r.Time < settled {
			n++
			if long[i] != r {
				t.Fatalf("row %d is %+v or %+v", i, r, long[i])
			}
		}
	}
	if n < 1000 {
		t.Errorf("only %d rows", n)
	}
}

func TestFraudSeeds(t *testing.T) {
	t.Parallel()
	p := Params{Days: 20, Customers: 200, Terminals: 400, Radius: 10}
	a := rows(t, p)
	p.Seed = 1
	b := rows(t, p)
	same := 0
	seen := map[[2]int64]bool{}
	for _, r := range a {
		seen[[2]int64{r.Time, r.Cents}] = true
	}
	for _, r := range b {
		if seen[[2]int64{r.Time, r.Cents}] {
			same++
		}
	}
	if same > 5 {
		t.Errorf("%d of %d rows of another seed are the same", same, len(b))
	}
}

func TestFraudStops(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	n := 0
	err := Fraud(Params{Days: 20, Customers: 100, Terminals: 100, Radius: 20}, func(Row) error {
		if n++; n == 10 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 10 {
		t.Errorf("%v after %d rows", err, n)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	p := Params{Days: 5, Customers: 100, Terminals: 100, Radius: 20, Seed: 3}
	want := rows(t, p)
	var batches []event.Batch
	if err := Batches(p, 64, func(b event.Batch) error { batches = append(batches, b); return nil }); err != nil {
		t.Fatal(err)
	}
	i := 0
	for k, b := range batches {
		if b.N != 64 && k < len(batches)-1 || b.N == 0 || b.Schema != Schema() {
			t.Errorf("batch %d of %d has %d rows", k, len(batches), b.N)
		}
		for r := range b.N {
			w := want[i]
			got := Row{
				ID: b.IDs().Ints[r], Time: b.Times()[r], Customer: b.Col("CUSTOMER_ID").Ints[r], Terminal: b.Col("TERMINAL_ID").Ints[r],
				Cents: b.Col("TX_AMOUNT").Ints[r], Fraud: b.Col("TX_FRAUD").Ints[r] == 1, Scenario: w.Scenario,
			}
			if got != w {
				t.Fatalf("row %d is %+v, want %+v", i, got, w)
			}
			i++
		}
	}
	if i != len(want) {
		t.Errorf("%d rows, want %d", i, len(want))
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	got, err := ParseURL("simulate://fraud?days=7&seed=-2&customers=10&terminals=20&rate=1000.5&radius=9&start=2020-02-29")
	if want := (Params{Days: 7, Seed: -2, Customers: 10, Terminals: 20, Rate: 1000.5, Radius: 9, Start: "2020-02-29"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got, err := ParseURL("simulate://fraud"); err != nil || got != (Params{}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for url, want := range map[string]string{
		"simulate://fraud?day=3":                     "day: no such parameter",
		"simulate://fraud?days=x":                    "days:",
		"simulate://fraud?days=0":                    "not above 0",
		"simulate://fraud?days=1&days=2":             "twice",
		"simulate://fraud?rate=-1":                   "rate:",
		"simulate://fraud?rate=NaN":                  "rate:",
		"simulate://fraud?start=yesterday":           "start:",
		"simulate://fraud?customers=99999999&days=x": "days:",
		"simulate://fraud?terminals=99999999":        "terminals:",
		"simulate://fraud/x":                         "simulate://fraud",
		"simulate://churn":                           "simulate://fraud",
		"file://fraud":                               "simulate://fraud",
		"simulate://fraud?a=%zz":                     "invalid URL escape",
	} {
		if _, err := ParseURL(url); !errors.Is(err, ErrParams) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", url, err, want)
		}
	}
}

func BenchmarkFraud(b *testing.B) {
	for b.Loop() {
		if err := Fraud(Params{}, func(Row) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/publishedRows, "ns/row")
}

func ExampleBatches() {
	p, _ := ParseURL("simulate://fraud?days=2&customers=1000&terminals=2000")
	events := 0
	err := Batches(p, 1024, func(b event.Batch) error {
		events += b.N
		return nil
	})
	fmt.Println(events > 3000, err)
	// Output: true <nil>
}
