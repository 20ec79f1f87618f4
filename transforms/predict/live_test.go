package predict

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
	"github.com/millrace-ml/millrace/transforms/event"
)

func TestMain(m *testing.M) {
	*jobopts.Experiments = "prism_disable_sdf_split"
	beam.Init()
	os.Exit(m.Run())
}

// plain scores with Bias + the sum of its inputs; each further output is one less.
type plain struct {
	Bias float32  `json:"bias"`
	In   []string `json:"in"`
	Out  []string `json:"out"`
	// Fails is 1 for a Score that fails on more rows than the golden ones, 2 for one that gives NaN
	// where the first input is 7.
	Fails int `json:"fails"`
}

func init() {
	models.Register(models.Kind{Name: "predict-plain", Load: func(files models.Files) (models.Model, error) {
		var p plain
		return &p, json.Unmarshal(files["plain.json"], &p)
	}})
	beam.RegisterDoFn(&promotingFn{})
	beam.RegisterDoFn(&collectFn{})
	register.Emitter1[int]()
}

func (p *plain) Kind() string      { return "predict-plain" }
func (p *plain) Outputs() []string { return p.Out }
func (p *plain) Inputs() (in []models.Feature) {
	for _, name := range p.In {
		in = append(in, models.Feature{Name: name, Type: models.Number})
	}
	return in
}

func (p *plain) Files() (models.Files, error) {
	b, err := json.Marshal(p)
	return models.Files{"plain.json": b}, err
}

func (p *plain) Score(_ context.Context, x []float32, rows int, out []float32) error {
	if p.Fails == 1 && rows > 4 && rows < 1000 {
		return errors.New("out of order")
	}
	w := len(p.In)
	for i := range rows {
		sum := p.Bias
		for _, v := range x[i*w : (i+1)*w] {
			sum += v
		}
		if p.Fails == 2 && x[i*w] == 7 {
			sum = float32(math.NaN())
		}
		for k := range p.Out {
			out[i*len(p.Out)+k] = sum - float32(k)
		}
	}
	return models.CheckShape(w, len(p.Out), x, rows, out)
}

// shelf is a registry of plain models named m.
type shelf struct {
	t     *testing.T
	where string
	reg   *registry.Registry
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, where: t.TempDir()}
	var err error
	if s.reg, err = registry.Open(t.Context(), s.where, time.Now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.reg.Close() })
	return s
}

