// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// results are the results of an attempt at a signature, as the label states them; Help explains them.
var results = []string{"ok", "transient", "timeout", "lost", "invalid", "refused", "canceled", "not_asked", "busy"}

func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	var f *Failure
	switch {
	case errors.Is(err, errNoAnswer):
		return "timeout"
	case errors.Is(err, errInvalid):
		return "invalid"
	case errors.As(err, &f):
		return map[Remedy]string{Retry: "transient", Reopen: "lost", Wait: "busy"}[f.Remedy]
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	default:
		return "refused"
	}
}

// Metrics counts and times attempts at signatures.
type Metrics struct {
	duration *prometheus.HistogramVec
	attempts *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mayfly_signer_duration_seconds",
			Help:    "Duration of successful signatures, by authority and kind of signer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
		}, []string{"authority", "kind"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_signer_attempts_total",
			Help: "Attempts at a signature, by authority, kind of signer and result: ok, transient, timeout, lost (the key is opened again), invalid (the signature does not verify), refused (the operator must mend it), canceled (the client has left), not_asked (the breaker was open) or busy (other signatures were before).",
		}, []string{"authority", "kind", "result"}),
	}
	registry.MustRegister(m.duration, m.attempts)
	return m
}

// series holds the metrics of one Signer, looked up once. Every series exists from the start, since
// the rate of a series that begins with 1 is 0.
type series struct {
	duration prometheus.Observer
	attempts map[string]prometheus.Counter
}

func (m *Metrics) series(name, kind string) series {
	if m == nil {
		m = NewMetrics(prometheus.NewRegistry())
	}
	s := series{m.duration.WithLabelValues(name, kind), map[string]prometheus.Counter{}}
	for _, r := range results {
		s.attempts[r] = m.attempts.WithLabelValues(name, kind, r)
	}
	return s
}

// count counts an attempt.
func (s series) count(result string, took time.Duration) {
	s.attempts[result].Inc()
	if result == "ok" {
		s.duration.Observe(took.Seconds())
	}
}
