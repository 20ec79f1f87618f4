package e2e_test

import (
	"context"
	"encoding/json"
	"reflect"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/transforms/deadletter"
	"github.com/millrace-ml/millrace/transforms/event"
	"github.com/millrace-ml/millrace/transforms/feature"
	"github.com/millrace-ml/millrace/transforms/predict"
	"github.com/millrace-ml/millrace/transforms/sink"
)

// payment is a user's own event. The graph below is all it takes to score it: no use-case file, and a
// scorer of one's own. TestOutside counts its lines and runs it.
type payment struct {
	ID       int64     `event:"id,id"`
	At       time.Time `event:"at,time"`
	Card     string    `event:"card,entity"`
	Terminal int32     `event:"terminal,entity"`
	Amount   float64   `event:"amount,decimal=2"`
	Fraud    *bool     `event:"fraud"`
}

type packFn struct{ rows []payment }

func (f *packFn) ProcessElement(p payment, _ func(event.Batch)) { f.rows = append(f.rows, p) }
func (f *packFn) FinishBundle(emit func(event.Batch)) error {
	b, err := event.Pack(f.rows)
	if f.rows = nil; err == nil {
		emit(b)
	}
	return err
}

// ruleOfThumb scores by two features.
type ruleOfThumb struct{}

func (ruleOfThumb) Inputs() []models.Feature {
	return []models.Feature{{Name: "tx_amount", Type: models.Number}, {Name: "terminal_risk_7d", Type: models.Number}}
}
func (ruleOfThumb) Outputs() []string { return []string{"score"} }
func (ruleOfThumb) Score(_ context.Context, x []float32, rows int, out []float32) error {
	for i := range rows {
		out[i] = x[2*i]/1000 + x[2*i+1]
	}
	return nil
}

func init() {
	beam.RegisterDoFn(&packFn{})
	register.Emitter1[event.Batch]()
	beam.RegisterCoder(reflect.TypeFor[payment](), func(p payment) ([]byte, error) { return json.Marshal(p) },
		func(b []byte) (p payment, err error) { return p, json.Unmarshal(b, &p) })
	predict.RegisterScorer("rule of thumb", func(context.Context) (models.Scorer, error) { return ruleOfThumb{}, nil })
}

func fraudFeatures() feature.Params {
	schema, _ := event.SchemaOf[payment]()
	day, zero := 24*time.Hour, 0.0
	windows := []feature.Window{{Duration: day}, {Duration: 7 * day}, {Duration: 30 * day}}
	return feature.Params{Fields: schema.Fields, ID: "id", Time: "at", Label: "fraud", LabelDelay: 7 * day, Features: []feature.Feature{
		{Name: "tx_amount", Expr: "amount"},
		{Name: "weekend", Expr: "at.getDayOfWeek() in [0, 6]"},
		{Name: "night", Expr: "at.getHours() <= 6"},
		{Entity: "card", Windows: windows, Aggregates: []feature.Aggregate{
			{Name: "card_tx_count", Func: "count"}, {Name: "card_tx_mean", Func: "mean", Arg: "amount"}}},
		{Entity: "terminal", Windows: windows, Delay: 7 * day, Aggregates: []feature.Aggregate{
			{Name: "terminal_tx_count", Func: "count"}, {Name: "terminal_risk", Func: "mean", Arg: "fraud", Empty: &zero}}},
	}}
}

func fraudGraph(s beam.Scope, payments beam.PCollection, out, dead string) {
	batches := beam.ParDo(s, &packFn{}, payments)
	rows, rejected := feature.Compute(s, batches, fraudFeatures())
	scored, unscored := predict.Score(s, rows, predict.Params{Models: []predict.Model{{
		Name: "mine", Scorer: "rule of thumb",
		Decide: []predict.Decision{{Name: "block", When: "score >= threshold || weekend && tx_amount > 400"}, {Name: "pass"}},
	}}})
	unsent := sink.Write(s, scored, sink.Params{URL: out})
	deadletter.Write(s, deadletter.Params{URL: dead}, rejected, unscored, unsent)
}
