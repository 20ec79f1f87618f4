package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
)

// Register makes the driver of a scheme known; connectors call it when they are imported. A driver is
// an Opener of targets that take files, a Publisher to those that take records (see package driver), or
// both: then it takes files unless the stream has no end. It panics if d is neither, or if the scheme
// has a driver.
func Register(scheme string, d any) { staged.Register(scheme, d) }

// Stream says how a target without an end is cut into files.
type Stream = staged.Stream

// Params says where batches go, and what of them.
type Params struct {
	// Name tells several sinks of a graph apart: it is part of the names of their stages, which should stay when
	// sinks come, go or change places. By default there is none.
	Name string
	// URL is a file, or a folder if it ends in a slash; "-" is standard output; other schemes as the
	// connectors' docs say.
	URL string
	// Format is "json" (lines), "csv" or "parquet"; by default that of the URL's ending, and json
	// for a folder or a name without one. An ending .gz compresses. Targets that take records take json.
	Format string
	// Outs are the values of a record, in order; by default all columns.
	Outs []format.Out
	// When keeps the rows for which this expression is true; by default all.
	When string
	// PartBytes is about the least size of a file in a folder; by default 128 MiB.
	PartBytes int64
	// Stream is set where the input has no end.
	Stream *Stream
	// Run names this run's staged chunks; by default a random name, given when the graph is built.
	Run string
}

// Validate reports all that is wrong.
func (p Params) Validate() error {
	var errs []error
	if p.URL == "" {
		errs = append(errs, errors.New("sink: no address (a path, or - for standard output)"))
	}
	if p.publishes() {
		if p.Format != "" && p.Format != "json" {
			errs = append(errs, fmt.Errorf("sink: %s takes records, one by one, in json, not %s", connect.Redact(p.URL), p.Format))
		}
		return errors.Join(errs...)
	}
	kind, gzip, err := p.kind()
	if err != nil {
		errs = append(errs, err)
	}
	if gzip && kind == "parquet" {
		errs = append(errs, errors.New("sink: parquet is compressed inside: leave .gz out of its name"))
	}
	if p.Stream != nil {
		errs = append(errs, p.Stream.Validate(p.URL))
	}
	if p.PartBytes < 0 {
		errs = append(errs, fmt.Errorf("sink: parts of %d bytes", p.PartBytes))
	}
	return errors.Join(errs...)
}

// publishes reports whether rows are sent one by one.
func (p Params) publishes() bool { return staged.Publisher(p.URL, p.Stream) != nil }

func (p Params) kind() (kind string, gzip bool, err error) {
	kind, gzip = connect.Ending(p.URL)
	switch {
	case p.Format == "json", p.Format == "csv", p.Format == "parquet":
		kind = p.Format
	case p.Format != "":
		err = fmt.Errorf("sink: unknown format %q: want json, csv or parquet", p.Format)
	case kind == "" && hasExtension(p.URL):
		err = fmt.Errorf("sink: the ending of %s tells no format: want .jsonl, .csv or .parquet, or name the format", connect.Redact(p.URL))
	case kind == "":
		kind = "json"
	}
	return kind, gzip, err
}

func hasExtension(address string) bool {
	for i := len(address) - 1; i > 0; i-- {
		switch address[i] {
		case '/':
			return false
		case '.':
			return address[i-1] != '/' && i < len(address)-1
		}
	}
	return false
}

func (p Params) target() staged.Target {
	kind, gzip, _ := p.kind()
	ext := map[string]string{"json": ".jsonl", "csv": ".csv", "parquet": ".parquet"}[kind]
	if gzip {
		ext += ".gz"
	}
	return staged.Target{URL: p.URL, Run: p.Run, Ext: ext, PartBytes: p.PartBytes, Stream: p.Stream}
}

// Check finds out whether the target can be written: missing folders are made, nothing else stays;
// to a target that takes records it connects, and sends nothing.
// Call it before a job is submitted.
func Check(ctx context.Context, p Params) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if p.publishes() {
		sender, err := openSender(ctx, p)
		if err != nil {
			return err
		}
		return sender.Close()
	}
	return staged.Check(ctx, p.target())
}

// Sweep deletes what is staged for the target. Call it when a job has failed, or when a stream has
// ended and won't be restored; a bounded job that succeeds does so itself. It must not be called while a job that writes to the target runs.
func Sweep(ctx context.Context, p Params) error {
	if p.publishes() {
		return nil
	}
	return staged.Sweep(ctx, p.target())
}

// Write publishes batches, a PCollection<event.Batch>, and returns what the target refused, a
// PCollection<deadletter.Letter>. It panics on bad params.
func Write(s beam.Scope, batches beam.PCollection, p Params) beam.PCollection {
	unsent, err := TryWrite(s, batches, p)
	if err != nil {
		panic(err)
	}
	return unsent
}

// TryWrite is Write with an error for bad params.
func TryWrite(s beam.Scope, batches beam.PCollection, p Params) (beam.PCollection, error) {
	if err := p.Validate(); err != nil {
		return beam.PCollection{}, err
	}
	if _, err := staged.Driver(p.URL); err != nil {
		return beam.PCollection{}, err
	}
	if p.Name != "" {
		s = s.Scope(p.Name)
	}
	s = s.Scope("sink.Write")
	if p.publishes() {
		return publish(s, batches, p), nil
	}
	if p.Run == "" {
		p.Run = staged.NewRun()
	}
	kind, gzip, _ := p.kind()
	chunks, unsent := beam.ParDo2(s, &stageFn{Params: p, Kind: kind, Gzip: gzip}, batches)
	if p.Stream != nil {
		commit := any(&staged.RollFn{Target: p.target()})
		if kind == "parquet" {
			commit = &parquetRollFn{Target: p.target(), Outs: p.Outs}
		}
		staged.Roll(s, chunks, p.target(), commit)
		return unsent, nil
	}
	commit := any(&staged.CommitFn{Target: p.target(), Empty: emptyFile(p, kind, gzip)})
	if kind == "parquet" {
		commit = &parquetFn{Target: p.target(), Outs: p.Outs}
	}
	staged.Publish(s, chunks, p.target(), commit)
	return unsent, nil
}
