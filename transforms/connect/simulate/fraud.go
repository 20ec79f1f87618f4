package simulate

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/transforms/connect/simulate/internal/mt"
	"github.com/millrace-ml/millrace/transforms/event"
)

// ErrParams reports parameters that can't be used.
var ErrParams = errors.New("unusable simulation")

// Params are the parameters of [Fraud]. The zero value gives the published table.
type Params struct {
	// Days to simulate; 0: 183.
	Days int
	// Customers and Terminals are how many there are; 0: 5000 and 10000.
	Customers, Terminals int
	// Radius is how far customers, in a square of side 100, go to a terminal; 0: 5.
	Radius float64
	// Seed makes the table another one; 0: the published one.
	Seed int64
	// Start is the first day, as 2006-01-02; "": 2018-04-01.
	Start string
	// Rate is how many events a second a source may emit; 0: as many as it can. [Fraud] and
	// [Batches] don't wait: pacing is their caller's.
	Rate float64
}

// Row is a transaction.
type Row struct {
	// ID counts from 0.
	ID int64
	// Time is in microseconds since 1970-01-01 UTC, in whole seconds.
	Time               int64
	Customer, Terminal int64
	// Cents is the amount in hundredths.
	Cents int64
	Fraud bool
	// Scenario is why it is a fraud: 1 its amount is above 220, 2 its terminal was compromised (for
	// 28 days), 3 its customer's card was (for 14 days); 0: it is none. The last that holds counts.
	Scenario int8
}

func (p Params) withDefaults() Params {
	if p.Days == 0 {
		p.Days = 183
	}
	if p.Customers == 0 {
		p.Customers = 5000
	}
	if p.Terminals == 0 {
		p.Terminals = 10000
	}
	if p.Radius == 0 {
		p.Radius = 5
	}
	if p.Start == "" {
		p.Start = "2018-04-01"
	}
	return p
}

// Validate reports every fault of p, as [ErrParams].
func (p Params) Validate() error {
	p = p.withDefaults()
	var errs []error
	count := func(name string, n, most int) {
		if n < 1 || n > most {
			errs = append(errs, fmt.Errorf("%s: %d is not from 1 to %d", name, n, most))
		}
	}
	count("days", p.Days, 36500)
	count("customers", p.Customers, 10_000_000)
	count("terminals", p.Terminals, 10_000_000)
	if !(p.Radius > 0 && p.Radius <= 150) {
		errs = append(errs, fmt.Errorf("radius: %v is not above 0 and up to 150", p.Radius))
	}
	if !(p.Rate >= 0 && p.Rate <= 1e9) {
		errs = append(errs, fmt.Errorf("rate: %v is not from 0 to 1e9", p.Rate))
	}
	if _, err := time.Parse(time.DateOnly, p.Start); err != nil {
		errs = append(errs, fmt.Errorf("start: %q is not a day like 2018-04-01", p.Start))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrParams, err)
	}
	return nil
}

// ParseURL reads simulate://fraud?days=7&seed=1&customers=100&terminals=200&radius=5&start=2018-04-01&rate=1000,
// of which every parameter may be left out. An unknown one is an error.
func ParseURL(s string) (Params, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %w", ErrParams, err)
	}
	if u.Scheme != "simulate" || u.Host != "fraud" || u.Path != "" || u.User != nil || u.Fragment != "" {
		return Params{}, fmt.Errorf("%w: %q; the one simulation is simulate://fraud", ErrParams, s)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Params{}, fmt.Errorf("%w: %q: %w", ErrParams, s, err)
	}
	var p Params
	var errs []error
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v := query[name][0]
		var err error
		switch name {
		case "days":
			p.Days, err = positive(v)
		case "customers":
			p.Customers, err = positive(v)
		case "terminals":
			p.Terminals, err = positive(v)
		case "seed":
			p.Seed, err = strconv.ParseInt(v, 10, 64)
		case "radius":
			p.Radius, err = strconv.ParseFloat(v, 64)
		case "rate":
			p.Rate, err = strconv.ParseFloat(v, 64)
		case "start":
			p.Start = v
		default:
			err = errors.New("no such parameter; there are days, seed, customers, terminals, radius, start, rate")
		}
		if err == nil && len(query[name]) > 1 {
			err = errors.New("it stands twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Params{}, fmt.Errorf("%w: %q: %w", ErrParams, s, err)
	}
	return p, p.Validate()
}

// positive parses a number that isn't 0, which would stand for the default.
func positive(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err == nil && n < 1 {
		err = fmt.Errorf("%d is not above 0", n)
	}
	return n, err
}

