package webhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

// endpoint answers with what answer says of a body.
func endpoint(t *testing.T, answer func(body string, w http.ResponseWriter)) (address string, bodies *[]string) {
	bodies = new([]string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "u" || password != "hunter2" || r.URL.RawQuery != "a=1" || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		p, _ := io.ReadAll(r.Body)
		*bodies = append(*bodies, string(p))
		answer(string(p), w)
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "://", "://u:hunter2@", 1) + "/hook?a=1&batch=3", bodies
}

func open(t *testing.T, address string, waits *[]time.Duration) driver.Sender {
	t.Helper()
	s, err := publisher{func(ctx context.Context, d time.Duration) error {
		*waits = append(*waits, d)
		return ctx.Err()
	}}.OpenSender(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func send(ctx context.Context, s driver.Sender, records ...string) (refused []string, err error) {
	for _, r := range records {
		value := []byte(r)
		if err := s.Send(ctx, driver.Record{Value: value}, func(err error) { refused = append(refused, r+": "+err.Error()) }); err != nil {
			return refused, err
		}
		value[0] = '!'
	}
	return refused, s.Flush(ctx)
}

func TestBatches(t *testing.T) {
	address, bodies := endpoint(t, func(string, http.ResponseWriter) {})
	var waits []time.Duration
	refused, err := send(t.Context(), open(t, address, &waits), "a", "b", "c", "d")
	if err != nil || len(refused) > 0 || !slices.Equal(*bodies, []string{"a\nb\nc\n", "d\n"}) || len(waits) > 0 {
		t.Errorf("%v, %q, refused %q, waits %v", err, *bodies, refused, waits)
	}
}

func TestOnlyBadRecordsAreRefused(t *testing.T) {
	address, bodies := endpoint(t, func(body string, w http.ResponseWriter) {
		if strings.Contains(body, "bad") {
			http.Error(w, "no bad ones", http.StatusUnprocessableEntity)
		}
	})
	var waits []time.Duration
	refused, err := send(t.Context(), open(t, address, &waits), "a", "bad", "c")
	if err != nil || !slices.Equal(refused, []string{"bad: answer 422: no bad ones"}) {
		t.Errorf("%v, refused %q", err, refused)
	}
	if !slices.Equal(*bodies, []string{"a\nbad\nc\n", "a\n", "bad\n", "c\n"}) {
		t.Errorf("%q", *bodies)
	}
}

func TestFaultsAreTriedAgain(t *testing.T) {
	n := 0
	address, bodies := endpoint(t, func(_ string, w http.ResponseWriter) {
		n++
		switch n {
		case 1, 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		case 4:
			panic(http.ErrAbortHandler) // the connection breaks
		}
	})
	var waits []time.Duration
	refused, err := send(t.Context(), open(t, address, &waits), "a")
	if want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 7 * time.Second, 800 * time.Millisecond}; err != nil ||
		len(refused) > 0 || !slices.Equal(waits, want) || len(*bodies) != 5 {
		t.Errorf("%v, refused %q, waits %v, bodies %q", err, refused, waits, *bodies)
	}
}

func TestTheContextEndsTrying(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address, _ := endpoint(t, func(_ string, w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) })
	s, err := publisher{func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}}.OpenSender(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := send(ctx, s, "a"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "answer 500") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"http://", "http://h/?batch=0", "http://h/?timeout=x", "http://h:x:y/"} {
		if _, err := (publisher{}).OpenSender(t.Context(), bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
