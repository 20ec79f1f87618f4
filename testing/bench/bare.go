package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/format"
)

const (
	day      = int64(86_400e6)
	inputs   = 15
	inFlight = 8
)

// The windows of one customer: its payments within the longest, a first one and a sum for each.
type customer struct {
	rows []struct{ at, cents int64 }
	head [3]int
	sum  [3]int64
}

var windows = [3]int64{day, 7 * day, 30 * day}

// add takes a payment and writes counts to x[0:3], means to x[3:6].
func (c *customer) add(at, cents int64, x []float32) {
	c.rows = append(c.rows, struct{ at, cents int64 }{at, cents})
	n := len(c.rows)
	for w, length := range windows {
		h, s := c.head[w], c.sum[w]+cents
		for c.rows[h].at <= at-length {
			s -= c.rows[h].cents
			h++
		}
		c.head[w], c.sum[w] = h, s
		x[w] = float32(n - h)
		x[3+w] = float32(float64(s) / 100 / float64(n-h))
	}
	if h := c.head[2]; h >= 32 && 2*h >= n { // what no window needs
		c.rows = c.rows[:copy(c.rows, c.rows[h:])]
		for w := range c.head {
			c.head[w] -= h
		}
	}
}

// The windows of one terminal, a week late: edge[w] is the first row in window w, edge[3] the first
// after all of them, bad the frauds before each edge.
type terminal struct {
	rows []struct{ at, fraud int64 }
	edge [4]int
	bad  [4]int64
}

var backs = [4]int64{8 * day, 14 * day, 37 * day, 7 * day}

// add takes a payment and writes counts to x[0:3], shares of fraud to x[3:6].
func (c *terminal) add(at, fraud int64, x []float32) {
	c.rows = append(c.rows, struct{ at, fraud int64 }{at, fraud})
	for w, back := range backs {
		h, b := c.edge[w], c.bad[w]
		for c.rows[h].at <= at-back {
			b += c.rows[h].fraud
			h++
		}
		c.edge[w], c.bad[w] = h, b
	}
	for w := range windows {
		n := c.edge[3] - c.edge[w]
		x[w], x[3+w] = float32(n), 0
		if n > 0 {
			x[3+w] = float32(float64(c.bad[3]-c.bad[w]) / float64(n))
		}
	}
	if h := c.edge[2]; h >= 32 && 2*h >= len(c.rows) {
		c.rows = c.rows[:copy(c.rows, c.rows[h:])]
		for w := range c.edge {
			c.edge[w] -= h
		}
	}
}

// job is a batch on its way through the loop.
type job struct {
	b     event.Batch
	x, y  []float32
	text  []byte
	sides atomic.Int32 // how many of customers and terminals are through
	err   error
	done  chan struct{}
}

