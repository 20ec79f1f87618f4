package reentry

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/decode"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// The columns that a row carries through the graph beside its own. Rows of the history sort behind their
// replayed copies by the first, so that of two copies the replayed one goes on.
const (
	historyColumn  = "_history"
	attemptsColumn = "_attempts"
	failureColumn  = "_first_failure"
)

// FreshColumn is the Bool column of WithMarks that is false in replayed rows.
const FreshColumn = historyColumn

var marks = []event.Field{{Name: historyColumn, Kind: event.Bool}, {Name: attemptsColumn, Kind: event.Int}, {Name: failureColumn, Kind: event.Timestamp}}

// Filter says which letters are replayed.
type Filter struct {
	// Classes and Stage leave out all others; empty: none is left out.
	Classes []deadletter.Class
	Stage   string
	// Since leaves out what failed before it; the zero time leaves out nothing.
	Since time.Time
	// MaxAttempts leaves out what was tried so often; 0: nothing.
	MaxAttempts int
	// AcceptLate lets late events in.
	AcceptLate bool
}

// Why a letter is skipped.
const (
	byFilter = "filter"   // by class, stage or time
	never    = "never"    // its class never enters again
	late     = "late"     // late events need AcceptLate
	attempts = "attempts" // tried too often
	cut      = "cut"      // the record is not whole
	features = "features" // its row is of other features
	copied   = "copy"     // another letter of the same record
	change   = "change"   // of a database, which the use case doesn't ask for now
)

var reasons = []string{byFilter, never, late, attempts, cut, features, copied, change}

// skip says why a letter is left out whatever became of its other copies, or nothing.
func (f Filter) skip(l *deadletter.Letter) string {
	failed := cmp.Or(l.LastFailure, l.FirstFailure)
	at, err := time.Parse(time.RFC3339Nano, failed)
	switch {
	case len(f.Classes) > 0 && !slices.Contains(f.Classes, l.Class),
		f.Stage != "" && f.Stage != l.Stage,
		!f.Since.IsZero() && (err != nil || at.Before(f.Since)):
		return byFilter
	case l.Class == deadletter.Late && !f.AcceptLate:
		return late
	case l.Class == deadletter.Late:
		return ""
	case l.Class.Enter() != "decode" && l.Class.Enter() != "predict":
		return never
	}
	return ""
}

// identity is the same for letters of the same record, from however many attempts and sinks they are.
func identity(l *deadletter.Letter) string {
	if l.Class.Enter() == "predict" {
		return "predict " + l.EventTime + " " + cmp.Or(l.ID, l.Digest)
	}
	sum := sha256.Sum256(l.Original)
	return "decode " + hex.EncodeToString(sum[:])
}

// merge makes one of the letters of a record: the newest attempt, with the first failure of all.
func merge(a, b deadletter.Letter) deadletter.Letter {
	first := a.FirstFailure
	if first == "" || b.FirstFailure != "" && b.FirstFailure < first {
		first = b.FirstFailure
	}
	order := cmp.Or(cmp.Compare(a.Attempts, b.Attempts), cmp.Compare(a.LastFailure, b.LastFailure), cmp.Compare(a.Class, b.Class), bytes.Compare(a.Row, b.Row))
	if order < 0 {
		a = b
	}
	a.FirstFailure = first
	return a
}

// entrance decodes letters where they enter the graph.
type entrance struct {
	filter      Filter
	fingerprint string
	headers     map[string][]byte
	records     *decode.Decoder // of json or debezium, as the source is
	columns     *decode.Decoder // of rows that were encoded again
	row         *decode.Decoder // of rows with their features
	csv         *decode.Decoder
	events      *event.Schema // of what enters at decode
	rows        *event.Schema // of what enters at predict
	needs       []string      // the columns of a row
}

