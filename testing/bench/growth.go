package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// What an event costs on average may grow by half from the fewest terminals to the most, and no call may
// take longer than this.
const (
	growthBar   = 1.5
	growthPause = 250 // ms
)

var growthSizes = []struct {
	name      string
	terminals int
	turns     int // at most: the largest takes minutes
}{{"10k", 10_000, 3}, {"100k", 100_000, 3}, {"1M", 1_000_000, 3}, {"10M", 10_000_000, 1}}

// measureGrowth runs the stages of a stream, without a runner, over more and more terminals: the
// benchmark of package feature, whose insides it needs, in a process for each size, in turns.
func measureGrowth(ctx context.Context, o options, dir string) ([]figure, error) {
	say("building the stages of a stream")
	binary := filepath.Join(dir, "growth.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "github.com/millrace-ml/millrace/transforms/feature")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the stages: %w: %s", err, strings.TrimSpace(string(text)))
	}
	runs := map[string][]map[string]float64{}
	for turn := range o.pairs {
		for _, size := range growthSizes {
			if turn >= size.turns {
				continue
			}
			// A limit, as the runner sets one, makes the collector work for its memory only near it.
			u, err := measure(ctx, []string{"GOMEMLIMIT=6GiB"}, binary, "-test.run", "^$", "-test.bench", fmt.Sprintf("^BenchmarkGrowth$/^%d$", size.terminals), "-test.benchtime", "1x")
			if err != nil {
				return nil, err
			}
			m, err := parseBenchmark(string(u.out))
			if err != nil {
				return nil, err
			}
			runs[size.name] = append(runs[size.name], m)
			say("turn %d %4s terminals %6.0f CPU ns/event  %4.1f bytes/event  %6.1f ms the longest call  %5.0f MB  rebuilt in %.1f CPU s", turn+1, size.name, m["cpu-ns/event"], m["state-B/event"], m["call-ms"], m["rss-MiB"], m["rebuild-s"])
		}
	}
	of := func(name, unit string) float64 {
		return median(each(runs[name], func(m map[string]float64) float64 { return m[unit] }))
	}
	var out []figure
	least := growthSizes[0].name
	for _, size := range growthSizes {
		f := value("growth_"+size.name+"_cpu", of(size.name, "cpu-ns/event"), "CPU ns/event")
		if size.name != least {
			// Within a turn, for a shared machine's speed changes.
			ratios := make([]float64, len(runs[size.name]))
			for i, m := range runs[size.name] {
				ratios[i] = m["cpu-ns/event"] / runs[least][i]["cpu-ns/event"]
			}
			f = f.over("growth_"+least+"_cpu", median(ratios)).atMost(growthBar)
		}
		out = append(out, f,
			value("growth_"+size.name+"_state", of(size.name, "state-B/event"), "bytes/event"),
			value("growth_"+size.name+"_call", of(size.name, "call-ms"), "CPU ms, the longest").atMost(growthPause),
			value("growth_"+size.name+"_entity", of(size.name, "B/entity"), "bytes/entity"),
			value("growth_"+size.name+"_memory", of(size.name, "rss-MiB"), "MB, bags too"),
			value("growth_"+size.name+"_rebuild", of(size.name, "rebuild-s"), "CPU s, all shards"),
			value("growth_"+size.name+"_rebuild_shard", of(size.name, "rebuild-shard-ms"), "CPU ms, the longest"))
	}
	return out, nil
}

// parseBenchmark gives the metrics of the one benchmark in a test's output, by unit.
func parseBenchmark(text string) (map[string]float64, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		m := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("reading what a benchmark took: %w", err)
			}
			m[fields[i+1]] = v
		}
		return m, nil
	}
	return nil, fmt.Errorf("reading what a benchmark took: no figures in %q", text[:min(len(text), 500)])
}
