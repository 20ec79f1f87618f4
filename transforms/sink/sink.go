package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/format"
	"github.com/millrace-ml/millrace/transforms/internal/staged"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

// Register makes the driver of a scheme known; connectors call it when they are imported. It panics
// if the scheme has one.
func Register(scheme string, o driver.Opener) { staged.Register(scheme, o) }

// Params says where batches go, and what of them.
type Params struct {
	// URL is a file, or a folder if it ends in a slash; "-" is standard output.
	URL string
	// Format is "json" (lines), "csv" or "parquet"; by default that of the URL's ending, and json
	// for a folder or a name without one. An ending .gz compresses.
	Format string
	// Outs are the values of a record, in order; by default all columns.
	Outs []format.Out
	// When keeps the rows for which this expression is true; by default all.
	When string
	// PartBytes is about the least size of a file in a folder; by default 128 MiB.
	PartBytes int64
	// Run names this run's staged chunks; by default a random name, given when the graph is built.
	Run string
}

// Validate reports all that is wrong.
func (p Params) Validate() error {
	var errs []error
	if p.URL == "" {
		errs = append(errs, errors.New("sink: no address (a path, or - for standard output)"))
	}
	kind, gzip, err := p.kind()
	if err != nil {
		errs = append(errs, err)
	}
	if gzip && kind == "parquet" {
		errs = append(errs, errors.New("sink: parquet is compressed inside: leave .gz out of its name"))
	}
	if p.PartBytes < 0 {
		errs = append(errs, fmt.Errorf("sink: parts of %d bytes", p.PartBytes))
	}
	return errors.Join(errs...)
}

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
	return staged.Target{URL: p.URL, Run: p.Run, Ext: ext, PartBytes: p.PartBytes}
}

// Check finds out whether the target can be written: missing folders are made, nothing else stays.
// Call it before a job is submitted.
func Check(ctx context.Context, p Params) error {
	if err := p.Validate(); err != nil {
		return err
	}
	return staged.Check(ctx, p.target())
}

// Sweep deletes what is staged for the target. Call it when a job has failed; one that succeeds
// does so itself. It must not be called while a job that writes to the target runs.
func Sweep(ctx context.Context, p Params) error {
	s, err := p.target().Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Sweep(ctx)
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
	if p.Run == "" {
		p.Run = staged.NewRun()
	}
	s = s.Scope("sink.Write")
	kind, gzip, _ := p.kind()
	chunks, unsent := beam.ParDo2(s, &stageFn{Params: p, Kind: kind, Gzip: gzip}, batches)
	commit := any(&staged.CommitFn{Target: p.target(), Empty: emptyFile(p, kind, gzip)})
	if kind == "parquet" {
		commit = &parquetFn{Target: p.target(), Outs: p.Outs}
	}
	staged.Publish(s, chunks, p.target(), commit)
	return unsent, nil
}