func (s *shelf) publish(p plain, threshold float64) int {
	s.t.Helper()
	if p.Out == nil {
		p.Out = []string{"score"}
	}
	v, err := s.reg.Publish(s.t.Context(), "m", &bundle.Bundle{
		Manifest: bundle.Manifest{Fingerprint: "f", Threshold: &threshold}, Model: &p, Golden: make([]float32, len(p.In)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *shelf) point(alias string, v int) {
	s.t.Helper()
	if err := s.reg.SetAlias(s.t.Context(), "m", alias, v, "", registry.Any); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) line(m Model) *line {
	s.t.Helper()
	m.Name, m.Registry, m.Fingerprint, m.Poll = "m", s.where, "f", time.Millisecond
	if err := (Params{Models: []Model{m}}).Validate(); err != nil {
		s.t.Fatal(err)
	}
	l, err := newLine(s.t.Context(), m, s.t.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(l.close)
	return l
}

// await waits until the lane's alias has brought a version; 0 means none.
func (s *shelf) await(l *lane, version int) {
	s.t.Helper()
	for range 10000 {
		v := l.newest()
		if version == 0 && v == nil || v != nil && v.Number == version {
			return
		}
		time.Sleep(time.Millisecond)
	}
	s.t.Fatalf("version %d does not come", version)
}

// numbers has n rows with the ids 0, 1, ... and the columns a, their number, and b, ten times that.
func numbers(t testing.TB, n int, more ...string) event.Batch {
	t.Helper()
	fields := []event.Field{{Name: "id", Kind: event.ID}, {Name: "a", Kind: event.Float}, {Name: "b", Kind: event.Float}}
	for _, name := range more {
		fields = append(fields, event.Field{Name: name, Kind: event.Float})
	}
	s, err := event.NewSchema(fields, "id", "")
	if err != nil {
		t.Fatal(err)
	}
	b := event.New(s, n)
	b.N = n
	for i := range n {
		b.Cols[0].Ints = append(b.Cols[0].Ints, int64(i))
		for k := range b.Cols[1:] {
			b.Cols[k+1].Floats = append(b.Cols[k+1].Floats, float64(i)*math.Pow10(k))
		}
	}
	return b
}

func score(t *testing.T, l *line, b event.Batch) *event.Batch {
	t.Helper()
	out, letters, err := l.score(t.Context(), b)
	if err != nil || len(letters) != 0 || out.N != b.N {
		t.Fatalf("%d rows and %d letters of %d rows: %v", out.N, len(letters), b.N, err)
	}
	return &out
}

func texts(c *event.Column, n int) []string {
	var out []string
	for i := range n {
		if c.Null(i) {
			out = append(out, "null")
			continue
		}
		out = append(out, string(c.Raw(i)))
	}
	return out
}

func repeat(s string, n int) []string { return slices.Repeat([]string{s}, n) }

func TestAlias(t *testing.T) {
	s := newShelf(t)
	s.point("champion", s.publish(plain{Bias: 1, In: []string{"a"}}, 3))
	l := s.line(Model{Alias: "champion", Decide: []Decision{{Name: "high", When: "score >= threshold"}, {Name: "low"}}})
	b, wider := numbers(t, 4), numbers(t, 4, "c")
	want := func(in event.Batch, model string, scores []float64, decisions ...string) {
		t.Helper()
		got := score(t, l, in)
		if d := cmp.Diff(repeat(model, 4), texts(got.Col(ModelColumn), 4)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(scores, got.Col(ScoreColumn).Floats); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(decisions, texts(got.Col(DecisionColumn), 4)); d != "" {
			t.Error(d)
		}
		if got.Col(ShadowModelColumn) != nil {
			t.Error("there is a column of a shadow without a shadow")
		}
	}
	want(b, "m@1", []float64{1, 2, 3, 4}, "low", "low", "high", "high")
	// The next one reads other inputs and brings its threshold.
	s.point("champion", s.publish(plain{Bias: 2, In: []string{"b", "a"}}, 20))
	s.await(l.champion, 2)
	want(b, "m@2", []float64{2, 13, 24, 35}, "low", "low", "high", "high")
	// One that reads what the rows don't have, and one with other outputs, are passed over.
	s.point("champion", s.publish(plain{In: []string{"c"}}, 0))
	s.await(l.champion, 3)
	for range 3 {
		want(b, "m@2", []float64{2, 13, 24, 35}, "low", "low", "high", "high")
	}
	// Rows that do have it are scored with it.
	want(wider, "m@3", []float64{0, 100, 200, 300}, "high", "high", "high", "high")
	s.point("champion", s.publish(plain{In: []string{"a"}, Out: []string{"x", "y"}}, 0))
	s.await(l.champion, 4)
	want(wider, "m@3", []float64{0, 100, 200, 300}, "high", "high", "high", "high")
	if l.misfits != 2 {
		t.Errorf("%d misfits, want each counted once", l.misfits)
	}
	if _, _, err := l.score(t.Context(), b); err == nil || !strings.Contains(err.Error(), "publish it under a name of its own") {
		t.Errorf("no version fits: %v", err)
	}
	s.point("champion", 1)
	s.await(l.champion, 1)
	want(b, "m@1", []float64{1, 2, 3, 4}, "low", "low", "high", "high")
	// A threshold of the model's own holds for all versions.
	ten := 10.0
	l = s.line(Model{Alias: "champion", Threshold: &ten, Decide: []Decision{{Name: "high", When: "score >= threshold"}}})
	want(b, "m@1", []float64{1, 2, 3, 4}, "null", "null", "null", "null")
}

func TestCanary(t *testing.T) {
	const rows, share = 20000, 0.3
	s := newShelf(t)
	s.point("champion", s.publish(plain{Bias: 1, In: []string{"a"}}, -1))
	m := Model{Alias: "champion", Canary: Canary{Alias: "challenger", Share: share}, Decide: []Decision{{Name: "yes", When: "score >= threshold"}, {Name: "no"}}}
	l := s.line(m)
	b := numbers(t, rows)
	if d := cmp.Diff(repeat("m@1", rows), texts(score(t, l, b).Col(ModelColumn), rows)); d != "" {
		t.Fatal("without a challenger all rows are the champion's")
	}
	s.point("challenger", s.publish(plain{Bias: 0.5, In: []string{"b", "a"}}, 1e9))
	s.await(l.canary, 2)
	// canaries lists the ids that the canary scored, and checks each row against its version.
	canaries := func(l *line, b event.Batch) []int64 {
		t.Helper()
		out := score(t, l, b)
		var ids []int64
		models, decisions := texts(out.Col(ModelColumn), out.N), texts(out.Col(DecisionColumn), out.N)
		for i, id := range out.Col("id").Ints {
			a := float64(id)
			want := fmt.Sprint("m@1 ", float64(float32(a+1)), " yes")
			if models[i] == "m@2" {
				ids = append(ids, id)
				want = fmt.Sprint("m@2 ", float64(float32(11*a)+0.5), " no")
			}
			if got := fmt.Sprint(models[i], " ", out.Col(ScoreColumn).Floats[i], " ", decisions[i]); got != want {
				t.Fatalf("event %d: %s, want %s", id, got, want)
			}
		}
		return ids
	}
	all := canaries(l, b)
	if part := float64(len(all)) / rows; math.Abs(part-share) > 0.02 {
		t.Errorf("the canary scored %v of the events, want %v", part, share)
	}
	if l.canaries != int64(len(all)) {
		t.Errorf("%d rows counted, %d scored", l.canaries, len(all))
	}
	// Cut and ordered otherwise, in another process, the same events go the same way.
	var pieces []int64
	fresh := s.line(m)
	s.await(fresh.canary, 2)
	for from := rows; from > 0; from -= 500 {
		var pick []int32
		for i := range 500 {
			pick = append(pick, int32(from-1-i))
		}
		pieces = append(pieces, canaries(fresh, b.Gather(pick))...)
	}
	slices.Sort(pieces)
	if !slices.Equal(all, pieces) {
		t.Error("the canary's events depend on the batch")
	}
	// A larger share keeps them.
	m.Canary.Share = 0.6
	more := s.line(m)
	s.await(more.canary, 2)
	wider := canaries(more, b)
	for _, id := range all {
		if _, ok := slices.BinarySearch(wider, id); !ok {
			t.Fatalf("event %d left the canary as its share grew", id)
		}
	}
	// It is independent of the hash that places ids on shards.
	for name, shard := range map[string]func(uint64) uint64{"low": func(h uint64) uint64 { return h % 8 }, "high": func(h uint64) uint64 { return h >> 61 }} {
		shards := [8]int{}
		for _, id := range all {
			one := event.Column{Ints: []int64{id}}
			shards[shard(one.HashID(0))]++
		}
		for i, n := range shards {
			if want := float64(len(all)) / 8; math.Abs(float64(n)-want) > 0.15*want {
				t.Errorf("shard %d by %s bits has %d of the canary's events, want about %v", i, name, n, want)
			}
		}
	}
	// A share of 1 takes all, and an alias that is removed gives all back.
	m.Canary.Share = 1
	whole := s.line(m)
	s.await(whole.canary, 2)
	if n := len(canaries(whole, b)); n != rows {
		t.Errorf("a canary of all scored %d", n)
	}
	s.point("challenger", 0)
	s.await(whole.canary, 0)
	if n := len(canaries(whole, b)); n != 0 {
		t.Errorf("a canary that is gone scored %d", n)
	}
	// One that does not fit leaves the rows to the champion.
	s.point("challenger", s.publish(plain{In: []string{"nowhere"}}, 0))
	s.await(whole.canary, 3)
	if n := len(canaries(whole, b)); n != 0 || whole.misfits != 1 {
		t.Errorf("a canary that does not fit scored %d, %d misfits", n, whole.misfits)
	}
	nameless := numbers(t, 4)
	nameless.Schema, _ = event.NewSchema(nameless.Schema.Fields, "", "")
	if _, _, err := whole.score(t.Context(), nameless); err == nil || !strings.Contains(err.Error(), "id") {
		t.Errorf("a canary without ids: %v", err)
	}
}

func TestCanaryLetters(t *testing.T) {
	s := newShelf(t)
	s.point("champion", s.publish(plain{In: []string{"a"}}, 0))
	s.point("challenger", s.publish(plain{In: []string{"a"}, Fails: 2}, 0))
	l := s.line(Model{Alias: "champion", Canary: Canary{Alias: "challenger", Share: 1}})
	out, letters, err := l.score(t.Context(), numbers(t, 10))
	if err != nil || out.N != 9 || len(letters) != 1 || letters[0].ID != "7" || letters[0].Model != "m@2" {
		t.Errorf("%d rows, letters %+v, %v: want one of event 7 by m@2", out.N, letters, err)
	}
	if d := cmp.Diff([]float64{0, 1, 2, 3, 4, 5, 6, 8, 9}, out.Col(ScoreColumn).Floats); d != "" {
		t.Error(d)
	}
}

func TestShadow(t *testing.T) {
	s := newShelf(t)
	s.point("champion", s.publish(plain{In: []string{"a"}}, 5))
	decide := []Decision{{Name: "high", When: "score >= threshold"}, {Name: "low"}}
	alone, l := s.line(Model{Alias: "champion", Decide: decide}), s.line(Model{Alias: "champion", Shadow: "shadow", Decide: decide})
	b := numbers(t, 10)
	want := score(t, alone, b)
	look := func(model []string, scores []string) {
		t.Helper()
		got := score(t, l, b)
		if n := len(want.Schema.Fields); len(got.Cols) != n+2 || got.Schema.Index(ShadowModelColumn) != n || got.Schema.Index(ShadowScoreColumn) != n+1 {
			t.Fatalf("schema %v", got.Schema)
		}
		// All that the champion gives is as if there were no shadow.
		if d := cmp.Diff(want.Cols, got.Cols[:len(want.Cols)]); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(model, texts(got.Col(ShadowModelColumn), b.N)); d != "" {
			t.Error(d)
		}
		var found []string
		for i, v := range got.Col(ShadowScoreColumn).Floats {
			if got.Col(ShadowScoreColumn).Null(i) {
				found = append(found, "null")
				continue
			}
			found = append(found, fmt.Sprint(v))
		}
		if d := cmp.Diff(scores, found); d != "" {
			t.Error(d)
		}
	}
	look(repeat("null", 10), repeat("null", 10))
	s.point("shadow", s.publish(plain{Bias: 100, In: []string{"a"}, Fails: 2}, 0))
	s.await(l.shadow, 2)
	one := func(special, other string) []string {
		out := repeat(other, 10)
		out[7] = special
		return out
	}
	scores := one("null", "")
	for i := range scores {
		if i != 7 {
			scores[i] = fmt.Sprint(100 + i)
		}
	}
	look(one("null", "m@2"), scores)
	if l.shadowed != 9 {
		t.Errorf("%d shadowed, want 9", l.shadowed)
	}
	// A shadow that fails changes nothing for the champion.
	s.point("shadow", s.publish(plain{In: []string{"a"}, Fails: 1}, 0))
	s.await(l.shadow, 3)
	look(repeat("null", 10), repeat("null", 10))
	s.point("shadow", s.publish(plain{In: []string{"a"}, Out: []string{"x", "y"}}, 0))
	s.await(l.shadow, 4)
	look(repeat("null", 10), repeat("null", 10))
	if l.misfits != 1 {
		t.Errorf("%d misfits, want 1", l.misfits)
	}
}

func TestShadowOfClasses(t *testing.T) {
	s := newShelf(t)
	s.point("champion", s.publish(plain{Bias: 3, In: []string{"a"}, Out: []string{"x", "y"}}, 0))
	s.point("shadow", s.publish(plain{In: []string{"a"}, Out: []string{"p", "q"}}, 0))
	out := score(t, s.line(Model{Alias: "champion", Shadow: "shadow"}), numbers(t, 2))
	var names []string
	for _, f := range out.Schema.Fields[3:] {
		names = append(names, f.Name)
	}
	if d := cmp.Diff([]string{ModelColumn, ClassColumn, ScoreColumn, ShadowModelColumn, ShadowClassColumn, ShadowScoreColumn}, names); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff([]string{"x", "p"}, []string{string(out.Col(ClassColumn).Raw(1)), string(out.Col(ShadowClassColumn).Raw(1))}); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]float64{4, 1}, []float64{out.Col(ScoreColumn).Floats[1], out.Col(ShadowScoreColumn).Floats[1]}); d != "" {
		t.Error(d)
	}
}

// seen is what the graph of TestGraphFollows put out.
var seen struct {
	sync.Mutex
	rows int
	by   map[string]int
	bad  []string
}

type collectFn struct{}

func (*collectFn) ProcessElement(b event.Batch, emit func(int)) {
	seen.Lock()
	defer seen.Unlock()
	for i, model := range texts(b.Col(ModelColumn), b.N) {
		seen.rows++
		seen.by[model]++
		bias := float64(model[len(model)-1] - '0') // version n has the bias n
		if got, want := b.Col(ScoreColumn).Floats[i], b.Col("a").Floats[i]+bias; got != want {
			seen.bad = append(seen.bad, fmt.Sprintf("%s scored %v, want %v", model, got, want))
		}
	}
	emit(b.N)
}

// promotingFn sends batches, promotes a version each time the last one has been seen to score, and
// ends when all have.
type promotingFn struct{ Versions int }

func (f *promotingFn) ProcessElement(ctx context.Context, _ []byte, where string, emit func(event.Batch)) error {
	reg, err := registry.Open(ctx, where, time.Now)
	if err != nil {
		return err
	}
	defer reg.Close()
	for v := 1; v <= f.Versions; v++ {
		if err := reg.SetAlias(ctx, "m", registry.Champion, v, "", registry.Any); err != nil {
			return err
		}
		model := fmt.Sprint("m@", v)
		for try := 0; ; try++ {
			if try == 10000 {
				return fmt.Errorf("%s never scored", model)
			}
			emit(numbersOf(8))
			seen.Lock()
			n := seen.by[model]
			seen.Unlock()
			if n > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

var numbersOf = func(int) event.Batch { panic("set by the test") }

// TestGraphFollows holds a whole graph to what the registry says while it runs, on both local runners.
func TestGraphFollows(t *testing.T) {
	for _, runner := range []string{"direct", "prism"} {
		t.Run(runner, func(t *testing.T) {
			const versions = 5
			s := newShelf(t)
			for v := range versions {
				s.publish(plain{Bias: float32(v + 1), In: []string{"a"}}, 0)
			}
			s.point(registry.Champion, 1)
			seen.rows, seen.by, seen.bad = 0, map[string]int{}, nil
			sent := 0
			numbersOf = func(n int) event.Batch { sent += n; return numbers(t, n) }

			p, scope := beam.NewPipelineWithRoot()
			batches := beam.ParDo(scope, &promotingFn{versions}, beam.Impulse(scope), beam.SideInput{Input: beam.Create(scope, s.where)})
			scored, unscored := Score(scope, batches, Params{Models: []Model{{Name: "m", Registry: s.where, Alias: registry.Champion, Fingerprint: "f", Poll: time.Millisecond}}})
			beam.ParDo(scope, &collectFn{}, scored)
			_ = unscored
			res, err := beam.Run(t.Context(), runner, p)
			if err != nil {
				t.Fatal(err)
			}
			CleanUp()
			if len(seen.bad) > 0 {
				t.Errorf("%d rows are not what their version scores: %v", len(seen.bad), seen.bad[0])
			}
			if seen.rows != sent || len(seen.by) != versions {
				t.Errorf("%d of %d rows came through, by %v", seen.rows, sent, seen.by)
			}
			counted := map[string]int64{}
			for _, c := range res.Metrics().AllMetrics().Counters() {
				counted[c.Key.Name] += c.Result()
			}
			if counted["swapped"] != versions || counted["scored"] != int64(sent) || counted["refused"]+counted["misfit"]+counted["unreachable"] != 0 {
				t.Errorf("counted %v, want %d swapped and %d scored", counted, versions, sent)
			}
		})
	}
}
