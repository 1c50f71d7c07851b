package main

import (
	"context"
	"errors"
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2"
)

// latencyBuckets begin where an Encrypt from memory is (some 50 us) and end
// past the API server's default time-out of 3 s.
var latencyBuckets = []float64{
	50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 3, 10,
}

// metrics counts events as they happen; what can be looked up when Prometheus
// asks is in collector.go. Every label has a small fixed set of values.
type metrics struct {
	registry      *prometheus.Registry
	requests      *prometheus.CounterVec
	requestTime   *prometheus.HistogramVec
	kekOperations *prometheus.CounterVec
	kekTime       *prometheus.HistogramVec
	reloadOK      prometheus.Gauge
}

var _ kmsv2.Observer = (*metrics)(nil)

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyfold_kms_requests_total",
			Help: "Requests of API servers, by API (v2, v1), operation and outcome (ok, or the class of the error).",
		}, []string{"api", "operation", "outcome"}),
		requestTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyfold_kms_request_duration_seconds",
			Help:    "Time to answer a request of an API server.",
			Buckets: latencyBuckets,
		}, []string{"api", "operation"}),
		kekOperations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyfold_kek_operations_total",
			Help: "Calls of the vault that holds the key-encryption key, probes included, by operation and outcome.",
		}, []string{"operation", "outcome"}),
		kekTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyfold_kek_operation_duration_seconds",
			Help:    "Time of a call of the vault.",
			Buckets: latencyBuckets,
		}, []string{"operation"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keyfold_config_last_reload_successful",
			Help: "1 if the configuration in use is the one last given, 0 if that one was refused.",
		}),
	}
	m.reloadOK.Set(1)
	m.registry.MustRegister(m.requests, m.requestTime, m.kekOperations, m.kekTime, m.reloadOK,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe counts a request.
func (m *metrics) Observe(e kmsv2.Event) {
	api := path.Base(string(e.Domain)) // keyfold/kms/v2 is v2
	m.requests.WithLabelValues(api, string(e.Operation), e.Class).Inc()
	m.requestTime.WithLabelValues(api, string(e.Operation)).Observe(e.Duration.Seconds())
}

func (m *metrics) reloaded(err error) {
	m.reloadOK.Set(0)
	if err == nil {
		m.reloadOK.Set(1)
	}
}

func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// measuredKEK counts what a KEK does. It is a decorator: capabilities are found
// beneath it. Pin is its own, so that the pinned KEK is measured as well.
type measuredKEK struct {
	envelope.KEK
	m *metrics
}

var (
	_ envelope.Decorator = measuredKEK{}
	_ envelope.Pinner    = measuredKEK{}
)

func (k measuredKEK) Underlying() envelope.KEK { return k.KEK }

func (k measuredKEK) Pin(version string) (envelope.KEK, error) {
	p, ok := envelope.As[envelope.Pinner](k.KEK)
	if !ok {
		return nil, errors.New("this provider's keys have no versions")
	}
	pinned, err := p.Pin(version)
	if err != nil {
		return nil, err
	}
	return measuredKEK{pinned, k.m}, nil
}

func (k measuredKEK) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	start := time.Now()
	w, err := k.KEK.Wrap(ctx, dek)
	k.m.observeKEK("wrap", start, err)
	return w, err
}

// Unwrap does not count keys that are not this one's: they cost no call.
func (k measuredKEK) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	start := time.Now()
	dek, err := k.KEK.Unwrap(ctx, w)
	if !errors.Is(err, envelope.ErrUnknownKey) {
		k.m.observeKEK("unwrap", start, err)
	}
	return dek, err
}

func (m *metrics) observeKEK(operation string, start time.Time, err error) {
	m.kekTime.WithLabelValues(operation).Observe(time.Since(start).Seconds())
	m.kekOperations.WithLabelValues(operation, kmsv2.Class(err)).Inc()
}
