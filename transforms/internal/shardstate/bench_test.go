package shardstate

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// panes is a machine of the common shape: 56 bytes an entity (a key and a ring of three panes), 24
// bytes an event (key, time, value), no pointers.
type panes struct {
	index map[uint64]int32
	slots [][56]byte
}

const (
	paneBytes  = 56
	eventBytes = 24
)

func newPanes() Machine { return &panes{index: map[uint64]int32{}} }

func (m *panes) Replay(delta []byte, create bool) error {
	if len(delta)%eventBytes != 0 {
		return errors.New("delta is cut off")
	}
	for ; len(delta) > 0; delta = delta[eventBytes:] {
		id := binary.LittleEndian.Uint64(delta)
		i, ok := m.index[id]
		if !ok && !create {
			continue
		}
		if !ok {
			i = int32(len(m.slots))
			m.index[id] = i
			m.slots = append(m.slots, [56]byte{})
			binary.LittleEndian.PutUint64(m.slots[i][:], id)
		}
		pane := m.slots[i][8+16*(delta[8]%3):]
		binary.LittleEndian.PutUint64(pane, binary.LittleEndian.Uint64(pane)+1)
		sum := math.Float64frombits(binary.LittleEndian.Uint64(pane[8:])) + math.Float64frombits(binary.LittleEndian.Uint64(delta[16:]))
		binary.LittleEndian.PutUint64(pane[8:], math.Float64bits(sum))
	}
	return nil
}

func (m *panes) Copy(dst []byte, from Cursor, budget int) ([]byte, Cursor, bool) {
	end := min(from.Entity+int64(max(1, budget/paneBytes)), int64(len(m.slots)))
	for _, s := range m.slots[from.Entity:end] {
		dst = append(dst, s[:]...)
	}
	return dst, Cursor{Entity: end}, end == int64(len(m.slots))
}

func (m *panes) Load(b []byte) error {
	if len(b)%paneBytes != 0 {
		return errors.New("entity is cut off")
	}
	for ; len(b) > 0; b = b[paneBytes:] {
		m.index[binary.LittleEndian.Uint64(b)] = int32(len(m.slots))
		m.slots = append(m.slots, [56]byte(b))
	}
	return nil
}

func (m *panes) Size() int64 { return paneBytes * int64(len(m.slots)) }
func (m *panes) Freeze(bool) {}

// memory are cells that count. They keep the records: the least that a runner does.
type memory struct {
	state
	bytes, call, largest int64
}

func (m *memory) Head() (int64, bool, error) {
	m.call = 0
	return m.head, m.known, nil
}

func (m *memory) SetHead(h int64) error {
	m.head, m.known = h, true
	m.largest = max(m.largest, m.call)
	return nil
}

