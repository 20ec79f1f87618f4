package cli

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/bundle"
	"github.com/millrace-ml/millrace/models/registry"
)

// constant is a model that says the same of every row.
type constant struct{}

func init() {
	models.Register(models.Kind{Name: "cli-constant", Load: func(models.Files) (models.Model, error) { return constant{}, nil }})
}

func (constant) Kind() string { return "cli-constant" }
func (constant) Inputs() []models.Feature {
	return []models.Feature{{Name: "amount", Type: models.Number}}
}
func (constant) Outputs() []string            { return []string{"score"} }
func (constant) Files() (models.Files, error) { return models.Files{"none": {}}, nil }
func (constant) Score(_ context.Context, x []float32, rows int, out []float32) error {
	clear(out)
	return models.CheckShape(1, 1, x, rows, out)
}

func TestMoveModels(t *testing.T) {
	where := filepath.Join(t.TempDir(), "registry")
	r, err := registry.Open(t.Context(), where, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, fingerprint := range []string{"f", "f", "f", "other"} {
		if _, err := r.Publish(t.Context(), "fraud", &bundle.Bundle{Manifest: bundle.Manifest{Fingerprint: fingerprint}, Model: constant{}, Golden: []float32{1}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"promote fraud", exitUsage, "needs a model's name and a version"},
		{"rollback fraud", exitFailed, "has no champion"},
		{"promote fraud 9", exitFailed, "its versions are [1 2 3 4]"},
		{"promote fraud 1 --who alice", exitOK, "champion of fraud is version 1; it was not set before"},
		{"rollback fraud", exitFailed, "never pointed at another"},
		{"promote fraud 2 --expect 3 --who bob", exitFailed, "alias was moved meanwhile"},
		{"promote fraud 2 --expect 1 --who bob --why better", exitOK, "champion of fraud is version 2; it was 1 (to undo: millrace models rollback fraud --alias champion)"},
		{"promote fraud 2 --who bob", exitOK, "version 2, as before: streams that refused it look at it again"},
		{"promote fraud 3 --who bob", exitOK, "is version 3; it was 2"},
		{"rollback fraud --who carol --why worse", exitOK, "champion of fraud is version 2 again; it was 3"},
		{"rollback fraud --who carol", exitOK, "champion of fraud is version 1 again; it was 2"},
		{"promote fraud latest --alias shadow --who bob", exitOK, "shadow of fraud is version 4; it was not set before"},
		{"promote fraud latest --who bob", exitOK, "warning: it was trained on features other, version 1 on f"},
	} {
		code, stdout, stderr := call(t, append(append([]string{"models"}, strings.Fields(c.args)...), "--registry", where)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%s: exit code %d, want %d; it says %q, want %q in it", c.args, code, c.code, stdout+stderr, c.says)
		}
	}
	events, err := r.History(t.Context(), "fraud")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		if e.Alias == registry.Champion {
			got = append(got, e.String())
		}
	}
	if d := cmp.Diff([]string{
		"champion set to version 1 by alice",
		"champion moved from version 1 to 2 by bob: better",
		"champion moved from version 2 to 2 by bob",
		"champion moved from version 2 to 3 by bob",
		"champion rolled back from version 3 to 2 by carol: worse",
		"champion rolled back from version 2 to 1 by carol",
		"champion moved from version 1 to 4 by bob",
	}, got); d != "" {
		t.Error(d)
	}
}
