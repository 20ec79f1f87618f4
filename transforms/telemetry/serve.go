package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var (
	unreadyMu sync.Mutex
	unready   = map[string]error{}
)

// SetReady says whether a component, such as "model fraud" or "source kafka://broker/topic", can do
// its work; nil means it can. A component that never spoke counts as ready.
func SetReady(component string, err error) {
	unreadyMu.Lock()
	defer unreadyMu.Unlock()
	if err == nil {
		delete(unready, component)
	} else {
		unready[component] = err
	}
}

// Ready returns nil, or what each component that is not ready waits for.
func Ready() error {
	unreadyMu.Lock()
	defer unreadyMu.Unlock()
	var errs []error
	for component, err := range unready {
		errs = append(errs, fmt.Errorf("%s: %w", component, err))
	}
	sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
	return errors.Join(errs...)
}

var runtime = sync.OnceValue(func() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
})

// Handler answers /metrics in Prometheus's format, /healthz with 200 while the process can answer at
// all, and /readyz with 200, or 503 and what is not ready, one line each.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{ours, runtime()}, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// Serve listens on an address such as :9090 and serves Handler until ctx ends. It returns the address
// it listens on, which for port 0 the system chose.
func Serve(ctx context.Context, address string) (net.Addr, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving metrics: %w: choose another address", err)
	}
	server := &http.Server{Handler: Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }() // ends with Close below
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return l.Addr(), nil
}
