// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// metrics are the metrics of the edge. Every label has its values from a fixed set: api and method
// from request.go, reason from package refusal and request.go, issuer_entry from the configuration.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	steps    [ca.NumSteps]prometheus.Observer
	issued   *prometheus.CounterVec
	verified *prometheus.CounterVec
	byIssuer *prometheus.CounterVec
	// With Fulcio's names.
	latency      *prometheus.HistogramVec
	http, grpc   *prometheus.CounterVec
	certificates atomic.Uint64
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
			Help: "Requests for a certificate whose ID token was verified, by reason (OK, the reason of the refusal, or CANCELED). No client without a token of a configured issuer changes it.",
		}, []string{"reason"}),
		byIssuer: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_issuer_requests_total",
			Help: "Requests for a certificate whose ID token was verified, by issuer entry and reason (as in mayfly_verified_requests_total).",
		}, []string{"issuer_entry", "reason"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fulcio_api_latency", Help: "Time in seconds from when a request of an API had been read to its answer. The name is Fulcio's.", Buckets: buckets,
		}, []string{"api", "method"}),
		http: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests answered over HTTP, without health and gRPC, by status; 499 where the client disconnected before there was an answer.",
		}, []string{"api", "method", "code"}),
		grpc: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "Requests answered over gRPC, without health, with the labels of go-grpc-middleware.",
		}, []string{"grpc_type", "grpc_service", "grpc_method", "grpc_code"}),
	}
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_issue_step_duration_seconds",
		Help:    "Time that each step of issuing took, for requests whose ID token was verified: token, identity, proof, draft, precertificate, log, certificate. The last step of a refused request is the one that refused it.",
		Buckets: append([]float64{.00005, .0001, .00025}, buckets...),
	}, []string{"step"})
	for step := range ca.NumSteps {
		m.steps[step] = steps.WithLabelValues(step.String())
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	registry.MustRegister(m.requests, m.duration, steps, m.issued, m.verified, m.byIssuer, m.latency, m.http, m.grpc,
		// Untyped, because in OpenMetrics the name of a counter ends in _total.
		prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "fulcio_new_certs", Help: "Certificates handed out. The name is Fulcio's."},
			func() float64 { return float64(m.certificates.Load()) }),
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
	if q.method != methodUnknown {
		q.observe(m.latency.WithLabelValues(q.api, q.method), took)
	}
	status, code := strconv.Itoa(cmp.Or(q.status, http.StatusOK)), codes.OK
	switch {
	case reason == reasonCanceled:
		status, code = "499", codes.Canceled
	case refused != nil:
		answer := answers[refused.Reason.Kind()]
		status, code = strconv.Itoa(answer.http), answer.code
	case reason != reasonOK: // of a mount
		status = strings.TrimPrefix(reason, "HTTP_")
	}
	if q.api == apiGRPC {
		m.grpc.WithLabelValues("unary", fulciov2.CA_ServiceDesc.ServiceName, q.method, code.String()).Inc()
	} else {
		m.http.WithLabelValues(q.api, q.method, status).Inc()
	}
}

// observe adds a duration to a histogram, with the trace ID as its exemplar if the request is traced.
func (q *request) observe(histogram prometheus.Observer, took time.Duration) {
	if q.span == nil {
		histogram.Observe(took.Seconds())
		return
	}
	histogram.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": q.span.ID()}) // every histogram is one
}
