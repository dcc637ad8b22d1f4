// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// result is how one attempt ended.
type result uint8

const (
	resultOther    result = iota // an unreadable answer, a broken connection, …
	resultOK                     // a verified SCT
	resultInvalid                // an SCT that does not verify
	resultRefused                // a status other than 200
	resultTimeout                // no answer within the time of the attempt
	resultOutrun                 // no answer within the hedge delay, and another log had one
	resultCanceled               // the race ended before the hedge delay had passed
	resultCount
)

// String returns the value of the label "result".
func (r result) String() string {
	switch r {
	case resultOK:
		return "ok"
	case resultInvalid:
		return "invalid_sct"
	case resultRefused:
		return "refused"
	case resultTimeout:
		return "timeout"
	case resultOutrun:
		return "outrun"
	case resultCanceled:
		return "canceled"
	default:
		return "error"
	}
}

func resultOf(err error) result {
	var (
		invalid *InvalidSCTError
		status  *StatusError
	)
	switch {
	case err == nil:
		return resultOK
	case errors.As(err, &invalid):
		return resultInvalid
	case errors.As(err, &status):
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
	breakers    *breakerCollector
}

// newMetrics registers the metrics, or finds those that an earlier configuration registered:
// metrics outlive their configuration.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
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
		breakers: &breakerCollector{desc: prometheus.NewDesc("mayfly_ct_breaker_state",
			"1 for the state that the breaker of a Certificate Transparency log is in: closed, half-open (the next submission asks it first) or open (asked only where no other log can be).",
			[]string{"log", "state"}, nil)},
	}
	if reg == nil {
		return m, nil
	}
	var err error
	if m.submissions, err = register(reg, m.submissions); err != nil {
		return nil, err
	}
	if m.duration, err = register(reg, m.duration); err != nil {
		return nil, err
	}
	if m.breakers, err = register(reg, m.breakers); err != nil {
		return nil, err
	}
	return m, nil
}

// breakerCollector reports the state of every breaker at the time of collection.
type breakerCollector struct {
	desc *prometheus.Desc
	logs atomic.Pointer[Logs]
}

// watch replaces the logs of an earlier configuration with logs.
func (c *breakerCollector) watch(logs *Logs) { c.logs.Store(logs) }

// Describe implements prometheus.Collector.
func (c *breakerCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

// Collect implements prometheus.Collector.
func (c *breakerCollector) Collect(metrics chan<- prometheus.Metric) {
	logs := c.logs.Load()
	if logs == nil {
		return
	}
	for _, log := range logs.Status() {
		for _, state := range breaker.States() {
			var value float64
			if log.State == state {
				value = 1
			}
			metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, value, log.Name, state.String())
		}
	}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	if err == nil {
		return c, nil
	}
	var known prometheus.AlreadyRegisteredError
	if errors.As(err, &known) {
		if existing, ok := known.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return c, fmt.Errorf("registering metrics: %w", err)
}
