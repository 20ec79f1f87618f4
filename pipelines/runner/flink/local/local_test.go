package local

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/runner/worker"
)

func init() {
	beam.RegisterDoFn(&countFn{})
	beam.RegisterDoFn(&tickFn{})
	register.Emitter1[int64]()
	beam.RegisterType(reflect.TypeFor[countFn]())
}

// The test's binary is the worker too.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "--worker=true") {
		flag.Parse()
		worker.Run(os.Args[1:], beam.Init)
	}
	beam.Init()
	os.Exit(m.Run())
}

var elements = beam.NewCounter("test", "elements")

type countFn struct{}

func (*countFn) ProcessElement(ctx context.Context, n int64, emit func(int64)) error {
	elements.Inc(ctx, 1)
	emit(n)
	return nil
}

// tickFn gives a number now and then, for ever.
type tickFn struct{}

func (*tickFn) CreateInitialRestriction(int64) offsetrange.Restriction {
	return offsetrange.Restriction{End: 1 << 62}
}

func (*tickFn) SplitRestriction(_ int64, r offsetrange.Restriction) []offsetrange.Restriction {
	return []offsetrange.Restriction{r}
}

func (*tickFn) RestrictionSize(int64, offsetrange.Restriction) float64 { return 1 }

func (*tickFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (*tickFn) ProcessElement(_ context.Context, rt *sdf.LockRTracker, _ int64, emit func(int64)) sdf.ProcessContinuation {
	at := rt.GetRestriction().(offsetrange.Restriction).Start
	if !rt.TryClaim(at) {
		return sdf.StopProcessing()
	}
	emit(at)
	time.Sleep(50 * time.Millisecond)
	return sdf.ResumeProcessingIn(0)
}

func (c *Cluster) submit(t *testing.T, p *beam.Pipeline, name string) *flink.Job {
	t.Helper()
	kind, config := c.Environment()
	j, err := flink.Submit(t.Context(), p, flink.Options{
		Endpoint: c.JobServer(), REST: c.REST(), Name: name, Environment: kind, EnvironmentConfig: config, Parallelism: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func bounded() *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo(s, &countFn{}, beam.Create(s, int64(1), int64(2), int64(3)))
	return p
}

func unbounded() *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo(s, &countFn{}, beam.ParDo(s, &tickFn{}, beam.Reshuffle(s, beam.Create(s, int64(1), int64(2), int64(3), int64(4)))))
	return p
}

func up(t *testing.T, o Options) *Cluster {
	t.Helper()
	if os.Getenv("MILLRACE_REQUIRE") != "1" && !Installed() {
		t.Skip("Flink is not installed; with MILLRACE_REQUIRE=1 the test installs it")
	}
	o.Dir, o.Heap, o.Tied, o.Progress = filepath.Join(t.TempDir(), "flink"), 256<<20, true, func(s string) { t.Log(s) }
	c, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			pids, _ := processes(c.mark())
			for _, pid := range pids {
				t.Logf("%d: %.200q", pid, arguments(pid)[max(0, len(arguments(pid))-200):])
			}
			for _, name := range slices.Sorted(maps.Keys(c.state.Servers)) {
				t.Logf("%s:\n%s", name, c.logEnd(name))
			}
		}
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// patience is for machines that have other work.
const patience = 5 * time.Minute

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	start := time.Now()
	for time.Since(start) < patience {
		if is() {
			t.Logf("%s: after %.1f s", what, time.Since(start).Seconds())
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: not in %v", what, patience)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCluster runs jobs on two TaskManagers, kills each server, and looks at what is left.
func TestCluster(t *testing.T) {
	c := up(t, Options{TaskManagers: 2, Slots: 1})
	start := time.Now()
	lap := func(what string) { t.Logf("%s: %.1f s", what, time.Since(start).Seconds()); start = time.Now() }

	if _, err := Up(t.Context(), Options{Dir: c.Dir()}); !errors.Is(err, ErrRuns) {
		t.Errorf("a second cluster in the folder gives %v, not ErrRuns", err)
	}
	other := must(Open(c.Dir()))(t)
	if got, want := fmt.Sprint(other.PIDs()), fmt.Sprint(c.PIDs()); got != want || len(c.PIDs()) != 4 || other.REST() != c.REST() {
		t.Errorf("another process sees servers %s, not %s", got, want)
	}

	before := must(filepath.Glob("/tmp/bin*/*"))(t)
	result, err := c.submit(t, bounded(), "bounded").Wait(t.Context(), nil)
	check(t, err)
	if result.Counters["test.elements"] != 3 {
		t.Errorf("the bounded job counted %v", result.Counters)
	}
	lap("bounded job")

	worked := func(i int) func() bool { return func() bool { return len(must(c.Workers(i))(t)) == 1 } }
	left := func(i int) func() bool { return func() bool { return len(must(c.Children(i))(t)) == 0 } }
	eventually(t, "the bounded job's workers are gone", func() bool { return left(0)() && left(1)() })

	job := c.submit(t, unbounded(), "unbounded")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waited := make(chan error, 1)
	go func() {
		_, err := job.Wait(ctx, nil)
		waited <- err
	}()
	eventually(t, "both TaskManagers have a worker", func() bool { return worked(0)() && worked(1)() })
	check(t, other.KillTaskManager(0))
	eventually(t, "the killed TaskManager's boot and worker are gone", left(0))
	check(t, c.StartTaskManager(t.Context(), 0))
	lap("TaskManager killed and started")
	eventually(t, "both TaskManagers have a worker again", func() bool { return worked(0)() && worked(1)() })

	check(t, c.KillJobServer())
	check(t, c.RestartJobServer(t.Context()))
	lap("job server killed and started")
	if !worked(0)() || !worked(1)() {
		t.Error("the job ended with the job server")
	}
	check(t, c.KillJobManager())
	check(t, c.RestartJobManager(t.Context()))
	lap("JobManager killed and started")
	eventually(t, "the lost job's workers are gone", func() bool { return left(0)() && left(1)() })
	cancel()
	<-waited

	check(t, c.Down(t.Context()))
	lap("down")
	if pids := must(processes(c.mark()))(t); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
	_ = filepath.WalkDir(c.Dir(), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !inside(c.path("checkpoints"), path) {
			t.Errorf("%s is left", path)
		}
		return nil
	})
	noCopies(t, before)
	if _, err := Open(c.Dir()); !errors.Is(err, ErrNone) {
		t.Errorf("the folder still has a cluster: %v", err)
	}
}

// TestHighAvailability kills the JobManager under a job, which goes on from its checkpoint.
func TestHighAvailability(t *testing.T) {
	if os.Getenv("MILLRACE_REQUIRE") != "1" {
		t.Skip("takes a second cluster; runs with MILLRACE_REQUIRE=1")
	}
	before := must(filepath.Glob("/tmp/bin*/*"))(t)
	c := up(t, Options{HighAvailability: true})
	job := c.submit(t, unbounded(), "survivor")
	defer job.Close()
	has := func(text string) func() bool {
		return func() bool { return bytes.Contains(must(os.ReadFile(c.Log(jobManager)))(t), []byte(text)) }
	}
	eventually(t, "a checkpoint", has("Completed checkpoint"))
	check(t, c.KillJobManager())
	check(t, c.RestartJobManager(t.Context()))
	eventually(t, "the job goes on from a checkpoint", has("from Checkpoint "))
	cluster := must(flink.Open(c.REST()))(t)
	eventually(t, "the job runs", func() bool {
		s, err := cluster.Find(t.Context(), "survivor")
		return err == nil && s.State == "RUNNING" && len(must(c.Workers(0))(t)) == 1
	})
	check(t, c.Down(t.Context()))
	noCopies(t, before)
}

// noCopies wants no copy of this binary, not even a part of it, where boot puts its copies, but for those that were there
// before and those of others' tests.
func noCopies(t *testing.T, before []string) {
	t.Helper()
	for _, name := range must(filepath.Glob("/tmp/bin*/*"))(t) {
		if !slices.Contains(before, name) && copyOf(name, must(os.Executable())(t)) {
			t.Errorf("a copy of the binary is left: %s", name)
		}
	}
}

// TestSweep: a copy that a boot has left is removed, whole or not, and no other's.
func TestSweep(t *testing.T) {
	t.Parallel()
	c := &Cluster{dir: t.TempDir()}
	page := bytes.Repeat([]byte("this build "), 1000)
	write := func(name string, content []byte, age time.Duration) string {
		check(t, os.MkdirAll(filepath.Dir(name), 0o700))
		check(t, os.WriteFile(name, content, 0o700))
		check(t, os.Chtimes(name, time.Time{}, time.Now().Add(-age)))
		return name
	}
	tmp := func() string {
		dir := must(os.MkdirTemp("/tmp/", "bin*"))(t)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return filepath.Join(dir, "worker")
	}
	write(c.path("tmp", "boot-1", "staged", "1-worker"), page, time.Minute)
	whole, part := write(tmp(), page, 50*time.Second), write(tmp(), page[:5000], 50*time.Second)
	other, older := write(tmp(), bytes.ToUpper(page), 50*time.Second), write(tmp(), page, 2*time.Minute)
	c.sweep()
	for name, want := range map[string]bool{whole: false, part: false, other: true, older: true} {
		if exists(name) != want {
			t.Errorf("%s is there: %v, want %v", name, !want, want)
		}
	}
	if exists(filepath.Dir(whole)) {
		t.Error("a copy's folder is left")
	}
}

func inside(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
