package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// unread lists, for the verbs that build graphs, the sections that they leave alone.
var unread = []struct {
	verb     string
	sections []string
}{
	{"run", []string{"training"}},
	{"features", []string{"models", "registry", "sinks", "training"}},
	{"retrain", []string{"sinks"}},
	{"test", []string{"source", "sinks", "training"}},
}

// Explain says, in lines for people, what lint can know of a use case without its data: which of its
// sections have no effect on which verb, how long and for whom rows are kept, and the features in
// order.
func (u *UseCase) Explain() []string {
	var root yaml.Node
	given := map[string]bool{}
	if yaml.Unmarshal(u.Text, &root) == nil && len(root.Content) > 0 {
		for i := 0; i+1 < len(root.Content[0].Content); i += 2 {
			given[root.Content[0].Content[i].Value] = true
		}
	}
	lines := []string{"", "Sections without effect, by verb:"}
	for _, m := range unread {
		var names []string
		for _, s := range m.sections {
			if !given[s] {
				continue
			}
			if s == "sinks" && u.DeadLetters != "" && m.verb != "test" {
				s = "sinks (but for dead_letters)"
			}
			names = append(names, s)
		}
		if len(names) > 0 {
			lines = append(lines, fmt.Sprintf("  %-9s %s", m.verb, strings.Join(names, ", ")))
		}
	}
	lines = append(lines, "", "Rows kept in memory, by entity:")
	kept := map[string]bool{}
	for _, e := range u.Entries {
		if e.Entity == "" || kept[e.Entity] {
			continue
		}
		kept[e.Entity] = true
		lines = append(lines, fmt.Sprintf("  %-9s %s", e.Entity, u.keeps(e.Entity)))
	}
	if len(kept) == 0 {
		lines = append(lines, "  none: no feature has an entity")
	}
	if u.HasLabels() && u.Label.Join != nil {
		j := u.Label.Join
		lines = append(lines, "", fmt.Sprintf("The join of labels keeps %s of ids, times and entities: %.2f GiB at %g events/s and about 48 bytes each", FormatDuration(j.Horizon), j.Bytes()/(1<<30), j.Rate))
	}
	lines = append(lines, "", "Features, in order:")
	for i, n := range u.Features().Names() {
		lines = append(lines, fmt.Sprintf("  %3d %s", i, n))
	}
	return lines
}

// keeps says which rows the windows of an entity reach back to.
func (u *UseCase) keeps(entity string) string {
	var longest time.Duration
	last, all, sessions := 0, false, time.Duration(0)
	for _, e := range u.Entries {
		if e.Entity != entity {
			continue
		}
		for _, w := range e.Windows {
			switch {
			case w.All:
				all = true
			case w.Last > 0:
				last = max(last, w.Last)
			case w.Session > 0:
				sessions = max(sessions, w.Session)
			default:
				longest = max(longest, e.Delay+w.Duration)
			}
		}
	}
	var parts []string
	if longest > 0 {
		parts = append(parts, "those of the last "+FormatDuration(longest))
	}
	if last > 0 {
		parts = append(parts, fmt.Sprintf("the last %d", last))
	}
	if sessions > 0 {
		parts = append(parts, "those since the last pause of "+FormatDuration(sessions))
	}
	if all {
		parts = append(parts, "for the window all a total, or every row where a function needs them")
	}
	return strings.Join(slices.Compact(parts), "; ")
}
