package kafka

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	a, err := parseSource("kafka://a:1,b/orders?group=g&start=2026-01-31T12:00:00Z&on_expired=oldest&tls=true&sasl=scram-sha-512&user=u&password=p%2Bq")
	if err != nil {
		t.Fatal(err)
	}
	if len(a.brokers) != 2 || a.brokers[1] != "b" || a.topic != "orders" || a.group != "g" || !a.skipsLost || !a.tls || a.newest ||
		!a.from.Equal(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)) || a.sasl.Name() != "SCRAM-SHA-512" {
		t.Errorf("parsed as %+v", a)
	}
	c, err := a.client()
	if err != nil {
		t.Fatalf("the client refuses what was parsed: %v", err)
	}
	c.Close()
	for query, mechanism := range map[string]string{"sasl=plain": "PLAIN", "sasl=scram-sha-256": "SCRAM-SHA-256"} {
		if a, err := parseSink("kafka://a/orders?user=u&password=p&" + query); err != nil || a.sasl.Name() != mechanism {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"kafka://a:1":                                  "kafka://host:port/topic",
		"kafka://a:1/":                                 "kafka://host:port/topic",
		"kafka:///orders":                              "kafka://host:port/topic",
		"kafka://a,/orders":                            "kafka://host:port/topic",
		"kafka://a/orders/3":                           "kafka://host:port/topic",
		"kafka://u:hunter2@a/orders":                   "as parameters",
		"kafka://a/orders?grup=g":                      "unknown parameter grup",
		"kafka://a/orders?group=g&group=h":             "one value",
		"kafka://a/orders?group=":                      "one value",
		"kafka://a/orders?start=yesterday":             "parameter start",
		"kafka://a/orders?on_expired=no":               "parameter on_expired",
		"kafka://a/orders?tls=1":                       "parameter tls",
		"kafka://a/orders?sasl=md5":                    "parameter sasl",
		"kafka://a/orders?sasl=plain&user=u":           "needs user and password",
		"kafka://a/orders?user=u&password=hunter2":     "need parameter sasl",
		"kafka://a/orders?sasl=plain&password=hunter%": "%25",
	} {
		_, err := parseSource(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v, want it to tell of %q", text, err, want)
		}
	}
	if _, err := parseSink("kafka://a/orders?group=g"); err == nil {
		t.Error("a sink has a group")
	}
}
