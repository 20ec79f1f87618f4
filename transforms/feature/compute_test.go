package feature

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
)

func init() {
	beam.RegisterDoFn(&giveFn{})
	beam.RegisterDoFn(&keepFn{})
	beam.RegisterDoFn(&keepLetterFn{})
	register.Emitter1[event.Batch]()
	register.Emitter1[string]()
}

// store passes batches in and out of graphs that run in this process.
var store = struct {
	sync.Mutex
	in      map[string][]event.Batch
	out     map[string][]event.Batch
	letters map[string][]deadletter.Letter
}{in: map[string][]event.Batch{}, out: map[string][]event.Batch{}, letters: map[string][]deadletter.Letter{}}

type giveFn struct{ Run string }

func (f *giveFn) ProcessElement(_ []byte, emit func(event.Batch)) {
	store.Lock()
	in := store.in[f.Run]
	store.Unlock()
	for _, b := range in {
		emit(b)
	}
}

type keepFn struct{ Run string }

func (f *keepFn) ProcessElement(b event.Batch, _ func(string)) {
	store.Lock()
	defer store.Unlock()
	store.out[f.Run] = append(store.out[f.Run], b)
}

type keepLetterFn struct{ Run string }

func (f *keepLetterFn) ProcessElement(l deadletter.Letter, _ func(string)) {
	store.Lock()
	defer store.Unlock()
	store.letters[f.Run] = append(store.letters[f.Run], l)
}

func TestMain(m *testing.M) {
	*jobopts.Experiments = "prism_disable_sdf_split"
	flag.Parse()
	beam.Init()
	os.Exit(m.Run())
}

func run(t *testing.T, runner string, p Params, in []event.Batch) ([]event.Batch, []deadletter.Letter) {
	t.Helper()
	name := t.Name()
	store.Lock()
	store.in[name], store.out[name], store.letters[name] = in, nil, nil
	store.Unlock()
	pipeline, s := beam.NewPipelineWithRoot()
	rows, rejected := Compute(s, beam.ParDo(s, &giveFn{name}, beam.Impulse(s)), p)
	beam.ParDo(s, &keepFn{name}, rows)
	beam.ParDo(s, &keepLetterFn{name}, rejected)
	if _, err := beam.Run(context.Background(), runner, pipeline); err != nil {
		t.Fatal(err)
	}
	store.Lock()
	defer store.Unlock()
	return store.out[name], store.letters[name]
}

// bitsOf is every row in its full bits, by id.
func bitsOf(t *testing.T, batches []event.Batch) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, b := range batches {
		for i := range b.N {
			id := string(b.IDs().AppendID(nil, i))
			if _, twice := m[id]; twice {
				t.Fatalf("%s came out twice", id)
			}
			m[id] = string(event.Append(nil, b.Gather([]int32{int32(i)})))
		}
	}
	return m
}

// twoEntities is a job over two entities, with derived features before, between and behind.
func twoEntities() Params {
	p := everything(3 * time.Second)
	day := []Window{{Duration: 10 * time.Second}, {Last: 4}}
	p.Features = []Feature{
		{Name: "double", Expr: "cents * 2.0"},
		{Entity: "e", Windows: day, Aggregates: []Aggregate{{Name: "n", Func: "count"}, {Name: "mean", Func: "mean", Arg: "double"}, {Name: "sum", Func: "sum", Arg: "x"}}},
		{Name: "over", Expr: "x / mean_10s"},
		{Entity: "item", Windows: day, Delay: time.Second, Aggregates: []Aggregate{{Name: "risk", Func: "mean", Arg: "label"}, {Name: "top", Func: "top_k", Arg: "word", Args: []float64{2}}, {Name: "over_max", Func: "max", Arg: "over"}}},
		{Name: "risky", Expr: "risk_10s > 0.5"},
	}
	return p
}

