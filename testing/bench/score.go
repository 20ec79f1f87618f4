package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"syscall"
)

// scorerFigures is what the score child prints: CPU microseconds a row by batch, and allocations of
// the last calls.
type scorerFigures struct {
	Micros256, Micros1024 float64
	Allocs                uint64
}

// measureScorer takes the best of several repetitions, in CPU time: another process slows it down,
// nothing speeds it up.
func measureScorer(ctx context.Context, w io.Writer) error {
	u, err := useCase()
	if err != nil {
		return err
	}
	m, _, err := network(ctx, u.Features().Names())
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var f scorerFigures
	for _, rows := range []int{256, 1024} {
		x, y := make([]float32, rows*inputs), make([]float32, rows)
		for i := range x {
			x[i] = float32(rng.NormFloat64()*20 + 30)
		}
		best := math.Inf(1)
		for range 12 {
			calls := 200_000 / rows
			var before, behind runtime.MemStats
			runtime.ReadMemStats(&before)
			start := cpuSeconds()
			for range calls {
				if err := m.Score(ctx, x, rows, y); err != nil {
					return err
				}
			}
			best = min(best, (cpuSeconds()-start)*1e6/float64(calls*rows))
			runtime.ReadMemStats(&behind)
			f.Allocs = (behind.Mallocs - before.Mallocs) / uint64(calls)
		}
		if rows == 256 {
			f.Micros256 = best
		} else {
			f.Micros1024 = best
		}
	}
	return json.NewEncoder(w).Encode(f)
}

// cpuSeconds is what this process has used so far.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Errorf("asking for the CPU time: %w", err))
	}
	return usageSeconds(&u)
}

func usageSeconds(u *syscall.Rusage) float64 {
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}
