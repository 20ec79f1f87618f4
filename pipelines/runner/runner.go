package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/direct"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"

	"github.com/millrace-ml/millrace/pipelines/runner/dataflow"
	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/source"
)

const (
	// Direct runs bounded graphs in this process.
	Direct = "direct"
	// Prism runs graphs on Beam's local portable runner, in this process. It is the default.
	Prism = "prism"
	// Flink runs graphs on a Flink cluster; see package flink.
	Flink = "flink"
	// Dataflow runs graphs on Google Cloud Dataflow; see package dataflow.
	Dataflow = "dataflow"
)

// ErrUnknown reports a name that is no runner.
var ErrUnknown = errors.New("unknown runner")

// Check reports whether name is a runner; the empty name means Prism.
func Check(name string) error {
	switch name {
	case "", Direct, Prism, Flink, Dataflow:
		return nil
	}
	return fmt.Errorf("%w %q: choose %s, %s, %s or %s", ErrUnknown, name, Prism, Direct, Flink, Dataflow)
}

// CheckStream reports whether the named runner can run a graph whose source has no end.
func CheckStream(name string) error {
	if name == Direct {
		return fmt.Errorf("%s runs bounded graphs alone, and the source has no end: choose %s, %s or %s", Direct, Prism, Flink, Dataflow)
	}
	return Check(name)
}

// InProcess reports whether the named runner's workers are this process.
func InProcess(name string) bool { return name != Flink && name != Dataflow }

// Local reports whether the named runner copies what it shuffles between workers that share this
// machine's disk, so that shuffles do better through files; see feature.Params.
func Local(name string) bool { return name == "" || name == Prism }

// Memory bounds this process before a bounded job: near the bound the collector works harder instead of
// passing it, and far from it, less often, since what such a job keeps is small beside what it makes.
// Without a bound, as for a stream, whose state is as large as the entities that live, all is as Go
// has it.
func Memory(bytes int64) {
	if bytes <= 0 {
		debug.SetMemoryLimit(math.MaxInt64)
		debug.SetGCPercent(100)
		return
	}
	debug.SetMemoryLimit(bytes / 20 * 17) // the rest is for what the collector doesn't count
	debug.SetGCPercent(400)
}

// Result is what a finished job counted.
type Result struct {
	// Counters sums Beam's counters by "namespace.name", over all steps.
	Counters map[string]int64
	// Savepoint is where a stream was stopped with one, on Flink.
	Savepoint string
}

// Engine is a runner, and how it runs.
type Engine struct {
	// Name is Direct, Prism, Flink or Dataflow; empty means Prism.
	Name string
	// Flink is for Flink alone, Dataflow for Dataflow.
	Flink    flink.Options
	Dataflow dataflow.Options
	// Progress is told how a job on a cluster goes on; it may be nil. Jobs in this process tell package
	// telemetry.
	Progress flink.Progress
	// Watch is the same for Dataflow.
	Watch dataflow.Progress
}

// prismTurn serialises Prism jobs of a process: the SDK keeps endpoint and worker in globals.
var prismTurn sync.Mutex

// Run executes p on the named runner and waits for its end. The caller has called beam.Init.
func Run(ctx context.Context, name string, p *beam.Pipeline) (Result, error) {
	return Engine{Name: name}.Run(ctx, p)
}

// Run executes p and waits for its end. The caller has called beam.Init.
func (e Engine) Run(ctx context.Context, p *beam.Pipeline) (res Result, err error) {
	if err := Check(e.Name); err != nil {
		return Result{}, err
	}
	switch e.Name {
	case Flink:
		res, err = e.runFlink(ctx, p)
	case Dataflow:
		res.Counters, err = dataflow.Run(ctx, p, e.Dataflow, e.Watch)
	case Direct:
		res, err = counted(direct.Execute(ctx, p))
	default:
		res, err = counted(runPrism(ctx, p))
	}
	source.CleanUp()
	predict.CleanUp()
	if cerr := feature.CleanUp(); err == nil && cerr != nil {
		return Result{}, fmt.Errorf("clearing spilled events: %w", cerr)
	}
	if err != nil {
		return res, fmt.Errorf("running on %s: %w", cmp.Or(e.Name, Prism), err)
	}
	return res, nil
}

func (e Engine) runFlink(ctx context.Context, p *beam.Pipeline) (Result, error) {
	job, err := flink.Submit(ctx, p, e.Flink)
	if err != nil {
		return Result{}, err
	}
	defer job.Close()
	res, err := job.Wait(ctx, e.Progress)
	return Result{Counters: res.Counters, Savepoint: res.Savepoint}, err
}

func runPrism(ctx context.Context, p *beam.Pipeline) (beam.PipelineResult, error) {
	prismTurn.Lock()
	defer prismTurn.Unlock()
	const experiment = "prism_disable_sdf_split"
	if !strings.Contains(*jobopts.Experiments, experiment) {
		*jobopts.Experiments = strings.Trim(*jobopts.Experiments+","+experiment, ",")
	}
	if before, n := runtime.GOMAXPROCS(0), 3*runtime.NumCPU(); n > before && endless(p) {
		runtime.GOMAXPROCS(n)
		defer runtime.GOMAXPROCS(before)
	}
	defer func() { sweepWorkers(time.Now()) }()
	return prism.Execute(ctx, p)
}

// endless tells a graph whose source has no end.
func endless(p *beam.Pipeline) bool {
	_, nodes, err := p.Build()
	return err == nil && slices.ContainsFunc(nodes, func(n *graph.Node) bool { return !n.Bounded() })
}

// staging is long past the time within which a job has read the file that the SDK makes for it.
const staging = time.Minute

// sweepWorkers removes the empty files that loopback jobs of the SDK leave behind, once they are old enough: which
// process made one, and whether its job still begins, can't be told.
func sweepWorkers(now time.Time) {
	names, _ := filepath.Glob(filepath.Join(os.TempDir(), "beamloopbackworker-*"))
	for _, name := range names {
		if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() && info.Size() == 0 && now.Sub(info.ModTime()) > staging {
			_ = os.Remove(name)
		}
	}
}

func counted(res beam.PipelineResult, err error) (Result, error) {
	out := Result{Counters: map[string]int64{}}
	if res == nil || err != nil {
		return out, err
	}
	for _, c := range res.Metrics().AllMetrics().Counters() {
		out.Counters[c.Key.Namespace+"."+c.Key.Name] += c.Result()
	}
	return out, nil
}
