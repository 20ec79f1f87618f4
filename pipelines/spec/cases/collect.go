package cases

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/pipelines/spec"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/predict"
)

func init() {
	beam.RegisterDoFn(&rowsFn{})
	beam.RegisterDoFn(&lettersFn{})
}

// outcome is what came out of a case: all rows, in order of time and id, and the dead letters.
type outcome struct {
	rows    event.Batch
	letters []deadletter.Letter
}

// gathered holds what the graphs that run in this process give, by the name of the run.
var gathered = struct {
	sync.Mutex
	rows    map[string][]event.Batch
	letters map[string][]deadletter.Letter
}{rows: map[string][]event.Batch{}, letters: map[string][]deadletter.Letter{}}

type rowsFn struct{ Run string }

func (f *rowsFn) ProcessElement(b event.Batch) {
	gathered.Lock()
	defer gathered.Unlock()
	gathered.rows[f.Run] = append(gathered.rows[f.Run], b)
}

type lettersFn struct{ Run string }

func (f *lettersFn) ProcessElement(l deadletter.Letter) {
	gathered.Lock()
	defer gathered.Unlock()
	gathered.letters[f.Run] = append(gathered.letters[f.Run], l)
}

// collect gives the end of a graph, and what has come there once the graph has run.
func collect() (into func(s beam.Scope, rows, letters beam.PCollection), collected func() (outcome, error)) {
	run := rand.Text()
	into = func(s beam.Scope, rows, letters beam.PCollection) {
		beam.ParDo0(s, &rowsFn{Run: run}, rows)
		beam.ParDo0(s, &lettersFn{Run: run}, letters)
	}
	collected = func() (outcome, error) {
		gathered.Lock()
		defer gathered.Unlock()
		batches, letters := gathered.rows[run], gathered.letters[run]
		delete(gathered.rows, run)
		delete(gathered.letters, run)
		if len(batches) == 0 {
			return outcome{letters: letters}, nil
		}
		all, err := event.Concat(batches)
		if err != nil {
			return outcome{}, fmt.Errorf("joining what came out: %w", err)
		}
		rows := make([]int32, all.N)
		for i := range rows {
			rows[i] = int32(i)
		}
		slices.SortFunc(rows, func(a, b int32) int {
			if ta, tb := all.Times()[a], all.Times()[b]; ta != tb {
				if ta < tb {
					return -1
				}
				return 1
			}
			return event.CompareIDs(all.IDs(), int(a), all.IDs(), int(b))
		})
		return outcome{rows: all.Gather(rows), letters: letters}, nil
	}
	return into, collected
}

// scores is a scorer that knows events by their id; those without a score get 0.
type scores struct {
	input  models.Feature
	scores []float32
}

// given makes scores known to package predict and returns their name there.
func given(id string, list []spec.GivenScore) string {
	s := &scores{input: models.Feature{Name: id, Type: models.Category}}
	for _, g := range list {
		s.input.Categories = append(s.input.Categories, g.ID)
		s.scores = append(s.scores, float32(g.Score))
	}
	s.scores = append(s.scores, 0)
	name := "cases/" + rand.Text()
	predict.RegisterScorer(name, func(context.Context) (models.Scorer, error) { return s, nil })
	return name
}

func (s *scores) Inputs() []models.Feature { return []models.Feature{s.input} }
func (s *scores) Outputs() []string        { return []string{"score"} }

func (s *scores) Score(_ context.Context, x []float32, rows int, out []float32) error {
	if err := models.CheckShape(1, 1, x, rows, out); err != nil {
		return err
	}
	for i := range rows {
		out[i] = s.scores[int(x[i])]
	}
	return nil
}
