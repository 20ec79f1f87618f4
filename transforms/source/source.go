package source

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

var (
	driversMu sync.Mutex
	drivers   = map[string]driver.Driver{}
)

// Register makes the driver of a scheme known; connectors call it when they are imported. It panics
// if the scheme has one, or if the driver gives neither bytes nor batches nor a log.
func Register(scheme string, d driver.Driver) {
	_, isLog := d.(driver.Log)
	driversMu.Lock()
	defer driversMu.Unlock()
	if _, ok := drivers[scheme]; ok || !ends(d) && !isLog {
		panic(fmt.Sprintf("source driver for %q registered twice, or of no use", scheme))
	}
	drivers[scheme] = d
}

// ends reports whether a driver can read an address to its end.
func ends(d driver.Driver) bool {
	_, isBytes := d.(driver.Bytes)
	_, isBatches := d.(driver.Batches)
	return isBytes || isBatches
}

// Endless reports whether an address is of a source that has no end.
func Endless(address string) bool {
	d, err := driverOf(address)
	return err == nil && !ends(d)
}

// ReadsToEnd reports whether an address is of files or other sources that have an end.
func ReadsToEnd(address string) bool {
	d, err := driverOf(address)
	return err == nil && ends(d)
}

// LocalOnly says why workers of a cluster can't read an address, and what to do instead; "" if they may.
func LocalOnly(address string) string {
	if d, err := driverOf(address); err == nil {
		if local, ok := d.(driver.Local); ok {
			return local.LocalOnly(address)
		}
	}
	return ""
}

func driverOf(address string) (driver.Driver, error) {
	scheme := connect.Scheme(address)
	driversMu.Lock()
	defer driversMu.Unlock()
	if d := drivers[scheme]; d != nil {
		return d, nil
	}
	known := make([]string, 0, len(drivers))
	for s := range drivers {
		known = append(known, s)
	}
	slices.Sort(known)
	return nil, fmt.Errorf("nothing is linked for the scheme %q (known: %s)", scheme, strings.Join(known, ", "))
}

// Params says what is read and how.
type Params struct {
	// URLs are the addresses: paths, globs, folders, URLs, "-" for standard input.
	URLs []string
	// Decode describes the records. If its Format is empty, the name's ending tells; json if it doesn't.
	Decode decode.Params
	// Split is the size of a range in bytes; by default 16 MiB.
	Split int64
	// Stream reads the addresses as logs, without an end; nil reads to the end.
	Stream *Stream
	// Replay are logs of dead letters to be read beside those of events, in streams; see Follow.
	Replay []string
	// Labels are read beside the events; without URLs there are none.
	Labels Labels
}

// Labels says where labels that come as events of their own are read, and how. Their event time is that at
// which they became known, and it counts for the watermark of a stream as those of events do.
type Labels struct {
	URLs   []string
	Decode decode.Params
}

const defaultSplit = 16 << 20

// Validate reports all that is wrong.
func (p Params) Validate() error {
	var errs []error
	if len(p.URLs) == 0 {
		errs = append(errs, errors.New("source: no address to read from"))
	}
	for _, address := range p.URLs {
		if address == "" {
			errs = append(errs, errors.New("source: an address is empty"))
		}
	}
	if p.Split < 0 {
		errs = append(errs, fmt.Errorf("source: ranges of %d bytes", p.Split))
	}
	d := p.Decode
	if d.Format == "" {
		d.Format = "json"
	}
	if p.Stream != nil {
		errs = append(errs, p.Stream.validate(p))
	} else if len(p.Replay) > 0 {
		errs = append(errs, errors.New("source: only streams replay what comes"))
	}
	errs = append(errs, d.Validate())
	if len(p.Labels.URLs) > 0 {
		l := p.Labels.Decode
		l.Format = cmp.Or(l.Format, "json")
		if err := l.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("source: labels: %w", err))
		}
		if l.Time == "" {
			errs = append(errs, errors.New("source: labels need the field of the time from which they are known"))
		}
	}
	return errors.Join(errs...)
}