func randomRecords(n int, seed uint64) []record {
	r := rand.New(rand.NewPCG(seed, 1))
	rs := make([]record, n)
	for i := range rs {
		e, cents, item, x, label, word := r.Int64N(40), r.Int64N(10_000), r.Int64N(60), r.NormFloat64()*math.Pow(10, float64(r.IntN(16))), r.IntN(3) == 0, string(rune('a'+r.IntN(5)))
		rs[i] = record{t: int64(i/3) * 700_000, id: int64(i * 7919 % 1000003), entity: &e, cents: &cents, item: &item, x: &x, label: &label, word: &word}
		switch r.IntN(20) {
		case 0:
			rs[i].entity = nil
		case 1:
			rs[i].item = nil
		case 2:
			rs[i].x = nil
		}
	}
	r.Shuffle(n, func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
	return rs
}

func batchesOf(t *testing.T, p Params, rs []record, size int) []event.Batch {
	var out []event.Batch
	for at := 0; at < len(rs); at += size {
		out = append(out, toBatch(t, p, rs[at:min(at+size, len(rs))]))
	}
	return out
}

func TestComputeSameBits(t *testing.T) {
	p := twoEntities()
	rs := randomRecords(3000, 1)
	c, err := compile(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.first.apply(toBatch(t, p, rs))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.stages {
		if b, _, err = s.newShard().apply(b.Gather(order(&b))); err != nil {
			t.Fatal(err)
		}
	}
	want := bitsOf(t, []event.Batch{b})
	twice := rs[100:150]
	for _, runner := range []string{"direct", "prism"} {
		for _, shards := range []int{1, 3, 16} {
			for _, size := range []int{7, 4096} {
				for _, memory := range []int64{0, 1} {
					if runner == "prism" && (shards == 3 || (size == 7) != (memory == 1)) {
						continue // a job on Prism takes its time
					}
					t.Run(fmt.Sprint(runner, shards, size, memory), func(t *testing.T) {
						p := p
						p.Shards, p.Memory, p.SpillDir = shards, memory, t.TempDir()
						out, letters := run(t, runner, p, append(batchesOf(t, p, rs, size), batchesOf(t, p, twice, size)...))
						got := bitsOf(t, out)
						if len(got) != len(want) {
							t.Fatalf("%d rows, want %d", len(got), len(want))
						}
						for id, w := range want {
							if got[id] != w {
								t.Fatalf("event %s has other features than the engine alone gives", id)
							}
						}
						if len(letters) != len(twice) || letters[0].Class != deadletter.Duplicate {
							t.Errorf("%d duplicates, want %d", len(letters), len(twice))
						}
						files, _ := filepath.Glob(filepath.Join(p.SpillDir, "*", "*"))
						if (len(files) > 0) != (memory == 1) {
							t.Errorf("with %d bytes of memory there are %d files", memory, len(files))
						}
						if err := CleanUp(); err != nil {
							t.Error(err)
						}
						if left, _ := os.ReadDir(p.SpillDir); len(left) > 0 {
							t.Errorf("%d folders are left behind", len(left))
						}
					})
				}
			}
		}
	}
}

func TestKeep(t *testing.T) {
	p := twoEntities()
	p.Keep = []string{"word"}
	out, _ := run(t, "direct", p, batchesOf(t, p, randomRecords(200, 2), 50))
	want, err := p.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := out[0].Schema; !got.Equal(want) || got.Index("cents") >= 0 || got.Index("word") < 0 || got.Index("risky") < 0 {
		t.Errorf("columns %v, announced %v", got, want)
	}
	all, _ := run(t, "direct", twoEntities(), batchesOf(t, p, randomRecords(200, 2), 50))
	got := map[string]string{}
	for _, b := range all {
		b, err := b.Only(want)
		if err != nil {
			t.Fatal(err)
		}
		for id, v := range bitsOf(t, []event.Batch{b}) {
			got[id] = v
		}
	}
	for id, v := range bitsOf(t, out) {
		if got[id] != v {
			t.Fatalf("event %s differs once columns are dropped", id)
		}
	}
}

func TestDerivedOnly(t *testing.T) {
	p := twoEntities()
	p.Features = p.Features[:1]
	out, letters := run(t, "direct", p, batchesOf(t, p, randomRecords(100, 3), 30))
	if len(bitsOf(t, out)) != 100 || len(letters) > 0 {
		t.Fatalf("%d rows, %d letters", len(bitsOf(t, out)), len(letters))
	}
	b := out[0]
	if b.Col("double").Floats[3] != float64(b.Col("cents").Ints[3])/50 {
		t.Error("a derived feature is wrong")
	}
}

func TestValidate(t *testing.T) {
	good := twoEntities()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	p := everything(0)
	p.Keep, p.Shards = []string{"nowhere"}, -1
	p.Features = []Feature{
		{Name: "leak", Expr: "label"},
		{Name: "typo", Expr: "centz + 1.0"},
		{Entity: "x", Windows: []Window{{}, {Last: 1, All: true}}, Resolution: time.Minute, Aggregates: []Aggregate{{Name: "m", Func: "mean", Arg: "word"}, {Name: "q", Func: "quantile", Arg: "x"}, {Name: "z", Func: "zap"}, {Name: "w", Func: "count", Where: "x"}}},
	}
	err := p.Validate()
	if !errors.Is(err, ErrParams) {
		t.Fatal(err)
	}
	for _, want := range []string{"nowhere", "shards", "not known yet", "centz", "float can't be an entity", "exactly one", "panes", "is of numbers", "constants", "zap", "not a condition"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in\n%v", want, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	p := twoEntities()
	same := twoEntities()
	same.Features[0].Expr = " (cents*2.0) "
	same.Features[2], same.Features[1] = same.Features[1], same.Features[2]
	same.Features[1], same.Features[2] = same.Features[2], same.Features[1]
	same.Shards, same.Memory = 7, 9
	if p.Fingerprint() == "" || p.Fingerprint() != same.Fingerprint() {
		t.Error("spelling changes the fingerprint")
	}
	zero := 0.0
	for name, change := range map[string]func(*Params){
		"expression": func(p *Params) { p.Features[0].Expr = "cents * 3.0" },
		"window":     func(p *Params) { p.Features[1].Windows = []Window{{Duration: 10 * time.Second}, {Last: 4}, {Last: 5}} },
		"delay":      func(p *Params) { p.Features[3].Delay = 2 * time.Second },
		"label":      func(p *Params) { p.LabelDelay = 4 * time.Second },
		"exclude":    func(p *Params) { p.Features[1].ExcludeCurrent = true },
		"empty":      func(p *Params) { p.Features[1].Aggregates[2].Empty = &zero },
		"constant":   func(p *Params) { p.Features[3].Aggregates[1].Args = []float64{3} },
		"where":      func(p *Params) { p.Features[1].Aggregates[0].Where = "x > 0.0" },
		"scale":      func(p *Params) { p.Fields[3].Scale = 3 },
	} {
		q := twoEntities()
		change(&q)
		if err := q.Validate(); err != nil || q.Fingerprint() == p.Fingerprint() {
			t.Errorf("another %s is not seen (%v)", name, err)
		}
	}
}

func TestParseWindow(t *testing.T) {
	for in, want := range map[string]Window{
		"1d": {Duration: 24 * time.Hour}, "30m": {Duration: 30 * time.Minute}, "1d12h": {Duration: 36 * time.Hour}, "5n": {Last: 5}, "all": {All: true},
		"session:30m": {Session: 30 * time.Minute}, "250ms": {Duration: 250 * time.Millisecond},
	} {
		got, err := ParseWindow(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%s: %+v (%s), %v", in, got, got, err)
		}
	}
	for _, in := range []string{"", "5", "0n", "-1d", "d", "session:", "1w", "n", "0s"} {
		if w, err := ParseWindow(in); !errors.Is(err, ErrParams) {
			t.Errorf("%q is read as %v", in, w)
		}
	}
}
