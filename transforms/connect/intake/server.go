package intake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

var (
	acceptedEvents  = beam.NewCounter("intake", "accepted")
	refusedRequests = beam.NewCounter("intake", "refused")
)

const (
	// A request may take so long to come, and a connection be idle.
	readTimeout = 30 * time.Second
	idleTimeout = 2 * time.Minute
	// closeIn is how long requests that were begun have until the server ends.
	closeIn = 5 * time.Second
	// bodies is how many are read at a time.
	bodies = 256
)

// server takes requests into a log.
type server struct {
	address address
	wal     *wal
	http    *http.Server
	slots   chan struct{}
	ended   sync.WaitGroup

	mu      sync.Mutex
	failing bool // the last write failed
}

// serve listens and answers.
func serve(ctx context.Context, a address, w *wal) (*server, error) {
	s := &server{address: a, wal: w, slots: make(chan struct{}, bodies)}
	s.http = &http.Server{Handler: s, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	// Counters belong to the work that opened the log.
	ctx = context.WithoutCancel(ctx)
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.listen)
	if err != nil {
		return nil, fmt.Errorf("taking in at %s: %w", a.listen, err)
	}
	if a.cert != "" {
		pair, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			listener.Close()
			return nil, fmt.Errorf("reading the files of TLS: %w", err)
		}
		listener = tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}})
	}
	s.ended.Go(func() { _ = s.http.Serve(listener) })
	return s, nil
}

// ServeHTTP answers a request.
func (s *server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	status, text := s.take(rw, r)
	if status == http.StatusAccepted {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, text)
		return
	}
	http.Error(rw, text, status)
}

func (s *server) take(rw http.ResponseWriter, r *http.Request) (status int, text string) {
	switch {
	case r.URL.Path != s.address.path:
		return http.StatusNotFound, "send to " + s.address.path
	case !s.authorized(r):
		rw.Header().Set("WWW-Authenticate", "Bearer")
		return http.StatusUnauthorized, "the token is missing or wrong"
	case r.Method != http.MethodPost:
		rw.Header().Set("Allow", http.MethodPost)
		return http.StatusMethodNotAllowed, "POST a JSON object or JSON lines"
	case r.Header.Get("Content-Encoding") != "" && r.Header.Get("Content-Encoding") != "identity":
		return http.StatusUnsupportedMediaType, "send the body as it is, without compression"
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return http.StatusServiceUnavailable, "gone"
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, s.address.body))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("a body has %d bytes at the most", large.Limit)
	case err != nil:
		return http.StatusBadRequest, "reading the body: " + err.Error()
	}
	records, err := split(body)
	if err != nil {
		return http.StatusBadRequest, err.Error() + "; nothing was taken"
	}
	err = s.wal.append(records)
	s.tell(err)
	switch {
	case err == nil:
		acceptedEvents.Inc(r.Context(), int64(len(records)))
		return http.StatusAccepted, fmt.Sprintf("{\"accepted\":%d}\n", len(records))
	case errors.Is(err, errFull):
		status, text = http.StatusTooManyRequests, "the log is at its limit: scoring is behind"
		rw.Header().Set("Retry-After", "1")
	case errors.Is(err, errBusy):
		status, text = http.StatusServiceUnavailable, "too much waits for the disk"
		rw.Header().Set("Retry-After", "1")
	default:
		status, text = http.StatusServiceUnavailable, "the log can't be written" // why is no business of senders
		rw.Header().Set("Retry-After", "5")
	}
	refusedRequests.Inc(r.Context(), 1)
	return status, text
}

// tell logs when writing begins to fail, and when it works again.
func (s *server) tell(err error) {
	broken := err != nil && !errors.Is(err, errFull) && !errors.Is(err, errBusy) && !errors.Is(err, errClosed)
	if err != nil && !broken {
		return
	}
	s.mu.Lock()
	changed := s.failing != broken
	s.failing = broken
	s.mu.Unlock()
	if changed && broken {
		slog.Warn("events can't be written to the log; senders are told to come back", "intake", s.address.name(), "err", err)
	} else if changed {
		slog.Info("events are written to the log again", "intake", s.address.name())
	}
}

func (s *server) authorized(r *http.Request) bool {
	if s.address.token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	have, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.address.token)) // of one length
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(have[:], want[:]) == 1
}

// split makes records of a body: one JSON object, over lines or not, or one a line.
func split(body []byte) ([][]byte, error) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if whole := bytes.TrimSpace(body); object(whole) {
		var one bytes.Buffer
		if err := json.Compact(&one, whole); err != nil {
			return nil, err
		}
		return [][]byte{one.Bytes()}, nil
	}
	var records [][]byte
	number := 0
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if !object(line) {
			return nil, fmt.Errorf("line %d is no JSON object", number)
		}
		records = append(records, line)
	}
	if records == nil {
		return nil, errors.New("there is no event in the body")
	}
	return records, nil
}

func object(text []byte) bool { return len(text) > 0 && text[0] == '{' && json.Valid(text) }

// close ends the server; requests that were begun are answered first.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeIn)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.ended.Wait()
	return err
}
