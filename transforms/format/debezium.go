package format

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// Op is what a change did to a row.
type Op uint8

const (
	// Tombstone is no change: it tells Kafka that a deleted row's records may go.
	Tombstone Op = iota
	// Create is an insert, Update and Delete are what they say.
	Create
	Update
	Delete
	// Snapshot is a row that was there before changes were captured.
	Snapshot
	// Truncate emptied a table, Message is what an application wrote to the log: neither has a row.
	Truncate
	Message
)

var opNames = [...]string{"tombstone", "create", "update", "delete", "snapshot", "truncate", "message"}

// opLetters are the ops in envelopes.
const opLetters = "\x00cudrtm"

// String is the op's name, as use cases have it.
func (o Op) String() string { return opNames[o] }

// RowOps names the ops that have a row: create, update, delete, snapshot.
func RowOps() []string { return opNames[Create : Snapshot+1] }

// ParseOp is the op of a name.
func ParseOp(name string) (Op, bool) {
	for i, n := range opNames {
		if n == name {
			return Op(i), true
		}
	}
	return 0, false
}

// Change is where the parts of a Debezium record stand: indexes of JSON values, -1 for what is null or missing.
type Change struct {
	Op Op
	// Payload is the object that holds the rest.
	Payload       int
	Before, After int
	// Schema is Kafka Connect's description of the payload, nil where the record has none.
	Schema []byte
}

// Row is the row's image: as it became, or was where it is deleted.
func (c Change) Row() int {
	if c.Op == Delete {
		return c.Before
	}
	return c.After
}

// ScanChange finds the parts of the Debezium record in b, which has a schema or none. b must end in a newline.
// why says in which way it is no such record.
func ScanChange(b []byte, scratch *[]byte) (c Change, why string) {
	c.Payload, c.Before, c.After = SkipSpace(b, 0), -1, -1
	var p parts
	end, why := p.scan(b, c.Payload, scratch)
	if why != "" {
		return c, why
	}
	if end = SkipSpace(b, end); end != len(b)-1 {
		return c, stands(b, end, "the end of the record")
	}
	if p.op == 0 && p.payload > 0 {
		if p.schema > 0 && b[p.schema] == '{' {
			c.Schema = b[p.schema:p.schemaEnd]
		}
		if c.Payload = p.payload; b[c.Payload] == 'n' {
			return c, ""
		}
		p = parts{}
		if _, why = p.scan(b, c.Payload, scratch); why != "" {
			return c, why
		}
	}
	switch {
	case p.op == 0:
		return c, "no change of a Debezium connector: it has no op"
	case b[p.op] != '"' || b[p.op+2] != '"' || opOf(b[p.op+1]) == 0:
		return c, stands(b, p.op, "an op: c, u, d, r, t or m")
	}
	c.Op = opOf(b[p.op+1])
	if p.before > 0 && b[p.before] != 'n' {
		c.Before = p.before
	}
	if p.after > 0 && b[p.after] != 'n' {
		c.After = p.after
	}
	return c, ""
}

func opOf(letter byte) Op { return Op(max(0, strings.IndexByte(opLetters, letter))) }

// parts are where the values stand that the keys of a record or its payload name; 0 is nowhere.
type parts struct{ op, before, after, payload, schema, schemaEnd int }

// scan finds the parts of the object at b[i], and returns the index behind it.
func (p *parts) scan(b []byte, i int, scratch *[]byte) (end int, why string) {
	if b[i] != '{' {
		return 0, stands(b, i, "an object")
	}
	if i = SkipSpace(b, i+1); b[i] == '}' {
		return i + 1, ""
	}
	for {
		if b[i] != '"' {
			return 0, stands(b, i, "a key")
		}
		key, colon := ScanString(b, i, scratch)
		if colon < 0 {
			return 0, stands(b, i, "a key")
		}
		var part *int
		switch string(key) {
		case "op":
			part = &p.op
		case "before":
			part = &p.before
		case "after":
			part = &p.after
		case "payload":
			part = &p.payload
		case "schema":
			part = &p.schema
		}
		if i = SkipSpace(b, colon); b[i] != ':' {
			return 0, stands(b, i, "a colon")
		}
		i = SkipSpace(b, i+1)
		if part != nil {
			if *part > 0 {
				return 0, fmt.Sprintf("key %q stands twice", key)
			}
			*part = i
		}
		end := SkipValue(b, i, 1, scratch)
		switch end {
		case -1:
			return 0, stands(b, i, "a value")
		case -2:
			return 0, fmt.Sprintf("values nest deeper than %d", MaxDepth)
		}
		if part == &p.schema {
			p.schemaEnd = end
		}
		switch i = SkipSpace(b, end); b[i] {
		case ',':
			i = SkipSpace(b, i+1)
		case '}':
			return i + 1, ""
		default:
			return 0, stands(b, i, "a comma or a closing brace")
		}
	}
}

