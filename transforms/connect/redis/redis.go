package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() {
	sink.Register("redis", publisher{})
	sink.Register("rediss", publisher{})
}

// newest sets a hash unless it holds a record of a later (time, id). It returns 1 if it did.
const newest = `
local old = redis.call('HMGET', KEYS[1], 'time', 'id')
if old[1] and (old[1] > ARGV[1] or old[1] == ARGV[1] and old[2] > ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'time', ARGV[1], 'id', ARGV[2], 'value', ARGV[3])
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1`

// newestHash is what Redis calls the script by.
var newestHash = redis.NewScript(newest).Hash()

const pipelined = 512

type publisher struct{}

// OpenSender connects and asks for an answer.
func (publisher) OpenSender(ctx context.Context, address string) (driver.Sender, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("reading the address: it is no URL") // the error's text holds it
	}
	q := u.Query()
	s := &sender{prefix: "millrace:", field: q.Get("key"), ttl: "0"}
	if q.Has("prefix") {
		s.prefix = q.Get("prefix")
	}
	if v := q.Get("ttl"); v != "" {
		ttl, err := time.ParseDuration(v)
		if err != nil || ttl < time.Millisecond {
			return nil, fmt.Errorf("reading the address: ttl=%s is no duration", v)
		}
		s.ttl = strconv.FormatInt(ttl.Milliseconds(), 10)
	}
	for _, own := range []string{"key", "prefix", "ttl"} {
		q.Del(own)
	}
	u.RawQuery = q.Encode()
	o, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, fmt.Errorf("reading the address: %w", err)
	}
	o.PoolSize = 1 // a sender belongs to one goroutine
	s.client = redis.NewClient(o)
	if err := s.client.ScriptLoad(ctx, newest).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting: %w", err), s.client.Close())
	}
	return s, nil
}

type sender struct {
	client             *redis.Client
	prefix, field, ttl string
	pipe               redis.Pipeliner
}

func (s *sender) Send(ctx context.Context, r driver.Record, rejected func(error)) error {
	name := string(r.Key)
	if s.field != "" {
		var err error
		if name, err = fieldOf(r.Value, s.field); err != nil {
			rejected(err)
			return nil
		}
	}
	if s.pipe == nil {
		s.pipe = s.client.Pipeline()
		s.pipe.ScriptLoad(ctx, newest) // Redis has forgotten it if it was restarted
	}
	s.pipe.EvalSha(ctx, newestHash, []string{s.prefix + name}, sortable(r.Time), string(r.Key), string(r.Value), s.ttl)
	if s.pipe.Len() > pipelined {
		return s.Flush(ctx)
	}
	return nil
}

func (s *sender) Flush(ctx context.Context) error {
	pipe := s.pipe
	s.pipe = nil
	if pipe == nil {
		return nil
	}
	for waited, wait := time.Duration(0), firstWait; ; wait = min(2*wait, longestWait) {
		commands, err := pipe.Exec(ctx)
		if err == nil || !away(err) || waited >= patience {
			return err
		}
		select {
		case <-time.After(wait):
			waited += wait
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
		pipe = s.client.Pipeline()
		for _, c := range commands { // all again: the guard takes none twice
			c.SetErr(nil)
			if err := pipe.Process(ctx, c); err != nil {
				return err
			}
		}
	}
}

// A Redis that is away is waited for: a runner may end the job with the first bundle that fails.
const (
	firstWait   = 50 * time.Millisecond
	longestWait = time.Second
	patience    = 2 * time.Minute
)

// away tells a server that can't be reached, or is loading its data, from one that refuses.
func away(err error) bool {
	var answer redis.Error
	return !errors.As(err, &answer) || strings.HasPrefix(answer.Error(), "LOADING")
}

func (s *sender) Close() error { return s.client.Close() }

// sortable is a time as 20 digits: those before 1970 come first.
func sortable(t time.Time) string {
	us := int64(0)
	if !t.IsZero() {
		us = t.UnixMicro()
	}
	return fmt.Sprintf("%020d", uint64(us)+1<<63)
}

// fieldOf is the text of a field of a JSON object.
func fieldOf(object []byte, name string) (string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return "", fmt.Errorf("reading the record: %w", err)
	}
	raw, ok := fields[name]
	if !ok || string(raw) == "null" {
		return "", fmt.Errorf("the record has no %q, which its key is made of", name)
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	return string(raw), nil
}
