package source

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// clock is the wall clock, by which reading lingers and ends. No event's time comes from it.
var clock = time.Now

// reading is a group's open connections. They outlive the call that opened them, in the process, and
// are used again only where they stand at what the restriction says.
type reading struct {
	key       string
	era       int
	group     group
	followers []driver.Follower // by address; nil while it has no partition of the group
	at        progress          // where the followers stand

	listed time.Time
	heard  map[int]time.Time  // when a partition last had a record, by its index
	last   time.Time          // when any had
	paused [][]string         // what each follower was told
	behind []map[string]int64 // the lags after the last poll
}

var (
	readingsMu sync.Mutex
	readings   = map[string]*reading{} // of no call at this time
	draining   = map[string]bool{}     // runs
	era        int                     // how often all was cleaned up
)

// Drain makes the sources of a run end as if there were nothing more: what was read goes on to the end.
func Drain(run string) {
	readingsMu.Lock()
	draining[run] = true
	readingsMu.Unlock()
}

func drained(run string) bool {
	readingsMu.Lock()
	defer readingsMu.Unlock()
	return draining[run]
}

// CleanUp closes the connections of all runs in this process. Call it when no job runs.
func CleanUp() {
	readingsMu.Lock()
	open := readings
	readings, draining = map[string]*reading{}, map[string]bool{}
	era++
	readingsMu.Unlock()
	for _, r := range open {
		r.close()
	}
	abandon()
}

// take returns connections that stand where p says: those of the last call, or new ones.
func take(ctx context.Context, s Stream, g group, p progress) (*reading, error) {
	key := fmt.Sprintf("%s/%d of %d/%q", s.Run, g.Group, g.Groups, g.Addresses)
	readingsMu.Lock()
	r := readings[key]
	delete(readings, key)
	now, born := clock(), era
	readingsMu.Unlock()
	if r != nil {
		if slices.Equal(r.at.Partitions, p.Partitions) {
			return r, nil
		}
		r.close() // the runner went back to an earlier place
	}
	r = &reading{
		key: key, era: born, group: g, followers: make([]driver.Follower, len(g.Addresses)), paused: make([][]string, len(g.Addresses)),
		heard: map[int]time.Time{}, last: now,
	}
	for i := range p.Partitions {
		r.heard[i] = now
	}
	for a := range g.Addresses {
		if err := r.open(ctx, a, p); err != nil {
			r.close()
			return nil, err
		}
	}
	r.at = p.clone()
	return r, nil
}

// put leaves the connections to the next call. A call that outlives its run, as one that Prism has canceled,
// finds no next one.
func (r *reading) put() {
	readingsMu.Lock()
	old := r
	if r.era == era {
		old = readings[r.key]
		readings[r.key] = r
	}
	readingsMu.Unlock()
	if old != nil {
		old.close()
	}
}

func (r *reading) close() {
	for i, f := range r.followers {
		if f != nil {
			_ = f.Close() // nothing is written through it
			r.followers[i] = nil
		}
	}
}

// open follows an address from where p stands.
func (r *reading) open(ctx context.Context, address int, p progress) error {
	if f := r.followers[address]; f != nil {
		_ = f.Close()
		r.followers[address] = nil
	}
	resumes := slices.ContainsFunc(p.Partitions, func(part partition) bool {
		return part.Address == address && !part.Foreign && (part.Next != "" || part.Ended)
	})
	var from []driver.Position
	for _, part := range p.Partitions {
		if part.Address == address && !part.Ended {
			from = append(from, driver.Position{Partition: part.Name, Next: part.Next, Gained: resumes && part.Next == ""})
		}
	}
	if len(from) == 0 {
		return nil
	}
	d, err := driverOf(r.group.Addresses[address])
	if err != nil {
		return err
	}
	log, ok := d.(driver.Log)
	if !ok {
		return r.fault(address, fmt.Errorf("it can't be read as a stream"))
	}
	if r.followers[address], err = log.Follow(ctx, r.group.Addresses[address], from); err != nil {
		r.followers[address] = nil
		return r.fault(address, err)
	}
	r.followers[address] = acknowledging(r.followers[address], r.era)
	r.paused[address] = nil
	return nil
}

