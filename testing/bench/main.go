package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"

	_ "github.com/millrace-ml/millrace/models/ensemble" // the built-in use case names all kinds
	_ "github.com/millrace-ml/millrace/models/forest"
	_ "github.com/millrace-ml/millrace/models/gbdt"
	_ "github.com/millrace-ml/millrace/models/linear"
	"github.com/millrace-ml/millrace/pipelines/runner/worker"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
)

type options struct {
	json            bool
	data, peer      string
	python, profile string
	only            string
	pairs, rows     int
	events          int
	variants        int
	rate, seconds   int

	parallelism string
	flink       string

	child, in, out, registry, order, cluster string
}

func main() {
	if slices.Contains(os.Args[1:], "--worker=true") { // Flink has started this process
		flag.Parse()
		profileWorker()
		worker.Run(os.Args[1:], beam.Init) // does not return
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ExitOnError) // Beam has a -parallelism, too
	f.BoolVar(&o.json, "json", false, "print a line a figure")
	f.StringVar(&o.data, "data", beside("data/fraud-handbook"), "folder of the handbook's tables, for training")
	f.StringVar(&o.peer, "peer", beside("reference/recipes/peers/go"), "folder of the peer's source; empty leaves it out")
	f.IntVar(&o.pairs, "pairs", 5, "turns")
	f.IntVar(&o.rows, "rows", 0, "rows of the simulated table (default all 1754155)")
	f.StringVar(&o.python, "python", "", "Python with numpy, scikit-learn and xgboost, to compare training")
	f.StringVar(&o.only, "only", "", "job, scorer, training, growth, stream, flink or soak (default all but the last two)")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles here, of the graph on Prism and, behind .stream, of the stream at its rate, and behind .flink1 and so on, of workers on Flink (slows these runs)")
	f.IntVar(&o.events, "events", 10_000_000, "events of the topic that the stream, or Flink, drains")
	f.IntVar(&o.variants, "variants", 1_000_000, "events of the topics that are drained in the order of event time, and with UUIDs; 0 leaves these out")
	f.IntVar(&o.rate, "rate", 50_000, "events a second, for the stream's latency; soak takes at most 20000")
	f.IntVar(&o.seconds, "seconds", 60, "how long they come")
	f.StringVar(&o.parallelism, "parallelism", "1,2", "at which parallelism Flink is measured")
	f.StringVar(&o.flink, "flink", "", "options of our job on Flink as of the command's --flink, with commas")
	f.StringVar(&o.child, "child", "", "what a process of the bench is to do (for itself)")
	f.StringVar(&o.in, "in", "", "its input")
	f.StringVar(&o.out, "out", "", "its output")
	f.StringVar(&o.registry, "registry", "", "its registry")
	f.StringVar(&o.order, "order", "", "its order")
	f.StringVar(&o.cluster, "cluster", "", "folder of its Flink")
	_ = f.Parse(os.Args[1:])
	_ = flag.CommandLine.Parse(nil)
	log.SetLogger(quiet{})
	beam.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := bench
	if o.child != "" {
		run = child
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// quiet drops the SDK's log.
type quiet struct{}

func (quiet) Log(context.Context, log.Severity, int, string) {}

// beside finds a folder of reference material beside the module; "" if there is none.
func beside(name string) string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path := filepath.Join(dir, "..", "shared", name)
			if _, err := os.Stat(path); err != nil {
				return ""
			}
			return path
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

func child(ctx context.Context, o options) error {
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	switch kind, training := strings.CutPrefix(o.child, "train-"); {
	case training:
		return train(ctx, kind, o.in, o.out, os.Stdout)
	case o.child == "prepare":
		return prepare(ctx, o.in, o.rows)
	case o.child == "compare":
		return compareScores(o.in, o.out)
	case o.child == "score":
		return measureScorer(ctx, os.Stdout)
	case o.child == "stream":
		return streamGraph(ctx, o.in, o.out, o.registry, o.order)
	case o.child == "flink":
		return flinkGraph(ctx, o)
	case o.child == "bare":
		return bareLoop(ctx, o.in, o.out, o.registry)
	default:
		return graph(ctx, o.child, o.in, o.out, o.registry)
	}
}

// figure is a line of output; see the package's documentation.
type figure struct {
	Name    string   `json:"name"`
	Value   float64  `json:"value"`
	Unit    string   `json:"unit"`
	Against string   `json:"against"`
	Ratio   *float64 `json:"ratio"`
	Bar     *float64 `json:"bar"`
	OK      *bool    `json:"ok"`
}

func value(name string, v float64, unit string) figure {
	return figure{Name: name, Value: v, Unit: unit}
}

func (f figure) over(against string, ratio float64) figure {
	f.Against, f.Ratio = against, &ratio
	return f
}

// atLeast and atMost set the bar of the ratio, or of the value where there is none.
func (f figure) atLeast(bar float64) figure { return f.judge(bar, f.judged() >= bar) }
func (f figure) atMost(bar float64) figure  { return f.judge(bar, f.judged() <= bar) }

func (f figure) judged() float64 {
	if f.Ratio != nil {
		return *f.Ratio
	}
	return f.Value
}

func (f figure) judge(bar float64, ok bool) figure {
	f.Bar, f.OK = &bar, &ok
	return f
}

// usage is what one process took.
type usage struct {
	wall, cpu, rss float64 // seconds, seconds, MB
	out            []byte
}

// measure runs a process to its end.
func measure(ctx context.Context, env []string, command string, args ...string) (usage, error) {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	if err := cmd.Run(); err != nil {
		text := errs.String()
		return usage{}, fmt.Errorf("%s %s: %w: %s", filepath.Base(command), strings.Join(args, " "), err, text[max(0, len(text)-2000):])
	}
	u := usage{wall: time.Since(start).Seconds(), out: out.Bytes()}
	ru := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	u.cpu = usageSeconds(ru)
	u.rss = float64(ru.Maxrss) / 1024 // KiB
	if runtime.GOOS == "darwin" {
		u.rss /= 1024 // bytes
	}
	return u, nil
}

func bench(ctx context.Context, o options) error {
	if !slices.Contains([]string{"", "job", "scorer", "training", "growth", "stream", "flink", "soak"}, o.only) {
		return fmt.Errorf("-only is job, scorer, training, growth, stream, flink or soak, not %q", o.only)
	}
	if o.only == "training" && (o.python == "" || o.data == "") {
		return errors.New("-only training needs -python and -data")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var figures []figure
	for _, part := range []struct {
		name    string
		measure func() ([]figure, error)
	}{
		{"job", func() ([]figure, error) { return measureJob(ctx, o, self, dir) }},
		{"scorer", func() ([]figure, error) { return measureScorers(ctx, self) }},
		{"training", func() ([]figure, error) { return measureTraining(ctx, o, self, dir) }},
		{"growth", func() ([]figure, error) { return measureGrowth(ctx, o, dir) }},
		{"stream", func() ([]figure, error) { return measureStream(ctx, o, self, dir) }},
		{"flink", func() ([]figure, error) { return measureFlink(ctx, o, self, dir) }},
		{"soak", func() ([]figure, error) { return measureSoak(ctx, o, self, dir) }},
	} {
		if o.only != part.name && (o.only != "" || part.name == "flink" || part.name == "soak") || part.name == "training" && (o.python == "" || o.data == "") {
			continue
		}
		more, err := part.measure()
		if err != nil {
			return err
		}
		figures = append(figures, more...)
	}
	if o.json {
		return printLines(os.Stdout, figures)
	}
	return printTable(os.Stdout, figures)
}

// measureJob lets all who do the job do it in turns.
func measureJob(ctx context.Context, o options, self, dir string) ([]figure, error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	say("writing events")
	// The kernel counts the memory that this process has when it forks as the child's, so it stays
	// small: preparing and comparing are children too.
	if _, err := measure(ctx, nil, self, "-child", "prepare", "-in", dir, "-rows", fmt.Sprint(o.rows)); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(in("rows"))
	if err != nil {
		return nil, err
	}
	rows, err := strconv.Atoi(string(text))
	if err != nil {
		return nil, err
	}
	names := []string{"bare_loop", "graph_prism", "graph_direct"}
	commands := map[string][]string{}
	for name, child := range map[string]string{"bare_loop": "bare", "graph_prism": "prism", "graph_direct": "direct"} {
		commands[name] = []string{self, "-child", child, "-in", in("events.jsonl"), "-out", in(name + ".jsonl"), "-registry", in("registry")}
	}
	peerScorer := ""
	if o.peer != "" {
		say("building the peer")
		binaries, err := buildPeer(ctx, o.peer, in("peer"))
		if err != nil {
			return nil, err
		}
		// Whichever of its scorers is faster here: on some machines SIMD is far from it.
		least := math.Inf(1)
		for scorer, binary := range binaries {
			command := []string{binary, "-in", in("peer.jsonl"), "-out", in("peer_go.jsonl"), "-model", in("peer.json"), "-json", "hand", "-shards", "2"}
			u, err := measure(ctx, nil, command[0], command[1:]...)
			if err != nil {
				return nil, err
			}
			say("       peer_go, %-5s %8.0f events/s  %5.2f CPU s/M", scorer, float64(rows)/u.wall, u.cpu/float64(rows)*1e6)
			if u.cpu < least {
				least, peerScorer, commands["peer_go"] = u.cpu, scorer, command
			}
		}
		names = slices.Insert(names, 0, "peer_go")
	}
	runs := map[string][]usage{}
	for turn := range o.pairs {
		for _, name := range names {
			u, err := measure(ctx, nil, commands[name][0], commands[name][1:]...)
			if err != nil {
				return nil, err
			}
			runs[name] = append(runs[name], u)
			say("turn %d %-12s %8.0f events/s  %5.2f CPU s/M  %5.0f MB", turn+1, name, float64(rows)/u.wall, u.cpu/float64(rows)*1e6, u.rss)
		}
		if turn > 0 {
			continue
		}
		for _, name := range []string{"graph_prism", "graph_direct"} {
			if _, err := measure(ctx, nil, self, "-child", "compare", "-in", in("bare_loop.jsonl"), "-out", in(name+".jsonl")); err != nil {
				return nil, err
			}
		}
	}
	if o.profile != "" {
		say("profiling the graph on Prism")
		command := append(commands["graph_prism"], "-profile", o.profile)
		if _, err := measure(ctx, nil, command[0], command[1:]...); err != nil {
			return nil, err
		}
	}
	of := func(name string, f func(usage) float64) float64 { return median(each(runs[name], f)) }
	rate := func(u usage) float64 { return float64(rows) / u.wall }
	cpu := func(u usage) float64 { return u.cpu / float64(rows) * 1e6 }
	rss := func(u usage) float64 { return u.rss }
	ratio := func(a, b string, f func(usage) float64) float64 {
		var rs []float64
		for i := range runs[a] {
			rs = append(rs, f(runs[a][i])/f(runs[b][i]))
		}
		return median(rs)
	}
	var out []figure
	if _, ok := commands["peer_go"]; ok {
		out = append(out, value("peer_go", of("peer_go", rate), "events/s, "+peerScorer+" scorer"))
		out = append(out, value("bare_loop", of("bare_loop", rate), "events/s").over("peer_go", ratio("bare_loop", "peer_go", rate)).atLeast(0.9))
	} else {
		out = append(out, value("bare_loop", of("bare_loop", rate), "events/s"))
	}
	out = append(out,
		value("graph_prism", of("graph_prism", rate), "events/s").over("bare_loop", ratio("graph_prism", "bare_loop", rate)).atLeast(0.5),
		value("graph_direct", of("graph_direct", rate), "events/s").over("bare_loop", ratio("graph_direct", "bare_loop", rate)))
	for i, name := range names {
		f := value(name+"_cpu", of(name, cpu), "CPU s/M events")
		if i > 0 {
			against := "bare_loop"
			if name == "bare_loop" {
				against = "peer_go"
			}
			if _, ok := commands[against]; ok {
				f = f.over(against+"_cpu", ratio(name, against, cpu))
			}
		}
		out = append(out, f)
	}
	out = append(out, value("bare_loop_memory", of("bare_loop", rss), "MB"))
	for _, name := range []string{"graph_prism", "graph_direct"} {
		out = append(out, value(name+"_memory", of(name, rss), "MB").atMost(2048))
	}
	return out, nil
}

func measureScorers(ctx context.Context, self string) ([]figure, error) {
	say("scoring alone")
	var out []figure
	for _, c := range []struct {
		name string
		env  []string
		bar  float64
	}{{"scorer", nil, 0.35}, {"scorer_plain", []string{"GODEBUG=cpu.avx2=off"}, 1.1}} {
		u, err := measure(ctx, c.env, self, "-child", "score")
		if err != nil {
			return nil, err
		}
		var f scorerFigures
		if err := json.Unmarshal(u.out, &f); err != nil {
			return nil, fmt.Errorf("reading the scorer's figures: %w", err)
		}
		out = append(out,
			value(c.name+"_256", f.Micros256, "CPU us/row").atMost(c.bar),
			value(c.name+"_1024", f.Micros1024, "CPU us/row").atMost(c.bar),
			value(c.name+"_allocations", float64(f.Allocs), "a call").atMost(0))
	}
	return out, nil
}

func measureTraining(ctx context.Context, o options, self, dir string) ([]figure, error) {
	x, y, script := filepath.Join(dir, "x"), filepath.Join(dir, "y"), filepath.Join(dir, "train.py")
	rows, err := writeMatrix(o.data, x, y)
	if err != nil {
		return nil, fmt.Errorf("reading the table to train on: %w", err)
	}
	if err := os.WriteFile(script, trainScript, 0o600); err != nil {
		return nil, err
	}
	var out []figure
	for _, c := range []struct {
		kind, theirs string
		bar          float64
	}{{"gbdt", "xgboost", 1.5}, {"logistic", "sklearn_logistic", 2.5}, {"mlp", "sklearn_mlp", 2.5}} {
		say("training %s", c.kind)
		var ours, theirs []trained
		for range min(o.pairs, 3) {
			for _, side := range []struct {
				to      *[]trained
				command []string
			}{
				{&ours, []string{self, "-child", "train-" + c.kind, "-in", x, "-out", y}},
				{&theirs, []string{o.python, script, c.kind, fmt.Sprint(rows), fmt.Sprint(inputs), x, y}},
			} {
				// XGBoost's threads spin while they wait, which on a machine with other work takes 20
				// times as long as without; passive, they lose nothing on a quiet one.
				u, err := measure(ctx, []string{"OMP_WAIT_POLICY=passive"}, side.command[0], side.command[1:]...)
				if err != nil {
					return nil, err
				}
				var t trained
				if err := json.Unmarshal(u.out, &t); err != nil {
					return nil, fmt.Errorf("reading what training took: %w", err)
				}
				*side.to = append(*side.to, t)
			}
		}
		for _, m := range []struct {
			suffix, unit string
			of           func(trained) float64
		}{{"", "s", func(t trained) float64 { return t.Wall }}, {"_cpu", "CPU s", func(t trained) float64 { return t.CPU }}} {
			a, b := each(ours, m.of), each(theirs, m.of)
			var ratios []float64
			for i := range a {
				ratios = append(ratios, a[i]/b[i])
			}
			f := value("train_"+c.kind+m.suffix, median(a), m.unit).over(c.theirs+m.suffix, median(ratios))
			if m.suffix == "" {
				f = f.atMost(c.bar)
			}
			out = append(out, value(c.theirs+m.suffix, median(b), m.unit), f)
		}
	}
	return out, nil
}

func each[T any](all []T, f func(T) float64) []float64 {
	out := make([]float64, len(all))
	for i, v := range all {
		out[i] = f(v)
	}
	return out
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

func printLines(w io.Writer, figures []figure) error {
	enc := json.NewEncoder(w)
	for _, f := range figures {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

func printTable(w io.Writer, figures []figure) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tvalue\tunit\tratio\tagainst\tbar\t")
	for _, f := range figures {
		ratio, bar := "", ""
		if f.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *f.Ratio)
		}
		if f.Bar != nil {
			bar = fmt.Sprintf("%g ok", *f.Bar)
			if !*f.OK {
				bar = fmt.Sprintf("%g MISSED", *f.Bar)
			}
		}
		places := 0
		if f.Value < 100 {
			places = 3
		}
		fmt.Fprintf(t, "%s\t%.*f\t%s\t%s\t%s\t%s\t\n", f.Name, places, f.Value, f.Unit, ratio, f.Against, bar)
	}
	return t.Flush()
}

func say(text string, args ...any) { fmt.Fprintf(os.Stderr, text+"\n", args...) }
