package faults

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
)

// gauges are figures that are looked at now and then, and told window by window.
type gauges struct {
	window time.Duration
	order  []string
	of     map[string]*gauge
}

type gauge struct {
	fold   func([]float64) float64 // makes a window's figure of its values
	at     []time.Duration
	values []float64
}

func (g *gauges) put(name string, fold func([]float64) float64, at time.Duration, value float64) {
	if g.of == nil {
		g.of = map[string]*gauge{}
	}
	if g.of[name] == nil {
		g.of[name] = &gauge{fold: fold}
		g.order = append(g.order, name)
	}
	one := g.of[name]
	one.at, one.values = append(one.at, at), append(one.values, value)
}

func least(values []float64) float64 { return slices.Min(values) }
func most(values []float64) float64  { return slices.Max(values) }
func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// windows are the figures of so many windows; NaN where nothing was looked at.
func (one *gauge) windows(n int, each time.Duration) []float64 {
	in := make([][]float64, n)
	for i, v := range one.values {
		w := min(int(one.at[i]/each), n-1)
		in[w] = append(in[w], v)
	}
	folded := make([]float64, n)
	for w := range in {
		folded[w] = math.NaN()
		if len(in[w]) > 0 {
			folded[w] = one.fold(in[w])
		}
	}
	return folded
}

// table tells all windows, the last over the first, and how much a window is above the one before by the line of
// least squares. The first of more than two windows is in neither: what is kept fills up in it.
func (g *gauges) table(total time.Duration) string {
	n := max(1, int(math.Ceil(total.Seconds()/g.window.Seconds())))
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "windows of %s\t", g.window)
	for w := range n {
		fmt.Fprintf(t, "%d\t", w+1)
	}
	fmt.Fprint(t, "last/first\ta window\t\n")
	for _, name := range g.order {
		figures := g.of[name].windows(n, g.window)
		fmt.Fprintf(t, "%s\t", name)
		for _, v := range figures {
			fmt.Fprintf(t, "%s\t", short(v))
		}
		if n > 2 {
			figures = figures[1:]
		}
		ratio, slope := trend(figures)
		fmt.Fprintf(t, "%.2f\t%s\t\n", ratio, short(slope))
	}
	_ = t.Flush()
	return text.String()
}

func short(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Log10(max(1, math.Abs(v))))), 64)
}

// trend is the last of the figures over the first, and the slope of the line of least squares through all.
func trend(figures []float64) (ratio, slope float64) {
	var x, y []float64
	for i, v := range figures {
		if !math.IsNaN(v) {
			x, y = append(x, float64(i)), append(y, v)
		}
	}
	if len(y) < 2 {
		return math.NaN(), math.NaN()
	}
	up, along := 0.0, 0.0
	for i := range x {
		up += (x[i] - mean(x)) * (y[i] - mean(y))
		along += (x[i] - mean(x)) * (x[i] - mean(x))
	}
	return y[len(y)-1] / y[0], up / along
}

const megabyte = 1 << 20

// jobID is that of the job which runs or starts again.
func jobID(t *testing.T, c *local.Cluster, name string) string {
	t.Helper()
	cluster, err := flink.Open(c.REST())
	check(t, err)
	job, err := cluster.Find(t.Context(), name)
	check(t, err)
	return job.ID
}

// jvm are the heap and the metaspace that a TaskManager uses, in MB.
func jvm(ctx context.Context, c *local.Cluster, taskManager int) (heap, metaspace float64, err error) {
	var all struct{ TaskManagers []struct{ ID string } }
	if err := c.Get(ctx, "/taskmanagers", &all); err != nil {
		return 0, 0, err
	}
	id, started := "", 0 // one that was killed is listed for a while
	for _, m := range all.TaskManagers {
		if start, ok := strings.CutPrefix(m.ID, fmt.Sprintf("taskmanager-%d-", taskManager)); ok {
			if n, _ := strconv.Atoi(start); n > started {
				id, started = m.ID, n
			}
		}
	}
	const heapName, metaspaceName = "Status.JVM.Memory.Heap.Used", "Status.JVM.Memory.Metaspace.Used"
	var values []struct{ ID, Value string }
	if err := c.Get(ctx, "/taskmanagers/"+url.PathEscape(id)+"/metrics?get="+heapName+","+metaspaceName, &values); err != nil {
		return 0, 0, err
	}
	if len(values) != 2 {
		return 0, 0, fmt.Errorf("TaskManager %s says %d of 2 figures", id, len(values))
	}
	for _, v := range values {
		n, err := strconv.ParseFloat(v.Value, 64)
		if err != nil {
			return 0, 0, err
		}
		if v.ID == heapName {
			heap = n / megabyte
		} else {
			metaspace = n / megabyte
		}
	}
	return heap, metaspace, nil
}

// checkpoint is one of a job.
type checkpoint struct {
	Status    string
	Savepoint bool  `json:"is_savepoint"`
	Trigger   int64 `json:"trigger_timestamp"`   // ms
	Took      int64 `json:"end_to_end_duration"` // ms
	State     int64 `json:"state_size"`
	Written   int64 `json:"checkpointed_size"`
}

// checkpoints are those that a job has written.
type checkpoints struct {
	Counts  struct{ Completed, Failed, Restored int }
	Latest  struct{ Completed *checkpoint }
	History []checkpoint
}

func checkpointsOf(ctx context.Context, c *local.Cluster, job string) (all checkpoints, err error) {
	return all, c.Get(ctx, "/jobs/"+job+"/checkpoints", &all)
}

// meter measures the CPU seconds that a cluster's processes take from now on, those included that end meanwhile.
func meter(t *testing.T, c *local.Cluster) (seconds func() float64) {
	t.Helper()
	before, now := map[int]float64{}, map[int]float64{}
	look := func(into map[int]float64) {
		var pids []int
		for _, pid := range c.PIDs() {
			pids = append(pids, pid)
		}
		for i := range 2 {
			if children, err := c.Children(i); err == nil {
				pids = append(pids, children...)
			}
		}
		for _, pid := range pids {
			into[pid] = max(into[pid], components.CPU(pid))
		}
	}
	look(before)
	quit := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-quit:
				return
			case <-time.After(300 * time.Millisecond):
				look(now)
			}
		}
	})
	end := sync.OnceFunc(func() { close(quit); looking.Wait(); look(now) })
	t.Cleanup(end)
	return func() (total float64) {
		end()
		for pid, s := range now {
			total += s - before[pid]
		}
		return total
	}
}

// folderSize is what the files below a folder take, in MB; some come and go meanwhile.
func folderSize(dir string) (all float64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			all += float64(info.Size()) / megabyte
		}
		return nil
	})
	return all
}
