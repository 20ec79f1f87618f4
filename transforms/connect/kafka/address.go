package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// address is a parsed address. Only its topic and brokers may be shown.
type address struct {
	brokers []string
	topic   string
	tls     bool
	sasl    sasl.Mechanism // nil without

	group     string
	newest    bool      // begin at the end
	from      time.Time // begin there if not zero
	skipsLost bool      // on_expired=oldest
}

// parseSource parses the address of a source.
func parseSource(text string) (address, error) {
	return parse(text, []string{"group", "start", "on_expired"})
}

// parseSink parses the address of a sink.
func parseSink(text string) (address, error) { return parse(text, nil) }

func parse(text string, more []string) (address, error) {
	var a address
	_, rest, _ := strings.Cut(text, "://")
	rest, query, _ := strings.Cut(rest, "?")
	hosts, topic, _ := strings.Cut(rest, "/")
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	a.brokers, a.topic = strings.Split(hosts, ","), topic
	if slices.Contains(a.brokers, "") || topic == "" || strings.ContainsAny(topic, "/@") {
		fault("want kafka://host:port/topic, with a comma between hosts")
	}
	if strings.Contains(rest, "@") {
		fault("give user and password as parameters: sasl=plain&user=...&password=...")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		fault("%s", "parameters are no valid query: write % as %25, & as %26, ; as %3B")
	}
	get := func(name, otherwise string) string {
		if v := values[name]; len(v) == 1 && v[0] != "" {
			return v[0]
		} else if v != nil {
			fault("parameter %s: want one value", name)
		}
		return otherwise
	}
	known := append([]string{"tls", "sasl", "user", "password"}, more...)
	for name := range values {
		if !slices.Contains(known, name) {
			fault("unknown parameter %s: known are %s", name, strings.Join(known, ", "))
		}
	}

	switch get("tls", "false") {
	case "true":
		a.tls = true
	case "false":
	default:
		fault("parameter tls: want true or false")
	}
	user, password := get("user", ""), get("password", "")
	switch get("sasl", "") {
	case "":
		if user != "" || password != "" {
			fault("user and password need parameter sasl: plain, scram-sha-256 or scram-sha-512")
		}
	case "plain":
		a.sasl = plain.Auth{User: user, Pass: password}.AsMechanism()
	case "scram-sha-256":
		a.sasl = scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
	case "scram-sha-512":
		a.sasl = scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
	default:
		fault("parameter sasl: want plain, scram-sha-256 or scram-sha-512")
	}
	if a.sasl != nil && (user == "" || password == "") {
		fault("parameter sasl needs user and password")
	}
	a.group = get("group", "")
	switch start := get("start", "oldest"); start {
	case "oldest":
	case "newest":
		a.newest = true
	default:
		if a.from, err = time.Parse(time.RFC3339, start); err != nil {
			fault("parameter start: want oldest, newest or a time as 2026-01-31T12:00:00Z")
		}
	}
	switch get("on_expired", "fail") {
	case "fail":
	case "oldest":
		a.skipsLost = true
	default:
		fault("parameter on_expired: want fail or oldest")
	}
	return a, errors.Join(errs...)
}

const (
	dialTimeout = 5 * time.Second
	askTimeout  = 5 * time.Second // of all tries of a question
)

// client connects, with more options.
func (a address) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(a.brokers...), kgo.ClientID("millrace"), kgo.DialTimeout(dialTimeout)}
	if a.tls {
		opts = append(opts, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if a.sasl != nil {
		opts = append(opts, kgo.SASL(a.sasl))
	}
	return kgo.NewClient(append(opts, more...)...)
}

// describe asks for the topic.
func (a address) describe(ctx context.Context) (kadm.TopicDetail, error) {
	c, err := a.client(kgo.RetryTimeout(askTimeout))
	if err != nil {
		return kadm.TopicDetail{}, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+askTimeout)
	defer cancel()
	topics, err := kadm.NewClient(c).ListTopics(ctx, a.topic)
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("asking %s for topic %s: %w (does a broker listen there, and are tls and sasl as it wants them?)",
			strings.Join(a.brokers, ","), a.topic, err)
	}
	topic := topics[a.topic]
	switch {
	case errors.Is(topic.Err, kerr.UnknownTopicOrPartition), topic.Err == nil && len(topic.Partitions) == 0:
		return topic, fmt.Errorf("topic %s is not at %s: make the topic, or mend the address: %w", a.topic, strings.Join(a.brokers, ","), kerr.UnknownTopicOrPartition)
	case topic.Err != nil:
		return topic, fmt.Errorf("asking for topic %s: %w", a.topic, topic.Err)
	}
	return topic, nil
}