const (
	daySeconds     = 86400
	terminalDays   = 28 // how long a terminal stays compromised
	customerDays   = 14 // and a card
	largeCents     = 22000
	terminalsDaily = 2
	customersDaily = 3
	cardFactor     = 5
)

type customer struct {
	numpy                          mt.NumPy
	python                         mt.Python
	x, y, amount, amountSD, perDay float64
	terminals                      []int32 // ascending
}

// transaction is a row before its label is settled.
type transaction struct {
	second, customer, terminal int32
	cents                      int64
	stolen                     bool // its card is compromised
}

// Fraud makes the transactions up and gives them to emit, in order; an error of emit ends it.
func Fraud(p Params, emit func(Row) error) error {
	if err := p.Validate(); err != nil {
		return err
	}
	p = p.withDefaults()
	start, err := time.Parse(time.DateOnly, p.Start)
	if err != nil {
		return fmt.Errorf("%w: start: %w", ErrParams, err)
	}
	s := newSimulation(p)
	id := int64(0)
	// Day d is settled once the cards stolen on day d have been used, for which the following days
	// must be there.
	settle := func(d int) error {
		s.stealCards(d)
		s.breakTerminals(d)
		midnight := start.AddDate(0, 0, d).UnixMicro()
		for _, t := range s.days[0] {
			r := Row{ID: id, Time: midnight + int64(t.second)*1e6, Customer: int64(t.customer), Terminal: int64(t.terminal), Cents: t.cents}
			switch {
			case t.stolen:
				r.Scenario = 3
			case s.broken[t.terminal] > d:
				r.Scenario = 2
			case t.cents > largeCents:
				r.Scenario = 1
			}
			r.Fraud = r.Scenario != 0
			if err := emit(r); err != nil {
				return err
			}
			id++
		}
		used := s.days[0]
		copy(s.days, s.days[1:])
		s.days[len(s.days)-1] = used // its memory serves a later day
		s.days = s.days[:len(s.days)-1]
		return nil
	}
	for d := range p.Days {
		s.trade()
		if d >= customerDays-1 {
			if err := settle(d - customerDays + 1); err != nil {
				return err
			}
		}
	}
	for d := max(0, p.Days-customerDays+1); d < p.Days; d++ {
		if err := settle(d); err != nil {
			return err
		}
	}
	return nil
}

type simulation struct {
	Params
	offset    uint32
	customers []customer
	// days are those that have been traded and aren't settled, oldest first.
	days [][]transaction
	// broken is, by terminal, the day from which it is no longer compromised.
	broken []int
	keys   []uint64
	sorted []transaction
}

func newSimulation(p Params) *simulation {
	s := &simulation{Params: p, customers: make([]customer, p.Customers), broken: make([]int, p.Terminals)}
	if p.Seed != 0 {
		z := uint64(p.Seed) * 0x9e3779b97f4a7c15 // splitmix64 (Steele, Lea, Flood 2014)
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		s.offset = uint32((z ^ z>>31) >> 32)
	}
	var r mt.NumPy
	r.Seed(s.offset)
	for i := range s.customers {
		c := &s.customers[i]
		c.x, c.y = r.Uniform(0, 100), r.Uniform(0, 100)
		c.amount, c.perDay = r.Uniform(5, 100), r.Uniform(0, 4)
		c.amountSD = c.amount / 2
		c.numpy.Seed(s.offset + uint32(i))
		c.python.Seed(s.offset + uint32(i))
	}
	r.Seed(s.offset + 1)
	s.place(&r)
	return s
}

// place puts the terminals on the map and gives every customer those within reach. Terminals are
// looked up in a grid of cells as wide as the radius, so that only nine cells need be searched.
func (s *simulation) place(r *mt.NumPy) {
	type point struct {
		x, y float64
		id   int32
	}
	// More cells than terminals gain nothing.
	side := max(1, min(int(100/s.Radius), int(math.Sqrt(float64(s.Terminals)))+1))
	cell := func(v float64) int { return min(int(v/100*float64(side)), side-1) }
	grid := make([][]point, side*side)
	for i := range s.Terminals {
		t := point{r.Uniform(0, 100), r.Uniform(0, 100), int32(i)}
		at := cell(t.x)*side + cell(t.y)
		grid[at] = append(grid[at], t)
	}
	for i := range s.customers {
		c := &s.customers[i]
		for gx := max(0, cell(c.x)-1); gx <= min(side-1, cell(c.x)+1); gx++ {
			for gy := max(0, cell(c.y)-1); gy <= min(side-1, cell(c.y)+1); gy++ {
				for _, t := range grid[gx*side+gy] {
					dx, dy := t.x-c.x, t.y-c.y
					if math.Sqrt(float64(dx*dx)+float64(dy*dy)) < s.Radius {
						c.terminals = append(c.terminals, t.id)
					}
				}
			}
		}
		slices.Sort(c.terminals)
	}
}

