package scoring

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/label"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

// Stream are the options of a run without an end. The zero value of a field takes the use case's.
type Stream struct {
	// Order is arrival or event_time.
	Order string
	// Lateness is how far events may come behind the newest of their partition.
	Lateness *time.Duration
	// Until ends the run at a time of the wall clock, IdleTimeout after so long without an event.
	Until       time.Time
	IdleTimeout time.Duration
	// InProcess says that source and sink are in this process and nothing but a credit of rows under
	// way holds the source back.
	InProcess bool
	// Cores is how many the workers have.
	Cores int
	// Parallelism is over how many subtasks a cluster spreads the job; 0: it is all in this process. Of it
	// follows the number of shards if Options has none, max(8, 4 x Parallelism), and where partitions are never
	// idle (the use case's idle is 0) the number of readers: one whose partitions all are would hold back all.
	Parallelism int
	// KeyGroups is how many groups of keys the cluster spreads, Flink's max_parallelism; 0: 128.
	KeyGroups int
	// Native are the transforms by which the runner itself reads; see source.Stream.
	Native []string
}

// credit is the rows that may be under way in a process: a second's worth at the speed of two cores,
// some tens of MB.
const credit = 100_000

// linger is for how long a reader gathers rows: STREAMING's budget of 600 calls of stateful stages a
// second and core would allow less on large machines; more than 100 ms nobody wants to wait.
func linger(readers, shards, stages, cores int) time.Duration {
	d := time.Duration(readers*shards*stages) * time.Second / time.Duration(600*cores)
	return min(max(d, 5*time.Millisecond), 100*time.Millisecond)
}

// stream makes a plan one without an end.
func (p Plan) stream(u *spec.UseCase, o Stream) Plan {
	run := u.Name + "-" + rand.Text()[:8]
	lateness := u.Stream.Lateness
	if o.Lateness != nil {
		lateness = *o.Lateness
	}
	p.Run = run
	p.Features.Shards = cmp.Or(p.Features.Shards, max(8, 4*o.Parallelism))
	p.Features.Local = false
	p.Features.Stream = &feature.Stream{Order: cmp.Or(o.Order, u.Stream.Order), Lateness: lateness, Run: run, KeyGroups: o.KeyGroups}
	stages := 0
	for _, f := range p.Features.Features {
		if f.Entity != "" {
			stages++
		}
	}
	readers := max(1, o.Parallelism)
	if u.Stream.Idle > 0 || o.IdleTimeout > 0 { // who is idle shows beside the others: one has to see all
		readers = 1
	}
	p.Source.Stream = &source.Stream{
		Run: run, Lateness: lateness, Idle: u.Stream.Idle, Until: o.Until, IdleTimeout: o.IdleTimeout,
		Waits: p.Features.Stream.Order == feature.EventTime, Native: o.Native,
		Groups: readers, KeyGroups: o.KeyGroups, Linger: linger(readers, p.Features.Shards, stages, max(1, o.Cores, o.Parallelism)),
	}
	if o.InProcess && stages > 0 {
		p.Source.Stream.Credit = credit
	}
	if p.Join != nil {
		join := *p.Join
		join.Shards, join.Stream = p.Features.Shards, &label.Stream{Run: run, KeyGroups: o.KeyGroups}
		p.Join = &join
	}
	p.Roll = &sink.Stream{Roll: u.Stream.Roll}
	return p
}

// spread lets no more readers be than there are partitions for: one without any would hold back the
// watermark of all.
func (p Plan) spread(ctx context.Context) (Plan, error) {
	if p.Source.Stream.Groups < 2 {
		return p, nil
	}
	stream := *p.Source.Stream
	var err error
	if stream.Groups, err = source.Spread(ctx, p.Source); err != nil {
		return p, fmt.Errorf("spreading the partitions: %w", err)
	}
	p.Source.Stream = &stream
	return p, nil
}

// counted tells a source that is told what has landed at how many places an event ends.
func (p Plan) counted() Plan {
	if p.Source.Stream != nil {
		stream := *p.Source.Stream
		stream.Models, stream.Sinks = max(1, len(p.Predict.Models)), len(p.tables())
		p.Source.Stream = &stream
	}
	return p
}
