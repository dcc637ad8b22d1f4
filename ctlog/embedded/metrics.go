// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of one log.
type metrics struct {
	stored, failed prometheus.Counter
	duration       prometheus.Observer
	guard          prometheus.Observer
	size           prometheus.Gauge
	refused        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, name string) (*metrics, error) {
	adds := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_ctlog_adds_total",
		Help: "Entries submitted to an embedded log, by log and result (stored, failed).",
	}, []string{"log", "result"})
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_ctlog_add_duration_seconds",
		Help:    "Time from an entry's submission to an embedded log until it is durable and guarded.",
		Buckets: []float64{.0025, .005, .01, .015, .02, .03, .05, .08, .15, .3, 1, 4},
	}, []string{"log"})
	guards := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_ctlog_guard_duration_seconds",
		Help:    "Time to prove and write down an embedded log's newest tree, once a batch.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5},
	}, []string{"log"})
	sizes := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mayfly_ctlog_checkpoint_size",
		Help: "Entries in the newest checkpoint that an embedded log has signed.",
	}, []string{"log"})
	refusals := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mayfly_ctlog_refused",
		Help: "1 if an embedded log refuses to sign for good; mayfly ctlog status says what to do.",
	}, []string{"log"})
	if reg != nil {
		var errs [5]error
		adds, errs[0] = register(reg, adds)
		durations, errs[1] = register(reg, durations)
		guards, errs[2] = register(reg, guards)
		sizes, errs[3] = register(reg, sizes)
		refusals, errs[4] = register(reg, refusals)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
	}
	m := &metrics{
		stored: adds.WithLabelValues(name, "stored"), failed: adds.WithLabelValues(name, "failed"),
		duration: durations.WithLabelValues(name), guard: guards.WithLabelValues(name),
		size: sizes.WithLabelValues(name), refused: refusals.WithLabelValues(name),
	}
	m.refused.Set(0)
	return m, nil
}

func (m *metrics) observeGuard(d time.Duration) { m.guard.Observe(d.Seconds()) }

// register returns c, or the collector that an earlier log registered under the same name.
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