// bareLoop scores the events of a file as the graph does, without Beam. Batches flow through
// goroutines so that both cores always have work: decoding in as many as there are cores (the
// decoder's own), customers in one, terminals in one, since each needs the file's order, scoring and
// encoding in two.
func bareLoop(ctx context.Context, in, out, reg string) error {
	u, err := useCase()
	if err != nil {
		return err
	}
	params := u.Decode()
	params.Format = "json"
	d, err := decode.New(params)
	if err != nil {
		return err
	}
	bundle, err := champion(ctx, reg)
	if err != nil {
		return err
	}
	schema, err := params.Schema()
	if err != nil {
		return err
	}
	scored, err := schema.With(event.Field{Name: "model", Kind: event.Category}, event.Field{Name: "score", Kind: event.Float})
	if err != nil {
		return err
	}
	enc, err := format.NewEncoder("json", scored, []format.Out{{Name: "id", Column: "TRANSACTION_ID"}, {Name: "time", Column: "TX_DATETIME"}, {Name: "model"}, {Name: "score"}})
	if err != nil {
		return err
	}
	f, err := os.Open(in)
	if err != nil {
		return err
	}
	defer f.Close()
	o, err := os.Create(out)
	if err != nil {
		return err
	}
	defer o.Close()

	l := &loop{model: bundle.Model, name: fmt.Sprintf("fraud@%d", bundle.Version), enc: enc, schema: scored}
	free, order := make(chan *job, inFlight), make(chan *job, inFlight)
	customers, terminals, ready := make(chan *job, inFlight), make(chan *job, inFlight), make(chan *job, inFlight)
	for range inFlight {
		free <- &job{done: make(chan struct{}, 1)}
	}
	var sides, scorers, writer sync.WaitGroup
	through := func(j *job) {
		if j.sides.Add(1) == 2 {
			ready <- j
		}
	}
	at := func(name string) int { return schema.Index(name) }
	amount, fraud, card, till := at("TX_AMOUNT"), at("TX_FRAUD"), at("CUSTOMER_ID"), at("TERMINAL_ID")
	sides.Go(func() {
		known := map[int64]*customer{}
		for j := range customers {
			times, cents, ids := j.b.Times(), j.b.Cols[amount].Ints, j.b.Cols[card].Ints
			for i, t := range times {
				c := known[ids[i]]
				if c == nil {
					c = &customer{}
					known[ids[i]] = c
				}
				x := j.x[i*inputs:][:9]
				x[0] = float32(float64(cents[i]) / 100)
				weekday := (t/day + 4) % 7 // 0: Sunday
				x[1] = flag01(weekday == 0 || weekday == 6)
				x[2] = flag01(t%day/3_600e6 <= 6)
				c.add(t, cents[i], x[3:])
			}
			through(j)
		}
	})
	sides.Go(func() {
		known := map[int64]*terminal{}
		for j := range terminals {
			times, bad, ids := j.b.Times(), j.b.Cols[fraud].Ints, j.b.Cols[till].Ints
			for i, t := range times {
				c := known[ids[i]]
				if c == nil {
					c = &terminal{}
					known[ids[i]] = c
				}
				c.add(t, bad[i], j.x[i*inputs:][9:inputs])
			}
			through(j)
		}
	})
	for range 2 {
		scorers.Go(func() {
			for j := range ready {
				j.err = l.finish(ctx, j)
				j.done <- struct{}{}
			}
		})
	}
	var writeErr error
	w := bufio.NewWriterSize(o, 1<<20)
	writer.Go(func() {
		for j := range order {
			<-j.done
			if writeErr == nil {
				writeErr = j.err
			}
			if writeErr == nil {
				_, writeErr = w.Write(j.text)
			}
			free <- j
		}
	})
	_, err = d.Read(f, decode.Source{Name: in, End: -1}, func(b event.Batch) error {
		j := <-free
		j.b = b
		j.x, j.y = sized(j.x, b.N*inputs), sized(j.y, b.N)
		j.sides.Store(0)
		order <- j
		customers <- j
		terminals <- j
		return nil
	}, func(letter deadletter.Letter) error { return fmt.Errorf("line refused: %s", letter.Message) })
	close(customers)
	close(terminals)
	sides.Wait()
	close(ready)
	scorers.Wait()
	close(order)
	writer.Wait()
	if err != nil {
		return err
	}
	if writeErr != nil {
		return writeErr
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return o.Close()
}

type loop struct {
	model  models.Scorer
	name   string
	enc    format.Encoder
	schema *event.Schema
}

// finish scores and encodes a batch.
func (l *loop) finish(ctx context.Context, j *job) error {
	if err := l.model.Score(ctx, j.x, j.b.N, j.y); err != nil {
		return err
	}
	name := event.Column{Ends: make([]uint32, 0, j.b.N), Bytes: make([]byte, 0, j.b.N*len(l.name))}
	score := event.Column{Floats: make([]float64, j.b.N)}
	for i, y := range j.y {
		name.AppendRaw([]byte(l.name))
		score.Floats[i] = float64(y)
	}
	var err error
	j.text, err = l.enc.Append(j.text[:0], j.b.With(l.schema, name, score))
	return err
}

func flag01(b bool) float32 {
	if b {
		return 1
	}
	return 0
}

func sized(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}
