package cli

import (
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/pipelines/scoring"
	_ "github.com/millrace-ml/millrace/transforms/connect/intake"
	"github.com/millrace-ml/millrace/transforms/sink"
	"github.com/millrace-ml/millrace/transforms/source"
)

// TestFar: what this machine alone has is refused before a job is sent away.
func TestFar(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p    scoring.Plan
		want string
	}{
		"topic":  {scoring.Plan{Source: source.Params{URLs: []string{"kafka://b:1/t"}}}, ""},
		"intake": {scoring.Plan{Source: source.Params{URLs: []string{"intake://:8080/x?wal=d"}}}, "broker"},
		"labels": {scoring.Plan{Source: source.Params{Labels: source.Labels{URLs: []string{"intake://:8080/x?wal=d"}}}}, "broker"},
		"replay": {scoring.Plan{Source: source.Params{Replay: []string{"intake://:8080/x?wal=d"}}}, "broker"},
		"stdin":  {scoring.Plan{Source: source.Params{URLs: []string{"-"}}}, "standard input"},
		"stdout": {scoring.Plan{Sinks: []sink.Params{{URL: "-"}}}, "standard output"},
	} {
		err := far(&c.p)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	p := scoring.Plan{Source: source.Params{URLs: []string{"in.csv"}}, DeadLetters: "dead/"}
	if err := far(&p); err != nil || !strings.HasPrefix(p.Source.URLs[0], "/") || !strings.HasSuffix(p.DeadLetters, "/dead/") || !strings.HasPrefix(p.DeadLetters, "/") {
		t.Errorf("paths %s and %s, %v", p.Source.URLs[0], p.DeadLetters, err)
	}
}
