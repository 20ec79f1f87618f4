package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/testing/components"
)

var (
	flinkFigures  = flag.Int("flink-figures", 0, "measure a Flink by draining a topic of so many events, and then by so many a second as -flink-rate says; 0: don't")
	flinkParallel = flag.String("flink-parallelism", "1,2", "at which parallelism it is measured")
)

// TestFlinkFigures measures: it holds nothing to a bound, and means something on a quiet machine only.
func TestFlinkFigures(t *testing.T) {
	if *flinkFigures == 0 {
		t.Skip("runs with -flink-figures=N")
	}
	t.Setenv(asCommand, "1")
	broker := components.Kafka(t)
	in := newPayments(t, *flinkFigures)
	for _, parallelism := range strings.Split(*flinkParallel, ",") {
		n, err := strconv.Atoi(parallelism)
		check(t, err)
		t.Run("Drain/"+parallelism, func(t *testing.T) {
			b, c := newBed(t, broker), components.Flink(t, local.Options{Slots: n})
			broker.Fill(b.in, len(in.lines), func(buf []byte, i int) []byte { return append(buf, in.lines[i]...) })
			measureDrain(t, b, c, n, len(in.lines))
		})
		t.Run("Latency/"+parallelism, func(t *testing.T) {
			measureLatency(t, newBed(t, broker), components.Flink(t, local.Options{Slots: n}), n, in)
		})
	}
}

func (b bed) arrivalRun(t *testing.T, c *local.Cluster, parallelism int) *command {
	kind, config := c.Environment()
	return b.run(t, "--runner", "flink", "--order", "arrival", "--set", "stream.idle=0", "--flink", fmt.Sprintf("parallelism=%d", parallelism),
		"--flink", "endpoint="+c.JobServer(), "--flink", "rest="+c.REST(), "--flink", "environment="+kind, "--flink", "environment_config="+config)
}

func measureDrain(t *testing.T, b bed, c *local.Cluster, parallelism, n int) {
	admin := b.Admin()
	run := b.arrivalRun(t, c, parallelism)
	before := cpu(t, c)
	var first time.Time
	began := 0
	for {
		select {
		case <-run.ended:
			t.Fatal("the command ended by itself")
		case <-time.After(20 * time.Millisecond):
		}
		ends, err := admin.ListEndOffsets(t.Context(), b.out)
		check(t, err)
		out := 0
		ends.Each(func(o kadm.ListedOffset) { out += int(o.Offset) })
		if out > 0 && first.IsZero() {
			first, began = time.Now(), out
		}
		if out >= n {
			break
		}
	}
	secs, spent := time.Since(first).Seconds(), cpu(t, c)-before
	run.drain()
	t.Logf("parallelism %d: %d events, %.0f a second, %.1f CPU seconds a million, the start of the job and the JVMs included", parallelism, n, float64(n-began)/secs, spent/float64(n)*1e6)
}

func measureLatency(t *testing.T, b bed, c *local.Cluster, parallelism int, in events) {
	run := b.arrivalRun(t, c, parallelism)
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic(b.in), kgo.ConsumeTopics(b.out), kgo.ProducerLinger(2*time.Millisecond), kgo.MaxBufferedRecords(1<<20))
	check(t, err)
	defer client.Close()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	total := len(in.lines)
	sent, got := make([]time.Duration, total), make([]time.Duration, total)
	start := time.Now()
	started := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for n := 0; n < total && ctx.Err() == nil; {
			fetches := client.PollFetches(ctx)
			now := time.Since(start)
			fetches.EachRecord(func(r *kgo.Record) {
				var line struct{ ID int }
				if err := json.Unmarshal(r.Value, &line); err != nil {
					t.Errorf("reading a score: %q", r.Value)
				} else if got[line.ID] == 0 {
					if n == 0 {
						close(started)
					}
					got[line.ID] = now
					n++
				}
			})
		}
	})
	send := func(i int) {
		sent[i] = time.Since(start)
		client.Produce(ctx, &kgo.Record{Value: in.lines[i]}, func(_ *kgo.Record, err error) {
			if err != nil && ctx.Err() == nil {
				t.Errorf("sending: %v", err)
			}
		})
	}
	for i := range 1000 {
		send(i)
	}
	select {
	case <-started:
	case <-run.ended:
		t.Fatal("the command ended by itself")
	case <-ctx.Done():
		t.Fatal("no score came")
	}
	before, from := cpu(t, c), time.Now()
	for i := 1000; i < total && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		for due := 1000 + int(time.Since(from).Seconds()*float64(*flinkRate)); i < min(due, total); i++ {
			send(i)
		}
	}
	reading.Wait()
	spent := cpu(t, c) - before
	var all []float64
	for i := total / 5; i < total; i++ { // the first fifth is start-up
		if got[i] == 0 {
			t.Fatalf("event %d has no score", i)
		}
		all = append(all, float64(got[i]-sent[i])/1e6)
	}
	slices.Sort(all)
	run.drain()
	t.Logf("parallelism %d, %d events a second: p50 %.0f ms, p99 %.0f ms, most %.0f ms; %.1f CPU seconds a million", parallelism, *flinkRate,
		all[len(all)/2], all[len(all)*99/100], all[len(all)-1], spent/float64(total)*1e6)
}

// cpu is the CPU seconds that the cluster's processes have taken so far.
func cpu(t *testing.T, c *local.Cluster) (seconds float64) {
	t.Helper()
	var pids []int
	for _, pid := range c.PIDs() {
		pids = append(pids, pid)
	}
	workers, err := c.Children(0)
	check(t, err)
	for _, pid := range append(pids, workers...) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, i := range []int{11, 12} { // utime and stime, behind the name
			ticks, _ := strconv.ParseFloat(fields[i], 64)
			seconds += ticks / 100
		}
	}
	return seconds
}
