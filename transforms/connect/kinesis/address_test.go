package kinesis

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	a, err := parseSource("kinesis://orders?region=eu-west-1&endpoint=http://a:1&start=2026-01-31T12:00:00Z&on_expired=oldest&poll=1s&access_key=k&secret_key=p%2Bq&session_token=t")
	want := address{
		stream: "orders", account: account{region: "eu-west-1", endpoint: "http://a:1", key: "k", secret: "p+q", token: "t"},
		from: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), skipsLost: true, poll: time.Second,
	}
	if err != nil || a != want {
		t.Errorf("parsed as %+v, %v", a, err)
	}
	c, err := a.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	who, err := c.Options().Credentials.Retrieve(t.Context())
	if err != nil || who.AccessKeyID != "k" || who.SecretAccessKey != "p+q" || who.SessionToken != "t" || c.Options().Region != "eu-west-1" {
		t.Errorf("the client is %v in %s: %v", who.AccessKeyID, c.Options().Region, err)
	}
	if a, err := parseSink("kinesis://a_b.c-d?profile=p"); err != nil || a.stream != "a_b.c-d" || a.profile != "p" {
		t.Errorf("parsed as %+v, %v", a, err)
	}
}

// The environment says who connects, and to where.
func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "eu-west-3", "AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"} {
		t.Setenv(name, value)
	}
	a, err := parseSource("kinesis://orders")
	if err != nil || a.poll != defaultPoll || a.newest || !a.from.IsZero() {
		t.Errorf("parsed as %+v, %v", a, err)
	}
	c, err := a.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if who, err := c.Options().Credentials.Retrieve(t.Context()); err != nil || who.AccessKeyID != "k" || c.Options().Region != "eu-west-3" {
		t.Errorf("the client is %v in %s: %v", who.AccessKeyID, c.Options().Region, err)
	}
	t.Setenv("AWS_REGION", "")
	if _, err := a.client(t.Context()); err == nil || !strings.Contains(err.Error(), "region=") {
		t.Errorf("without a region: %v", err)
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"kinesis://":                                            "want kinesis://STREAM",
		"kinesis://a/b":                                         "want kinesis://STREAM",
		"kinesis://arn:aws:kinesis:x:1:stream":                  "without its ARN",
		"kinesis://u:hunter2@a":                                 "as parameters",
		"kinesis://a?regoin=x":                                  "unknown parameter regoin",
		"kinesis://a?region=x&region=y":                         "one value",
		"kinesis://a?region=":                                   "one value",
		"kinesis://a?start=yesterday":                           "parameter start",
		"kinesis://a?on_expired=no":                             "parameter on_expired",
		"kinesis://a?poll=100ms":                                "parameter poll",
		"kinesis://a?endpoint=host:1":                           "parameter endpoint",
		"kinesis://a?access_key=k":                              "belong together",
		"kinesis://a?secret_key=hunter2":                        "belong together",
		"kinesis://a?session_token=hunter2":                     "needs access_key",
		"kinesis://a?secret_key=hunter%":                        "%25",
		"kinesis://a?profile=p&access_key=k&secret_key=hunter2": "not both",
	} {
		_, err := parseSource(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v, want it to tell of %q", text, err, want)
		}
	}
	if _, err := parseSink("kinesis://a?start=newest"); err == nil {
		t.Error("a sink has a start")
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "49546986683135544286507457936321625675700192471156785154", "2026-01-31T12:00:00Z"} {
		if p, err := parsePlace(text); err != nil || p.String() != text {
			t.Errorf("%q is %q, %v", text, p, err)
		}
	}
	for _, text := range []string{"-1", "x", "12 ", "2026-01-31"} {
		if p, err := parsePlace(text); err == nil {
			t.Errorf("%q is %q", text, p)
		}
	}
}
