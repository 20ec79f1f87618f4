package script

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the expectations of the scripts anew")

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := parse(file, string(text))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string][]string{}
			for _, run := range runs {
				got[run] = s.outcome(t, run)
			}
			for _, fault := range s.rules(t, got) {
				t.Error(fault)
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(s.rewrite(got)), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, run := range runs {
				if d := cmp.Diff(s.want(run), got[run]); d != "" {
					t.Errorf("%s (-want +got):\n%s", run, d)
				}
			}
		})
	}
}

// rules are what holds of every script, whatever its expectations say.
func (s *script) rules(t *testing.T, got map[string][]string) (faults []string) {
	t.Helper()
	differ := func(what string, want, got []string) {
		if d := cmp.Diff(want, got); d != "" {
			faults = append(faults, what+" (-want +got):\n"+d)
		}
	}
	for _, run := range runs {
		if records := s.records(); len(got[run]) != len(records) {
			faults = append(faults, run+": some records came to no end, or to two")
		}
		faults = append(faults, s.check(t, run, got[run])...)
	}
	late := func(l string) bool { return strings.HasSuffix(l, " late") }
	want := got["bounded"]
	if slices.ContainsFunc(got["event_time"], late) {
		var admitted []step
		gone := slices.Clone(got["event_time"])
		for _, rec := range s.records() {
			if i := slices.Index(gone, rec.name+" late"); i >= 0 {
				gone[i] = ""
			} else {
				admitted = append(admitted, rec)
			}
		}
		want = s.bounded(t, admitted)
	}
	differ("event_time is not the bounded run over what wasn't late", want, slices.DeleteFunc(slices.Clone(got["event_time"]), late))
	if s.inOrder() {
		differ("arrival in order is not the bounded run", got["bounded"], got["arrival"])
	}
	return faults
}

// inOrder tells whether the events come in the order of time, each once and for itself.
func (s *script) inOrder() bool {
	all := s.records()
	for i, st := range all {
		if !st.ok || st.together || i > 0 && !all[i-1].at.Before(st.at) {
			return false
		}
	}
	return true
}
