// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// result is how one attempt ended: the value of the label "result".
type result string

const (
	resultOK       result = "ok"          // a verified SCT
	resultInvalid  result = "invalid_sct" // an SCT that does not verify
	resultRefused  result = "refused"     // a status other than 200
	resultTimeout  result = "timeout"     // no answer within the time of the attempt
	resultOutrun   result = "outrun"      // no answer within the hedge delay, and another log had one
	resultCanceled result = "canceled"    // the race ended before the hedge delay had passed
	resultOther    result = "error"       // an unreadable answer, a broken connection, …
)

var results = []result{resultOK, resultInvalid, resultRefused, resultTimeout, resultOutrun, resultCanceled, resultOther}

func resultOf(err error) result {
	switch {
	case err == nil:
		return resultOK
	case errors.As(err, new(*InvalidSCTError)):
		return resultInvalid
	case errors.As(err, new(*StatusError)):
		return resultRefused
	case errors.Is(err, errOutrun):
		return resultOutrun
	case errors.Is(err, context.Canceled):
		return resultCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return resultTimeout
	default:
		return resultOther
	}
}

type metrics struct {
	submissions *prometheus.CounterVec
	duration    *prometheus.HistogramVec
}

// of returns the metrics of one log. Every counter exists from the start: an alert on an increase
// does not see the first value of a new one.
func (m *metrics) of(log string) (counters map[result]prometheus.Counter, duration prometheus.Observer) {
	counters = make(map[result]prometheus.Counter)
	for _, r := range results {
		counters[r] = m.submissions.WithLabelValues(log, string(r))
	}
	return counters, m.duration.WithLabelValues(log)
}

// newMetrics registers the metrics of the logs.
func newMetrics(reg prometheus.Registerer, logs *Logs) (*metrics, error) {
	m := &metrics{
		submissions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ct_submissions_total",
			Help: "Attempts to submit a precertificate to a Certificate Transparency log, by log and result.",
		}, []string{"log", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mayfly_ct_submission_duration_seconds",
			Help:    "How long an attempt to submit a precertificate took, verification of the SCT included, by log.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 4},
		}, []string{"log"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.submissions, m.duration, breakerCollector{logs}} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

// breakerCollector reports the state of every breaker at the time of collection.
type breakerCollector struct{ logs *Logs }

var breakerDesc = prometheus.NewDesc("mayfly_ct_breaker_state",
	"1 for the state that the breaker of a Certificate Transparency log is in: closed, half-open (the next submission asks it first) or open (asked only where no other log can be).",
	[]string{"log", "state"}, nil)

// Describe implements prometheus.Collector.
func (c breakerCollector) Describe(descs chan<- *prometheus.Desc) { descs <- breakerDesc }

// Collect implements prometheus.Collector.
func (c breakerCollector) Collect(metrics chan<- prometheus.Metric) {
	for _, log := range c.logs.Status() {
		for _, state := range breaker.States() {
			var value float64
			if log.State == state {
				value = 1
			}
			metrics <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, value, log.Name, state.String())
		}
	}
}