func newEntrance(in Params) (*entrance, error) {
	d, p, headers := in.Decode, in.Features, in.Headers
	e := &entrance{filter: in.Filter, headers: headers, fingerprint: p.Fingerprint()}
	var err error
	make := func(p decode.Params, format string) *decode.Decoder {
		p.Format = format
		dec, derr := decode.New(p)
		err = cmp.Or(err, derr)
		return dec
	}
	e.records = make(d, "json")
	if d.Format == "debezium" {
		e.records = make(d, d.Format)
	}
	if len(headers) > 0 {
		e.csv = make(d, "csv")
	}
	plain := d
	plain.RejectUnknown, plain.Fields = false, slices.Clone(d.Fields)
	for i := range plain.Fields {
		f := &plain.Fields[i]
		f.Path, f.TimeFormat, f.Zone = "", "", ""
	}
	e.columns = make(plain, "json")
	if err != nil {
		return nil, err
	}
	if e.rows, err = p.Output(); err != nil {
		return nil, err
	}
	computed := decode.Params{ID: []string{p.ID}, Time: p.Time, MaxEvent: 1 << 30}
	for _, f := range e.rows.Fields {
		if f.Name == historyColumn || f.Name == attemptsColumn || f.Name == failureColumn {
			continue
		}
		e.needs = append(e.needs, f.Name)
		computed.Fields = append(computed.Fields, decode.Field{
			Name: f.Name, Kind: f.Kind, Scale: f.Scale, Elem: f.Elem, Optional: f.Name != p.ID && f.Name != p.Time,
		})
	}
	e.row = make(computed, "json")
	if err != nil {
		return nil, err
	}
	e.events, err = e.records.Schema().With(marks...)
	return e, err
}

// entered is what became of letters.
type entered struct {
	events, rows []event.Batch
	failed       []deadletter.Letter
}

// spent says why the letter of a record can't be tried again, or nothing.
func (f Filter) spent(l *deadletter.Letter) string {
	if f.MaxAttempts > 0 && l.Attempts >= f.MaxAttempts {
		return attempts
	}
	if l.Class.Enter() == "predict" {
		return ""
	}
	sum := sha256.Sum256(l.Original)
	if len(bytes.TrimSpace(l.Original)) == 0 || l.Digest != "" && l.Digest != hex.EncodeToString(sum[:]) {
		return cut
	}
	return ""
}

// skip says why a letter that the filter lets through can't be replayed, or nothing.
func (e *entrance) skip(l *deadletter.Letter) string {
	if why := e.filter.spent(l); why != "" {
		return why
	}
	if l.Class.Enter() != "predict" {
		if l.Class != deadletter.Late && e.records.Skips(l.Original) {
			return change
		}
		return ""
	}
	var row map[string]json.RawMessage
	if l.Fingerprint != "" && l.Fingerprint != e.fingerprint || json.Unmarshal(l.Row, &row) != nil {
		return features
	}
	for _, name := range e.needs {
		if _, ok := row[name]; !ok {
			return features
		}
	}
	return ""
}

// enter decodes letters none of which is to be skipped.
func (e *entrance) enter(letters []deadletter.Letter) (out entered, err error) {
	var records, again, rows []deadletter.Letter
	tables := map[string][]deadletter.Letter{} // csv, by header
	for _, l := range letters {
		header := e.header(&l)
		switch {
		case l.Class.Enter() == "predict":
			l.Original = l.Row
			rows = append(rows, l)
		case l.Class == deadletter.Late:
			again = append(again, l)
		case header != nil:
			tables[string(header)] = append(tables[string(header)], l)
		default:
			records = append(records, l)
		}
	}
	if out.events, out.failed, err = e.run(e.records, records, nil, e.events); err != nil {
		return out, err
	}
	for header, lines := range tables {
		events, failed, err := e.run(e.csv, lines, []byte(header), e.events)
		if err != nil {
			return out, err
		}
		out.events, out.failed = append(out.events, events...), append(out.failed, failed...)
	}
	events, failed, err := e.run(e.columns, again, nil, e.events)
	if err != nil {
		return out, err
	}
	out.events, out.failed = append(out.events, events...), append(out.failed, failed...)
	out.rows, failed, err = e.run(e.row, rows, nil, e.rows)
	for i := range failed {
		failed[i].Original = nil
	}
	out.failed = append(out.failed, failed...)
	return out, err
}

// header is that of the csv file that a letter's record comes from, nil for a record of JSON.
func (e *entrance) header(l *deadletter.Letter) []byte {
	if len(e.headers) == 0 || bytes.HasPrefix(bytes.TrimSpace(l.Original), []byte("{")) || bytes.ContainsAny(l.Original, "\n") {
		return nil
	}
	if h := e.headers[l.Place.Source]; h != nil {
		return h
	}
	var only []byte
	for _, h := range e.headers {
		if only != nil && !bytes.Equal(only, h) {
			return nil
		}
		only = h
	}
	return only
}

