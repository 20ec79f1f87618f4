package spec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	durationText = regexp.MustCompile(`^(\d+(\.\d+)?(w|d|h|m|s|ms|us))+$`)
	durationPart = regexp.MustCompile(`(\d+(?:\.\d+)?)(ms|us|w|d|h|m|s)`)
	units        = []struct {
		name string
		size time.Duration
	}{
		{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute},
		{"s", time.Second}, {"ms", time.Millisecond}, {"us", time.Microsecond},
	}
)

// ParseDuration reads 30m, 7d or 1d12h: numbers with the units w, d (always 24 hours), h, m, s, ms
// and us. It never gives a negative duration. 0 needs no unit.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if !durationText.MatchString(s) {
		return 0, fmt.Errorf("%q is not a duration such as 30m, 7d or 1d12h", s)
	}
	var sum time.Duration
	for _, part := range durationPart.FindAllStringSubmatch(s, -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration: %w", s, err)
		}
		for _, u := range units {
			if u.name != part[2] {
				continue
			}
			v := n * float64(u.size)
			if v > float64(1<<62) || sum > 1<<62 {
				return 0, fmt.Errorf("%q is longer than 146 years", s)
			}
			sum += time.Duration(v)
		}
	}
	return sum, nil
}

// FormatDuration writes a duration as ParseDuration reads it: 36 hours as 1d12h.
func FormatDuration(d time.Duration) string {
	if d <= 0 {
		return "0"
	}
	var b strings.Builder
	for _, u := range units[1:] {
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.size
		}
	}
	return b.String()
}
