package decode

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
)

const (
	minBlock = 64 << 10
	maxBlock = 1 << 20
)

// Source says what is read.
type Source struct {
	// Name is the file's path or the URL, without secrets.
	Name string
	// Offset is the position of the reader's first byte in the file, after decompression. If it isn't 0
	// the reader skips everything through the first newline. So whoever wants the lines that begin in
	// [start, end), start > 1, opens the file at start-1 and says Offset: start-1, End: end; a line that
	// begins at start exactly is then in.
	Offset int64
	// End bounds where records begin: those that begin before it are read, whole. Negative: all. It is
	// a position in the file, like Offset. The zero value reads nothing.
	End int64
	// Header is the header line of a CSV file, for ranges that don't begin at 0.
	Header []byte
}

// Stats count what was read.
type Stats struct {
	// Lines is the number of records, Rows of good ones, Rejected of bad ones; Blank lines are apart, and
	// Skipped, changes of a database that [Changes] don't ask for.
	Lines, Rows, Rejected, Blank, Skipped int64
	// Bytes is the length of all of them, newlines and skipped beginnings included.
	Bytes int64
}

func (s *Stats) add(o Stats) {
	s.Lines += o.Lines
	s.Rows += o.Rows
	s.Rejected += o.Rejected
	s.Blank += o.Blank
	s.Skipped += o.Skipped
	s.Bytes += o.Bytes
}

// block is a number of whole lines, and later what they are decoded to.
type block struct {
	buf    []byte // all of the memory
	data   []byte // the lines, each with its newline
	lines  int
	offset int64
	line   int64 // number of the first line, 0 if unknown

	batches []event.Batch
	letters []deadletter.Letter
	stats   Stats
	done    chan struct{}
}

// Read decodes the lines of a range of a file, of format json, csv or debezium. Batches and letters are handed
// over in the order of the file (a block's letters behind its batches), from the calling goroutine; the
// first error of emit or reject ends the reading and is returned. r is not read any more when Read
// returns.
func (d *Decoder) Read(r io.Reader, src Source, emit func(event.Batch) error, reject func(deadletter.Letter) error) (Stats, error) {
	var stats Stats
	if d.p.Format == "parquet" {
		return stats, errors.New("parquet can't be read as a stream: use ReadParquet")
	}
	s := &splitter{d: d, r: r, src: src, off: src.Offset, target: minBlock, free: make(chan []byte, 2*runtime.GOMAXPROCS(0)+2)}
	if src.Offset == 0 {
		s.line = 1
	}
	h, err := s.start()
	stats.Bytes = s.off - src.Offset
	if err != nil {
		return stats, err
	}
	hand := func(b *block) error {
		for _, batch := range b.batches {
			if err := emit(batch); err != nil {
				return err
			}
		}
		for _, l := range b.letters {
			if err := reject(l); err != nil {
				return err
			}
		}
		stats.add(b.stats)
		return nil
	}
	first, err := s.next()
	if err == io.EOF {
		return stats, nil
	}
	if err != nil {
		return stats, err
	}
	if s.exhausted() { // small inputs need no goroutines
		w := d.workers.Get().(*worker)
		w.block(h, first, src.Name)
		d.workers.Put(w)
		return stats, hand(first)
	}

	// The reader puts each block first into order and then into work, so a block that is worked on is
	// one that the caller will come to; both hold as many, so only order ever makes the reader wait
	// for the caller. If the caller gives up it closes quit; the reader then closes both and workers
	// run dry.
	workers := runtime.GOMAXPROCS(0)
	order, work := make(chan *block, workers+1), make(chan *block, workers+1)
	quit := make(chan struct{})
	var readErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(order)
		defer close(work)
		for b := first; ; {
			b.done = make(chan struct{})
			select {
			case order <- b:
			case <-quit:
				return
			}
			work <- b
			if b, readErr = s.next(); readErr != nil {
				return
			}
		}
	})
	for range workers {
		wg.Go(func() {
			w := d.workers.Get().(*worker)
			defer d.workers.Put(w)
			for b := range work {
				w.block(h, b, src.Name)
				select {
				case s.free <- b.buf:
				default:
				}
				b.buf, b.data = nil, nil
				close(b.done)
			}
		})
	}
	for b := range order {
		<-b.done
		if err = hand(b); err != nil {
			close(quit)
			break
		}
	}
	wg.Wait()
	if err == nil && readErr != io.EOF {
		err = readErr
	}
	return stats, err
}