// run decodes the originals of letters and marks the rows as replayed; s is their schema.
func (e *entrance) run(d *decode.Decoder, letters []deadletter.Letter, header []byte, s *event.Schema) (batches []event.Batch, failed []deadletter.Letter, err error) {
	if len(letters) == 0 {
		return nil, nil, nil
	}
	faults := map[int]deadletter.Letter{}
	keep := func(b event.Batch) error {
		batches = append(batches, b)
		return nil
	}
	if header != nil {
		text := append(slices.Clone(header), '\n')
		starts := make([]int64, len(letters))
		for i := range letters {
			starts[i] = int64(len(text))
			text = append(append(text, letters[i].Original...), '\n')
		}
		_, err = d.Read(bytes.NewReader(text), decode.Source{End: -1}, keep, func(l deadletter.Letter) error {
			faults[sort.Search(len(starts), func(i int) bool { return starts[i] >= l.Place.Offset })] = l
			return nil
		})
	} else {
		records := make([]driver.Record, len(letters))
		for i := range letters {
			records[i] = driver.Record{Value: letters[i].Original, Offset: int64(i)}
		}
		_, err = d.Records("", records, keep, func(l deadletter.Letter) error {
			faults[int(l.Place.Offset)] = l
			return nil
		})
	}
	if err != nil {
		return nil, nil, err
	}
	var good []*deadletter.Letter
	for i := range letters {
		if fault, ok := faults[i]; ok {
			failed = append(failed, e.again(letters[i], fault))
		} else {
			good = append(good, &letters[i])
		}
	}
	for i, b := range batches {
		if batches[i], err = mark(b, good[:b.N], s); err != nil {
			return nil, nil, err
		}
		good = good[b.N:]
	}
	return batches, failed, nil
}

// again is the letter of a record that failed once more where it entered.
func (e *entrance) again(old, fault deadletter.Letter) deadletter.Letter {
	l := fault
	if old.Class.Enter() != "decode" { // what was encoded again stays what it was
		l = old
		l.Message, l.LastFailure = fault.Message, ""
	}
	l.ID, l.EventTime, l.Place = cmp.Or(l.ID, old.ID), cmp.Or(l.EventTime, old.EventTime), old.Place
	l.Attempts, l.FirstFailure = old.Attempts+1, cmp.Or(old.FirstFailure, old.LastFailure)
	return l
}

// mark adds the columns of marks to rows, those of letters, or of the history if there are none; s is the
// schema that comes of it, in its order.
func mark(b event.Batch, letters []*deadletter.Letter, s *event.Schema) (event.Batch, error) {
	history, attempts, first := make([]int64, b.N), make([]int64, b.N), event.Column{Ints: make([]int64, b.N)}
	for i := range b.N {
		if letters == nil {
			history[i] = 1
			first.SetNull(i, b.N)
			continue
		}
		l := letters[i]
		attempts[i] = int64(l.Attempts)
		if t, err := time.Parse(time.RFC3339Nano, cmp.Or(l.FirstFailure, l.LastFailure)); err == nil {
			first.Ints[i] = t.UnixMicro()
		} else {
			first.SetNull(i, b.N)
		}
	}
	full, err := b.Schema.With(marks...)
	if err != nil {
		return b, fmt.Errorf("marking replayed events: %w", err)
	}
	return b.With(full, event.Column{Ints: history}, event.Column{Ints: attempts}, first).Only(s)
}

// unmark takes the marks out of a letter that the graph made, and counts the attempt of a replayed row. It
// reports whether the letter is of one.
func unmark(l *deadletter.Letter) (replayed bool) {
	object := &l.Row
	if len(l.Row) == 0 {
		object = (*json.RawMessage)(&l.Original)
	}
	var row map[string]json.RawMessage
	if json.Unmarshal(*object, &row) != nil || row[historyColumn] == nil {
		return false
	}
	var old struct {
		History  bool    `json:"_history"`
		Attempts int     `json:"_attempts"`
		First    *string `json:"_first_failure"`
	}
	if json.Unmarshal(*object, &old) != nil {
		return false
	}
	for _, m := range marks {
		delete(row, m.Name)
	}
	text, err := json.Marshal(row)
	if err != nil {
		return false
	}
	*object = text
	if len(l.Row) == 0 {
		sum := sha256.Sum256(l.Original)
		l.Digest = hex.EncodeToString(sum[:])
	}
	if old.History {
		return false
	}
	l.Attempts = old.Attempts + 1
	if old.First != nil {
		l.FirstFailure = *old.First
	}
	return true
}
