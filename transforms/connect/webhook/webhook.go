package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/sink/driver"
)

func init() {
	d := publisher{wait: wait}
	sink.Register("http", d)
	sink.Register("https", d)
}

// wait sleeps, unless ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type publisher struct {
	wait func(context.Context, time.Duration) error
}

// OpenSender reads the address; it sends nothing, since an endpoint has no way to be asked.
func (p publisher) OpenSender(_ context.Context, address string) (driver.Sender, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("reading the address: it is no URL") // the error's text holds it
	}
	if u.Host == "" {
		return nil, errors.New("reading the address: it has no host")
	}
	s := &sender{wait: p.wait, most: 500, user: u.User}
	timeout := 30 * time.Second
	q := u.Query()
	if v := q.Get("batch"); v != "" {
		if s.most, err = strconv.Atoi(v); err != nil || s.most < 1 {
			return nil, fmt.Errorf("reading the address: batch=%s is no number of records", v)
		}
	}
	if v := q.Get("timeout"); v != "" {
		if timeout, err = time.ParseDuration(v); err != nil || timeout <= 0 {
			return nil, fmt.Errorf("reading the address: timeout=%s is no duration", v)
		}
	}
	s.authorization = q.Get("authorization")
	for _, own := range []string{"batch", "timeout", "authorization"} {
		q.Del(own)
	}
	u.User, u.RawQuery = nil, q.Encode()
	s.url, s.shown = u.String(), connect.Redact(address)
	s.client = &http.Client{
		Timeout:       timeout,
		Transport:     http.DefaultTransport.(*http.Transport).Clone(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

type sender struct {
	client        *http.Client
	wait          func(context.Context, time.Duration) error
	url, shown    string
	user          *url.Userinfo
	authorization string
	most          int

	body    []byte // records, a line each
	ends    []int
	refusal []func(error)
}

const maxBody = 1 << 20

func (s *sender) Send(ctx context.Context, r driver.Record, rejected func(error)) error {
	s.body = append(append(s.body, r.Value...), '\n')
	s.ends, s.refusal = append(s.ends, len(s.body)), append(s.refusal, rejected)
	if len(s.ends) >= s.most || len(s.body) >= maxBody {
		return s.Flush(ctx)
	}
	return nil
}

func (s *sender) Flush(ctx context.Context) error {
	body, ends, refusal := s.body, s.ends, s.refusal
	s.body, s.ends, s.refusal = s.body[:0], s.ends[:0], s.refusal[:0]
	if len(ends) == 0 {
		return nil
	}
	refused, err := s.post(ctx, body)
	if err != nil || refused == nil {
		return err
	}
	if len(ends) == 1 {
		refusal[0](refused)
		return nil
	}
	from := 0
	for i, end := range ends {
		refused, err := s.post(ctx, body[from:end])
		if err != nil {
			return err
		}
		if refused != nil {
			refusal[i](refused)
		}
		from = end
	}
	return nil
}

// post sends a body until there is an answer; refused says why the endpoint will never take it.
func (s *sender) post(ctx context.Context, body []byte) (refused, err error) {
	pause := 100 * time.Millisecond
	for {
		status, after, text, err := s.try(ctx, body)
		switch {
		case err == nil && status/100 == 2:
			return nil, nil
		case err == nil && final(status):
			return fmt.Errorf("answer %d: %s", status, text), nil
		case err == nil && status/100 == 3:
			return nil, fmt.Errorf("posting: answer %d: the endpoint has moved, give its new address", status)
		case err == nil:
			err = fmt.Errorf("answer %d: %s", status, text)
		}
		if werr := s.wait(ctx, max(pause, after)); werr != nil {
			return nil, fmt.Errorf("posting: %w; the last try: %w", werr, err)
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// final reports whether an answer is about the record, not the connection or the time.
func final(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusRequestTimeout,
		http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 4
}

func (s *sender) try(ctx context.Context, body []byte) (status int, after time.Duration, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return 0, 0, "", err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if s.user != nil {
		password, _ := s.user.Password()
		req.SetBasicAuth(s.user.Username(), password)
	}
	if s.authorization != "" {
		req.Header.Set("Authorization", s.authorization)
	}
	res, err := s.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the address
		}
		return 0, 0, "", fmt.Errorf("posting to %s: %w", s.shown, err)
	}
	defer res.Body.Close()
	p, _ := io.ReadAll(io.LimitReader(res.Body, 200))
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // so that the connection is used again
	if secs, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && secs > 0 {
		after = time.Duration(min(secs, 300)) * time.Second
	}
	return res.StatusCode, after, strings.TrimSpace(string(p)), nil
}

func (s *sender) Close() error {
	s.client.CloseIdleConnections()
	return nil
}
