package retraining

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/encode"
	"github.com/millrace-ml/millrace/transforms/event"
)

// columns lists what the training set keeps of a row.
func (p Params) columns() []string {
	f := p.Features
	names := []string{f.ID, f.Time}
	if f.Labels == nil {
		names = append(names, p.Label)
	}
	if p.Exclude != nil {
		names = append(names, p.Exclude.Entity)
	}
	if p.Card != nil {
		names = append(names, p.Card.Entity)
	}
	names = append(names, p.Inputs...)
	for _, c := range p.Candidates {
		names = append(names, c.Inputs...)
	}
	var unique []string
	for _, n := range names {
		if n != "" && !slices.Contains(unique, n) {
			unique = append(unique, n)
		}
	}
	return unique
}

// sliceFn keeps the rows and columns that some fold uses.
type sliceFn struct {
	Params Params

	in, out *event.Schema
}

func (f *sliceFn) ProcessElement(rows event.Batch, emit func(int64, event.Batch)) error {
	if rows.Schema != f.in {
		out, err := rows.Schema.Only(f.Params.columns()...)
		if err != nil {
			return fmt.Errorf("slicing the training set: %w", err)
		}
		f.in, f.out = rows.Schema, out
	}
	from, to := f.Params.span()
	var keep []int32
	label := rows.Col(f.Params.Label) // nil where labels come as events of their own
	for i, t := range rows.Times() {
		if t >= from && t < to && (label == nil || !label.Null(i)) {
			keep = append(keep, int32(i))
		}
	}
	if len(keep) == 0 {
		return nil
	}
	small, err := rows.Only(f.out)
	if err != nil {
		return err
	}
	emit(0, small.Gather(keep))
	return nil
}

// collectFn writes the training set, in the order of (time, id), to a file in Work: batches in their
// binary form, each behind its length as a varint.
type collectFn struct{ Params Params }

func (f *collectFn) ProcessElement(_ int64, next func(*event.Batch) bool, emit func(string)) error {
	all, err := gather(next)
	if err != nil {
		return err
	}
	return f.Params.keep(all, emit)
}

func gather(next func(*event.Batch) bool) (event.Batch, error) {
	var parts []event.Batch
	for b := (event.Batch{}); next(&b); b = (event.Batch{}) {
		parts = append(parts, b)
	}
	all, err := event.Concat(parts)
	if err != nil {
		return all, fmt.Errorf("joining the training set: %w", err)
	}
	return all, nil
}

// keep writes the training set and tells where.
func (p Params) keep(all event.Batch, emit func(string)) error {
	order := make([]int32, all.N)
	for i := range order {
		order[i] = int32(i)
	}
	times, ids := all.Times(), all.IDs()
	sort.SliceStable(order, func(x, y int) bool {
		i, j := order[x], order[y]
		if times[i] != times[j] {
			return times[i] < times[j]
		}
		return event.CompareIDs(ids, int(i), ids, int(j)) < 0
	})
	path := filepath.Join(p.Work, "training_set.batches")
	if err := writeSet(path, all, order); err != nil {
		return fmt.Errorf("writing the training set: %w", unseen(path, err))
	}
	emit(path)
	return nil
}

// unseen explains why a file of Work is not there. Whoever plans the job makes the folder, so a worker without
// it is on another disk.
func unseen(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the training set passes between workers in a folder that all of them see and may write, and %s is not one: give one (--work)", err, filepath.Dir(path))
	}
	return err
}

