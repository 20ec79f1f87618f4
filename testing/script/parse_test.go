package script

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/pipelines/spec"
)

// script is a text under testdata.
type script struct {
	title, useCase, events string
	u                      *spec.UseCase
	steps                  []step
	expected               []line
}

// step is a line of the section of events.
type step struct {
	what      string // "", "partition", "idle" or "restart"; "" is a record
	name      string // the record's id, or what the script calls it
	partition string
	together  bool // with the record before
	text      string

	// Of what is an event:
	ok     bool
	at     time.Time
	fields map[string]any // with numbers as json.Number
}

// line is a line of the section of expectations: what became of a record.
type line struct {
	name   string
	runs   []string // all, if empty
	result string   // features, or a class
	note   string   // a comment
}

func (l line) String() string {
	s := l.name + "  "
	if len(l.runs) > 0 {
		s += "[" + strings.Join(l.runs, " ") + "] "
	}
	s += l.result
	if l.note != "" {
		s += "    # " + l.note
	}
	return s
}

func parse(file, text string) (*script, error) {
	title, rest, ok1 := strings.Cut(text, "-- use case --\n")
	useCase, rest, ok2 := strings.Cut(rest, "-- events --\n")
	events, expect, ok3 := strings.Cut(rest, "-- expect --\n")
	if !ok1 || !ok2 || !ok3 || !strings.HasPrefix(title, "# ") {
		return nil, fmt.Errorf("%s: want a title behind #, and the sections use case, events and expect", file)
	}
	s := &script{title: title, useCase: useCase, events: events}
	var err error
	if s.u, err = spec.Parse(file, []byte(useCase), nil); err != nil {
		return nil, err
	}
	before := strings.Count(title+useCase, "\n") + 2
	for i, l := range strings.Split(events, "\n") {
		if l, _ = comment(l); l == "" {
			continue
		}
		if err := s.step(l); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, before+i, err)
		}
	}
	before += strings.Count(events, "\n") + 1
	for i, text := range strings.Split(expect, "\n") {
		var l line
		if text, l.note = comment(text); text == "" {
			continue
		}
		l.name, l.result, _ = strings.Cut(text, " ")
		l.result = strings.TrimSpace(l.result)
		if rest, ok := strings.CutPrefix(l.result, "["); ok {
			var runs string
			runs, l.result, _ = strings.Cut(rest, "]")
			l.runs = strings.Fields(runs)
		}
		l.result = strings.Join(strings.Fields(l.result), " ")
		if !slices.ContainsFunc(s.steps, func(st step) bool { return st.what == "" && st.name == l.name }) {
			return nil, fmt.Errorf("%s:%d: no event is called %q", file, before+i, l.name)
		}
		s.expected = append(s.expected, l)
	}
	return s, nil
}

// comment takes a line's comment off.
func comment(l string) (text, note string) {
	if strings.HasPrefix(l, "#") {
		return "", ""
	}
	text, note, _ = strings.Cut(l, " #")
	return strings.TrimSpace(text), strings.TrimSpace(note)
}

