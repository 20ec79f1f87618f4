package flink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/millrace-ml/millrace/pipelines/runner/names"
)

// note is the file millrace.json beside a savepoint: what the job kept in it, by the names of its stages,
// so that a graph that means something else is refused before it starts.
type note struct {
	V     int      `json:"v"`
	Job   string   `json:"job"`
	Flink string   `json:"flink"`
	State []string `json:"state"` // "customer_id@3fa2c1"
	// What is fixed for the life of the state; 0 where nobody said it.
	Shards         int `json:"shards,omitempty"`
	MaxParallelism int `json:"max_parallelism,omitempty"`
}

const noteName = "millrace.json"

// stateful finds the stages in the names of transforms and vertices.
var stateful = regexp.MustCompile(`[\w.$-]+@[0-9a-f]{8}\b`)

// states are the stages with state that such names tell.
func states(of []string) []string {
	var found []string
	for _, n := range of {
		found = append(found, stateful.FindAllString(n, -1)...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// nameCollections names each collection by the transform that gives it. The runner names a stage, and Flink finds
// its state, by the collection that the stage reads: by the SDK's names, which are numbers, state would be
// handed to whatever stage has the number now.
func nameCollections(p *pipepb.Pipeline) {
	for _, t := range p.GetComponents().GetTransforms() {
		if len(t.GetSubtransforms()) > 0 {
			continue
		}
		for tag, id := range t.GetOutputs() {
			if c := p.GetComponents().GetPcollections()[id]; c != nil {
				c.UniqueName = t.GetUniqueName() + "." + tag
			}
		}
	}
}

// local is the path of a savepoint that this machine sees.
func local(savepoint string) (string, bool) {
	path, ok := strings.CutPrefix(savepoint, "file:")
	if !ok {
		path = savepoint
		if strings.Contains(path, "://") {
			return "", false
		}
	}
	path = "/" + strings.TrimLeft(path, "/")
	return path, true
}

// Note writes millrace.json beside a savepoint of a job, where this machine sees the savepoint's folder;
// elsewhere Flink alone refuses state of another meaning.
func (c *Cluster) Note(ctx context.Context, id, savepoint string) error {
	var config struct {
		Name      string
		Execution struct {
			User struct {
				App string `json:"appName"`
			} `json:"user-config"`
		} `json:"execution-config"`
	}
	if err := c.call(ctx, http.MethodGet, "/jobs/"+id+"/config", nil, &config); err != nil {
		return err
	}
	o, err := c.Overview(ctx)
	if err != nil {
		return err
	}
	return writeNote(savepoint, appNote(config.Name, o.Version, config.Execution.User.App))
}

// appName is what the cluster can be asked for as long as it remembers the job: see Note.
func (j *Job) appName() string {
	fixed := []string{j.options.Name, fmt.Sprintf("shards=%d", j.options.Shards), fmt.Sprintf("max_parallelism=%d", j.options.MaxParallelism)}
	return strings.Join(append(fixed, states(names.All(j.pipeline))...), " ")
}

// appNote is the note of a job with such a name.
func appNote(job, version, app string) note {
	n := note{V: 1, Job: job, Flink: version, State: states([]string{app})}
	for _, word := range strings.Fields(app) {
		name, value, _ := strings.Cut(word, "=")
		switch v, err := strconv.Atoi(value); {
		case err != nil:
		case name == "shards":
			n.Shards = v
		case name == "max_parallelism":
			n.MaxParallelism = v
		}
	}
	return n
}

func writeNote(savepoint string, n note) error {
	dir, ok := local(savepoint)
	if !ok {
		return nil
	}
	if _, err := os.Stat(dir); err != nil { // on another machine
		return nil
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, noteName), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("noting what the savepoint holds: %w", err)
	}
	return nil
}

// note writes that of a job's own savepoint.
func (j *Job) note() error {
	return writeNote(j.savepoint, appNote(j.options.Name, j.version, j.appName()))
}

// readNote reads the note beside a savepoint, where there is one and this machine sees it.
func readNote(savepoint string) (n note, ok bool, err error) {
	dir, ok := local(savepoint)
	if !ok {
		return n, false, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, noteName))
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &n)
	}
	if err != nil {
		return n, false, fmt.Errorf("reading what the savepoint holds: %w", err)
	}
	return n, true, nil
}

// Resume fills in what is fixed for the life of the state and noted beside the savepoint that the job goes on
// from, and refuses what says otherwise with [ErrState]. Call it before the graph is built.
func (o Options) Resume() (Options, error) {
	if o.SavepointPath == "" || o.FreshState {
		return o, nil
	}
	n, _, err := readNote(o.SavepointPath)
	if err != nil {
		return o, err
	}
	for _, f := range []struct {
		name string
		want *int
		kept int
	}{{"shards", &o.Shards, n.Shards}, {"max_parallelism", &o.MaxParallelism, n.MaxParallelism}} {
		switch {
		case f.kept == 0 || *f.want == f.kept:
		case *f.want == 0:
			*f.want = f.kept
		default:
			return o, fmt.Errorf("%w: it has %s=%d, which is fixed for the life of the state, and %d was given: leave it out, or give fresh_state=true, which drops the state", ErrState, f.name, f.kept, *f.want)
		}
	}
	return o, nil
}

// ErrState reports a savepoint whose state the graph has no stage for.
var ErrState = errors.New("the savepoint holds other state")

// compareState finds out, where there is a note, whether the graph has a stage for all that the savepoint holds.
func (j *Job) compareState() error {
	if j.options.SavepointPath == "" || j.options.FreshState {
		return nil
	}
	n, ok, err := readNote(j.options.SavepointPath)
	if err != nil || !ok {
		return err
	}
	return compare(n.State, states(names.All(j.pipeline)))
}

// changed is what makes a graph's state another one.
const changed = "its windows, aggregates, order, lateness, number of shards, or in the order event_time the columns of its rows changed"

func compare(kept, have []string) error {
	var errs []error
	for _, k := range kept {
		if slices.Contains(have, k) {
			continue
		}
		entity, _, _ := strings.Cut(k, "@")
		now := "no stage"
		for _, h := range have {
			if e, print, _ := strings.Cut(h, "@"); e == entity {
				now = "fingerprint " + print
			}
		}
		errs = append(errs, fmt.Errorf("%w: %s, and the graph has %s for %s: %s; go on with the graph that wrote it, or give fresh_state=true, which drops that state", ErrState, k, now, entity, changed))
	}
	return errors.Join(errs...)
}
