package deadletter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func init() {
	beam.RegisterCoder(reflect.TypeOf((*Letter)(nil)).Elem(), encode, decode)
}

func encode(l Letter) ([]byte, error)       { return appendJSON(nil, l) }
func decode(p []byte) (l Letter, err error) { return l, json.Unmarshal(p, &l) }

// appendJSON appends a value and a newline, with texts as they are.
func appendJSON(dst []byte, v any) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, fmt.Errorf("encoding dead letter: %w", err)
	}
	return b.Bytes(), nil
}

// ErrVersion reports an envelope of a later version.
var ErrVersion = errors.New("dead letter of a later version")

const version = 2

// envelope is the letter with the keys of the file; its own keys hide those of the letter.
type envelope struct {
	V     int    `json:"v"`
	Enter string `json:"enter,omitempty"`
	Letter
	Original *string `json:"original,omitempty"`
	Base64   []byte  `json:"original_base64,omitempty"`
}

// Append appends the letter's envelope and a newline.
func Append(dst []byte, l Letter) ([]byte, error) {
	e := envelope{V: version, Enter: l.Class.Enter(), Letter: l}
	if utf8.Valid(l.Original) {
		if len(l.Original) > 0 {
			text := string(l.Original)
			e.Original = &text
		}
	} else {
		e.Base64 = l.Original
	}
	return appendJSON(dst, e)
}

// Parse reads an envelope.
func Parse(line []byte) (Letter, error) {
	var e envelope
	if err := json.Unmarshal(line, &e); err != nil {
		return Letter{}, fmt.Errorf("reading dead letter: %w", err)
	}
	if e.V < 1 {
		return Letter{}, errors.New(`reading dead letter: no version "v"`)
	}
	if e.V > version {
		return Letter{}, fmt.Errorf("%w: version %d, this program reads up to %d", ErrVersion, e.V, version)
	}
	l := e.Letter
	l.Original = e.Base64
	if e.Original != nil {
		l.Original = []byte(*e.Original)
	}
	return l, nil
}
