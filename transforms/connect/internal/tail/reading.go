package tail

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

const (
	// block is what is read at a time, and what a store that is far away is asked for.
	block = 4 << 20
	// maxLine is the longest line.
	maxLine = 16 << 20
	// A run of rows of Parquet.
	minRows, maxRows = 1000, 1 << 16
)

// reading is a file that is being read.
type reading struct {
	file    File
	known   *known
	content Content
	source  string
	grows   bool // lines, and more may come; the follower closes the content
	done    bool // for now if it grows

	lines *lines   // nil unless there are lines
	fault error    // of all of it
	table *os.File // a copy of Parquet that was far away
	from  driver.Table
	rows  int64 // of Parquet
}

// start finds out what the file is; false if it is still being written.
func (r *reading) start() (ready bool, err error) {
	format, _ := connect.Ending(r.file.Name)
	var magic [2]byte
	n, err := r.content.ReadAt(magic[:], 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	zipped := n == 2 && magic == [2]byte{0x1f, 0x8b}
	if (zipped || format == "parquet") && !r.file.Final && !r.known.settled {
		return false, nil
	}
	from := &offsets{content: r.content}
	switch {
	case format == "csv":
		r.fault = errors.New("csv can't be followed: write lines of JSON, or Parquet, or read the files to their end")
	case format == "parquet":
		return true, r.startTable(zipped)
	case zipped:
		r.lines = &lines{at: r.known.at, final: true, store: from, block: block}
		unzipped, err := gzip.NewReader(bufio.NewReaderSize(from, r.ahead(0)))
		if err == nil {
			_, err = io.CopyN(io.Discard, unzipped, r.known.at)
		}
		if from.err != nil {
			return false, from.err
		}
		r.lines.from, r.lines.err = unzipped, err
	default:
		r.grows = !r.file.Final
		from.at = r.known.at
		r.lines = &lines{at: r.known.at, final: r.file.Final, store: from, from: from, block: r.ahead(r.known.at)}
	}
	return true, nil
}

// ahead is how much is read at a time of what is left behind an offset.
func (r *reading) ahead(at int64) int {
	return int(min(block, max(4<<10, r.file.Size-at+1)))
}

// startTable opens Parquet, of which decoding wants single pages.
func (r *reading) startTable(zipped bool) error {
	at, size := io.ReaderAt(r.content), r.file.Size
	if _, local := r.content.(Local); zipped || !local {
		temp, err := os.CreateTemp("", "millrace-*.parquet")
		if err != nil {
			return err
		}
		r.table = temp
		if err := os.Remove(temp.Name()); err != nil {
			return err
		}
		from := &offsets{content: r.content}
		plain := io.Reader(bufio.NewReaderSize(from, r.ahead(0)))
		if zipped {
			if plain, r.fault = gzip.NewReader(plain); r.fault != nil {
				return from.err
			}
		}
		if size, err = io.Copy(temp, plain); err != nil {
			if zipped && from.err == nil {
				r.fault = fmt.Errorf("decompressing: %w", err)
				return nil
			}
			return err
		}
		at = temp
	}
	r.from = driver.Table{File: at, Size: size}
	r.rows = rowsOf(at, size)
	return nil
}

// rowsOf is the number of rows, 0 if it can't be told: decoding then says why.
func rowsOf(at io.ReaderAt, size int64) (rows int64) {
	defer func() {
		if recover() != nil {
			rows = 0
		}
	}()
	f, err := parquet.OpenFile(at, size, parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true))
	if err != nil {
		return 0
	}
	return f.NumRows()
}

// read returns what comes next, and how many bytes that are about. An error is one of the store.
func (r *reading) read(limit int) (c driver.Chunk, size int, err error) {
	c.Source = r.source
	switch {
	case r.fault != nil:
		r.done, r.known.at = true, whole
		c.Fault = r.fault
		return c, 0, nil
	case r.from.File != nil:
		c.Table, size = r.nextRows(limit)
		return c, size, nil
	}
	c.Records, c.Fault, err = r.lines.next(limit)
	if err != nil {
		return c, 0, err
	}
	r.known.at = r.lines.at
	r.done = r.lines.ended
	if r.grows {
		if r.done {
			r.known.tried = r.lines.store.at
		}
		if most := min(r.known.at, beginLength); int64(r.known.begin.length) < most {
			if r.known.begin, err = begins(r.content, int(most)); err != nil {
				return c, 0, err
			}
		}
	} else if r.done {
		r.known.at = whole
	}
	for _, rec := range c.Records {
		size += len(rec.Value) + 1
	}
	return c, size, nil
}

