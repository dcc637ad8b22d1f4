// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// result is how an attempt at a signature ended, as the label says it.
type result uint8

const (
	resultOK result = iota
	// resultTransient: it failed in a manner that may pass by itself.
	resultTransient
	// resultTimeout: it had its time and gave no answer.
	resultTimeout
	// resultLost: the key had to be opened anew.
	resultLost
	// resultInvalid: it gave a signature that does not verify.
	resultInvalid
	// resultRefused: it failed in a manner that somebody has to mend.
	resultRefused
	// resultCanceled: the caller had gone.
	resultCanceled
	// resultKeptAway: it was not asked, as the breaker was open or it wanted to be left alone.
	resultKeptAway
	resultCount
)

func (r result) String() string {
	return [resultCount]string{"ok", "transient", "timeout", "lost", "invalid", "refused", "canceled", "not_asked"}[r]
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
	opens    *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mayfly_signer_duration_seconds",
			Help:    "How long attempts at a signature took, by authority, kind of signer and result: ok, transient, timeout, lost (the key is opened anew), invalid (the signature does not verify), refused (somebody has to mend it), canceled (the client had gone) or not_asked (the breaker was open).",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
		}, []string{"authority", "kind", "result"}),
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_signer_opens_total",
			Help: "Times that a key outside of this process was opened (logged in to, connected to), by authority, kind of signer and result: ok or error.",
		}, []string{"authority", "kind", "result"}),
	}
	registry.MustRegister(m.duration, m.opens)
	return m
}

// observer is the metrics of one Signer.
type observer struct {
	ok    prometheus.Observer // of the result ok, looked up once
	other func(result) prometheus.Observer
	opens func(result string) prometheus.Counter
}

func (m *Metrics) observer(name, kind string) (o observer) {
	if m == nil {
		return o
	}
	return observer{
		ok:    m.duration.WithLabelValues(name, kind, resultOK.String()),
		other: func(r result) prometheus.Observer { return m.duration.WithLabelValues(name, kind, r.String()) },
		opens: func(result string) prometheus.Counter { return m.opens.WithLabelValues(name, kind, result) },
	}
}

func (o *observer) attempt(r result, took time.Duration) {
	switch {
	case o.ok == nil:
	case r == resultOK:
		o.ok.Observe(took.Seconds())
	default:
		o.other(r).Observe(took.Seconds())
	}
}

func (o *observer) opened(err error) {
	switch {
	case o.opens == nil:
	case err == nil:
		o.opens("ok").Inc()
	default:
		o.opens("error").Inc()
	}
}
