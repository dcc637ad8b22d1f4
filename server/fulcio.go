// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// fulcioMetrics are metrics with the names of Fulcio's, for its dashboards and alerts.
type fulcioMetrics struct {
	latency      *prometheus.HistogramVec
	http, grpc   *prometheus.CounterVec
	certificates atomic.Uint64
}

func newFulcioMetrics(registry prometheus.Registerer, buckets []float64) *fulcioMetrics {
	m := &fulcioMetrics{
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
	// Untyped, because in OpenMetrics the name of a counter ends in _total.
	certificates := prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "fulcio_new_certs", Help: "Certificates handed out. The name is Fulcio's."},
		func() float64 { return float64(m.certificates.Load()) })
	registry.MustRegister(m.latency, m.http, m.grpc, certificates)
	return m
}

// count counts a request of any API, or of a mount.
func (m *fulcioMetrics) count(q *request, reason string, took time.Duration, refused *refusal.Error) {
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