func writeSet(path string, all event.Batch, order []int32) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".training_set-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	w := bufio.NewWriterSize(tmp, 1<<20)
	var buf []byte
	for at := 0; at < len(order); at += 1 << 15 {
		buf = event.Append(buf[:0], all.Gather(order[at:min(at+1<<15, len(order))]))
		if _, err := w.Write(binary.AppendUvarint(nil, uint64(len(buf)))); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// set is the training set in memory.
type set struct {
	event.Batch
	times []int64
	known []int64 // since when labels are; nil: they are known as long after their rows as the use case says
}

// sets keeps the set that was read last: the tasks of a process all read the same one. The file's
// time tells one run's set from the next one's under the same name.
var sets struct {
	sync.Mutex
	path string
	mod  time.Time
	set  *set
}

func openSet(path string) (*set, error) {
	sets.Lock()
	defer sets.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the training set: %w", unseen(path, err))
	}
	if sets.set != nil && sets.path == path && sets.mod.Equal(info.ModTime()) {
		return sets.set, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the training set: %w", err)
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	var parts []event.Batch
	for {
		n, err := binary.ReadUvarint(r)
		if err == io.EOF {
			break
		}
		if err != nil || n > uint64(info.Size()) {
			return nil, fmt.Errorf("reading the training set: %w", event.ErrCorrupt)
		}
		buf := make([]byte, n)
		if _, err := io.ReadFull(r, buf); err != nil {
			return nil, fmt.Errorf("reading the training set: %w", err)
		}
		b, err := event.Decode(buf)
		if err != nil {
			return nil, fmt.Errorf("reading the training set: %w", err)
		}
		parts = append(parts, b)
	}
	all, err := event.Concat(parts)
	if err != nil {
		return nil, fmt.Errorf("joining the training set: %w", err)
	}
	sets.path, sets.mod, sets.set = path, info.ModTime(), &set{Batch: all, times: all.Times()}
	if known := all.Col(knownColumn); known != nil {
		sets.set.known = known.Ints
	}
	return sets.set, nil
}

// rowsIn are the rows with from <= time < to; the set is in time order.
func (s *set) rowsIn(from, to int64) (lo, hi int) {
	return sort.Search(s.N, func(i int) bool { return s.times[i] >= from }), sort.Search(s.N, func(i int) bool { return s.times[i] >= to })
}

// testRows are the rows of the fold's test that count: those of entities not yet known.
func (s *set) testRows(bounds [4]int64, label string, ex *Exclude) []int32 {
	lo, hi := s.rowsIn(bounds[2], bounds[3])
	var keep []int32
	if ex == nil {
		for i := lo; i < hi; i++ {
			keep = append(keep, int32(i))
		}
		return keep
	}
	entity, y := s.Col(ex.Entity), s.Col(label)
	align, after := max(1, ex.Align.Microseconds()), ex.KnownAfter.Microseconds()
	known := map[string]bool{}
	from, _ := s.rowsIn(bounds[0], bounds[1])
	since, order := s.times, span32(from, hi)
	if s.known != nil {
		since = s.known
		sort.SliceStable(order, func(i, j int) bool { return since[order[i]] < since[order[j]] })
	}
	var buf []byte
	for i := lo; i < hi; i++ {
		horizon := s.times[i] - mod(s.times[i], align) - after
		for ; len(order) > 0 && since[order[0]] < horizon; order = order[1:] {
			next := int(order[0])
			if number(s.Schema.Fields[s.Schema.Index(label)], y, next) > 0 && !entity.Null(next) {
				known[string(entity.AppendID(nil, next))] = true
			}
		}
		buf = entity.AppendID(buf[:0], i)
		if !known[string(buf)] {
			keep = append(keep, int32(i))
		}
	}
	return keep
}

func mod(a, m int64) int64 { return ((a % m) + m) % m }

func number(f event.Field, c *event.Column, i int) float64 {
	switch {
	case c.Null(i):
		return math.NaN()
	case c.Floats != nil:
		return c.Floats[i]
	case f.Kind == event.Decimal:
		return float64(c.Ints[i]) / math.Pow10(int(f.Scale))
	}
	return float64(c.Ints[i])
}

// features describes the inputs; dictionaries are fitted on rows lo to hi.
func (s *set) features(inputs []string, lo, hi int) ([]models.Feature, error) {
	out := make([]models.Feature, len(inputs))
	for k, name := range inputs {
		f := s.Schema.Fields[s.Schema.Index(name)]
		switch f.Kind {
		case event.Category, event.String, event.ID:
			c := s.Col(name)
			values := make([]string, 0, hi-lo)
			for i := lo; i < hi; i++ {
				if !c.Null(i) {
					values = append(values, string(c.AppendID(nil, i)))
				}
			}
			out[k] = models.Feature{Name: name, Type: models.Category, Categories: encode.Dictionary(values, nil)}
		case event.Timestamp, event.List:
			return nil, fmt.Errorf("input %s: a %v can't be a model's input", name, f.Kind)
		default:
			out[k] = models.Feature{Name: name, Type: models.Number}
		}
	}
	return out, nil
}

// matrix is the models' view of rows, as package predict fills it.
func (s *set) matrix(features []models.Feature, rows []int32) []float32 {
	w := len(features)
	x := make([]float32, len(rows)*w)
	for k, f := range features {
		c, field := s.Col(f.Name), s.Schema.Fields[s.Schema.Index(f.Name)]
		codes := map[string]float32{}
		for i, v := range f.Categories {
			codes[v] = float32(i)
		}
		for i, r := range rows {
			switch {
			case c.Null(int(r)):
				x[i*w+k] = float32(math.NaN())
			case f.Type == models.Category:
				code, ok := codes[string(c.AppendID(nil, int(r)))]
				if !ok {
					code = float32(len(f.Categories))
				}
				x[i*w+k] = code
			default:
				x[i*w+k] = float32(number(field, c, int(r)))
			}
		}
	}
	return x
}

// labels are the labels of rows.
func (s *set) labels(name string, rows []int32) []float32 {
	c, field := s.Col(name), s.Schema.Fields[s.Schema.Index(name)]
	y := make([]float32, len(rows))
	for i, r := range rows {
		y[i] = float32(number(field, c, int(r)))
	}
	return y
}

func span32(lo, hi int) []int32 {
	rows := make([]int32, hi-lo)
	for i := range rows {
		rows[i] = int32(lo + i)
	}
	return rows
}