// Check validates, and finds out whether each address names something that can be read. Call it
// before a job is submitted.
func Check(ctx context.Context, p Params) error {
	errs := []error{p.Validate()}
	for _, address := range slices.Concat(p.URLs, p.Labels.URLs, p.Replay) {
		if address != "" {
			find := list
			if p.Stream != nil {
				find = listLogs
			}
			_, err := find(ctx, address)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Spread is the largest number of groups, up to that of p's stream, which all have partitions as they are
// now.
func Spread(ctx context.Context, p Params) (int, error) {
	var all []driver.Partition
	own, _ := p.divide()
	for _, address := range slices.Concat(own.URLs, own.Labels.URLs) {
		parts, err := listLogs(ctx, address)
		if err != nil {
			return 0, err
		}
		all = append(all, parts...)
	}
	for n := min(p.Stream.Groups, len(all)); n > 1; n-- {
		used := map[int]bool{}
		for _, part := range all {
			used[homeOf(part, n)] = true
		}
		if len(used) == n {
			return n, nil
		}
	}
	return 1, nil
}

// gzipFactor is about how much event text shrinks.
const gzipFactor = 8

// Estimate is about how many bytes of text the addresses hold, 0 where that can't be known; it sizes
// shuffles.
func Estimate(ctx context.Context, p Params) (int64, error) {
	var total int64
	for _, address := range p.URLs {
		d, err := driverOf(address)
		if err != nil {
			return 0, err
		}
		if e, ok := d.(driver.Estimator); ok {
			n, err := e.EstimateBytes(ctx, address)
			if err != nil {
				return 0, err
			}
			total += n
			continue
		}
		parts, err := list(ctx, address)
		if err != nil {
			return 0, err
		}
		for _, part := range parts {
			n := max(0, part.Size)
			if part.Gzip {
				n *= gzipFactor
			}
			total += n
		}
	}
	return total, nil
}

// Read emits the events of the addresses, a PCollection<event.Batch>, and the records that aren't
// events, a PCollection<deadletter.Letter>. It panics on bad params.
func Read(s beam.Scope, p Params) (events, bad beam.PCollection) {
	events, bad, err := TryRead(s, p)
	if err != nil {
		panic(err)
	}
	return events, bad
}

// Streams are what a source can give besides events: PCollections of event.Batch and deadletter.Letter.
type Streams struct {
	Events, Bad beam.PCollection
	// Labels are those of p.Labels; not valid if there are none.
	Labels beam.PCollection
	// Letters are the dead letters of p.Replay, in streams. Their logs never hold the watermark.
	Letters beam.PCollection
}

// ReadAll is Read for all that p names. It panics on bad params.
func ReadAll(s beam.Scope, p Params) Streams {
	out, err := streams(s, p)
	if err != nil {
		panic(err)
	}
	return out
}

// TryRead is Read with an error for bad params.
func TryRead(s beam.Scope, p Params) (events, bad beam.PCollection, err error) {
	out, err := streams(s, p)
	return out.Events, out.Bad, err
}

func streams(s beam.Scope, p Params) (out Streams, err error) {
	if err := p.Validate(); err != nil {
		return out, err
	}
	if len(p.Replay) > 0 { // streams keep their state under the names that they have had
		s = s.Scope("source.Follow")
	} else {
		s = s.Scope("source.Read")
	}
	if p.Stream != nil {
		return follow(s, p), nil
	}
	for _, address := range slices.Concat(p.URLs, p.Labels.URLs) {
		if Endless(address) {
			return out, fmt.Errorf("source: %s has no end: read it as a stream", connect.Redact(address))
		}
	}
	out.Events, out.Bad = read(s, p.URLs, p.Decode, p.Split)
	if len(p.Labels.URLs) > 0 {
		s := s.Scope("labels")
		var bad beam.PCollection
		out.Labels, bad = read(s, p.Labels.URLs, p.Labels.Decode, p.Split)
		out.Bad = beam.Flatten(s, out.Bad, bad)
	}
	return out, nil
}

func read(s beam.Scope, urls []string, d decode.Params, split int64) (events, bad beam.PCollection) {
	parts := beam.ParDo(s, &listFn{Format: d.Format}, beam.CreateList(s, urls))
	return beam.ParDo2(s, &readFn{Decode: d, Split: cmp.Or(split, defaultSplit)}, beam.Reshuffle(s, parts))
}

func list(ctx context.Context, address string) ([]driver.Partition, error) {
	d, err := driverOf(address)
	if err == nil {
		var parts []driver.Partition
		if parts, err = d.Partitions(ctx, address); err == nil {
			return parts, nil
		}
	}
	return nil, fmt.Errorf("reading source %s: %w", connect.Redact(address), connect.Scrub(err, address))
}

// listLogs lists the partitions of a stream.
func listLogs(ctx context.Context, address string) ([]driver.Partition, error) {
	d, err := driverOf(address)
	if err != nil {
		return list(ctx, address)
	}
	lister, ok := d.(driver.Lister)
	if !ok {
		return list(ctx, address)
	}
	parts, err := lister.Logs(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("reading source %s: %w", connect.Redact(address), connect.Scrub(err, address))
	}
	return parts, nil
}

// maxHeader bounds the first line of a csv file.
const maxHeader = 1 << 20

// header is the first line of a csv file, without the end of the line.
func header(ctx context.Context, d driver.Bytes, p driver.Partition) ([]byte, error) {
	r, err := d.Open(ctx, p, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain, err := inflate(r)
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(plain, maxHeader)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(line) == maxHeader && line[len(line)-1] != '\n' {
		return nil, fmt.Errorf("the first line has over %d bytes: is it csv with a header?", maxHeader)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