// trade makes the next day's transactions, in order.
func (s *simulation) trade() {
	if n := len(s.days); n < cap(s.days) {
		s.days = s.days[:n+1]
	} else {
		s.days = append(s.days, nil)
	}
	rows := s.sorted[:0]
	for i := range s.customers {
		c := &s.customers[i]
		for range c.numpy.Poisson(c.perDay) {
			second := int(c.numpy.Normal(daySeconds/2, 20000)) // truncated
			if second <= 0 || second >= daySeconds {
				continue
			}
			amount := c.numpy.Normal(c.amount, c.amountSD)
			if amount < 0 {
				amount = c.numpy.Uniform(0, c.amount*2)
			}
			if len(c.terminals) == 0 {
				continue
			}
			rows = append(rows, transaction{
				second: int32(second), customer: int32(i), cents: int64(math.RoundToEven(amount * 100)),
				terminal: c.terminals[c.python.Below(len(c.terminals))],
			})
		}
	}
	// Ordered by time; rows of one time stay in order of customer, as their places are in the keys.
	s.keys = s.keys[:0]
	for i := range rows {
		s.keys = append(s.keys, uint64(rows[i].second)<<32|uint64(i))
	}
	slices.Sort(s.keys)
	day := s.days[len(s.days)-1][:0]
	for _, k := range s.keys {
		day = append(day, rows[uint32(k)])
	}
	s.days[len(s.days)-1], s.sorted = day, rows
}

// breakTerminals compromises terminals on day d. The last day starts nothing: the book counts days up
// to, and without, the last.
func (s *simulation) breakTerminals(d int) {
	if d >= s.Days-1 {
		return
	}
	var r mt.NumPy
	r.Seed(s.offset + uint32(d))
	picked := r.Permutation(s.Terminals)
	for _, t := range picked[:min(terminalsDaily, len(picked))] {
		s.broken[t] = d + terminalDays
	}
}

// stealCards compromises cards on day d, the oldest one there is: of their transactions on that day
// and the 13 after it a third is the thief's, of the fivefold amount.
func (s *simulation) stealCards(d int) {
	if d >= s.Days-1 {
		return
	}
	var r mt.NumPy
	r.Seed(s.offset + uint32(d))
	picked := r.Permutation(s.Customers)
	picked = picked[:min(customersDaily, len(picked))]
	var theirs []*transaction
	for _, day := range s.days {
		for i := range day {
			if slices.Contains(picked, day[i].customer) {
				theirs = append(theirs, &day[i])
			}
		}
	}
	var python mt.Python
	python.Seed(s.offset + uint32(d))
	for _, i := range python.Sample(len(theirs), len(theirs)/3) {
		theirs[i].cents *= cardFactor
		theirs[i].stolen = true
	}
}

// Schema describes the events of [Batches]: TRANSACTION_ID (the id), TX_DATETIME (the time),
// CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT (two decimal places) and TX_FRAUD.
func Schema() *event.Schema { return schema }

var schema = func() *event.Schema {
	s, err := event.NewSchema([]event.Field{
		{Name: "TRANSACTION_ID", Kind: event.ID},
		{Name: "TX_DATETIME", Kind: event.Timestamp},
		{Name: "CUSTOMER_ID", Kind: event.ID},
		{Name: "TERMINAL_ID", Kind: event.ID},
		{Name: "TX_AMOUNT", Kind: event.Decimal, Scale: 2},
		{Name: "TX_FRAUD", Kind: event.Bool},
	}, "TRANSACTION_ID", "TX_DATETIME")
	if err != nil {
		panic(err)
	}
	return s
}()

// Batches gives the rows of [Fraud] in batches of rows (0: 4096; the last has the rest), which belong
// to emit.
func Batches(p Params, rows int, emit func(event.Batch) error) error {
	if rows == 0 {
		rows = 4096
	}
	if rows < 0 {
		return fmt.Errorf("%w: batches of %d rows", ErrParams, rows)
	}
	b := event.New(schema, rows)
	err := Fraud(p, func(r Row) error {
		fraud := int64(0)
		if r.Fraud {
			fraud = 1
		}
		for i, v := range [...]int64{r.ID, r.Time, r.Customer, r.Terminal, r.Cents, fraud} {
			b.Cols[i].Ints = append(b.Cols[i].Ints, v)
		}
		if b.N++; b.N < rows {
			return nil
		}
		full := b
		b = event.New(schema, rows)
		return emit(full)
	})
	if err != nil || b.N == 0 {
		return err
	}
	return emit(b)
}
