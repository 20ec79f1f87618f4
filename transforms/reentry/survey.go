package reentry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/source"
	"github.com/millrace-ml/millrace/transforms/source/driver"
)

// Survey is what a replay would do.
type Survey struct {
	// Letters is how many were read, Unreadable how many of them are no envelopes.
	Letters, Unreadable int
	Groups              []Group
	// Skipped counts what is left out, by reason.
	Skipped map[string]int
}

// Group are the letters of a class and stage that would be replayed.
type Group struct {
	Stage string
	Class deadletter.Class
	// Good is how many can be read now, Bad how many can't; Why are reasons of those, the most
	// frequent first, with their counts.
	Good, Bad int
	Why       []Reason
}

// Reason is a message with how often it came.
type Reason struct {
	Message string
	Count   int
}

const maxReasons = 5

// Examine reads letters and decodes them, and neither computes nor writes anything.
func Examine(ctx context.Context, parts []driver.Partition, p Params) (Survey, error) {
	out := Survey{Skipped: map[string]int{}}
	e, err := newEntrance(p)
	if err != nil {
		return out, err
	}
	chosen := map[string]deadletter.Letter{}
	for _, part := range parts {
		if err := source.Letters(ctx, part, func(l deadletter.Letter, err error) error {
			out.Letters++
			if err != nil {
				out.Unreadable++
				return nil
			}
			if why := p.Filter.skip(&l); why != "" {
				out.Skipped[why]++
				return nil
			}
			key := identity(&l)
			if other, ok := chosen[key]; ok {
				out.Skipped[copied]++
				l = merge(other, l)
			}
			chosen[key] = l
			return nil
		}); err != nil {
			return out, err
		}
	}
	type kind struct {
		stage string
		class deadletter.Class
	}
	kinds := map[kind][]deadletter.Letter{}
	for _, key := range slices.Sorted(maps.Keys(chosen)) {
		l := chosen[key]
		if why := e.skip(&l); why != "" {
			out.Skipped[why]++
			continue
		}
		kinds[kind{l.Stage, l.Class}] = append(kinds[kind{l.Stage, l.Class}], l)
	}
	for k, letters := range kinds {
		in, err := e.enter(letters)
		if err != nil {
			return out, err
		}
		g := Group{Stage: k.stage, Class: k.class, Bad: len(in.failed), Good: len(letters) - len(in.failed)}
		counts := map[string]int{}
		for _, l := range in.failed {
			counts[l.Message]++
		}
		for message, n := range counts {
			g.Why = append(g.Why, Reason{message, n})
		}
		slices.SortFunc(g.Why, func(a, b Reason) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Message, b.Message))
		})
		out.Groups = append(out.Groups, g)
	}
	slices.SortFunc(out.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Class, b.Class))
	})
	return out, nil
}

// Print writes the survey as a table, with the most frequent reasons of each line.
func (s Survey) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "stage\tclass\treplayed\tread now\tstill bad")
	for _, g := range s.Groups {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\n", g.Stage, g.Class, g.Good+g.Bad, g.Good, g.Bad)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, g := range s.Groups {
		for i, r := range g.Why {
			if i == maxReasons {
				fmt.Fprintf(w, "  and %d more reasons\n", len(g.Why)-i)
				break
			}
			fmt.Fprintf(w, "%s, %s: %d x %s\n", g.Stage, g.Class, r.Count, r.Message)
		}
	}
	_, err := fmt.Fprintf(w, "%d letters%s\n", s.Letters, Skips(s.Unreadable, s.Skipped))
	return err
}

// Skips says how many letters are left out, and why; nothing if none is.
func Skips(unreadable int, skipped map[string]int) string {
	text := ""
	add := func(n int, why string) {
		if n > 0 {
			text += fmt.Sprintf("; skipped %d: %s", n, why)
		}
	}
	if unreadable > 0 {
		text += fmt.Sprintf("; %d lines are no dead letters", unreadable)
	}
	add(skipped[byFilter], "other classes, stages or times than asked for")
	add(skipped[attempts], "tried too often (--max-attempts)")
	add(skipped[late], "late (--accept-late lets them in)")
	add(skipped[never], "their class has nothing to enter again with, as duplicates")
	add(skipped[cut], "the record is not kept whole")
	add(skipped[features], "their features are of another feature section, or not kept")
	add(skipped[copied], "letters of an event that another letter holds")
	add(skipped[change], "changes that are no events by the use case as it is")
	return text
}

// Outcome is what a replay has done.
type Outcome struct {
	// Letters were read; AtDecode and AtPredict is how many entered, Written how many rows the sinks
	// took, Failed how many are dead letters again.
	// Sent is how many went to a stream instead.
	Letters, Unreadable, AtDecode, AtPredict, Scored, Written, Failed, Sent int
	Skipped                                                                 map[string]int
}

// Count makes an outcome of a job's counters.
func Count(counters map[string]int64) Outcome {
	n := func(name string) int { return int(counters[name]) }
	o := Outcome{
		Letters: n("replay.letters"), Unreadable: n("replay.unreadable"), AtDecode: n("replay.at_decode"), AtPredict: n("replay.at_predict"),
		Scored: n("predict.scored"), Written: n("sink.written"), Failed: n("replay.failed"), Sent: n("replay.sent"), Skipped: map[string]int{},
	}
	for _, r := range reasons {
		if k := n("replay.skipped_" + r); k > 0 {
			o.Skipped[r] = k
		}
	}
	return o
}

// String is the outcome in a line.
func (o Outcome) String() string {
	return fmt.Sprintf("%d letters: %d replayed (%d from their record, %d from their features), %d scored, %d written, %d failed again%s",
		o.Letters, o.AtDecode+o.AtPredict, o.AtDecode, o.AtPredict, o.Scored, o.Written, o.Failed, Skips(o.Unreadable, o.Skipped))
}
