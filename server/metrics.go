// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// metrics are the metrics of the edge. Every label has its values from a fixed set: api and method
// from request.go, reason from package refusal and request.go, entry from the configuration.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	steps    [ca.NumSteps]prometheus.Observer
	issued   *prometheus.CounterVec
	verified *prometheus.CounterVec
	byIssuer *prometheus.CounterVec
	fulcio   *fulcioMetrics
}

// newMetrics registers the metrics; slots holds one element for each admitted request.
func newMetrics(registry prometheus.Registerer, slots chan struct{}, conns *connections, health *health) *metrics {
	buckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_requests_total",
			Help: "Requests answered, by API, method and reason (OK, the reason of the refusal, or CANCELED).",
		}, []string{"api", "method", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mayfly_request_duration_seconds",
			Help:    "Time from when a request had been read to its answer.",
			Buckets: buckets,
		}, []string{"api", "method"}),
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_certificates_issued_total",
			Help: "Certificates handed out, by where their SCT is: embedded, or none.",
		}, []string{"sct"}),
		verified: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_verified_requests_total",
			Help: "Requests for a certificate whose ID token was verified, by reason (OK, the reason of the refusal, CANCELED, or OWN_SHARE_EXCEEDED for an OVERLOADED of a caller with other requests that were waiting before). No client without a token of a configured issuer changes it.",
		}, []string{"reason"}),
		byIssuer: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_issuer_requests_total",
			Help: "Requests for a certificate with a verified ID token, by issuer entry and reason (as in mayfly_verified_requests_total).",
		}, []string{"entry", "reason"}),
		fulcio: newFulcioMetrics(registry, buckets),
	}
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_issue_step_duration_seconds",
		Help:    "Time that each step of issuing took, for requests with a verified ID token: token, identity, admission, proof, draft, intent, precertificate, log, certificate, outcome. The last step of a refused request is the one that refused it.",
		Buckets: append([]float64{.00005, .0001, .00025}, buckets...),
	}, []string{"step"})
	for step := range ca.NumSteps {
		m.steps[step] = steps.WithLabelValues(step.String())
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	registry.MustRegister(m.requests, m.duration, steps, m.issued, m.verified, m.byIssuer,
		gauge("mayfly_requests_in_flight", "Requests being answered now.", func() int { return len(slots) }),
		gauge("mayfly_requests_in_flight_limit", "Requests that may be answered at the same time; one more is refused with OVERLOADED.", func() int { return cap(slots) }),
		gauge("mayfly_connections", "Open connections to the HTTP and gRPC listeners.", func() int { open, _ := conns.count(); return open }),
		gauge("mayfly_connections_limit", "Connections that may be open; one more takes the place of one without a request.", func() int { return conns.limit }),
		gauge("mayfly_ready", "1 while the server is ready, as /readyz reports.", func() int {
			if health.report(context.Background()).Status != serving {
				return 0
			}
			return 1
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "mayfly_connections_closed_total",
			Help: "Connections without a request that were closed to make place for new ones.",
		}, func() float64 { _, closed := conns.count(); return float64(closed) }),
	)
	return m
}

// count counts a request, and the time until its answer.
func (m *metrics) count(q *request, reason string, took time.Duration, refused *refusal.Error) {
	m.requests.WithLabelValues(q.api, q.method, reason).Inc()
	q.observe(m.duration.WithLabelValues(q.api, q.method), took)
	m.fulcio.count(q, reason, took, refused)
}

// observe adds a duration to a histogram, with the trace ID as its exemplar if the request is traced.
func (q *request) observe(histogram prometheus.Observer, took time.Duration) {
	if q.span == nil {
		histogram.Observe(took.Seconds())
		return
	}
	histogram.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": q.span.ID()}) // every histogram is one
}
