package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-ml/millrace/testing/components"
)

const (
	soakWarm   = 10_000_000 // events before the long time, at the full rate: the windows fill seven times
	soakSettle = time.Minute
	soakRate   = 20_000 // events a second, at most
	soakEach   = 10 * time.Second
)

// sample is the memory of a process at a time since the beginning.
type sample struct{ seconds, megabytes float64 }

// measureSoak lets events come at a rate for a long time, and looks whether memory grows. Before that come as many
// as fill windows and logs, for how much memory these need at most shows only after they were full several times.
func measureSoak(ctx context.Context, o options, self, dir string) ([]figure, error) {
	return withBroker(ctx, self, dir, func(broker *components.Broker) ([]figure, error) {
		for _, topic := range []string{"soak", "soaked"} { // the broker's disk is for the last of them
			broker.CreateTopic(topic, 4, "retention.bytes", "134217728", "segment.bytes", "33554432")
		}
		j, err := startJob(self, broker, "soak", "soaked", dir)
		if err != nil {
			return nil, err
		}
		c, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.DefaultProduceTopic("soak"), kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.MaxBufferedRecords(1<<20))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		admin := broker.Admin()
		rate := min(o.rate, soakRate)
		total := soakWarm + rate*o.seconds
		say("%d events at %d a second, then %d a second for %d s", soakWarm, o.rate, rate, o.seconds)
		gctx, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			select {
			case <-j.ended:
				stop()
			case <-gctx.Done():
			}
		}()
		g := newGenerator(gctx)
		var failed atomic.Pointer[error]
		send := func(rate, n int) time.Time {
			start := time.Now()
			pace(gctx, start, rate, n, func(i int) {
				c.Produce(gctx, &kgo.Record{Value: g.next(nil, i)}, func(_ *kgo.Record, err error) {
					if err != nil {
						failed.Store(&err)
					}
				})
			})
			return start
		}
		sending, sent := context.WithCancel(gctx)
		samples := watchMemory(sending, j, func(s sample) {
			n, _ := records(gctx, admin, "soaked") // the end counts them again
			say("%5.0f s %6.0f MB  %d events scored", s.seconds, s.megabytes, n)
		})
		begin := send(o.rate, soakWarm)
		settled := send(rate, rate*o.seconds).Sub(begin) + soakSettle
		sent()
		all := <-samples
		if err := c.Flush(gctx); err != nil {
			failed.Store(&err)
		}
		for deadline := time.Now().Add(30 * time.Second); gctx.Err() == nil && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if n, err := records(gctx, admin, "soaked"); err != nil || n >= int64(total) {
				break
			}
		}
		n, err := records(ctx, admin, "soaked")
		u, state, ended := j.end()
		if fault := failed.Load(); fault != nil {
			err = errors.Join(err, *fault)
		}
		if err := errors.Join(err, ended); err != nil {
			return nil, err
		}
		if n < int64(total) {
			return nil, fmt.Errorf("%d of %d events have no score", int64(total)-n, total)
		}
		first, last, slope, err := flat(all, settled.Seconds())
		if err != nil {
			return nil, err
		}
		return []figure{
			value("soak_rate", float64(rate), "events/s"),
			value("soak_first", first, "MB, the first minute"),
			value("soak_last", last, "MB, the last minute").over("soak_first", last/first).atMost(1.1),
			value("soak_slope", slope, "MB/minute"),
			value("soak_rss", u.rss, "MB, the most"),
			value("soak_cpu", u.cpu/float64(total)*1e6, "CPU s/M events"),
			value("soak_state", float64(state)/float64(total), "bytes/event"),
		}, nil
	})
}

// watchMemory looks at a process's memory until the context ends, and gives all that it saw.
func watchMemory(ctx context.Context, j *process, each func(sample)) <-chan []sample {
	samples, start := make(chan []sample, 1), time.Now()
	go func() {
		tick := time.NewTicker(soakEach)
		defer tick.Stop()
		for all := []sample(nil); ; {
			select {
			case <-tick.C:
				s := sample{time.Since(start).Seconds(), components.Resident(j.cmd.Process.Pid)}
				each(s)
				all = append(all, s)
			case <-ctx.Done():
				samples <- all
				return
			}
		}
	}()
	return samples
}

// flat is the mean of the first and of the last minute of the samples from a time on, in MB, and the slope of the
// line of least squares through all of these, in MB a minute.
func flat(all []sample, from float64) (first, last, slope float64, err error) {
	for len(all) > 0 && all[0].seconds < from {
		all = all[1:]
	}
	if len(all) < 2 {
		return 0, 0, 0, fmt.Errorf("%d samples of memory, one every %v: let it run longer with -seconds", len(all), soakEach)
	}
	n := min(len(all), int(time.Minute/soakEach))
	mean := func(of []sample) (s sample) {
		for _, o := range of {
			s.seconds += o.seconds / float64(len(of))
			s.megabytes += o.megabytes / float64(len(of))
		}
		return s
	}
	middle := mean(all)
	up, along := 0.0, 0.0
	for _, s := range all {
		up += (s.seconds - middle.seconds) * (s.megabytes - middle.megabytes)
		along += (s.seconds - middle.seconds) * (s.seconds - middle.seconds)
	}
	return mean(all[:n]).megabytes, mean(all[len(all)-n:]).megabytes, up / along * 60, nil
}
