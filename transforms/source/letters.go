package source

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// maxEnvelope bounds an envelope in bytes: of what it holds only the row has no bound of its own.
const maxEnvelope = 64 << 20

// Partitions lists what the addresses name, of sources that are bytes or logs.
func Partitions(ctx context.Context, addresses ...string) ([]driver.Partition, error) {
	var all []driver.Partition
	for _, address := range addresses {
		d, err := driverOf(address)
		if err != nil {
			return nil, fmt.Errorf("reading source %s: %w", connect.Redact(address), err)
		}
		_, isLog := d.(driver.Log)
		if _, isBytes := d.(driver.Bytes); !isBytes && !isLog {
			return nil, fmt.Errorf("reading source %s: it holds no bytes; want a file or a topic", connect.Redact(address))
		}
		parts, err := list(ctx, address)
		if err != nil {
			return nil, err
		}
		all = append(all, parts...)
	}
	return all, nil
}

// Letters reads a partition of envelopes: an envelope a line, gzip or not, or of a log an envelope a record,
// up to the end that it has when reading begins. With a line that is none each gets the error and a letter
// of the line itself. The first error of each is returned, and that of an envelope of a later version.
func Letters(ctx context.Context, p driver.Partition, each func(deadletter.Letter, error) error) error {
	err := letters(ctx, p, each)
	if err != nil {
		err = fmt.Errorf("reading %s: %w", p.Name, connect.Scrub(err, p.URL))
	}
	return err
}

func letters(ctx context.Context, p driver.Partition, each func(deadletter.Letter, error) error) error {
	d, err := driverOf(p.URL)
	if err != nil {
		return err
	}
	take := func(line []byte, place deadletter.Place) error {
		l, err := envelope(p.Name, line, place)
		if errors.Is(err, deadletter.ErrVersion) {
			return err
		}
		return each(l, err)
	}
	bytes, ok := d.(driver.Bytes)
	if !ok {
		return logLetters(ctx, d.(driver.Log), p, take)
	}
	file, err := bytes.Open(ctx, p, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := inflate(&reader{ctx, file})
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(plain)
	lines.Buffer(make([]byte, 0, 64<<10), maxEnvelope)
	for number := int64(1); lines.Scan(); number++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := take(lines.Bytes(), deadletter.Place{Line: number}); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return lines.Err()
}

// envelope reads a letter; of what is none it makes one, with the error.
func envelope(source string, text []byte, at deadletter.Place) (deadletter.Letter, error) {
	l, err := deadletter.Parse(text)
	if err != nil {
		at.Source, at.Length = source, int64(len(text))
		l = deadletter.Letter{Stage: "replay", Class: deadletter.Decode, Message: err.Error(), Attempts: 1, Place: at, Original: slices.Clone(text)}
	}
	return l, err
}

// maxSilence is for how long a log may give nothing before its end. The broker may be away, or a
// transaction open.
const maxSilence = 30 * time.Second

func logLetters(ctx context.Context, log driver.Log, p driver.Partition, take func([]byte, deadletter.Place) error) error {
	f, err := log.Follow(ctx, p.URL, []driver.Position{{Partition: p.Name}})
	if err != nil {
		return err
	}
	defer f.Close()
	count, ok := f.Lag()[p.Name]
	if !ok {
		return errors.New("the source can't say where its end is: copy the letters to a file, and read that")
	}
	end := int64(-1)
	for last := clock(); f.Lag()[p.Name] > 0; {
		chunks, err := f.Poll(ctx, time.Second, maxCall)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		for _, c := range chunks {
			for _, r := range c.Records {
				last = clock()
				if end < 0 {
					end = r.Offset + count
				}
				if r.Offset >= end { // it came meanwhile
					return nil
				}
				if len(r.Value) == 0 {
					continue
				}
				if err := take(r.Value, deadletter.Place{Offset: r.Offset}); err != nil {
					return fmt.Errorf("record %d: %w", r.Offset, err)
				}
				if r.Offset == end-1 {
					return nil
				}
			}
			if c.Ended {
				return nil
			}
		}
		if clock().Sub(last) > maxSilence {
			return fmt.Errorf("nothing came for %v before the end that the source has: is the broker there, or a transaction open?", maxSilence)
		}
	}
	return nil
}

// Headers are the first lines of those partitions of p that are csv, by the partition's name.
func Headers(ctx context.Context, p Params) (map[string][]byte, error) {
	headers := map[string][]byte{}
	for _, address := range p.URLs {
		d, err := driverOf(address)
		if err != nil {
			return nil, err
		}
		bytes, ok := d.(driver.Bytes)
		if !ok {
			continue
		}
		parts, err := list(ctx, address)
		if err != nil {
			return nil, err
		}
		for _, part := range parts {
			if cmp.Or(p.Decode.Format, part.Format) != "csv" {
				continue
			}
			if headers[part.Name], err = header(ctx, bytes, part); err != nil {
				return nil, fmt.Errorf("reading the header of %s: %w", part.Name, connect.Scrub(err, address))
			}
		}
	}
	return headers, nil
}