// stands says what isn't as it should be.
func stands(b []byte, i int, want string) string {
	if i >= len(b)-1 {
		return fmt.Sprintf("record ends at byte %d; want %s", len(b)-1, want)
	}
	return fmt.Sprintf("at byte %d stands %q; want %s", i, b[i:min(len(b)-1, i+16)], want)
}

// Unavailable stands in a change for a long text that the database hasn't logged, since it didn't change.
const Unavailable = "__debezium_unavailable_value"

// Meaning says how a column's values are to be read, beyond what JSON says.
type Meaning struct {
	// Time is the format of a timestamp, as package decode names it: "unix_us"; "rfc3339" for text.
	Time string
	// Unscaled is base64 of the two's complement, big end first, of a decimal times ten to the Scale.
	Unscaled bool
	Scale    int
	// Text is a string.
	Text bool
}

// Types are the columns that a record's schema describes.
type Types struct{ root connectSchema }

// connectSchema is a schema as Kafka Connect's JsonConverter writes it.
type connectSchema struct {
	Type       string            `json:"type"`
	Name       string            `json:"name"`
	Field      string            `json:"field"`
	Parameters map[string]string `json:"parameters"`
	Fields     []connectSchema   `json:"fields"`
	Items      *connectSchema    `json:"items"`
}

// ParseTypes reads the schema of a record.
func ParseTypes(schema []byte) (Types, error) {
	var t Types
	err := json.Unmarshal(schema, &t.root)
	return t, err
}

// times are the formats of what schemas name.
var times = map[string]string{
	"io.debezium.time.Timestamp":              "unix_ms",
	"io.debezium.time.MicroTimestamp":         "unix_us",
	"io.debezium.time.NanoTimestamp":          "unix_ns",
	"io.debezium.time.Date":                   "unix_days",
	"io.debezium.time.ZonedTimestamp":         "rfc3339",
	"io.debezium.time.IsoTimestamp":           "rfc3339",
	"org.apache.kafka.connect.data.Timestamp": "unix_ms",
	"org.apache.kafka.connect.data.Date":      "unix_days",
}

// At is the meaning of what stands under keys in the payload, or in the list that does; zero where the schema
// knows no such thing, or JSON says all.
func (t Types) At(keys ...string) Meaning {
	at := t.root
	for _, key := range keys {
		next := connectSchema{}
		for _, f := range at.Fields {
			if f.Field == key {
				next = f
			}
		}
		at = next
	}
	if at.Items != nil {
		at = *at.Items
	}
	m := Meaning{Time: times[at.Name], Text: at.Type == "string"}
	if at.Name == "org.apache.kafka.connect.data.Decimal" {
		m.Unscaled = true
		m.Scale, _ = strconv.Atoi(at.Parameters["scale"]) // Connect refuses to write one without
	}
	return m
}

// maxScale is that of PostgreSQL's numeric, which has the most.
const maxScale = 16383

// AppendUnscaled appends the decimal number of an unscaled value, as [Meaning] has it, and reports whether it is
// one.
func AppendUnscaled(dst, text []byte, scale int) ([]byte, bool) {
	var short [32]byte
	raw, err := base64.StdEncoding.AppendDecode(short[:0], text)
	if err != nil || len(raw) == 0 || scale < -maxScale || scale > maxScale {
		return dst, false
	}
	if len(raw) <= 8 && scale >= 0 && scale < len(pow10) {
		v := int64(int8(raw[0]))
		for _, b := range raw[1:] {
			v = v<<8 | int64(b)
		}
		return AppendDecimal(dst, v, uint8(scale)), true
	}
	v := new(big.Int).SetBytes(raw)
	if raw[0]&0x80 != 0 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
	}
	if v.Sign() < 0 {
		dst = append(dst, '-')
	}
	digits := v.Abs(v).String()
	if scale <= 0 {
		dst = append(dst, digits...)
		if digits != "0" {
			dst = append(dst, strings.Repeat("0", -scale)...)
		}
		return dst, true
	}
	digits = strings.Repeat("0", max(0, scale+1-len(digits))) + digits
	point := len(digits) - scale
	return append(append(append(dst, digits[:point]...), '.'), digits[point:]...), true
}
