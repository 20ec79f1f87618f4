package option

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Field is an option by its name, and where its value belongs: a *string, *[]string (with commas between),
// *map[string]string (a JSON object), *int, *bool or *time.Duration.
type Field[O any] struct {
	Name string
	Of   func(*O) any
}

// Set is what a runner takes.
type Set[O any] struct {
	Runner string
	Fields []Field[O]
	// Refused are names that can't be given, and why.
	Refused map[string]string
}

// Parse reads pairs of name=value, and reports all faults.
func (s Set[O]) Parse(pairs []string) (O, error) {
	var o O
	var errs []error
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("%s option %q: write name=value", s.Runner, pair))
			continue
		}
		if err := s.set(&o, name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s option %s: %w", s.Runner, name, err))
		}
	}
	return o, errors.Join(errs...)
}

// Names are those of the options that Parse takes.
func (s Set[O]) Names() []string {
	names := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		names[i] = f.Name
	}
	return names
}

func (s Set[O]) set(o *O, name, value string) (err error) {
	if why := s.Refused[name]; why != "" {
		return fmt.Errorf("can't be set: %s", why)
	}
	for _, f := range s.Fields {
		if f.Name != name {
			continue
		}
		switch to := f.Of(o).(type) {
		case *string:
			*to = value
		case *[]string:
			*to = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case *map[string]string:
			if json.Unmarshal([]byte(value), to) != nil {
				err = fmt.Errorf(`%q is no JSON object of texts, as {"team":"risk"}`, value)
			}
		case *int:
			if *to, err = strconv.Atoi(value); err != nil {
				err = fmt.Errorf("%q is no number", value)
			}
		case *bool:
			if *to, err = strconv.ParseBool(value); err != nil {
				err = fmt.Errorf("%q is neither true nor false", value)
			}
		case *time.Duration:
			if *to, err = time.ParseDuration(value); err != nil {
				err = fmt.Errorf("%q is no duration, as 10ms or 5s", value)
			}
		default:
			panic(fmt.Sprintf("%s option %s: nothing reads a %T", s.Runner, name, to))
		}
		return err
	}
	return fmt.Errorf("unknown; there are %s", strings.Join(s.Names(), ", "))
}
