package cli

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/pipelines/runner/flink"
	"github.com/millrace-ml/millrace/pipelines/runner/flink/local"
	"github.com/millrace-ml/millrace/pipelines/scoring"
	"github.com/millrace-ml/millrace/transforms/connect"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/source"
)

// flinkOptions are those that the flags ask for: of the local cluster, if one runs and the flags name none.
func (c *common) flinkOptions() (flink.Options, error) {
	o, err := flink.Parse(c.flink)
	if err != nil {
		return o, err
	}
	if o.Endpoint == "" && o.REST == "" {
		if near, ok := nearCluster(); ok {
			o.Endpoint, o.REST = near.JobServer(), near.REST()
			if o.Environment == "" {
				o.Environment, o.EnvironmentConfig = near.Environment()
			}
		}
	}
	if o.Name == "" { // jobs are found by it: others beside the scoring one have names of their own
		o.Name = c.useCase
		if c.verb != "run" {
			o.Name += "-" + c.verb
		}
	}
	if o, err = o.Resume(); err != nil {
		return o, err
	}
	if c.shards > 0 {
		o.Shards = c.shards
	}
	return o, nil
}

// nearCluster is the user's own cluster, if it runs.
func nearCluster() (*local.Cluster, bool) {
	cluster, err := local.Open("")
	if err != nil || len(cluster.PIDs()) == 0 {
		return nil, false
	}
	return cluster, true
}

// reporter says how a job on a cluster goes on.
func reporter(pr *progress) flink.Progress {
	var once sync.Once
	var state flink.State
	var trouble string
	return func(d flink.Detail) {
		once.Do(func() { pr.say("job %s is Flink's %s", d.Name, d.ID) })
		if d.State != state {
			state = d.State
			if d.Failure != "" {
				pr.say("the job is %s: %s", state, d.Failure)
			} else {
				pr.say("the job is %s", state)
			}
		}
		pr.hear(d, time.Now())
		switch {
		case d.Trouble == trouble:
		case d.Trouble == "":
			pr.say("checkpoints complete again")
		default:
			pr.say("%s", d.Trouble)
		}
		trouble = d.Trouble
	}
}

// unbound lets shuffles between workers elsewhere keep what they are given: it is with the runner, not in the
// process that gives it, and no worker sees a file to which another one spills.
func unbound(p *feature.Params) { p.Memory = math.MaxInt64 }

// far makes the paths of a plan whole for workers elsewhere, which have other folders to start from, and
// refuses what only this process has.
func far(p *scoring.Plan) error {
	errs := []error{farSource(&p.Source)}
	addresses := []*string{&p.DeadLetters}
	for i := range p.Sinks {
		if connect.Scheme(p.Sinks[i].URL) == "-" {
			errs = append(errs, errors.New("sink -: workers on a cluster have no standard output of yours: give a file or a topic that they can reach"))
		}
		addresses = append(addresses, &p.Sinks[i].URL)
	}
	if p.Log != nil {
		addresses = append(addresses, &p.Log.Sink.URL)
	}
	for i := range p.Predict.Models {
		addresses = append(addresses, &p.Predict.Models[i].Registry)
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return whole(addresses...)
}

// farSource is far for what is read.
func farSource(p *source.Params) error {
	var errs []error
	for _, urls := range [][]string{p.URLs, p.Labels.URLs, p.Replay} {
		errs = append(errs, farReads(urls))
	}
	return errors.Join(errs...)
}

func farReads(urls []string) error {
	var errs []error
	for i, a := range urls {
		if s := connect.Scheme(a); s == "-" || s == "stdin" {
			errs = append(errs, fmt.Errorf("source %s: workers on a cluster have no standard input: give a file or a topic that they can reach", a))
		} else if why := source.LocalOnly(a); why != "" {
			errs = append(errs, fmt.Errorf("source %s: %s", connect.Redact(a), why))
		} else {
			errs = append(errs, whole(&urls[i]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

// whole makes the relative paths among addresses absolute.
func whole(addresses ...*string) error {
	for _, a := range addresses {
		if *a == "" || connect.Scheme(*a) != "file" {
			continue
		}
		path, isURL := strings.CutPrefix(*a, "file://")
		if filepath.IsAbs(path) || isURL && strings.HasPrefix(path, "localhost/") {
			continue
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "/") { // a folder
			abs += "/"
		}
		if isURL {
			abs = "file://" + abs
		}
		*a = abs
	}
	return nil
}