// refresh lists the partitions from time to time, and takes new ones in.
func (r *reading) refresh(ctx context.Context, s Stream, p *progress, now time.Time) error {
	if !r.listed.IsZero() && now.Sub(r.listed) < s.Refresh {
		return nil
	}
	for a, address := range r.group.Addresses {
		parts, err := listLogs(ctx, address)
		if err != nil {
			if r.listed.IsZero() {
				return err
			}
			continue // what is open may go on; if not, reading says so
		}
		known := len(p.Partitions)
		more := p.take(r.group, a, parts)
		for ; known < len(p.Partitions); known++ {
			r.heard[known] = now
		}
		if more {
			if err := r.open(ctx, a, *p); err != nil {
				return err
			}
		}
	}
	r.listed = now
	return nil
}

// lags is what each follower knows.
func (r *reading) lags() []map[string]int64 {
	lags := make([]map[string]int64, len(r.followers))
	for a, f := range r.followers {
		if f != nil {
			lags[a] = f.Lag()
		}
	}
	return lags
}

// idle tells whether a partition has had nothing to read for so long that it holds back nobody.
func (r *reading) idle(s Stream, part partition, at int, now time.Time) bool {
	if s.Idle == 0 || now.Sub(r.heard[at]) <= s.Idle || slices.Contains(r.paused[part.Address], part.Name) {
		return false
	}
	return !mayWait(r.behind[part.Address], part.Name)
}

// mayWait tells by what a follower knows whether a partition may have records that wait. One that never knows says
// nothing, one that leaves a partition out has not come to its end.
func mayWait(lags map[string]int64, name string) bool {
	lag, known := lags[name]
	return lags != nil && (!known || lag > 0)
}

// silent is after how long a partition whose follower never knows what waits is taken to have nothing.
const silent = 10 * time.Second

// align pauses the partitions that are too far ahead of the slowest that has records waiting.
func (r *reading) align(s Stream, p *progress, now time.Time) {
	if len(p.Partitions) < 2 {
		return
	}
	slowest, waiting := int64(0), false
	lags := r.lags()
	for i, part := range p.Partitions {
		of := lags[part.Address]
		waits := mayWait(of, part.Name) || of == nil && now.Sub(r.heard[i]) <= silent
		if part.Ended || part.Newest == never || !waits {
			continue
		}
		if !waiting || part.Newest < slowest {
			slowest, waiting = part.Newest, true
		}
	}
	ahead := make([][]string, len(r.followers))
	if waiting {
		for _, part := range p.Partitions {
			if !part.Ended && part.Newest != never && part.Newest-slowest > s.Alignment.Microseconds() {
				ahead[part.Address] = append(ahead[part.Address], part.Name)
			}
		}
	}
	for a, f := range r.followers {
		if f != nil && !slices.Equal(ahead[a], r.paused[a]) {
			f.Pause(ahead[a])
			r.paused[a] = ahead[a]
		}
	}
}

// advance moves the watermark on, and finds the end.
func (r *reading) advance(s Stream, p *progress, now time.Time) {
	mark, any, open := int64(0), false, false
	furthest, slowest, idle := int64(never), int64(never), false
	r.behind = r.lags()
	for i, part := range p.Partitions {
		if r.group.replays(part.Address) { // they say nothing of the time, and keep nobody reading but for what they have
			open = open || !part.Ended && r.behind[part.Address][part.Name] > 0
			continue
		}
		furthest = max(furthest, part.Newest)
		if part.Ended {
			open = open || part.To > 0 && p.mayGain(r.group, part.Address)
			continue
		}
		open = true
		if r.idle(s, part, i, now) {
			if !idle || part.Newest < slowest {
				slowest, idle = part.Newest, true
			}
			continue
		}
		if part.Newest == never {
			mark, any = never, true
			break
		}
		if !any || part.Newest < mark {
			mark, any = part.Newest, true
		}
	}
	if !any && idle { // nobody holds back what was read; but one event of a time to come doesn't make all others late
		mark, any = max(slowest, min(furthest, now.UnixMicro())), true
	}
	if any && mark != never {
		// Beam's times are whole milliseconds: a row of the watermark's own millisecond isn't late.
		p.Watermark = max(p.Watermark, instant(mark-s.Lateness.Microseconds()).UnixMilli()*1000)
	}
	for a := range r.group.Addresses { // of one without a partition here one may come, as long as there are others to be read
		open = open || r.group.Groups > 1 && !r.group.replays(a) && !slices.ContainsFunc(p.Partitions, func(part partition) bool { return part.Address == a })
	}
	p.Done = !open && len(p.Partitions) > 0 ||
		!s.Until.IsZero() && !now.Before(s.Until) ||
		s.IdleTimeout > 0 && now.Sub(r.last) > s.IdleTimeout ||
		drained(s.Run)
	r.at = p.clone()
}