func (s *script) step(l string) (err error) {
	st := step{partition: "0"}
	if rest, ok := strings.CutPrefix(l, "+ "); ok {
		if n := len(s.steps); n == 0 || s.steps[n-1].what != "" {
			return fmt.Errorf("nothing stands before %q that it could come with", l)
		}
		st.together, l = true, strings.TrimSpace(rest)
	}
	if rest, ok := strings.CutPrefix(l, "@"); ok {
		st.partition, l, _ = strings.Cut(rest, " ")
		l = strings.TrimSpace(l)
	}
	words := strings.Fields(l)
	switch {
	case slices.Equal(words, []string{"idle"}), slices.Equal(words, []string{"restart"}):
		st.what = words[0]
	case words[0] == "partition" && len(words) == 2:
		st.what, st.partition = "partition", words[1]
	case words[0] == "again" && len(words) == 2:
		i := slices.IndexFunc(s.steps, func(old step) bool { return old.name == words[1] })
		if i < 0 {
			return fmt.Errorf("%q never came", words[1])
		}
		old := s.steps[i]
		st.name, st.text, st.ok, st.at, st.fields = old.name, old.text, old.ok, old.at, old.fields
	case words[0] == "raw" && len(words) > 2:
		st.name = words[1]
		st.text = strings.TrimSpace(l[strings.Index(l, words[1])+len(words[1]):])
	case len(words) >= 2:
		if st.at, err = clock(words[0]); err != nil {
			return err
		}
		st.ok, st.name, st.fields = true, words[1], map[string]any{}
		pairs := append([]string{s.u.Event.ID[0] + "=" + words[1], s.u.Event.Time + "=" + st.at.Format(time.RFC3339Nano)}, words[2:]...)
		var parts []string
		for _, pair := range pairs {
			key, value, ok := strings.Cut(pair, "=")
			if !ok {
				return fmt.Errorf("%q is no field=value", pair)
			}
			if !json.Valid([]byte(value)) {
				value = strconv.Quote(value)
			}
			var v any
			d := json.NewDecoder(strings.NewReader(value))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				return err
			}
			st.fields[key] = v
			parts = append(parts, strconv.Quote(key)+":"+value)
		}
		st.text = "{" + strings.Join(parts, ",") + "}"
	default:
		return fmt.Errorf("%q is no line of a script", l)
	}
	s.steps = append(s.steps, st)
	return nil
}

// clock reads 10:00, 10:00:00.5 or 2T10:00.
func clock(text string) (time.Time, error) {
	day, hour, ok := strings.Cut(text, "T")
	if !ok {
		day, hour = "1", text
	}
	n, err := strconv.Atoi(day)
	for _, layout := range []string{"15:04", "15:04:05"} {
		if at, bad := time.Parse(layout, hour); bad == nil && err == nil {
			return time.Date(2024, 1, n, at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time such as 10:00 or 2T10:00:00.5", text)
}

// records are the steps that are records.
func (s *script) records() (all []step) {
	for _, st := range s.steps {
		if st.what == "" {
			all = append(all, st)
		}
	}
	return all
}

// want is what the script expects of a run, sorted.
func (s *script) want(run string) []string {
	var out []string
	for _, l := range s.expected {
		if len(l.runs) == 0 || slices.Contains(l.runs, run) {
			out = append(out, l.name+" "+l.result)
		}
	}
	slices.Sort(out)
	return out
}

// rewrite is the script with what the runs gave for its expectations.
func (s *script) rewrite(got map[string][]string) string {
	var b strings.Builder
	b.WriteString(s.title + "-- use case --\n" + s.useCase + "-- events --\n" + s.events + "-- expect --\n")
	var written []string
	for _, rec := range s.records() {
		if slices.Contains(written, rec.name) {
			continue
		}
		written = append(written, rec.name)
		for _, l := range merge(rec.name, got) {
			for _, old := range s.expected {
				if old.name == l.name && slices.Equal(old.runs, l.runs) && old.note != "" && (l.note == "" || old.result == l.result) {
					l.note = old.note
				}
			}
			b.WriteString(l.String() + "\n")
		}
	}
	return b.String()
}

// merge makes lines of a record's results, one where runs agree.
func merge(name string, got map[string][]string) (lines []line) {
	for i, run := range runs {
		for _, g := range got[run] {
			n, result, _ := strings.Cut(g, " ")
			if n != name {
				continue
			}
			at := slices.IndexFunc(lines, func(l line) bool { return l.result == result && !slices.Contains(l.runs, run) })
			if at < 0 {
				lines = append(lines, line{name: name, result: result})
				at = len(lines) - 1
			}
			lines[at].runs = append(lines[at].runs, runs[i])
		}
	}
	for i := range lines {
		if len(lines[i].runs) == len(runs) {
			lines[i].runs = nil
		}
	}
	return lines
}
