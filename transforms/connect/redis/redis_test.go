package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func open(t *testing.T, address string) *sender {
	t.Helper()
	s, err := publisher{}.OpenSender(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*sender)
}

func send(t *testing.T, s *sender, key, value string, at time.Time) (refused error) {
	t.Helper()
	if err := s.Send(t.Context(), driver.Record{Key: []byte(key), Value: []byte(value), Time: at}, func(err error) { refused = err }); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return refused
}

func TestTheNewestStays(t *testing.T) {
	m := miniredis.RunT(t)
	s := open(t, "redis://"+m.Addr()+"/0?prefix=f:&key=card")
	at := time.UnixMicro
	steps := []struct {
		key  string
		at   time.Time
		want string // the id that is there afterwards
	}{
		{"5:m", at(-7), "5:m"}, {"5:m", at(-8), "5:m"}, {"6:m", at(10), "6:m"}, {"7:m", at(9), "6:m"}, {"5:m", at(10), "6:m"}, {"8:m", at(10), "8:m"}, {"1:m", at(11), "1:m"},
	}
	for range 2 { // a replay of all changes nothing but what is newer
		for i, step := range steps {
			value := fmt.Sprintf(`{"card":"x","n":%q}`, step.key)
			if err := send(t, s, step.key, value, step.at); err != nil {
				t.Fatal(err)
			}
			if m.HGet("f:x", "time") == sortable(at(11)) {
				step.want = "1:m"
			}
			if got := m.HGet("f:x", "id"); got != step.want || m.HGet("f:x", "value") != fmt.Sprintf(`{"card":"x","n":%q}`, step.want) {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
	}
	if m.TTL("f:x") != 0 {
		t.Error("a key expires")
	}
}

func TestKeys(t *testing.T) {
	m := miniredis.RunT(t)
	s := open(t, "redis://"+m.Addr()+"?ttl=1h")
	send(t, s, "7:fraud", `{"id":7}`, time.UnixMicro(1))
	if got := m.HGet("millrace:7:fraud", "value"); got != `{"id":7}` || m.TTL("millrace:7:fraud") != time.Hour {
		t.Errorf("%q, %v", got, m.TTL("millrace:7:fraud"))
	}
	s = open(t, "redis://"+m.Addr()+"?prefix=&key=c")
	send(t, s, "7", `{"c":12}`, time.Time{})
	if got := m.HGet("12", "id"); got != "7" {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{`{"d":1}`, `{"c":null}`, `[1]`} {
		if err := send(t, s, "8", bad, time.Time{}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestARestartAndManyRecords(t *testing.T) {
	m := miniredis.RunT(t)
	s := open(t, "redis://"+m.Addr()+"?prefix=")
	put := func(from, to int) {
		for i := from; i < to; i++ {
			if err := s.Send(t.Context(), driver.Record{Key: fmt.Appendf(nil, "%04d", i), Value: []byte("v")}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 1200)
	m.Close()
	if err := s.Send(t.Context(), driver.Record{Key: []byte("lost"), Value: []byte("v")}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err == nil {
		t.Fatal("a Redis that is gone took a record")
	}
	if err := m.Restart(); err != nil { // with its data, and without the script
		t.Fatal(err)
	}
	put(1200, 1300)
	if keys := m.Keys(); len(keys) != 1300 || slices.Contains(keys, "lost") {
		t.Errorf("%d keys", len(keys))
	}
}

func TestBadAddresses(t *testing.T) {
	m := miniredis.RunT(t)
	m.RequireAuth("hunter2")
	for _, bad := range []string{"redis://:wrong@" + m.Addr(), "redis://:hunter2@" + m.Addr() + "?ttl=x", "redis://:hunter2@" + m.Addr() + "?nonsense=1"} {
		if _, err := (publisher{}).OpenSender(t.Context(), bad); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	open(t, "redis://:hunter2@"+m.Addr())
	if a, b := sortable(time.UnixMicro(-1)), sortable(time.UnixMicro(1)); a >= b || len(a) != 20 || len(b) != 20 {
		t.Errorf("%s, %s", a, b)
	}
}

func BenchmarkSend(b *testing.B) {
	m := miniredis.RunT(b)
	s, err := publisher{}.OpenSender(b.Context(), "redis://"+m.Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := []byte(strings.Repeat("v", 100))
	for i := range b.N {
		if err := s.Send(b.Context(), driver.Record{Key: fmt.Appendf(nil, "%d", i), Value: value}, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}
