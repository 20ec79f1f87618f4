package source

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// maxEnvelope bounds an envelope in bytes: of what it holds only the row has no bound of its own.
const maxEnvelope = 64 << 20

// Partitions lists what the addresses name; each must have an end and be read as bytes.
func Partitions(ctx context.Context, addresses ...string) ([]driver.Partition, error) {
	var all []driver.Partition
	for _, address := range addresses {
		d, err := driverOf(address)
		if err != nil {
			return nil, fmt.Errorf("reading source %s: %w", connect.Redact(address), err)
		}
		if _, ok := d.(driver.Bytes); !ok {
			return nil, fmt.Errorf("reading source %s: it is no file that could be read to its end", connect.Redact(address))
		}
		parts, err := list(ctx, address)
		if err != nil {
			return nil, err
		}
		all = append(all, parts...)
	}
	return all, nil
}

// Letters reads a partition of envelopes, an envelope a line, gzip or not. With a line that is none each gets
// the error and a letter of the line itself. The first error of each is returned, and that of an envelope
// of a later version.
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
	file, err := d.(driver.Bytes).Open(ctx, p, 0)
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
		l, err := deadletter.Parse(lines.Bytes())
		if errors.Is(err, deadletter.ErrVersion) {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err != nil {
			l = deadletter.Letter{
				Stage: "replay", Class: deadletter.Decode, Message: err.Error(), Attempts: 1,
				Place: deadletter.Place{Source: p.Name, Line: number, Length: int64(len(lines.Bytes()))}, Original: []byte(lines.Text()),
			}
		}
		if err := each(l, err); err != nil {
			return err
		}
	}
	return lines.Err()
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