// nextRows is the next run of rows of Parquet.
func (r *reading) nextRows(limit int) (t driver.Table, size int) {
	t = r.from
	if r.rows == 0 {
		r.done, r.known.at = true, whole
		return t, 0
	}
	length := max(1, 4*t.Size/r.rows) // columns are packed
	t.From = r.known.at
	t.To = min(r.rows, t.From+min(max(int64(limit)/length, minRows), maxRows))
	if r.known.at = t.To; t.To >= r.rows {
		r.done, r.known.at = true, whole
	}
	return t, int((t.To - t.From) * length)
}

func (r *reading) close() {
	if !r.grows {
		_ = r.content.Close()
	}
	if r.table != nil {
		_ = r.table.Close()
	}
}

// offsets reads a content in turn, and remembers an error that isn't its end.
type offsets struct {
	content Content
	at      int64
	err     error
}

func (o *offsets) Read(p []byte) (int, error) {
	n, err := o.content.ReadAt(p, o.at)
	o.at += int64(n)
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

// lines cuts what a reader gives.
type lines struct {
	from  io.Reader
	store *offsets // under from
	err   error    // of from, before anything was read
	at    int64    // where rest begins
	rest  []byte   // no whole line
	block int      // what is read at a time
	final bool     // nothing is added later
	ended bool
}

// next returns lines of about limit bytes. The fault says what is lost behind them, the error is the store's.
func (l *lines) next(limit int) (records []driver.Record, fault, err error) {
	if l.err != nil {
		l.ended = true
		return nil, fmt.Errorf("decompressing: %w", l.err), nil
	}
	buf := make([]byte, len(l.rest), len(l.rest)+min(max(limit, 512), l.block))
	copy(buf, l.rest)
	l.rest = nil
	end := false
	for len(buf) < cap(buf) && !end {
		n, err := l.from.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case l.store.err != nil:
			return nil, nil, l.store.err
		case err == io.EOF:
			end = true
		case err != nil: // what was decompressed before is good
			fault, end = fmt.Errorf("decompressing behind byte %d: %w", l.at+int64(len(buf)), err), true
		}
	}
	last := bytes.LastIndexByte(buf, '\n') + 1
	rest := buf[last:]
	switch {
	case !end && last == 0 && len(rest) > maxLine:
		return nil, fmt.Errorf("the line at byte %d has over %d bytes, and is passed over", l.at, maxLine), l.pass(int64(len(rest)))
	case !end:
	case l.final && fault == nil, !l.final && complete(rest):
		last, rest = len(buf), nil
	}
	records = l.cut(buf[:last])
	l.rest, l.ended = rest, end
	return records, fault, nil
}

// complete tells whether a line without its newline is a JSON object that has its end: no part of one is.
func complete(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 1 && line[0] == '{' && line[len(line)-1] == '}' && json.Valid(line)
}

// cut makes records of whole lines.
func (l *lines) cut(text []byte) []driver.Record {
	if len(text) == 0 {
		return nil
	}
	records := make([]driver.Record, 0, bytes.Count(text, []byte{'\n'})+1)
	for len(text) > 0 {
		line, rest, newline := bytes.Cut(text, []byte{'\n'})
		value := bytes.TrimSuffix(line, []byte{'\r'})
		if l.at == 0 {
			value = bytes.TrimPrefix(value, []byte("\xef\xbb\xbf"))
		}
		records = append(records, driver.Record{Value: value, Offset: l.at})
		if l.at += int64(len(line)); newline {
			l.at++
		}
		text = rest
	}
	return records
}

// pass skips the rest of a line, of which length bytes have been read.
func (l *lines) pass(length int64) error {
	buf := make([]byte, 64<<10)
	for l.at += length; ; {
		n, err := l.from.Read(buf)
		if l.store.err != nil {
			return l.store.err
		}
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			l.at += int64(i) + 1
			l.rest = append([]byte(nil), buf[i+1:n]...)
			return nil
		}
		l.at += int64(n)
		if err != nil {
			l.ended = true
			return nil
		}
	}
}
