package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/transforms/decode"
)

// TestChanges: what a source of changes says, and where it says too much.
func TestChanges(t *testing.T) {
	for _, tc := range []struct {
		source string
		want   decode.Changes
		fault  string // its path and a part of the message
	}{
		{source: `{url: "kafka://h/t", format: debezium}`},
		{source: `{url: "kafka://h/t", format: debezium, ops: [create, update, delete, snapshot], decimals: precise}`,
			want: decode.Changes{Ops: []string{"create", "update", "delete", "snapshot"}, Decimals: "precise"}},
		{source: `{url: "kafka://h/t", format: debezium, ops: update, decimals: string}`, want: decode.Changes{Ops: []string{"update"}, Decimals: "string"}},
		{source: `[{url: "kafka://h/t", format: debezium, ops: update}, {url: "kafka://h/u", format: debezium, ops: update}]`, want: decode.Changes{Ops: []string{"update"}}},
		{source: `{url: "kafka://h/t", format: debesium}`, fault: "source.format: did you mean debezium"},
		{source: `{url: "kafka://h/t", format: debezium, ops: [create, udpate]}`, fault: "source.ops[1]: did you mean update"},
		{source: `{url: "kafka://h/t", format: debezium, ops: []}`, fault: "source.ops: "},
		{source: `{url: "kafka://h/t", format: debezium, decimals: double}`, fault: "source.decimals: not one of precise, string"},
		{source: `{url: "kafka://h/t", ops: [create]}`, fault: "source.ops: is for format: debezium"},
		{source: `{url: "kafka://h/t", format: json, decimals: string}`, fault: "source.decimals: is for format: debezium"},
		{source: `[{url: "kafka://h/t", ops: create}]`, fault: "source[0].ops: is for format: debezium"},
		{source: `[{url: "kafka://h/t", format: debezium}, {url: "kafka://h/u", format: debezium, ops: update}]`, fault: "source[1]: the same ops"},
		{source: `[{url: "kafka://h/t", format: debezium}, {url: "kafka://h/u"}]`, fault: "source[1]: all sources have one format"},
	} {
		if tc.fault != "" {
			path, message, _ := strings.Cut(tc.fault, ": ")
			if got := faults(t, small, "source="+tc.source); len(got) != 1 || got[0].Path != path || !strings.Contains(got[0].Message, message) {
				t.Errorf("%s: %v; want %s", tc.source, got, tc.fault)
			}
			continue
		}
		u, err := Parse("x.yaml", []byte(small), []string{"source=" + tc.source})
		if err != nil {
			t.Errorf("%s: %v", tc.source, err)
			continue
		}
		if p := u.Decode(); p.Format != "debezium" || p.Validate() != nil {
			t.Errorf("%s: %+v", tc.source, p)
		} else if d := cmp.Diff(tc.want, p.Changes); d != "" {
			t.Errorf("%s: %s", tc.source, d)
		}
	}
}

// TestChangesOfARow: lint warns where the changes of a row would be taken for one event.
func TestChangesOfARow(t *testing.T) {
	for ops, want := range map[string]int{
		"[create, snapshot]": 0, "[delete]": 0, "[create, update]": 1, "[update]": 1, "[create, delete]": 1, "[update, delete]": 1,
	} {
		source := `source={url: "kafka://h/t", format: debezium, ops: ` + ops + `}`
		u, err := Parse("x.yaml", []byte(small), []string{source})
		if err != nil {
			t.Fatal(err)
		}
		if got := about(u.Warnings, "event.id"); got != want {
			t.Errorf("%s: %d warnings, want %d: %v", ops, got, want, u.Warnings)
		}
		u, err = Parse("x.yaml", []byte(small), []string{source, "event.id=[ID, LSN]", "event.fields.LSN={type: int, path: $.source.lsn}"})
		if err != nil {
			t.Fatal(err)
		}
		if got := about(u.Warnings, "event.id"); got != 0 {
			t.Errorf("%s with the position in the log: %v", ops, u.Warnings)
		}
	}
}

func about(all Faults, path string) (n int) {
	for _, f := range all {
		if f.Path == path {
			n++
		}
	}
	return n
}
