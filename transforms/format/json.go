package format

import (
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep JSON values may nest.
const MaxDepth = 512

// plain marks the bytes that a JSON string holds as they are: ASCII but quote, backslash, controls.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// ScanString reads the JSON string whose quote is b[i], and returns its text and the index behind the
// closing quote, or -1. The text is part of b, or of scratch if it has escapes. b must end in a newline.
func ScanString(b []byte, i int, scratch *[]byte) (text []byte, end int) {
	i++
	first := i
	for plain[b[i]] {
		i++
	}
	if b[i] == '"' {
		return b[first:i], i + 1
	}
	return scanString(b, first, i, scratch)
}

// scanString goes on where the first byte stands that isn't plain.
func scanString(b []byte, first, i int, scratch *[]byte) ([]byte, int) {
	escaped := false
	out := (*scratch)[:0]
	for {
		from := i
		for plain[b[i]] {
			i++
		}
		if escaped {
			out = append(out, b[from:i]...)
		}
		switch c := b[i]; {
		case c == '"':
			if escaped {
				*scratch = out
				return out, i + 1
			}
			return b[first:i], i + 1
		case c == '\\':
			if !escaped {
				escaped, out = true, append(out, b[first:i]...)
			}
			r, size := unescape(b, i)
			if size == 0 {
				return nil, -1
			}
			out = utf8.AppendRune(out, r)
			i += size
		case c < 0x20:
			return nil, -1
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size <= 1 {
				return nil, -1
			}
			if escaped {
				out = append(out, b[i:i+size]...)
			}
			i += size
		}
	}
}

// unescape reads the escape at b[i]; its size is 0 if there is none.
func unescape(b []byte, i int) (r rune, size int) {
	switch c := b[i+1]; c {
	case '"', '\\', '/':
		return rune(c), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, ok := hex4(b, i+2)
		if !ok {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if b[i+6] == '\\' && b[i+7] == 'u' {
			if low, ok := hex4(b, i+8); ok {
				if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
					return pair, 12
				}
			}
		}
		return utf8.RuneError, 6
	}
	return 0, 0
}

// hex4 stops at the first byte that is no digit, hence before the end of b.
func hex4(b []byte, i int) (rune, bool) {
	var r rune
	for range 4 {
		c := b[i]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
		i++
	}
	return r, true
}

// SkipSpace returns the index of the first byte from b[i] on that isn't white space within a line.
func SkipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' {
		i++
	}
	return i
}

// SkipValue returns the index behind the JSON value that begins at b[i], or -1 if it is malformed, and
// -2 if it nests deeper than [MaxDepth], counted from depth. b must end in a newline.
func SkipValue(b []byte, i, depth int, scratch *[]byte) int {
	switch c := b[i]; {
	case c == '"':
		_, end := ScanString(b, i, scratch)
		return end
	case c == '-' || c-'0' <= 9:
		n, end := ScanNumber(b, i)
		if n.Padded {
			return -1
		}
		return end
	case c == 't':
		return Literal(b, i, "true")
	case c == 'f':
		return Literal(b, i, "false")
	case c == 'n':
		return Literal(b, i, "null")
	case c != '{' && c != '[':
		return -1
	}
	if depth >= MaxDepth {
		return -2
	}
	object, last := b[i] == '{', b[i]+2 // in ASCII the closing bracket is two behind the opening one
	i = SkipSpace(b, i+1)
	if b[i] == last {
		return i + 1
	}
	for {
		if object {
			if b[i] != '"' {
				return -1
			}
			if _, i = ScanString(b, i, scratch); i < 0 {
				return i
			}
			if i = SkipSpace(b, i); b[i] != ':' {
				return -1
			}
			i = SkipSpace(b, i+1)
		}
		if i = SkipValue(b, i, depth+1, scratch); i < 0 {
			return i
		}
		i = SkipSpace(b, i)
		switch b[i] {
		case last:
			return i + 1
		case ',':
			i = SkipSpace(b, i+1)
		default:
			return -1
		}
	}
}

// Literal returns the index behind word if b[i:] begins with it, else -1.
func Literal(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

const hexDigits = "0123456789abcdef"

// AppendJSON appends s as a JSON string. Bytes that aren't UTF-8 become U+FFFD.
func AppendJSON(dst, s []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && size <= 1 {
				dst = append(append(dst, s[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += max(size, 1)
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}
