package tree

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Workers resolves a Training.Workers: 0 means GOMAXPROCS.
func Workers(n int) int {
	if n <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return n
}

// Parallel calls f(0) to f(n-1), each once, on up to workers goroutines, and waits. Which goroutine
// runs which call is not determined, so the calls must not depend on one another.
func Parallel(workers, n int, f func(i int)) {
	workers = min(workers, n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	run := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(i)
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(run)
	}
	run()
	wg.Wait()
}

// Pool runs many short parallel loops in turn. Waking a goroutine costs tens of microseconds, which
// is as long as such a loop; so the helpers of a pool look out for the next loop a little before
// they sleep, and a loop never waits for a helper that has not begun. The zero value is not usable.
type Pool struct {
	workers  int
	current  atomic.Pointer[loop]
	sleeping atomic.Int32
	wake     chan struct{}
	helpers  sync.WaitGroup
}

type loop struct {
	f          func(i int)
	n          int64
	next, done atomic.Int64
}

func (l *loop) run() {
	for i := l.next.Add(1) - 1; i < l.n; i = l.next.Add(1) - 1 {
		l.f(int(i))
		l.done.Add(1)
	}
}

// NewPool starts workers-1 helpers; the caller of Do is the other worker. Close ends them.
func NewPool(workers int) *Pool {
	p := &Pool{workers: workers, wake: make(chan struct{}, workers)}
	for range workers - 1 {
		p.helpers.Go(p.help)
	}
	return p
}

// lookOut is how often a helper looks for a loop before it sleeps: some 20 us.
const lookOut = 1 << 14

func (p *Pool) help() {
	var last *loop
	for {
		l := p.await(last)
		if l.f == nil {
			return
		}
		l.run()
		last = l
	}
}

// await returns the current loop once it differs from last.
func (p *Pool) await(last *loop) *loop {
	for {
		for range lookOut {
			if l := p.current.Load(); l != last {
				return l
			}
		}
		// Either Do sees that we sleep after it has published, or we see what it published.
		p.sleeping.Add(1)
		if p.current.Load() == last {
			<-p.wake
		}
		p.sleeping.Add(-1)
	}
}

func (p *Pool) publish(l *loop) {
	p.current.Store(l)
	for range p.sleeping.Load() {
		select {
		case p.wake <- struct{}{}:
		default: // as many wake-ups are under way as there are helpers
		}
	}
}

// Do calls f(0) to f(n-1), each once, and waits. The calls must not depend on one another. Only one
// goroutine may call Do.
func (p *Pool) Do(n int, f func(i int)) {
	if p.workers <= 1 || n <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	l := &loop{f: f, n: int64(n)}
	p.publish(l)
	l.run()
	for spins := 0; l.done.Load() < l.n; spins++ {
		if spins >= lookOut {
			runtime.Gosched()
		}
	}
}

// Close ends the helpers and waits for them.
func (p *Pool) Close() {
	p.publish(&loop{})
	p.helpers.Wait()
}
