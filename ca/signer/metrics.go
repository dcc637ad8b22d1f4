// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// result is the result of an attempt at a signature, as the label states it.
type result uint8

const (
	resultOK result = iota
	// resultTransient: the attempt failed in a manner that may pass by itself.
	resultTransient
	// resultTimeout: the attempt used up its time without an answer.
	resultTimeout
	// resultLost: the key must be opened again.
	resultLost
	// resultInvalid: the signature does not verify.
	resultInvalid
	// resultRefused: the attempt failed in a manner that the operator must mend.
	resultRefused
	// resultCanceled: the caller has gone.
	resultCanceled
	// resultKeptAway: the key was not called, as the breaker was open or a RetryAfter ran.
	resultKeptAway
	// resultBusy: the key was not called or gave no answer, as other calls were before this one.
	resultBusy
	resultCount
)

func (r result) String() string {
	return [resultCount]string{"ok", "transient", "timeout", "lost", "invalid", "refused", "canceled", "not_asked", "busy"}[r]
}

func resultOf(err error) result {
	var f *Failure
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, errSlow):
		return resultTimeout
	case errors.As(err, new(*invalidError)):
		return resultInvalid
	case errors.As(err, &f) && f.Remedy == Reopen:
		return resultLost
	case f != nil && f.Remedy == Wait:
		return resultBusy
	case f != nil:
		return resultTransient
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
			Help:    "How long signatures took that were made, by authority and kind of signer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
		}, []string{"authority", "kind"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_signer_attempts_total",
			Help: "Attempts at a signature, by authority, kind of signer and result: ok, transient, timeout, lost (the key is opened again), invalid (the signature does not verify), refused (somebody has to mend it), canceled (the client had gone), not_asked (the breaker was open) or busy (others were before).",
		}, []string{"authority", "kind", "result"}),
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_signer_opens_total",
			Help: "Times that a key outside of this process was opened (logged in to, connected to), by authority, kind of signer and result: ok or error.",
		}, []string{"authority", "kind", "result"}),
	}
	registry.MustRegister(m.duration, m.attempts, m.opens)
	return m
}

// observer holds the metrics of one Signer, looked up once. Every series exists from the start,
// since the rate of a series that begins with 1 is 0.
type observer struct {
	duration     prometheus.Observer // nil without metrics
	results      [resultCount]prometheus.Counter
	ok, notOpens prometheus.Counter
}

func (m *Metrics) observer(name, kind string) (o observer) {
	if m == nil {
		return o
	}
	o.duration = m.duration.WithLabelValues(name, kind)
	for r := range resultCount {
		o.results[r] = m.attempts.WithLabelValues(name, kind, r.String())
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
