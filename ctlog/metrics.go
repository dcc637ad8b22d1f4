// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

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
	case errors.As(err, new(*InvalidError)):
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

// observe counts and logs how an attempt ended.
func (m *member) observe(ctx context.Context, elapsed time.Duration, err error) {
	result, level := resultOf(err), slog.LevelWarn
	m.results[result].Inc()
	m.duration.Observe(elapsed.Seconds())
	switch result {
	case resultOK:
		return
	case resultInvalid:
		level = slog.LevelError
	case resultCanceled:
		level = slog.LevelDebug
	}
	m.log.Log(ctx, level, "Certificate Transparency log gave no SCT: "+string(result), slog.String("log", m.Name()),
		slog.String("result", string(result)), slog.Duration("duration", elapsed), slog.Any("error", err))
}

// register registers the metrics of all logs, and gives every log its own. Every counter exists from
// the start: an alert on an increase does not see the first value of a new one.
func (l *Logs) register(reg prometheus.Registerer) {
	auto := promauto.With(reg)
	submissions := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_ct_submissions_total",
		Help: "Attempts to submit a precertificate to a Certificate Transparency log, by log and result.",
	}, []string{"log", "result"})
	duration := auto.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_ct_submission_duration_seconds",
		Help:    "How long an attempt to submit a precertificate took, verification of the SCT included, by log.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 4},
	}, []string{"log"})
	for _, m := range l.logs {
		m.results, m.duration = make(map[result]prometheus.Counter), duration.WithLabelValues(m.Name())
		for _, r := range results {
			m.results[r] = submissions.WithLabelValues(m.Name(), string(r))
		}
		for _, state := range breaker.States() {
			auto.NewGaugeFunc(prometheus.GaugeOpts{
				Name:        "mayfly_ct_breaker_state",
				Help:        "1 for the state that the breaker of a Certificate Transparency log is in: closed, half-open (the next submission asks it first) or open (asked only where no other log can be).",
				ConstLabels: prometheus.Labels{"log": m.Name(), "state": string(state)},
			}, func() float64 {
				if m.breaker.StatusAt(time.Now()).State == state {
					return 1
				}
				return 0
			})
		}
	}
}
