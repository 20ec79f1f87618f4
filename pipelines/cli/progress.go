package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner"
	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/transforms/telemetry"
)

const (
	liveEvery  = 500 * time.Millisecond
	plainEvery = 10 * time.Second
)

// progress says what is reached, with the time since the start, and while a job runs how far it is.
type progress struct {
	out     *console
	start   time.Time
	before  telemetry.Totals
	unwatch func()
	cluster atomic.Pointer[counted] // nil: the workers are this process
}

// counted are the counts of a job on a cluster, and since when they are as they are.
type counted struct {
	telemetry.Totals
	at time.Time
}

func newProgress(w io.Writer) *progress {
	out, ok := w.(*console)
	if !ok {
		out = newConsole(w)
	}
	return &progress{out: out, start: time.Now(), before: telemetry.Snapshot(), unwatch: func() {}}
}

func (p *progress) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.out.say(p.stamp(text), text)
}

// stale is after how long counts that don't move are believed: Flink gathers them every ten seconds.
const stale = 15 * time.Second

// hear takes in what a cluster says of a job. What the job's workers replay is counted again, and a job that starts
// again counts from nothing.
func (p *progress) hear(d flink.Detail, now time.Time) {
	c := &counted{at: now, Totals: telemetry.Totals{
		Read: d.Counters["source.read"], Scored: d.Counters["predict.scored"], Written: d.Counters["sink.written"],
		DeadLetters: d.Counters["deadletter.written"], Watermark: d.Watermark(),
	}}
	if last := p.cluster.Load(); last != nil && last.Read == c.Read && now.Sub(last.at) < stale {
		c.at = last.at
	}
	p.cluster.Store(c)
}

func (p *progress) stamp(text string) string {
	return fmt.Sprintf("%7.1fs  %s", time.Since(p.start).Seconds(), text)
}

// watch shows how far the job is until its counts are said or the function that it returns is called: on a terminal as one
// line that is rewritten, else as a line every ten seconds. models are the versions that score, unless
// the job itself says that others serve.
func (p *progress) watch(models []string) (stop func()) {
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		every := plainEvery
		live := p.out.terminal && p.out.log == nil
		if live {
			every = liveEvery
		}
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		g := gauge{last: p.start}
		for {
			select {
			case <-quit:
				p.out.clear()
				return
			case now := <-ticks.C:
				p.show(now, &g, models, live)
			}
		}
	})
	p.unwatch = sync.OnceFunc(func() {
		close(quit)
		done.Wait()
	})
	return p.unwatch
}

// gauge is the speed of the last few seconds.
type gauge struct {
	last time.Time
	read int64
	rate float64
}

func (g *gauge) turn(now time.Time, read int64) float64 {
	seconds := now.Sub(g.last).Seconds()
	if seconds <= 0 {
		return g.rate
	}
	if read < g.read { // a job on a cluster has started again
		g.last, g.read = now, read
		return g.rate
	}
	rate := float64(read-g.read) / seconds
	if g.read == 0 {
		g.rate = rate
	}
	weight := min(1, seconds/2)
	g.rate += weight * (rate - g.rate)
	g.last, g.read = now, read
	return g.rate
}

func (p *progress) show(now time.Time, g *gauge, models []string, live bool) {
	t, at := telemetry.Snapshot().Since(p.before), now
	c := p.cluster.Load()
	if c != nil {
		t, at = c.Totals, c.at
	}
	if t.Read == 0 {
		g.last = at
		return
	}
	rate := g.turn(at, t.Read)
	if len(t.Serving) > 0 {
		models = t.Serving
	}
	text := describe(t, rate, models)
	if c != nil {
		text += "; " + thousands(t.Written) + " written" + behind(t.Watermark, now)
	}
	if live {
		p.out.show(p.stamp(text))
		return
	}
	attrs := []any{"read", t.Read, "rate", int64(rate), "dead_letters", t.DeadLetters, "scored", t.Scored, "written", t.Written, "models", models}
	if t.Lag > 0 {
		attrs = append(attrs, "lag", t.Lag)
	}
	if !t.Watermark.IsZero() {
		attrs = append(attrs, "watermark", t.Watermark)
	}
	p.out.say(p.stamp(text), "progress", attrs...)
}

// describe is a line of progress.
func describe(t telemetry.Totals, rate float64, models []string) string {
	parts := []string{fmt.Sprintf("%s events, %s a second", thousands(t.Read), thousands(int64(rate)))}
	if t.Lag > 0 {
		parts = append(parts, thousands(t.Lag)+" behind")
	}
	if t.Timed > 0 {
		parts = append(parts, fmt.Sprintf("%.0f ms each", t.Took.Seconds()*1000/float64(t.Timed)))
	}
	parts = append(parts, thousands(t.DeadLetters)+" dead letters")
	switch {
	case len(models) > 0:
		parts = append(parts, thousands(t.Scored)+" scored by "+strings.Join(models, ", "))
	case t.Scored > 0:
		parts = append(parts, thousands(t.Scored)+" scored")
	}
	return strings.Join(parts, "; ")
}

// behind is how far the watermark is: as its age, or as a time where old events are read.
func behind(watermark, now time.Time) string {
	switch age := now.Sub(watermark); {
	case watermark.IsZero():
		return ""
	case age < 0 || age > 24*time.Hour:
		return "; watermark " + watermark.UTC().Format(time.RFC3339)
	default:
		return "; watermark " + age.Round(time.Second).String() + " ago"
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counts says what a job did with its events: by this process's own count, since Prism's counters may
// lack a stream's last bundles, and by the runner's where the workers are elsewhere.
func (p *progress) counts(res runner.Result) {
	p.unwatch()
	t := telemetry.Snapshot().Since(p.before)
	if t.Read == 0 {
		t.Read, t.Blank = res.Counters["source.read"], res.Counters["source.blank"]
		t.DeadLetters, t.Written = res.Counters["deadletter.written"], res.Counters["sink.written"]
	}
	seconds := time.Since(p.start).Seconds()
	text := fmt.Sprintf("%d events, %.0f a second; %d dead letters, %d written", t.Read, float64(t.Read)/seconds, t.DeadLetters, t.Written)
	p.out.say(p.stamp(text), "done", "read", t.Read, "seconds", seconds, "dead_letters", t.DeadLetters, "written", t.Written, "blank", t.Blank)
	if t.Blank > 0 {
		p.say("%d blank lines skipped", t.Blank)
	}
}
