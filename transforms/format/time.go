package format

import (
	"encoding/binary"
	"time"
)

const (
	second = 1_000_000
	day    = 86400 * second
	// MinTime and MaxTime bound timestamps, in microseconds: the years 0000 to 9999, which RFC 3339
	// can write.
	MinTime = -719528 * day
	MaxTime = 2932897*day - 1
)

// Times reads RFC 3339 timestamps. It remembers the last date, since rows come in order of time more
// often than not; it must not be shared by goroutines.
type Times struct {
	// Location is that of times without an offset; nil is UTC.
	Location *time.Location

	ymd  uint64 // the text of the date: its first 8 bytes, and the last 2
	dd   uint16
	days int64 // from 1970-01-01
	ok   bool
}

// Parse reads a timestamp as microseconds since 1970-01-01 UTC. Fractions below are floored. Overflow
// is a date or time of day that doesn't exist, like February 30.
func (t *Times) Parse(s []byte) (int64, Fault) {
	if len(s) < 19 || s[13] != ':' || s[16] != ':' {
		return 0, Syntax
	}
	switch s[10] {
	case 'T', 't', ' ':
	default:
		return 0, Syntax
	}
	ymd, dd := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint16(s[8:])
	if ymd != t.ymd || dd != t.dd || !t.ok {
		days, fault := parseDate(s)
		if fault != OK {
			return 0, fault
		}
		t.ymd, t.dd, t.days, t.ok = ymd, dd, days, true
	}
	h1, h0, m1, m0, s1, s0 := s[11]-'0', s[12]-'0', s[14]-'0', s[15]-'0', s[17]-'0', s[18]-'0'
	if h1 > 9 || h0 > 9 || m1 > 9 || m0 > 9 || s1 > 9 || s0 > 9 {
		return 0, Syntax
	}
	h, m, sec := int64(h1)*10+int64(h0), int64(m1)*10+int64(m0), int64(s1)*10+int64(s0)
	if h > 23 || m > 59 || sec > 59 {
		return 0, Overflow
	}
	us := t.days*day + (h*3600+m*60+sec)*second
	if len(s) == 20 && s[19] == 'Z' {
		return us, OK
	}
	return t.tail(s, us)
}

// tail reads the fraction and the offset.
func (t *Times) tail(s []byte, us int64) (int64, Fault) {
	rest := s[19:]
	if len(rest) > 0 && rest[0] == '.' {
		unit, k := int64(second/10), 1
		for ; k < len(rest) && rest[k]-'0' <= 9; k++ {
			us += int64(rest[k]-'0') * unit
			unit /= 10
		}
		if k == 1 {
			return 0, Syntax
		}
		rest = rest[k:]
	}
	switch {
	case len(rest) == 0:
		if t.Location == nil || t.Location == time.UTC {
			return us, OK
		}
		u := time.UnixMicro(us).UTC()
		return time.Date(u.Year(), u.Month(), u.Day(), u.Hour(), u.Minute(), u.Second(), u.Nanosecond(), t.Location).UnixMicro(), OK
	case len(rest) == 1 && rest[0]|0x20 == 'z':
		return us, OK
	case len(rest) == 6 && rest[3] == ':' && (rest[0] == '+' || rest[0] == '-'):
		h1, h0, m1, m0 := rest[1]-'0', rest[2]-'0', rest[4]-'0', rest[5]-'0'
		if h1 > 9 || h0 > 9 || m1 > 9 || m0 > 9 {
			return 0, Syntax
		}
		h, m := int64(h1)*10+int64(h0), int64(m1)*10+int64(m0)
		if h > 23 || m > 59 {
			return 0, Overflow
		}
		offset := (h*3600 + m*60) * second
		if rest[0] == '+' {
			offset = -offset
		}
		us += offset
		if us < MinTime || us > MaxTime {
			return 0, Overflow
		}
		return us, OK
	}
	return 0, Syntax
}

func parseDate(s []byte) (days int64, fault Fault) {
	if s[4] != '-' || s[7] != '-' {
		return 0, Syntax
	}
	var v [8]int64
	for k, at := range [8]int{0, 1, 2, 3, 5, 6, 8, 9} {
		d := s[at] - '0'
		if d > 9 {
			return 0, Syntax
		}
		v[k] = int64(d)
	}
	y, m, d := v[0]*1000+v[1]*100+v[2]*10+v[3], v[4]*10+v[5], v[6]*10+v[7]
	if m < 1 || m > 12 || d < 1 || d > daysIn(y, m) {
		return 0, Overflow
	}
	return daysFrom(y, m, d), OK
}

func daysIn(y, m int64) int64 {
	switch {
	case m == 2 && y%4 == 0 && (y%100 != 0 || y%400 == 0):
		return 29
	case m == 2:
		return 28
	}
	return 30 + (m+m>>3)&1
}

// daysFrom counts days from 1970-01-01 in the proleptic Gregorian calendar. Years begin in March, so
// that the leap day is the last (Hinnant, "chrono-compatible low-level date algorithms").
func daysFrom(y, m, d int64) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	era := y / 400
	if y < 0 {
		era = -1
	}
	yoe := y - era*400
	return era*146097 + yoe*365 + yoe/4 - yoe/100 + (153*(m-3)+2)/5 + d - 1 - 719468
}

// dateFrom is the inverse of daysFrom.
func dateFrom(days int64) (y, m, d int64) {
	z := days + 719468
	era := z / 146097
	if z < 0 {
		era = (z - 146096) / 146097
	}
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = doy - (153*mp+2)/5 + 1
	y, m = yoe+era*400, mp+3
	if m > 12 {
		y, m = y+1, m-12
	}
	return y, m, d
}

// AppendTime appends a time in microseconds since 1970-01-01 UTC as RFC 3339, with Z and the shortest
// fraction. It must be between [MinTime] and [MaxTime].
func AppendTime(dst []byte, us int64) []byte {
	if us < MinTime || us > MaxTime {
		return time.UnixMicro(us).UTC().AppendFormat(dst, time.RFC3339Nano)
	}
	days := us / day
	rest := us % day
	if rest < 0 {
		days, rest = days-1, rest+day
	}
	y, m, d := dateFrom(days)
	sec := rest / second
	dst = append(dst, "0000-00-00T00:00:00"...)
	t := dst[len(dst)-19:]
	put2(t[0:], y/100)
	put2(t[2:], y%100)
	put2(t[5:], m)
	put2(t[8:], d)
	put2(t[11:], sec/3600)
	put2(t[14:], sec/60%60)
	put2(t[17:], sec%60)
	if us := rest % second; us > 0 {
		dst = append(dst, ".000000"...)
		f := dst[len(dst)-6:]
		for k := 5; k >= 0; k-- {
			f[k] = '0' + byte(us%10)
			us /= 10
		}
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
	}
	return append(dst, 'Z')
}

func put2(b []byte, v int64) {
	b[0], b[1] = '0'+byte(v/10), '0'+byte(v%10)
}
