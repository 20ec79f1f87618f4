package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/sink"
	sinkdriver "github.com/millrace-ml/millrace/transforms/sink/driver"
)

// publisher is a kind of target that takes records.
type publisher struct {
	// target makes one for a case.
	target func(t *testing.T, name string) *target
	// orders says that what came is in the order of sending for each key.
	orders bool
	// latest says that it keeps one record a key, the newest; else it keeps all.
	latest bool
	// absent is an address of what isn't there, with a password that no error may show; empty if it can't
	// tell when it is opened.
	absent string
}

// target is one of its own for a case.
type target struct {
	address string
	// came are the records that are there; of a key in their order.
	came func() []string
	// refused is a value that it refuses; empty if it takes all.
	refused string
	// kill takes it away, and gives what brings it back as it was; nil if nobody can.
	kill func() (restore func())
}

func testSender(t *testing.T, p publisher) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, publisher, *target)
	}{
		{"Whole", senderWhole}, {"Again", senderAgain}, {"Refused", senderRefused}, {"Away", senderAway}, {"Closing", senderClosing}, {"Absent", senderAbsent},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, p, p.target(t, "sender-"+c.name)) })
	}
}

func openSender(t *testing.T, address string) sinkdriver.Sender {
	t.Helper()
	s, err := senderOf(t, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func senderOf(t *testing.T, address string) (sinkdriver.Sender, error) {
	t.Helper()
	d, err := sink.Lookup(address)
	if err != nil {
		t.Fatal(err)
	}
	return d.(sinkdriver.Publisher).OpenSender(t.Context(), address)
}

const keys = 50

// sent is record i: of one key in fifty, its time as its number.
func sent(i int) string { return fmt.Sprintf(`{"k":"k%d","n":%d}`, i%keys, i) }

// send sends the records from <= i < to, from bytes that are used again, and waits for them.
func send(t *testing.T, s sinkdriver.Sender, from, to int) {
	t.Helper()
	var key, text []byte
	for i := from; i < to; i++ {
		key, text = fmt.Appendf(key[:0], "%d:m", i%keys), append(text[:0], sent(i)...)
		r := sinkdriver.Record{Key: key, Value: text, Time: time.Unix(int64(i), 0)}
		if err := s.Send(t.Context(), r, func(err error) { t.Errorf("record %d is refused: %v", i, err) }); err != nil {
			t.Fatal(err)
		}
		clear(key) // the caller's bytes are the caller's
		clear(text)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// holds compares what is there with the records 0 <= i < n, each at least once and at most times: of a
// target of the latest the last of each key.
func (p publisher) holds(t *testing.T, at *target, n, times int) {
	t.Helper()
	count := map[string]int{}
	last := map[string]int{} // of a key, the largest number so far
	for _, text := range at.came() {
		count[text]++
		var r struct {
			K string
			N int
		}
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if p.orders && times == 1 && r.N < last[r.K] {
			t.Errorf("of key %s, %d came behind %d", r.K, r.N, last[r.K])
		}
		last[r.K] = max(last[r.K], r.N)
	}
	first := 0
	if p.latest {
		first, times = n-keys, 1
	}
	for i := first; i < n; i++ {
		if c := count[sent(i)]; c < 1 || c > times {
			t.Fatalf("record %d is there %d times", i, c)
		}
		delete(count, sent(i))
	}
	if len(count) > 0 {
		t.Errorf("%d records are there that nobody sent: %.300s", len(count), fmt.Sprint(count))
	}
}

// senderWhole: what was flushed is there, each once and in the order of sending, over several bundles.
func senderWhole(t *testing.T, p publisher, at *target) {
	s := openSender(t, at.address)
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("with nothing to wait for: %v", err)
	}
	send(t, s, 0, 1000)
	p.holds(t, at, 1000, 1)
	send(t, s, 1000, 3000)
	p.holds(t, at, 3000, 1)
}

// senderAgain: a bundle that comes again leaves nothing but copies, and of a target of the latest nothing.
func senderAgain(t *testing.T, p publisher, at *target) {
	s := openSender(t, at.address)
	send(t, s, 0, 500)
	send(t, openSender(t, at.address), 100, 500)
	send(t, s, 0, 100)
	p.holds(t, at, 500, 2)
}

// senderRefused: a record that the target won't take is told once, and the others are taken.
func senderRefused(t *testing.T, p publisher, at *target) {
	if at.refused == "" {
		t.Skip("it takes all")
	}
	s := openSender(t, at.address)
	var refused atomic.Int64
	for i := range 100 {
		if i == 50 {
			r := sinkdriver.Record{Key: []byte("x:m"), Value: []byte(at.refused)}
			err := s.Send(t.Context(), r, func(err error) {
				refused.Add(1)
				tells(t, err, at.address)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		r := sinkdriver.Record{Key: fmt.Appendf(nil, "%d:m", i%keys), Value: []byte(sent(i)), Time: time.Unix(int64(i), 0)}
		if err := s.Send(t.Context(), r, func(err error) { t.Errorf("record %d is refused: %v", i, err) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil || refused.Load() != 1 {
		t.Errorf("%v; it was refused %d times", err, refused.Load())
	}
	send(t, s, 100, 200)
	p.holds(t, at, 200, 1)
}

// senderAway: a bundle for a target that is away fails once its context ends, without a secret, and the same
// sender goes on when the target is back.
func senderAway(t *testing.T, p publisher, at *target) {
	if at.kill == nil {
		t.Skip("it is always there")
	}
	s := openSender(t, at.address)
	send(t, s, 0, 100)
	restore := at.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := s.Send(ctx, sinkdriver.Record{Key: []byte("0:m"), Value: []byte(sent(100)), Time: time.Unix(100, 0)}, func(err error) { t.Errorf("refused: %v", err) })
	if err == nil {
		err = s.Flush(ctx)
	}
	tells(t, err, at.address)
	restore()
	for deadline := time.Now().Add(patience); ; {
		err := s.Send(t.Context(), sinkdriver.Record{Key: []byte("0:m"), Value: []byte(sent(100)), Time: time.Unix(100, 0)}, func(err error) { t.Errorf("refused: %v", err) })
		if err == nil {
			err = s.Flush(t.Context())
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	send(t, s, 101, 300)
	p.holds(t, at, 300, 1)
}

// senderClosing: a sender closes after it was used, unused, and with records that nobody waits for.
func senderClosing(t *testing.T, p publisher, at *target) {
	used, err1 := senderOf(t, at.address)
	unused, err2 := senderOf(t, at.address)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	send(t, used, 0, 100)
	if err := errors.Join(used.Close(), unused.Close()); err != nil {
		t.Error(err)
	}
	p.holds(t, at, 100, 1)
	left, err := senderOf(t, at.address)
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Send(t.Context(), sinkdriver.Record{Key: []byte("1:m"), Value: []byte(sent(1))}, func(error) {}); err != nil {
		t.Fatal(err)
	}
	_ = left.Close() // its bundle has failed; it may say so, and must end
}

// senderAbsent: a target that isn't there is an error when it is opened, soon and without a secret.
func senderAbsent(t *testing.T, p publisher, _ *target) {
	if p.absent == "" {
		t.Skip("it can't tell")
	}
	begin := time.Now()
	s, err := senderOf(t, p.absent)
	if err == nil {
		s.Close()
	}
	tells(t, err, p.absent)
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %v to say so", took)
	}
}