// block decodes the lines of a block.
func (w *worker) block(h header, b *block, source string) {
	if b.lines == 0 {
		return
	}
	// Equal shares, rather than full batches and a small rest.
	batches := (b.lines + w.d.p.BatchRows - 1) / w.d.p.BatchRows
	share := (b.lines + batches - 1) / batches
	csv := w.d.p.Format == "csv"
	w.begin(min(share, b.lines))
	left := b.lines
	data, offset := b.data, b.offset
	for n := 0; len(data) > 0; n++ {
		end := bytes.IndexByte(data, '\n') + 1
		line := data[:end:end]
		data = data[end:]
		var good bool
		switch {
		case blank(line):
			b.stats.Blank++
			offset += int64(end)
			left--
			continue
		case len(line)-1 > w.d.p.MaxEvent:
			w.record()
			w.fail(deadletter.Decode, "record of %d bytes; the longest allowed is %d", len(line)-1, w.d.p.MaxEvent)
		case csv:
			good = w.csv(h, line)
		case w.d.changes != nil:
			if w.skips(line) {
				b.stats.Skipped++
				offset += int64(end)
				left--
				continue
			}
			good = w.debezium(line)
		default:
			good = w.json(line)
		}
		if good {
			b.stats.Rows++
		} else {
			b.stats.Rejected++
			b.letters = append(b.letters, w.reject(h, line, source, offset, b.line, n))
		}
		offset += int64(end)
		left--
		if w.n == share && left > 0 {
			b.batches = append(b.batches, w.finish())
			w.begin(min(share, left))
		}
	}
	b.stats.Lines = b.stats.Rows + b.stats.Rejected
	if w.n > 0 {
		b.batches = append(b.batches, w.finish())
	}
	w.release()
}

// release lets go of the batch's memory, but for the sizes of its text.
func (w *worker) release() {
	for i := range w.cols {
		w.cols[i] = builder{bytes: w.cols[i].bytes}
	}
}

// reject makes the letter of a line that failed, and takes its row back.
func (w *worker) reject(h header, line []byte, source string, offset, first int64, n int) deadletter.Letter {
	w.undo()
	at := deadletter.Place{Source: source, Offset: offset, Length: int64(len(line) - 1)}
	if first > 0 {
		at.Line = first + int64(n)
	}
	why := w.fault
	if len(line)-1 <= w.d.p.MaxEvent {
		w.record() // forget what was seen
		if h != nil {
			w.rescueCSV(h, line)
		} else {
			w.rescue(line)
		}
	}
	w.fault = why
	l := w.letter(line[:len(line)-1], at)
	w.undo()
	return l
}

