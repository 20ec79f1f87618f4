package connect

import (
	"errors"
	"path"
	"strings"
)

// Scheme is the part of an address that chooses its driver: "file" for a plain path, "-" for "-",
// "stdin" for "stdin:".
func Scheme(address string) string {
	if address == "-" {
		return "-"
	}
	if scheme, _, ok := strings.Cut(address, "://"); ok && isScheme(scheme) {
		return strings.ToLower(scheme)
	}
	if scheme, ok := strings.CutSuffix(address, ":"); ok && isScheme(scheme) {
		return strings.ToLower(scheme)
	}
	return "file"
}

func isScheme(s string) bool {
	for i, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

// Redact is the address without user, password and the values of its query.
func Redact(address string) string {
	for _, secret := range secrets(address) {
		address = strings.Replace(address, secret.whole, secret.shown, 1)
	}
	return address
}

type secret struct {
	whole, shown string // with the marks around it, as they stand in the address
	bare         string // the secret itself
}

// secrets works on the text: an address that is no valid URL may hold secrets as well.
func secrets(address string) []secret {
	_, rest, ok := strings.Cut(address, "://")
	if !ok || Scheme(address) == "file" || Scheme(address) == "simulate" { // these have no secrets
		return nil
	}
	var found []secret
	rest, query, _ := strings.Cut(rest, "?")
	authority, _, _ := strings.Cut(rest, "/")
	// A password that was not escaped may hold a slash: then the last @ stands behind it.
	if at := strings.LastIndexByte(rest, '@'); at > len(authority) && strings.Contains(authority, ":") {
		authority = rest[:at+1]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user := authority[:at]
		_, password, ok := strings.Cut(user, ":")
		if !ok {
			password = user
		}
		found = append(found, secret{whole: "://" + user + "@", shown: "://...@", bare: password})
	}
	for part := range strings.SplitSeq(query, "&") {
		if key, value, ok := strings.Cut(part, "="); ok && value != "" {
			found = append(found, secret{whole: part, shown: key + "=...", bare: value})
		}
	}
	return found
}

// Scrub returns err with the secrets of the address removed from its text; errors.Is and errors.As
// see the same errors as before. It returns nil for nil.
func Scrub(err error, address string) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), address, Redact(address))
	for _, secret := range secrets(address) {
		text = strings.ReplaceAll(text, secret.whole, secret.shown)
		if len(secret.bare) > 3 { // shorter ones stand in any text
			text = strings.ReplaceAll(text, secret.bare, "...")
		}
	}
	if text == err.Error() {
		return err
	}
	return &scrubbed{text: text, err: err}
}

type scrubbed struct {
	text string
	err  error
}

func (e *scrubbed) Error() string { return e.text }

// Is and As, instead of Unwrap, keep the text of the inner error out of reach of printing.
func (e *scrubbed) Is(target error) bool { return errors.Is(e.err, target) }
func (e *scrubbed) As(target any) bool   { return errors.As(e.err, target) }

// Ending tells a file's format ("json", "csv", "parquet"; "" if unknown), and whether it is
// compressed, from how its name or address ends.
func Ending(address string) (format string, gzip bool) {
	if Scheme(address) != "file" {
		address, _, _ = strings.Cut(address, "?")
	}
	name, gzip := strings.CutSuffix(strings.ToLower(address), ".gz")
	switch path.Ext(name) {
	case ".csv":
		return "csv", gzip
	case ".json", ".jsonl", ".ndjson":
		return "json", gzip
	case ".parquet":
		return "parquet", gzip
	}
	return "", gzip
}
