package evaluate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// CardRows are scored events of entities (payment cards, accounts, machines). The slices have one
// length; their order does not matter.
type CardRows[E cmp.Ordered, F Float] struct {
	// Time is the event time, in any unit since any origin at which a period begins, such as Unix
	// milliseconds for days in UTC.
	Time   []int64
	Entity []E
	Score  []F
	Label  []F
}

// CardPeriod is one period's part of card precision.
type CardPeriod struct {
	// Period is the number of the period: time divided by its length, rounded down.
	Period int64 `json:"period"`
	// Cards are the entities still unknown that have a row in the period, Positives those of them
	// with a positive row.
	Cards     int `json:"cards"`
	Positives int `json:"positives"`
	// Hits are the positives among the k highest.
	Hits int `json:"hits"`
	// Precision is Hits / k.
	Precision float64 `json:"precision"`
}

// CardResult is card precision at k.
type CardResult struct {
	// Mean is over the periods that have rows; NaN if there are none.
	Mean    float64      `json:"mean"`
	Periods []CardPeriod `json:"periods"`
}

// CardPrecision is Card Precision at k of the Fraud Detection Handbook. For each period of length
// per (in Time's unit), in order: entities detected in earlier periods are dropped; an entity has
// its highest score and its highest label of the period; the k entities with the highest scores
// are checked; the period's precision is the share of positives among them, over k even where
// fewer are left; the positives among them are detected. The result is the mean over the periods.
//
// Entities with equal scores are taken in the order of the entities, which knows nothing of labels.
// A NaN score ranks below all others. It panics if k or per is not positive.
func CardPrecision[E cmp.Ordered, F Float](rows CardRows[E, F], k int, per int64) CardResult {
	return newCards(rows, k, per).result(nil)
}

// CardCeiling is the CardPrecision of a scorer that ranks every positive first: what is possible on
// these rows.
func CardCeiling[E cmp.Ordered, F Float](rows CardRows[E, F], k int, per int64) CardResult {
	rows.Score = rows.Label
	return CardPrecision(rows, k, per)
}

// cards holds the rows as one entry per period and entity, periods in order and each by rank.
type cards struct {
	k        int
	entities int
	periods  []cardRanking
}

type cardRanking struct {
	period   int64
	entity   []int32
	positive []bool
}

func newCards[E cmp.Ordered, F Float](rows CardRows[E, F], k int, per int64) *cards {
	n := len(rows.Time)
	if len(rows.Entity) != n || len(rows.Score) != n || len(rows.Label) != n {
		panic(fmt.Sprintf("evaluate: %d times, %d entities, %d scores and %d labels", n, len(rows.Entity), len(rows.Score), len(rows.Label)))
	}
	if k < 1 || per < 1 {
		panic(fmt.Sprintf("evaluate: card precision at %d per %d", k, per))
	}
	// Entities are numbered in their own order, so that comparing numbers breaks ties.
	distinct := slices.Clone(rows.Entity)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	number := make(map[E]int32, len(distinct))
	for i, e := range distinct {
		number[e] = int32(i)
	}
	type card struct {
		period   int64
		entity   int32
		score    F
		positive bool
	}
	type key struct {
		period int64
		entity int32
	}
	at := map[key]int{}
	var all []card
	for i, e := range rows.Entity {
		c := card{floorDiv(rows.Time[i], per), number[e], rows.Score[i], rows.Label[i] > 0.5}
		j, ok := at[key{c.period, c.entity}]
		if !ok {
			at[key{c.period, c.entity}] = len(all)
			all = append(all, c)
			continue
		}
		if cmp.Less(all[j].score, c.score) {
			all[j].score = c.score
		}
		all[j].positive = all[j].positive || c.positive
	}
	slices.SortFunc(all, func(a, b card) int {
		return cmp.Or(cmp.Compare(a.period, b.period), cmp.Compare(b.score, a.score), cmp.Compare(a.entity, b.entity))
	})
	out := &cards{k: k, entities: len(distinct)}
	for i, c := range all {
		if i == 0 || all[i-1].period != c.period {
			out.periods = append(out.periods, cardRanking{period: c.period})
		}
		p := &out.periods[len(out.periods)-1]
		p.entity = append(p.entity, c.entity)
		p.positive = append(p.positive, c.positive)
	}
	return out
}

// result counts entity e counts[e] times, or once if counts is nil: as many cards that behave
// alike, of which those within the k highest are found and the others are not.
func (c *cards) result(counts []uint32) CardResult {
	unknown := make([]uint32, c.entities)
	return c.resultIn(unknown, counts)
}

func (c *cards) resultIn(unknown, counts []uint32) CardResult {
	for e := range unknown {
		unknown[e] = 1
	}
	if counts != nil {
		copy(unknown, counts)
	}
	out := CardResult{Mean: math.NaN()}
	var sum float64
	for _, p := range c.periods {
		r := CardPeriod{Period: p.period}
		left := c.k
		for i, e := range p.entity {
			n := int(unknown[e])
			r.Cards += n
			taken := min(n, left)
			left -= taken
			if p.positive[i] {
				r.Positives += n
				r.Hits += taken
				unknown[e] -= uint32(taken)
			}
		}
		r.Precision = float64(r.Hits) / float64(c.k)
		sum += r.Precision
		out.Periods = append(out.Periods, r)
	}
	if len(c.periods) > 0 {
		out.Mean = sum / float64(len(c.periods))
	}
	return out
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