func (m *memory) Read(log int, each func([]byte) error) error {
	for _, r := range m.logs[log] {
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Add(log int, record []byte) error {
	m.bytes += int64(len(record))
	m.call += int64(len(record))
	m.logs[log] = append(m.logs[log], append([]byte(nil), record...))
	return nil
}

func (m *memory) Clear(log int) error { m.logs[log] = nil; return nil }

// load fills a shard with entities and then changes them at random.
type load struct {
	store    *Store
	cells    memory
	entities int
	random   *rand.Rand
	delta    []byte
	slowest  time.Duration
}

func (l *load) call(t testing.TB, events int, key func() uint64) {
	l.delta = l.delta[:0]
	for range events {
		l.delta = binary.LittleEndian.AppendUint64(l.delta, key())
		l.delta = binary.LittleEndian.AppendUint64(l.delta, l.random.Uint64())
		l.delta = binary.LittleEndian.AppendUint64(l.delta, math.Float64bits(1))
	}
	start := time.Now()
	err := l.store.Do(0, &l.cells, func(m Machine) ([][]byte, error) {
		return [][]byte{l.delta}, m.Replay(l.delta, true)
	})
	l.slowest = max(l.slowest, time.Since(start))
	if err != nil {
		t.Fatal(err)
	}
}

func newLoad(t testing.TB, entities int) *load {
	l := &load{entities: entities, random: rand.New(rand.NewPCG(1, 2))}
	l.store = open(t, func(c *Config) {
		c.Shards, c.New = 1, newPanes
		c.MinLog, c.CopyBytes = 0, 0 // the defaults
	})
	for i := 0; i < entities; i += 1000 {
		next := uint64(i)
		l.call(t, 1000, func() uint64 { next++; return next })
	}
	return l
}

const eventsPerCall = 2000

// run makes calls until so many compactions have passed. It returns the number of events between the
// first and the last, and the bytes that were written for them.
func (l *load) run(t testing.TB, compactions int64) (events, bytes int64) {
	key := func() uint64 { return l.random.Uint64N(uint64(l.entities)) + 1 }
	first := l.store.Stats().Compactions + 1
	for {
		l.call(t, eventsPerCall, key)
		n := l.store.Stats().Compactions
		switch {
		case n < first: // up to the beginning of a cycle
			l.cells.bytes, l.cells.largest, l.slowest = 0, 0, 0
			continue
		case n == first+compactions:
			return events, l.cells.bytes
		}
		events += eventsPerCall
	}
}

// TestBytes holds what is written to d x (1 + (1 + 1/r) / (f - 1)) an event: d bytes of delta, f the
// trigger, r the copied bytes for each of the delta. No call writes more than its share.
func TestBytes(t *testing.T) {
	l := newLoad(t, 60_000)
	events, bytes := l.run(t, 3)
	// The first call of a copy has no live entity to write twice, the last writes its delta once.
	const delta = eventsPerCall * eventBytes
	want := eventBytes * (1 + (1 + float64(delta)/(256<<10)))
	got := float64(bytes) / float64(events)
	t.Logf("%.1f bytes an event, %d the largest call", got, l.cells.largest)
	if math.Abs(got-want) > want/20 {
		t.Errorf("%.1f bytes an event, want about %.1f", got, want)
	}
	if most := int64(2*delta + 256<<10 + 200); l.cells.largest > most {
		t.Errorf("a call wrote %d bytes, want at most %d", l.cells.largest, most)
	}
}

// TestGrowth holds that a copy ends although each call brings more bytes of new entities than twice
// its delta.
func TestGrowth(t *testing.T) {
	l := newLoad(t, 60_000)
	for !copying(&l.cells.state) {
		l.call(t, eventsPerCall, func() uint64 { return l.random.Uint64N(60_000) + 1 })
	}
	next := uint64(1 << 40)
	for i := 0; copying(&l.cells.state); i++ {
		if i == 20 {
			t.Fatalf("no end after %d calls: %+v", i, l.store.Stats())
		}
		l.call(t, 10_000, func() uint64 { next++; return next })
	}
}

// BenchmarkDo changes entities of one shard; a rebuild at the end is reported apart.
func BenchmarkDo(b *testing.B) {
	for _, n := range []struct {
		name     string
		entities int
	}{{"10k", 10_000}, {"100k", 100_000}, {"1M", 1_000_000}} {
		b.Run(n.name, func(b *testing.B) {
			l := newLoad(b, n.entities)
			key := func() uint64 { return l.random.Uint64N(uint64(n.entities)) + 1 }
			l.cells.bytes, l.cells.largest, l.slowest = 0, 0, 0
			b.ResetTimer()
			for b.Loop() {
				l.call(b, eventsPerCall, key)
			}
			b.StopTimer()
			events := float64(b.N * eventsPerCall)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/events, "ns/event")
			b.ReportMetric(float64(l.cells.bytes)/events, "B/event")
			b.ReportMetric(float64(l.store.Stats().Compactions), "compactions")
			b.ReportMetric(float64(l.cells.largest)/1024, "maxKiB/call")
			b.ReportMetric(float64(l.slowest.Microseconds())/1000, "maxms/call")
			start := time.Now()
			if _, err := l.store.c.rebuild(0, &l.cells, l.cells.head, true); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(time.Since(start).Milliseconds()), "rebuild-ms")
		})
	}
}
