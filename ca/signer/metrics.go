// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// result is the result of an attempt at a signature, as the label states it.
type result string

const (
	resultOK        result = "ok"
	resultTransient result = "transient" // it may pass by itself
	resultTimeout   result = "timeout"   // the time was used up without an answer
	resultLost      result = "lost"      // the key must be opened again
	resultInvalid   result = "invalid"   // the signature does not verify
	resultRefused   result = "refused"   // the operator must mend it
	resultCanceled  result = "canceled"  // the caller has left
	resultNotTried  result = "not_asked" // the breaker was open, or a RetryAfter ran
	resultBusy      result = "busy"      // other calls were before this one
)

var results = []result{resultOK, resultTransient, resultTimeout, resultLost, resultInvalid, resultRefused, resultCanceled, resultNotTried, resultBusy}

func resultOf(err error) result {
	var f *Failure
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, errNoAnswer):
		return resultTimeout
	case errors.As(err, new(*invalidError)):
		return resultInvalid
	case errors.As(err, &f):
		return map[Remedy]result{Retry: resultTransient, Reopen: resultLost, Wait: resultBusy}[f.Remedy]
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return resultCanceled
	default:
		return resultRefused
	}
}

// Metrics counts and times attempts at signatures. A nil Metrics does nothing.
type Metrics struct {
	duration *prometheus.HistogramVec
	attempts *prometheus.CounterVec
	opens    *prometheus.CounterVec
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
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_signer_opens_total",
			Help: "Openings of a key outside of this process (login, look-up), by authority, kind of signer and result: ok or error.",
		}, []string{"authority", "kind", "result"}),
	}
	registry.MustRegister(m.duration, m.attempts, m.opens)
	return m
}

// observer holds the metrics of one Signer, looked up once. Every series exists from the start,
// since the rate of a series that begins with 1 is 0.
type observer struct {
	duration     prometheus.Observer // nil without metrics
	results      map[result]prometheus.Counter
	ok, notOpens prometheus.Counter
}

func (m *Metrics) observer(name, kind string) (o observer) {
	if m == nil {
		return o
	}
	o.duration = m.duration.WithLabelValues(name, kind)
	o.results = map[result]prometheus.Counter{}
	for _, r := range results {
		o.results[r] = m.attempts.WithLabelValues(name, kind, string(r))
	}
	o.ok, o.notOpens = m.opens.WithLabelValues(name, kind, "ok"), m.opens.WithLabelValues(name, kind, "error")
	return o
}

func (o *observer) attempt(r result, took time.Duration) {
	if o.duration == nil {
		return
	}
	o.results[r].Inc()
	if r == resultOK {
		o.duration.Observe(took.Seconds())
	}
}

func (o *observer) opened(err error) {
	switch {
	case o.duration == nil:
	case err == nil:
		o.ok.Inc()
	default:
		o.notOpens.Inc()
	}
}
