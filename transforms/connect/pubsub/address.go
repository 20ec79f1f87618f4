package pubsub

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// address is a parsed address.
type address struct {
	project  string
	name     string // projects/P/subscriptions/S or projects/P/topics/T
	emulator string // host:port, "" for what the environment says

	messages int // that may be under way
	bytes    int
	// The attributes that a runner which reads itself takes a message's id and its time from; "" for none.
	idAttribute, timeAttribute string
	order                      string // the key whose value orders records
}

const (
	defaultMessages = 200_000
	defaultBytes    = 512 << 20
)

var (
	projectName = regexp.MustCompile(`^[a-z][a-z0-9.:-]*$`)
	shortName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.~+%-]{2,254}$`)
)

// parseSource parses the address of a source.
func parseSource(text string) (address, error) {
	return parse(text, "subscriptions", "max_messages", "max_bytes", "id_attribute", "time_attribute")
}

// parseSink parses the address of a sink.
func parseSink(text string) (address, error) { return parse(text, "topics", "order") }

func parse(text, kind string, more ...string) (address, error) {
	_, rest, _ := strings.Cut(text, "://")
	rest, query, _ := strings.Cut(rest, "?")
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	var a address
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) == 2:
		parts = []string{"projects", parts[0], kind, parts[1]}
	case len(parts) == 4 && parts[0] == "projects" && parts[2] == "topics" && kind == "subscriptions":
		fault("this is a topic, and what reads it is a subscription: make one (gcloud pubsub subscriptions create NAME --topic=%s --project=%s) and give pubsub://projects/%[2]s/subscriptions/NAME", parts[3], parts[1])
	case len(parts) == 4 && parts[0] == "projects" && parts[2] == "subscriptions" && kind == "topics":
		fault("this is a subscription, and what is written to is a topic: give pubsub://projects/%s/topics/NAME", parts[1])
	}
	if len(parts) != 4 || parts[0] != "projects" || !projectName.MatchString(parts[1]) || !shortName.MatchString(parts[3]) || parts[2] != kind && errs == nil {
		fault("want pubsub://projects/PROJECT/%s/NAME, or pubsub://PROJECT/NAME", kind)
	} else {
		a.project, a.name = parts[1], strings.Join(parts, "/")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		fault("%s", "parameters are no valid query: write % as %25, & as %26, ; as %3B")
	}
	get := func(name string) string {
		v := values[name]
		if v != nil && (len(v) != 1 || v[0] == "") {
			fault("parameter %s: want one value", name)
			return ""
		}
		return values.Get(name)
	}
	number := func(name string, otherwise int) int {
		n := otherwise
		if v := get(name); v != "" {
			if n, err = strconv.Atoi(v); err != nil || n < 1 {
				fault("parameter %s: want a number above 0", name)
			}
		}
		return n
	}
	known := append([]string{"emulator"}, more...)
	for name := range values {
		if !slices.Contains(known, name) {
			fault("unknown parameter %s: known are %s", name, strings.Join(known, ", "))
		}
	}
	a.emulator = get("emulator")
	if a.emulator != "" && !strings.Contains(a.emulator, ":") {
		fault("parameter emulator: want host:port")
	}
	a.messages, a.bytes, a.order = number("max_messages", defaultMessages), number("max_bytes", defaultBytes), get("order")
	a.idAttribute, a.timeAttribute = get("id_attribute"), get("time_attribute")
	return a, errors.Join(errs...)
}

const askTimeout = 10 * time.Second

// client connects; what it asks for first shows whether that works.
func (a address) client(ctx context.Context) (*pubsub.Client, error) {
	var opts []option.ClientOption
	if a.emulator != "" {
		opts = append(opts, option.WithEndpoint(a.emulator), option.WithoutAuthentication(), option.WithTelemetryDisabled(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	c, err := pubsub.NewClient(ctx, a.project, opts...)
	if err != nil {
		return nil, fmt.Errorf("connecting to Pub/Sub: %w (gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS, says who you are)", err)
	}
	return c, nil
}

// explain says what to do about an error of a question for what the address names.
func (a address) explain(err error) error {
	_, id, _ := strings.Cut(strings.TrimPrefix(a.name, "projects/"), "/")
	kind, id, _ := strings.Cut(id, "/")
	switch status.Code(err) {
	case codes.NotFound:
		command := "gcloud pubsub topics create " + id
		if kind == "subscriptions" {
			command = "gcloud pubsub subscriptions create " + id + " --topic=TOPIC"
		}
		return fmt.Errorf("%s is not there: make it (%s --project=%s), or mend the address: %w", a.name, command, a.project, err)
	case codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("asking for %s: %w (a source needs the role roles/pubsub.subscriber, a sink roles/pubsub.publisher)", a.name, err)
	}
	return fmt.Errorf("asking for %s: %w (does Pub/Sub answer there?)", a.name, err)
}
