package intake

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// address is a parsed address. Its token may not be shown.
type address struct {
	listen, path string
	wal          string
	token        string // "" for none
	cert, key    string
	body, log    int64 // limits in bytes
}

const (
	defaultBody = 1 << 20
	defaultLog  = 1 << 30
	minLog      = 1 << 20
)

func parse(text string) (address, error) {
	var a address
	_, rest, _ := strings.Cut(text, "://")
	rest, query, _ := strings.Cut(rest, "?")
	host, path, _ := strings.Cut(rest, "/")
	a.listen, a.path = host, "/"+path
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, port, err := net.SplitHostPort(host); err != nil || port == "" || strings.Contains(host, "@") {
		fault("want intake://host:port/path?wal=folder")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		fault("parameters are no valid query: write %% as %%25, & as %%26, ; as %%3B")
	}
	for name, v := range values {
		to := map[string]*string{"wal": &a.wal, "token": &a.token, "cert": &a.cert, "key": &a.key}[name]
		switch {
		case len(v) != 1 || v[0] == "":
			fault("parameter %s: want one value", name)
		case to != nil:
			*to = v[0]
		case name == "body_limit" || name == "log_limit":
			n, err := size(v[0])
			if err != nil {
				fault("parameter %s: %w", name, err)
			}
			if name == "body_limit" {
				a.body = n
			} else {
				a.log = n
			}
		default:
			fault("unknown parameter %s: known are wal, token, cert, key, body_limit, log_limit", name)
		}
	}
	a.body, a.log = cmp.Or(a.body, defaultBody), cmp.Or(a.log, defaultLog)
	if a.wal == "" {
		fault("parameter wal is missing: name a folder for the log")
	}
	if (a.cert == "") != (a.key == "") {
		fault("cert and key belong together")
	}
	if a.log < minLog || a.body > a.log/4 || a.body > maxRecord {
		fault("log_limit is 1MiB at least, body_limit a quarter of it and 64MiB at most")
	}
	return a, errors.Join(errs...)
}

// name is the address without parameters.
func (a address) name() string { return "intake://" + a.listen + a.path }

func size(text string) (int64, error) {
	unit := int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = number, u
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/unit {
		return 0, errors.New("want bytes, or a number with KiB, MiB or GiB")
	}
	return n * unit, nil
}