func blank(line []byte) bool {
	if line[0] > ' ' {
		return false
	}
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// splitter cuts the bytes of a reader into blocks of lines.
type splitter struct {
	d      *Decoder
	r      io.Reader
	src    Source
	free   chan []byte
	target int // bytes of a block: about those of a batch, as lines have been so far

	carry []byte // read, and not yet in a block
	off   int64  // position of its first byte
	line  int64  // number of its first line; 0 if unknown
	eof   bool

	bytes, lines int64 // for the mean length
}

// past reports whether the next line belongs to another range.
func (s *splitter) past() bool { return s.src.End >= 0 && s.off >= s.src.End }

func (s *splitter) exhausted() bool { return s.past() || s.eof && len(s.carry) == 0 }

// fill reads n bytes more behind buf, or less at the end of the input.
func (s *splitter) fill(buf []byte, n int) ([]byte, error) {
	at := len(buf)
	if cap(buf) < at+n+1 { // one more, for a newline that the last line may lack
		grown := make([]byte, at, at+n+1)
		copy(grown, buf)
		buf = grown
	}
	buf = buf[:at+n]
	for idle := 0; at < len(buf); {
		m, err := s.r.Read(buf[at:])
		at += m
		if err == io.EOF {
			s.eof = true
			break
		}
		if err != nil {
			return buf[:at], fmt.Errorf("reading %s: %w", s.src.Name, err)
		}
		if m > 0 {
			idle = 0
		} else if idle++; idle > 100 {
			return buf[:at], fmt.Errorf("reading %s: %w", s.src.Name, io.ErrNoProgress)
		}
	}
	return buf[:at], nil
}

// start passes over what comes before the first line.
func (s *splitter) start() (header, error) {
	var err error
	if s.src.Offset > 0 {
		for {
			if s.carry, err = s.fill(s.carry[:0], minBlock); err != nil {
				return nil, err
			}
			if i := bytes.IndexByte(s.carry, '\n'); i >= 0 {
				s.advance(i + 1)
				break
			}
			s.advance(len(s.carry))
			if s.eof {
				break
			}
		}
		if s.d.p.Format != "csv" {
			return nil, nil
		}
		if len(s.src.Header) == 0 {
			return nil, fmt.Errorf("%w: a range of a csv file needs its header", ErrFile)
		}
		return s.d.parseHeader(bytes.Clone(s.src.Header))
	}
	if s.carry, err = s.fill(nil, minBlock); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(s.carry, []byte("\ufeff")) {
		s.advance(3)
	}
	if s.d.p.Format != "csv" {
		return nil, nil
	}
	for {
		i := bytes.IndexByte(s.carry, '\n')
		if i < 0 && s.eof {
			i = len(s.carry)
		}
		switch {
		case i >= 0 && i == len(s.carry) && i == 0:
			return header{}, nil // an empty file
		case i >= 0 && i < len(s.carry) && blank(s.carry[:i+1]):
			s.advance(i + 1)
			s.line++
			continue
		case i >= 0:
			h, err := s.d.parseHeader(bytes.Clone(s.carry[:i]))
			s.advance(min(i+1, len(s.carry)))
			s.line++
			return h, err
		case len(s.carry) > s.d.p.MaxEvent:
			return nil, fmt.Errorf("%w: csv header longer than %d bytes", ErrFile, s.d.p.MaxEvent)
		}
		if s.carry, err = s.fill(s.carry, minBlock); err != nil {
			return nil, err
		}
	}
}

func (s *splitter) advance(n int) {
	s.carry = s.carry[n:]
	s.off += int64(n)
}

// next returns the next block; io.EOF if there is none.
func (s *splitter) next() (*block, error) {
	if s.exhausted() {
		return nil, io.EOF
	}
	var buf []byte
	select {
	case buf = <-s.free:
	default:
	}
	buf = append(buf[:0], s.carry...)
	added := 0 // newlines that the file lacks
	for {
		if !s.eof {
			want := s.target - len(buf)
			if s.src.End >= 0 { // not much beyond the end of the range
				want = min(want, int(min(s.src.End-s.off, maxBlock))-len(buf)+1024)
			}
			var err error
			if buf, err = s.fill(buf, max(want, len(buf)/2, 4096)); err != nil {
				return nil, err
			}
		}
		end := s.cut(buf)
		if end < 0 && s.eof {
			if len(buf) == 0 {
				return nil, io.EOF
			}
			buf = append(buf, '\n')
			end = len(buf)
			added = 1
		}
		if end >= 0 {
			b := &block{buf: buf, data: buf[:end], offset: s.off, line: s.line, lines: bytes.Count(buf[:end], []byte{'\n'})}
			s.carry = append(s.carry[:0:0], buf[end:]...)
			s.off += int64(end - added)
			b.stats.Bytes = int64(end - added)
			s.measure(b)
			return b, nil
		}
		if len(buf) > s.d.p.MaxEvent {
			return s.oversize(buf)
		}
	}
}

// cut returns where the lines of this range end in buf; -1 if more must be read.
func (s *splitter) cut(buf []byte) int {
	if s.src.End >= 0 {
		// The last line of the range holds the byte before its end.
		if at := s.src.End - 1 - s.off; at < int64(len(buf)) {
			if i := bytes.IndexByte(buf[at:], '\n'); i >= 0 {
				return int(at) + i + 1
			}
		}
	}
	if i := bytes.LastIndexByte(buf, '\n'); i >= 0 {
		return i + 1
	}
	return -1
}

func (s *splitter) measure(b *block) {
	if s.line > 0 {
		s.line += int64(b.lines)
	}
	s.bytes += int64(len(b.data))
	s.lines += int64(b.lines)
	// A little less than a batch, so that blocks of even lines don't need two.
	rows := int64(s.d.p.BatchRows) * 31 / 32
	s.target = int(max(minBlock, min(maxBlock, s.bytes*rows/s.lines)))
}

// oversize passes over a line that is too long, of which buf is the beginning.
func (s *splitter) oversize(buf []byte) (*block, error) {
	l := s.d.letter(fault{class: deadletter.Decode}, deadletter.Place{Source: s.src.Name, Offset: s.off, Line: s.line})
	l.Original = bytes.Clone(buf[:min(len(buf), maxOriginal)])
	sum := sha256.New()
	sum.Write(buf)
	length := int64(len(buf))
	b := &block{buf: buf}
	rest := make([]byte, 0, minBlock+1)
	for done := false; !done; {
		if s.eof {
			break
		}
		var err error
		if rest, err = s.fill(rest[:0], minBlock); err != nil {
			return nil, err
		}
		i := bytes.IndexByte(rest, '\n')
		if done = i >= 0; !done {
			i = len(rest)
		}
		sum.Write(rest[:i])
		length += int64(i)
		if done {
			s.carry = bytes.Clone(rest[i+1:])
			b.stats.Bytes = 1
		}
	}
	if b.stats.Bytes == 0 {
		s.carry = nil
	}
	b.stats.Bytes += length
	b.stats.Lines, b.stats.Rejected = 1, 1
	s.off += b.stats.Bytes
	if s.line > 0 {
		s.line++
	}
	l.Place.Length = length
	l.Digest = hex.EncodeToString(sum.Sum(nil))
	l.Message = fmt.Sprintf("record of %d bytes; the longest allowed is %d", length, s.d.p.MaxEvent)
	b.letters = []deadletter.Letter{l}
	return b, nil
}
