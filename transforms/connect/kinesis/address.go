package kinesis

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// address is a parsed address.
type address struct {
	stream string
	account

	newest    bool      // begin at the end
	from      time.Time // begin there if not zero
	skipsLost bool      // on_expired=oldest
	poll      time.Duration
}

// account is where a stream is, and as whom it is asked for. What is empty the environment says.
type account struct {
	region, endpoint, profile string
	key, secret, token        string // instead of a profile
}

const (
	defaultPoll = 250 * time.Millisecond
	minPoll     = 200 * time.Millisecond // a shard allows five reads a second
)

var streamName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// parseSource parses the address of a source.
func parseSource(text string) (address, error) {
	return parse(text, []string{"start", "on_expired", "poll"})
}

// parseSink parses the address of a sink.
func parseSink(text string) (address, error) { return parse(text, nil) }

func parse(text string, more []string) (address, error) {
	_, rest, _ := strings.Cut(text, "://")
	rest, query, _ := strings.Cut(rest, "?")
	a := address{stream: rest, poll: defaultPoll}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if strings.Contains(rest, "@") {
		fault("give credentials as parameters: access_key=...&secret_key=..., or leave them to the environment")
	} else if !streamName.MatchString(rest) {
		fault("want kinesis://STREAM, the stream's name without its ARN")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		fault("%s", "parameters are no valid query: write % as %25, & as %26, + as %2B, ; as %3B")
	}
	get := func(name string) string {
		v := values[name]
		if v != nil && (len(v) != 1 || v[0] == "") {
			fault("parameter %s: want one value", name)
			return ""
		}
		return values.Get(name)
	}
	known := append([]string{"region", "endpoint", "profile", "access_key", "secret_key", "session_token"}, more...)
	for name := range values {
		if !slices.Contains(known, name) {
			fault("unknown parameter %s: known are %s", name, strings.Join(known, ", "))
		}
	}
	a.region, a.endpoint, a.profile = get("region"), get("endpoint"), get("profile")
	a.key, a.secret, a.token = get("access_key"), get("secret_key"), get("session_token")
	if u, err := url.Parse(a.endpoint); a.endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		fault("parameter endpoint: want a URL as https://host:port")
	}
	switch {
	case (a.key == "") != (a.secret == ""):
		fault("access_key and secret_key belong together")
	case a.token != "" && a.key == "":
		fault("session_token needs access_key and secret_key")
	case a.profile != "" && a.key != "":
		fault("give a profile or access_key and secret_key, not both")
	}
	switch start := get("start"); start {
	case "", "oldest":
	case "newest":
		a.newest = true
	default:
		if a.from, err = time.Parse(time.RFC3339, start); err != nil {
			fault("parameter start: want oldest, newest or a time as 2026-01-31T12:00:00Z")
		}
	}
	switch get("on_expired") {
	case "", "fail":
	case "oldest":
		a.skipsLost = true
	default:
		fault("parameter on_expired: want fail or oldest")
	}
	if text := get("poll"); text != "" {
		if a.poll, err = time.ParseDuration(text); err != nil || a.poll < minPoll {
			fault("parameter poll: want %v or more: a shard allows five reads a second", minPoll)
		}
	}
	return a, errors.Join(errs...)
}

const (
	askTimeout  = 10 * time.Second // of a question, with all its tries
	callTimeout = 30 * time.Second // of reading or writing once
)

// clients are the last of each account, for listing from time to time: each has connections of its own, and asks
// for credentials.
var clients sync.Map // account to *kinesis.Client

// lastClient is the last client that was made, or a new one.
func (a account) lastClient(ctx context.Context) (*kinesis.Client, error) {
	if c, ok := clients.Load(a); ok {
		return c.(*kinesis.Client), nil
	}
	return a.client(ctx)
}

// client connects; what it asks for first shows whether that works.
func (a account) client(ctx context.Context) (*kinesis.Client, error) {
	var opts []func(*config.LoadOptions) error
	if a.region != "" {
		opts = append(opts, config.WithRegion(a.region))
	}
	if a.profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(a.profile))
	}
	if a.key != "" {
		opts = append(opts, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(a.key, a.secret, a.token)))
	}
	c, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the environment's AWS settings: %w", err)
	}
	if c.Region == "" {
		return nil, errors.New("nobody says which region: give region=eu-west-1, or set AWS_REGION")
	}
	client := kinesis.NewFromConfig(c, func(o *kinesis.Options) {
		if a.endpoint != "" {
			o.BaseEndpoint = aws.String(a.endpoint)
		}
	})
	clients.Store(a, client)
	return client, nil
}

// once makes a call return its first error: what is tried again, and when, is said here.
func once(o *kinesis.Options) { o.Retryer = aws.NopRetryer{} }

// explain says what to do about an error of a question for the stream.
func (a address) explain(err error) error {
	var missing *types.ResourceNotFoundException
	var api smithy.APIError
	switch {
	case errors.As(err, &missing):
		return fmt.Errorf("stream %s is not there: make it (aws kinesis create-stream --stream-name %s), or mend the address, its region too: %w", a.stream, a.stream, err)
	case errors.As(err, &api):
		return fmt.Errorf("asking for stream %s: %w (a source may ListShards, GetShardIterator and GetRecords, a sink PutRecords)", a.stream, err)
	}
	return fmt.Errorf("asking for stream %s: %w (does Kinesis answer there, and are there credentials?)", a.stream, err)
}

// throttled tells whether a stream had too much to do.
func throttled(err error) bool {
	return hasCode(err, "ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException", "ThrottlingException")
}

func hasCode(err error, codes ...string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode())
}

// passes tells whether an error may go away by itself: of a network, of a service in trouble, of too much to do, or of
// a stream that is being changed, or deleted, which then is missing.
func passes(err error) bool {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) {
		return true
	}
	status := answer.HTTPStatusCode() // 0 of a connection that broke
	return throttled(err) || hasCode(err, "ResourceInUseException") || status == 0 || status >= http.StatusInternalServerError
}
