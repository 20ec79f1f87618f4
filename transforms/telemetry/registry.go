package telemetry

import (
	"sort"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "millrace"

// ours holds the metrics of this package, without the runtime's.
var ours = prometheus.NewRegistry()

func add[C prometheus.Collector](c C) C {
	ours.MustRegister(c)
	return c
}

func counter(name, help string) prometheus.Counter {
	return add(prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}))
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return add(prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels))
}

func gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return add(prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels))
}

// histogram takes a batch at once, which Prometheus's own does not.
type histogram struct {
	desc   *prometheus.Desc
	bounds []float64 // upper bounds, ascending

	mu     sync.Mutex
	counts []uint64 // one more than bounds, not cumulative
	sum    float64
}

func newHistogram(name, help string, bounds ...float64) *histogram {
	return add(&histogram{
		desc: prometheus.NewDesc(namespace+"_"+name, help, nil, nil), bounds: bounds, counts: make([]uint64, len(bounds)+1),
	})
}

// observe counts a value n times.
func (h *histogram) observe(v float64, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[sort.SearchFloat64s(h.bounds, v)] += uint64(n)
	h.sum += v * float64(n)
}

// Describe implements prometheus.Collector.
func (h *histogram) Describe(out chan<- *prometheus.Desc) { out <- h.desc }

// Collect implements prometheus.Collector.
func (h *histogram) Collect(out chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cumulative := make(map[float64]uint64, len(h.bounds))
	total := uint64(0)
	for i, n := range h.counts {
		total += n
		if i < len(h.bounds) {
			cumulative[h.bounds[i]] = total
		}
	}
	out <- prometheus.MustNewConstHistogram(h.desc, total, h.sum, cumulative)
}
