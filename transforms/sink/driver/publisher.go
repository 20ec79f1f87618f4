package driver

import (
	"context"
	"time"
)

// Publisher is a driver of targets that take records one by one: topics, streams, tables by key.
type Publisher interface {
	// OpenSender connects to the target of an address. A target that isn't there, or may not be
	// written, is an error here, as far as the target tells.
	OpenSender(ctx context.Context, address string) (Sender, error)
}

// Sender sends records. It belongs to one goroutine.
type Sender interface {
	// Send starts to send a record; it may block while too much is under way. The record's bytes may
	// be reused when Send returns. A record that the target will never take (too large, refused as
	// invalid) is told to rejected, from Send or Flush, and is no error.
	Send(ctx context.Context, r Record, rejected func(error)) error
	// Flush waits until the target has taken all that was sent, and returns why it has not. A target
	// that is away is waited for, for a minute or two at least: a runner may end the job with the first
	// bundle that fails, and only the driver knows an absence from a refusal. After an
	// error the sender can be used again; what was sent since the last Flush has to be sent again.
	Flush(ctx context.Context) error
	Close() error
}

// Record is what is sent.
type Record struct {
	// Key is the event's id and the model's name: a target that keeps one record a key keeps the first
	// of each, or the newest by Time, as its doc says.
	Key []byte
	// Value is the encoded record, without an end of line.
	Value []byte
	// Time is the event time.
	Time time.Time
}
